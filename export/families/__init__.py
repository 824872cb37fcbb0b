"""From trained networks to a bundle's content; one file per family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from export.bundle_writer import BundleContent
from export.families.ctc import export_ctc
from export.families.deepfgs import export_deepfgs
from export.families.dpict import export_dpict
from export.families.progdtd import export_progdtd
from export.training.config import TrainingSettings

# networks, settings, held-out pictures, which decoder ships -> content of a bundle
EXPORTERS: dict[str, Callable[[Any, TrainingSettings, list[Tensor], str], BundleContent]] = {
    "ctc": export_ctc,
    "deepfgs": export_deepfgs,
    "dpict": export_dpict,
    "progdtd": export_progdtd,
}

__all__ = ["EXPORTERS"]
