"""dpict: trit planes of one latent array, ordered by rate-distortion priority.

Source: DPICT (CVPR 2022). Optional postprocessing by how many planes are missing (section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runtime.entropy.plan import Field, Step, trit_planes
from runtime.families.base import Pass, Tensor
from runtime.families.planes import PlaneFamily, PlaneLatents


class Dpict(PlaneFamily):
    """The family in one bundle; see `runtime.families.base.Family`."""

    name = "dpict"
    order = "z; planes of y by priority"

    def _read_settings(self, settings: Mapping[str, Any]) -> None:
        self.deviation_input = bool(settings["deviation_input"])
        # (planes missing, role): the network refines pictures of which at least that many planes are missing
        self.post = tuple((float(missing), str(role)) for missing, role in settings["post"])

    def steps(self, y: Field, shape: tuple[int, ...]) -> Iterator[Step]:
        """Yield the planes of *y*, each by falling priority."""
        return trit_planes(y, self.plane)

    def refinement(self, latents: PlaneLatents) -> tuple[Mapping[str, Tensor], tuple[Pass, ...]]:
        """Return g_s, and the postprocessing network for as many planes as are missing."""
        passes = [Pass("g_s", ("y_hat", "deviation") if self.deviation_input else ("y_hat",), "x_hat")]
        missing = latents.steps_total - latents.steps
        for least, role in self.post:
            if missing >= least:
                passes.append(Pass(role, ("x_hat",), "x_hat", optional=True))
                break
        return {}, tuple(passes)
