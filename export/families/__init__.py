"""From trained networks to a bundle's content; one file per family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from export.bundle_writer import BundleContent
from export.families import ctc, deepfgs, dpict, progdtd
from export.training.config import TrainingSettings
from runtime.errors import UsageError


@dataclass(frozen=True)
class Exporter:
    """How bundles of a family are made.

    Attributes:
        content: networks, settings, held-out pictures, which decoder ships -> content of a bundle.
        shipped_roles: networks, which decoder ships -> the roles whose weights are in that content.
        syntheses: names of the decoders that there are to choose from, the usual one first; none where there is no
            choice.
    """

    content: Callable[[Any, TrainingSettings, list[Tensor], str], BundleContent]
    shipped_roles: Callable[[Any, str], set[str]]
    syntheses: tuple[str, ...] = ()

    def synthesis(self, asked: str | None) -> str:
        """Return which decoder ships: the one that is asked for, or the usual one.

        Raises:
            UsageError: there is no such choice.
        """
        if asked is None:
            return self.syntheses[0] if self.syntheses else ""
        if asked not in self.syntheses:
            there = f"there are {', '.join(self.syntheses)}" if self.syntheses else "this family has one decoder"
            raise UsageError(f"no decoder {asked!r} to choose: {there}")
        return asked


EXPORTERS = {
    "ctc": Exporter(ctc.export_ctc, ctc.shipped_roles),
    "deepfgs": Exporter(deepfgs.export_deepfgs, deepfgs.shipped_roles),
    "dpict": Exporter(dpict.export_dpict, dpict.shipped_roles, tuple(dpict.SYNTHESES)),
    "progdtd": Exporter(progdtd.export_progdtd, progdtd.shipped_roles),
}

__all__ = ["EXPORTERS", "Exporter"]
