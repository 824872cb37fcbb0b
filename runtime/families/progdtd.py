"""progdtd: channels in the order of their importance, which training has put them into.

    head   the hyper channels of the first group
    body   for each group: its hyper channels (those of the first are known), then its channels of y in order

Both latents are divided into the same number of groups of channels; where each ends is a setting of the bundle. The
scale of a group's y follows from the hyper channels up to that group, all later ones taken as zero, so that one stream
serves every cut. y has no mean but zero: a channel that has not begun is estimated as zero without being told apart.

Source: ProgDTD (CVPR workshops 2023), section 3.3; the groups are ours (the paper cuts both latents at once and does
not say how one stream could).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.tiles import Source
from runtime.entropy.plan import Field, Plane, Step, in_array_order, plane_by_priority
from runtime.entropy.tables import MEAN_UNIT, Tables
from runtime.errors import BundleError
from runtime.families.base import Pass, Reconstruction, RunGraph, Tensor
from runtime.families.channels import channels_in_order, channels_known, side_information
from runtime.families.hyperprior import CODES, Y_STRIDE, Z_STRIDE, count_setting, sigma_levels, total, values


class ProgDtd:
    """The family in one bundle; see `runtime.families.base.Family`."""

    order = "groups: channels of z, then channels of y, each by planes"
    has_planes = False
    stride = Z_STRIDE
    synthesis: tuple[str, ...] = ("g_s",)
    pairs: tuple[str, ...] = ()

    def __init__(
        self, settings: Mapping[str, Any], tables: Tables, run: RunGraph, plane: Plane = plane_by_priority
    ) -> None:
        """Take a bundle's *settings* and *tables*, and the functions that run its graphs and order its planes.

        Raises:
            BundleError: a setting is missing or out of range, or the tables have other channels.
        """
        self.y_channels = count_setting("progdtd", settings, "y_channels")
        self.z_channels = count_setting("progdtd", settings, "z_channels")
        self.y_ends = _ends(settings, "y_ends", self.y_channels)
        self.z_ends = _ends(settings, "z_ends", self.z_channels)
        if len(self.y_ends) != len(self.z_ends):
            raise BundleError(
                f"settings of family progdtd: {len(self.y_ends)} groups of y, but {len(self.z_ends)} of z"
            )
        try:
            self.value_gain = float(settings["value_gain"])
            self.preview_share = float(settings["preview_share"])
            # Of the channels of y around zero: what is expected of those whose scale is not known yet.
            self.y_variance = np.array([float(variance) for variance in settings["y_variance"]])
        except (KeyError, TypeError, ValueError, OverflowError) as fault:
            raise BundleError(f"settings of family progdtd: {fault!r}") from fault
        if len(self.y_variance) != self.y_channels or not (self.y_variance >= 0).all():
            raise BundleError(f"settings of family progdtd: y_variance must be {self.y_channels} numbers from 0 up")
        if len(tables.trits) != tables.y_levels + self.z_channels:
            raise BundleError(f"tables have {len(tables.trits)} models, not {tables.y_levels} + {self.z_channels}")
        self.tables, self.run, self.plane = tables, run, plane
        self.level_of_code = tables.level_of_code(CODES)
        self.trits_left = tables.trits_left()
        self.variance = (tables.deviation / np.float32(MEAN_UNIT)) ** 2

    def analyse(self, x: Source) -> ProgDtdLatents:
        """Run g_a and h_a; h_s runs inside the plan."""
        (y,) = self.run("g_a", x)
        (z,) = self.run("h_a", y)
        latents = ProgDtdLatents(self, x.shape[2], x.shape[3])
        shapes = [(1, *latents.y_shape), (1, *latents.z_shape)]
        if [y.shape, z.shape] != shapes:
            raise BundleError(f"g_a and h_a give {y.shape} and {z.shape}, not {shapes[0]} and {shapes[1]}")
        latents.set_truth(y, z)
        return latents

    def begin(self, height: int, width: int) -> ProgDtdLatents:
        """Return latents of which nothing is known."""
        return ProgDtdLatents(self, height, width)

    def input_limits(self, role: str) -> Mapping[str, NDArray[np.int32]]:
        """Return the largest z that the tables can express."""
        if role != "h_s":
            raise BundleError(f"family progdtd has no exact graph {role!r}")
        return {"z_hat": self.tables.largest[self.tables.y_levels :]}


class ProgDtdLatents:
    """One picture's z and y."""

    def __init__(self, family: ProgDtd, height: int, width: int) -> None:
        self._family = family
        self.y_shape = (family.y_channels, height // Y_STRIDE, width // Y_STRIDE)
        self.z_shape = (family.z_channels, height // Z_STRIDE, width // Z_STRIDE)
        self._y_area, self._z_area = math.prod(self.y_shape[1:]), math.prod(self.z_shape[1:])
        self._y: Tensor | None = None
        self._z = self._z_field(None)
        self._groups: list[Field] = []  # of y, as far as they have begun

    def set_truth(self, y: Tensor, z: Tensor) -> None:
        """Take what an encoder is to code: float32 (1, C, h, w) each."""
        self._y = y
        self._z = self._z_field(np.rint(z.reshape(-1)).astype(np.int32))

    def _z_field(self, symbols: NDArray[np.int32] | None) -> Field:
        family = self._family
        models = family.tables.y_levels + np.arange(family.z_channels)
        return Field(np.repeat(models, self._z_area), family.tables, symbols)

    def head(self) -> Iterator[Step]:
        """Yield the planes of the first group's hyper channels."""
        return in_array_order(self._hyper_channels(0, self._family.z_ends[0]))

    def body(self) -> Iterator[Step]:
        """Yield the planes of each group's hyper channels, run h_s, and yield its channels of y."""
        family = self._family
        y_start = z_start = 0
        for y_end, z_end in zip(family.y_ends, family.z_ends, strict=True):
            if y_start:
                yield from side_information(self._hyper_channels(z_start, z_end), then=("h_s",))
            group = self._begin_group(slice(y_start, y_end), z_end)
            yield from channels_in_order(group, y_end - y_start, family.plane)
            y_start, z_start = y_end, z_end

    def _hyper_channels(self, start: int, end: int) -> Field:
        return self._z.part(slice(start * self._z_area, end * self._z_area))

    def _begin_group(self, channels: slice, z_end: int) -> Field:
        """Run h_s on the first *z_end* hyper channels, and return the field of *channels* of y."""
        family = self._family
        z_hat = np.zeros((1, *self.z_shape), np.float32)
        z_hat.reshape(-1)[: z_end * self._z_area] = self._hyper_channels(0, z_end).known_symbols()
        (codes,) = family.run("h_s", z_hat)
        levels = sigma_levels(codes, (1, *self.y_shape), family.level_of_code)
        symbols = None if self._y is None else np.rint(self._y[0, channels].reshape(-1)).astype(np.int32)
        group = Field(levels[0, channels].reshape(-1), family.tables, symbols)
        self._groups.append(group)
        return group

    @property
    def steps(self) -> float:
        """Channels of y that are known; one in part counts as the share of its trits."""
        known = 0.0
        for group in self._groups:
            channels = len(group.nodes) // self._y_area
            here = channels_known(group, channels, self._family.trits_left)
            known += here
            if here < channels:
                break
        return known

    @property
    def steps_total(self) -> int:
        """Channels of y."""
        return self._family.y_channels

    def error_left(self) -> float:
        """Return the sum of the variances that the elements' nodes have, and of those of groups that have not begun."""
        variance = self._family.variance
        begun = sum(total(variance, group.nodes) for group in self._groups)
        channels = sum(len(group.nodes) for group in self._groups) // self._y_area
        return begun + float(self._family.y_variance[channels:].sum()) * self._y_area

    def reconstruct(self) -> Reconstruction:
        """Return conditional means, zero where nothing is known; there is nothing but g_s to run."""
        y_hat = np.zeros((1, *self.y_shape), np.float32)
        known = y_hat.reshape(-1)
        start = 0
        for group in self._groups:
            end = start + len(group.nodes)
            known[start:end] = values(self._family.tables.mean, group.nodes)
            start = end
        passes = (Pass("g_s", ("y_hat",), "x_hat"),)
        return Reconstruction({"y_hat": y_hat}, passes)


def _ends(settings: Mapping[str, Any], name: str, channels: int) -> list[int]:
    """Return a setting that says how many channels there are up to the end of each group."""
    ends = settings.get(name)
    whole = isinstance(ends, list) and all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
    if not whole or not ends or ends[-1] != channels or not all(a < b for a, b in pairwise([0, *ends])):
        raise BundleError(f"settings of family progdtd: {name} must rise from above 0 to {channels}, not {ends!r}")
    return list(ends)
