"""What families share that send one latent array y as trit planes, after a hyper latent z.

    head   z, all of its trits
    body   planes of y from most to least significant; a family says with which rows

Source: DPICT (CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.tiles import Source, Windows
from runtime.entropy.plan import Field, Plane, Step, in_array_order, plane_by_priority
from runtime.entropy.tables import MEAN_UNIT, Tables
from runtime.errors import BundleError
from runtime.families.base import Pass, Reconstruction, RunGraph, Tensor
from runtime.families.hyperprior import (
    CODES,
    Y_STRIDE,
    Z_STRIDE,
    SymbolsAround,
    compact,
    count_setting,
    sigma_levels,
    total,
    values,
)

_AT_ONCE = 1 << 23  # elements of y, those of several tiles


class PlaneFamily:
    """A family in one bundle; see `runtime.families.base.Family`. Subclasses say how y is walked and refined."""

    name: str
    order: str
    has_planes = True
    stride = Z_STRIDE
    synthesis: tuple[str, ...] = ("g_s",)
    pairs: tuple[str, ...] = ("h_s",)

    def __init__(
        self, settings: Mapping[str, Any], tables: Tables, run: RunGraph, plane: Plane = plane_by_priority
    ) -> None:
        """Take a bundle's *settings* and *tables*, and the functions that run its graphs and order its planes.

        Raises:
            BundleError: a setting is missing, or the tables have other channels.
        """
        self.y_channels = count_setting(self.name, settings, "y_channels")
        self.z_channels = count_setting(self.name, settings, "z_channels")
        try:
            self.value_gain = float(settings["value_gain"])
            self.preview_share = float(settings["preview_share"])
            self._read_settings(settings)
        except (KeyError, TypeError, ValueError, OverflowError) as fault:
            raise BundleError(f"settings of family {self.name}: {fault!r}") from fault
        if len(tables.trits) != tables.y_levels + self.z_channels:
            raise BundleError(f"tables have {len(tables.trits)} models, not {tables.y_levels} + {self.z_channels}")
        self.tables, self.run, self.plane = tables, run, plane
        self.level_of_code = tables.level_of_code(CODES)
        self.variance = (tables.deviation / np.float32(MEAN_UNIT)) ** 2

    def _read_settings(self, settings: Mapping[str, Any]) -> None:
        """Take settings of the subclass; KeyError, TypeError and ValueError become errors of the bundle."""

    def steps(self, y: Field, shape: tuple[int, ...]) -> Iterator[Step]:
        """Yield the steps of *y*, planes from most to least significant; *shape* is that of the array, (C, h, w)."""
        raise NotImplementedError

    def refinement(self, latents: PlaneLatents) -> tuple[Mapping[str, Tensor], tuple[Pass, ...]]:
        """Return further tensors, and the passes that make a picture of `y_hat`, `deviation` and these."""
        raise NotImplementedError

    def analyse(self, x: Source) -> PlaneLatents:
        """Run g_a, h_a and h_s."""
        (y,) = self.run("g_a", x)
        (z,) = self.run("h_a", y)
        shapes = [
            (1, self.y_channels, x.shape[2] // Y_STRIDE, x.shape[3] // Y_STRIDE),
            (1, self.z_channels, x.shape[2] // Z_STRIDE, x.shape[3] // Z_STRIDE),
        ]
        if [y.shape, z.shape] != shapes:
            raise BundleError(f"g_a and h_a give {y.shape} and {z.shape}, not {shapes[0]} and {shapes[1]}")
        latents = PlaneLatents(self, x.shape[2], x.shape[3], np.rint(z[0]).astype(np.int32))
        # What the decoder will know of z, not z itself: a symbol beyond its table's range is clamped.
        assert latents.z.symbols is not None
        latents.start_y(latents.z.symbols, y[0])
        return latents

    def begin(self, height: int, width: int) -> PlaneLatents:
        """Return latents of which nothing is known."""
        return PlaneLatents(self, height, width, None)

    def input_limits(self, role: str) -> Mapping[str, NDArray[np.int32]]:
        """Return the largest z that the tables can express."""
        if role != "h_s":
            raise BundleError(f"family {self.name} has no exact graph {role!r}")
        return {"z_hat": self.tables.largest[self.tables.y_levels :]}


class PlaneLatents:
    """One picture's z and y."""

    def __init__(self, family: PlaneFamily, height: int, width: int, z: NDArray[np.int32] | None) -> None:
        self._family = family
        self.y_shape = (family.y_channels, height // Y_STRIDE, width // Y_STRIDE)
        self._z_shape = (family.z_channels, height // Z_STRIDE, width // Z_STRIDE)
        models = family.tables.y_levels + np.arange(family.z_channels)
        self.z = Field(
            np.repeat(models, self._z_shape[1] * self._z_shape[2]),
            family.tables,
            None if z is None else z.reshape(-1),
        )
        self.y: Field | None = None
        self.mu: NDArray[np.integer] | None = None  # of y's elements, in 1/64
        self._planes = 0
        self._step: Step | None = None
        self._plane_trits = self._plane_before = 0  # of the plane under way: all, and those before the step

    def start_y(self, z_symbols: NDArray[np.int32], y: Tensor | None) -> None:
        """Run h_s on complete z symbols; *y*, if given, becomes the truth that the encoder codes."""
        self.mu, levels = self._side(z_symbols)
        symbols = None if y is None else SymbolsAround(self.mu, y)
        tables = self._family.tables
        self.y = Field(levels, tables, symbols)
        self._planes = int(tables.trits[np.flatnonzero(np.bincount(levels))].max(initial=0))

    def _side(self, z_symbols: NDArray[np.int32]) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
        """Run h_s, and return mu and the sigma level of every element."""
        family = self._family
        mu, codes = family.run("h_s", z_symbols.astype(np.float32).reshape(1, *self._z_shape))
        if mu.shape != (1, *self.y_shape):
            raise BundleError(f"h_s gives mu {mu.shape}, not {(1, *self.y_shape)}")
        return compact(mu), sigma_levels(codes, mu.shape, family.level_of_code).reshape(-1)

    def head(self) -> Iterator[Step]:
        """Yield the planes of z."""
        return in_array_order(self.z)

    def body(self) -> Iterator[Step]:
        """Run h_s, unless the encoder has, and yield the steps of y."""
        if self.y is None:
            self.start_y(self.z.known_symbols(), None)
        assert self.y is not None
        for step in self._family.steps(self.y, self.y_shape):
            if self._step is None or self._step.place != step.place:
                self._plane_trits, self._plane_before = int(np.count_nonzero(self.y.trits >= step.place)), 0
            else:
                self._plane_before += len(self._step)
            self._step = step
            yield step

    @property
    def steps(self) -> float:
        """Planes of y that are known."""
        if self._step is None:
            return 0.0
        return self._planes - self._step.place + (self._plane_before + self._step.received) / self._plane_trits

    @property
    def steps_total(self) -> int:
        """Planes of y."""
        return self._planes

    def error_left(self) -> float:
        """Return the sum of the variances that the elements' nodes have."""
        assert self.y is not None, "the head segment comes first"
        return total(self._family.variance, self.y.nodes)

    def reconstruct(self) -> Reconstruction:
        """Return conditional means plus mu, the deviation left, and the networks for as much as is known."""
        assert self.y is not None and self.mu is not None, "the head segment comes first"
        tables = self._family.tables
        tensors = {"y_hat": self._source(tables.mean, self.mu), "deviation": self._source(tables.deviation)}
        further, passes = self._family.refinement(self)
        return Reconstruction({**tensors, **further}, passes)

    def _source(self, table: NDArray[np.integer], mu: NDArray[np.integer] | None = None) -> Source:
        """Return what *table* says of every node, plus *mu*; of large pictures where a network looks at it."""
        assert self.y is not None
        nodes = self.y.nodes.reshape(self.y_shape)
        around = None if mu is None else mu.reshape(self.y_shape)

        def make(rows: slice, columns: slice) -> Tensor:
            here = nodes[:, rows, columns]
            offset = 0 if around is None else around[:, rows, columns].reshape(-1)
            return values(table, here.reshape(-1), offset).reshape(1, *here.shape)

        windows = Windows((1, *self.y_shape), make)
        return windows if len(self.y.nodes) > _AT_ONCE else np.asarray(windows)
