"""ctc: dpict with context. Probabilities of the last planes come from what is known around an element.

A plane with context is divided into segments along its order, which is that of dpict. Before each segment the exact
graph `crr` looks at all nodes of y, and says for every element by how much its probabilities change; they name rows of
the context tables. Where latents are incomplete, the free graph `cdr` refines them before g_s.

Source: CTC (CVPR 2023): context-based rate reduction and context-based distortion reduction. Segments are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.tiles import Windows
from runtime.entropy.context import CHANGE_LIMIT
from runtime.entropy.plan import Field, Plane, Step, plane_by_priority, portions
from runtime.entropy.tables import MEAN_UNIT, MOST_TRITS, Tables
from runtime.errors import BundleError
from runtime.families.base import Pass, RunGraph, Tensor
from runtime.families.planes import PlaneFamily, PlaneLatents

_MOST_SEGMENTS = 16  # of a plane; each is a run of crr


class Ctc(PlaneFamily):
    """The family in one bundle; see `runtime.families.base.Family`."""

    name = "ctc"
    pairs: tuple[str, ...] = ("h_s", "crr")
    order = "z; planes of y by priority, the last ones in segments with a run of crr before each"

    def __init__(
        self, settings: Mapping[str, Any], tables: Tables, run: RunGraph, plane: Plane = plane_by_priority
    ) -> None:
        """See `PlaneFamily`.

        Raises:
            BundleError: also if a plane has context, but the tables have none.
        """
        super().__init__(settings, tables, run, plane)
        self._context = tables.context
        if self._context is not None:
            self._slopes = self._context.slopes(tables.first_child)
            self._seen = np.ascontiguousarray(self._context.features.T, np.float32)
        elif self.segments:
            raise BundleError("family ctc: segments need tables with context")
        self._middle, self._reach = tables.intervals()

    def _read_settings(self, settings: Mapping[str, Any]) -> None:
        segments = settings["segments"]
        whole = isinstance(segments, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in segments)
        if not whole or len(segments) > MOST_TRITS or not all(1 <= n <= _MOST_SEGMENTS for n in segments):
            raise ValueError(
                f"segments must be up to {MOST_TRITS} numbers from 1 to {_MOST_SEGMENTS}, not {segments!r}"
            )
        self.segments: tuple[int, ...] = tuple(segments)  # of the planes with context, the least significant first
        self.refined = float(settings["refined"])  # cdr runs where at least so many planes are missing

    def steps(self, y: Field, shape: tuple[int, ...]) -> Iterator[Step]:
        """Yield the planes of *y* by falling priority; those with context in segments, each after a run of crr."""
        step: Step | None = None
        for place in range(int(y.trits.max(initial=0)), 0, -1):
            if step is not None:
                step.release()
            indices, nodes = self.plane(y, place)
            then = ("crr",) if 1 <= place - 1 <= len(self.segments) else ()
            if place > len(self.segments):
                step = Step(y, place, indices, nodes, rows=nodes, then=then)
                del indices, nodes
                yield step
                continue
            ends = [len(nodes) * k // self.segments[place - 1] for k in range(self.segments[place - 1] + 1)]
            windows = [slice(start, end) for start, end in pairwise(ends) if start < end]
            for window in windows:
                rows = self._rows(y, shape, indices[window], nodes[window])
                last = window is windows[-1]
                step = Step(y, place, indices[window], nodes[window], rows, then=then if last else ("crr",))
                yield step
            del indices, nodes

    def _rows(
        self, y: Field, shape: tuple[int, ...], indices: NDArray[np.int64], nodes: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """Run crr on what is known of *y*, and return the rows of the elements *indices*, which stand at *nodes*."""
        assert self._context is not None
        features, nodes_of_y = len(self._seen), y.nodes.reshape(shape)

        def known(rows: slice, columns: slice) -> Tensor:
            here = np.asarray(nodes_of_y[:, rows, columns], np.intp)
            seen = np.empty((features, *here.shape), np.float32)
            for feature, those in zip(seen, self._seen, strict=True):
                np.take(those, here, out=feature, mode="clip")  # nodes are in range; "clip" writes without a copy
            return seen.reshape(1, -1, *here.shape[1:])

        changes = self.run("crr", Windows((1, features * shape[0], *shape[1:]), known))
        if any(change.shape != (1, *shape) for change in changes) or len(changes) != 2:
            raise BundleError(f"crr gives {[change.shape for change in changes]}, not two of {(1, *shape)}")
        result = np.empty(len(indices), np.int32)
        for part in portions(len(indices)):
            here = np.stack([change.reshape(-1).take(indices[part]) for change in changes])
            if not np.abs(here).max() <= CHANGE_LIMIT:
                raise BundleError(f"crr gives a change beyond {CHANGE_LIMIT}")
            result[part] = self._context.rows(self._slopes, nodes[part], here.astype(np.int32))
        result += len(self.tables.first_child)
        return result

    def refinement(self, latents: PlaneLatents) -> tuple[Mapping[str, Tensor], tuple[Pass, ...]]:
        """Return cdr, where enough is missing, and g_s."""
        synthesis = Pass("g_s", ("y_hat", "deviation"), "x_hat")
        missing = latents.steps_total - latents.steps
        if missing <= 0 or missing < self.refined:
            return {}, (synthesis,)
        assert latents.y is not None and latents.mu is not None
        shape = (1, *latents.y_shape)
        middle = self._middle.take(latents.y.nodes)
        middle += latents.mu * np.float32(1 / MEAN_UNIT)
        reach = self._reach.take(latents.y.nodes)
        between = {"lower": (middle - reach).reshape(shape), "upper": (middle + reach).reshape(shape)}
        return between, (Pass("cdr", ("y_hat", "deviation", *between), "y_hat", optional=True), synthesis)

    def input_limits(self, role: str) -> Mapping[str, NDArray[np.int32]]:
        """Return the largest z that the tables can express, or the largest features that crr can be shown."""
        if role != "crr" or self._context is None:
            return super().input_limits(role)
        largest = np.abs(self._context.features.astype(np.int32)).max(axis=0, initial=0)
        return {"known": np.repeat(largest, self.y_channels)}
