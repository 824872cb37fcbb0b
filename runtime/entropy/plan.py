"""The plan: which trits are coded in which order, from what is known on both sides.

    Field (an array of symbols) -> trit_planes -> Step, Step, ... each a run of trits to code

Encoder and decoder run the same generator. The consumer codes a step's trits with the rows that the step names, hands
them back through `Step.receive` (in portions, if it likes), and asks for the next step when the step is complete. A
step's rows and order depend on earlier steps only, so a decoder may stop anywhere, also inside a step.

Nodes and rows are two things: the node is what is known of an element, the row is how its next trit is distributed. A
family without context codes each trit with the row of its node.

Source: DPICT (CVPR 2022), sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.entropy.tables import Tables

_PORTION = 1 << 17
_AT_ONCE = 1 << 21  # elements of which a plane is sorted at once; beyond it that would take more memory than all else


def portions(count: int) -> Iterator[slice]:
    """Yield slices that make up *count* elements: so few at a time that what is in between stays in the cache."""
    for start in range(0, count, _PORTION):
        yield slice(start, min(start + _PORTION, count))


class Portions(Protocol):
    """An array, or what is made of arrays portion by portion."""

    def __getitem__(self, part: slice, /) -> NDArray[np.integer]: ...


class Field:
    """An array of symbols, and what is known of each.

    Attributes:
        models: (n,) integers; the model of every element.
        trits: uint8 (n,); how many trits every element has.
        nodes: int32 (n,); the node of every element: all that is known of it.
        symbols: int32 (n,), or None in a decoder: the true values, within the models' ranges.
    """

    def __init__(self, models: NDArray[np.integer], tables: Tables, symbols: Portions | None = None) -> None:
        self.models, self.tables = models, tables
        count, largest = len(models), tables.largest
        self.trits: NDArray[np.uint8] = np.empty(count, np.uint8)
        self.nodes: NDArray[np.int32] = np.empty(count, np.int32)
        self.symbols: NDArray[np.int32] | None = None if symbols is None else np.empty(count, np.int32)
        for part in portions(count):
            places = np.asarray(models[part], np.intp)  # converted once; numpy indexes with nothing else
            self.trits[part] = tables.trits.take(places)
            self.nodes[part] = tables.root.take(places)
            if symbols is not None and self.symbols is not None:
                most = largest.take(places)
                self.symbols[part] = np.clip(symbols[part], -most, most)

    def part(self, window: slice) -> Field:
        """Return a field of the elements in *window*; both know what either receives."""
        part = Field.__new__(Field)
        part.models, part.tables = self.models[window], self.tables
        part.trits, part.nodes = self.trits[window], self.nodes[window]
        part.symbols = None if self.symbols is None else self.symbols[window]
        return part

    def known_symbols(self) -> NDArray[np.int32]:
        """int32 (n,): the symbols of a field whose steps are all complete."""
        return self.tables.symbols_at(self.nodes)


@dataclass
class Step:
    """A run of trits: trit i belongs to element `indices[i]` of `field`, which stands at `nodes[i]` as the step begins.

    Attributes:
        place: digit place, 1 for the least significant.
        indices: int64 (n,), in coding order; no element twice.
        nodes: int32 (n,); inner nodes.
        rows: int32 (n,); the table rows whose frequencies code the trits: the nodes, unless context knows better.
        received: how many trits, from the first, are known.
        worth: what an error of an element does to a picture, as a multiple of what is usual; 0 for side information.
        then: the roles of exact graphs that the plan runs between this step and the next.
    """

    field: Field
    place: int
    indices: NDArray[np.int64]
    nodes: NDArray[np.int32]
    rows: NDArray[np.int32]
    received: int = 0
    worth: float = 1.0
    then: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._size = len(self.rows)

    def __len__(self) -> int:
        return self._size

    @property
    def side(self) -> bool:
        """True if the elements are side information: knowing them is of no worth to a picture by itself."""
        return self.worth == 0

    def next_window(self, most: int) -> slice:
        """Return which trits come next, at most *most*."""
        return slice(self.received, min(self.received + most, len(self)))

    def trits(self, window: slice = slice(None)) -> NDArray[np.int32]:
        """int32 (n,): the true digits, 0..2, in coding order, of the trits in *window* (encoder only)."""
        symbols = self.field.symbols
        assert symbols is not None, "only an encoder knows the symbols"
        unit = 3 ** (self.place - 1)
        # Balanced digits: adding (3^L - 1)/2 for any L that covers the symbols makes them plain ones.
        offset = (3 ** (int(self.field.tables.trits.max()) + 1) - 1) // 2
        return (symbols[self.indices[window]] + np.int32(offset)) // np.int32(unit) % np.int32(3)

    def receive(self, trits: NDArray[np.integer]) -> None:
        """Note the trits of the next elements of this step."""
        window = slice(self.received, self.received + len(trits))
        children = self.field.tables.first_child[self.nodes[window]]
        self.field.nodes[self.indices[window]] = children + trits
        self.received += len(trits)

    def forget(self, received: int) -> None:
        """Take back the trits behind the first *received*, as long as no later step was begun."""
        window = slice(received, self.received)
        self.field.nodes[self.indices[window]] = self.nodes[window]
        self.received = received

    def release(self) -> None:
        """Give the arrays of a complete step back, once another follows: of large pictures, both are too much."""
        self.indices, self.nodes = self.indices[:0].copy(), self.nodes[:0].copy()
        self.rows = self.nodes

    @property
    def complete(self) -> bool:
        """True if every trit of the step is known."""
        return self.received == len(self)


Plane = Callable[[Field, int], tuple[NDArray[np.int64], NDArray[np.int32]]]  # (field, place) -> indices, nodes


def plane_by_priority(field: Field, place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the elements that have a trit at *place*, and their nodes, by falling priority of the nodes.

    Elements of equal priority keep their order in the array.
    """
    if len(field.nodes) > _AT_ONCE:
        return _by_counting(field, place)
    indices, keys = _keyed(field, place, slice(None))
    indices = indices[np.argsort(keys, kind="stable")]  # numpy sorts 16-bit keys stably by counting digits
    return indices, field.nodes[indices]


def _keyed(field: Field, place: int, part: slice) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Return the elements of *part* that have a trit at *place*, and keys that rise as their priority falls."""
    elements = np.flatnonzero(field.trits[part] >= place)
    if part.start:
        elements += part.start
    priority = field.tables.priority.take(field.nodes[elements])
    return elements, (np.int16(-1) - priority).view(np.uint16) ^ np.uint16(1 << 15)


def _by_counting(field: Field, place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the same portion by portion: nothing but the result is as large as the field."""
    counts = np.zeros(1 << 16, np.int64)
    for part in portions(len(field.nodes)):
        counts += np.bincount(_keyed(field, place, part)[1], minlength=len(counts))
    free = np.cumsum(counts) - counts
    indices, nodes = np.empty(int(counts.sum()), np.int64), np.empty(int(counts.sum()), np.int32)
    for part in portions(len(field.nodes)):
        elements, keys = _keyed(field, place, part)
        order = np.argsort(keys, kind="stable")
        here = np.bincount(keys, minlength=len(counts))
        # In order, equal keys lie in a row: they go to the free places of their key, in a row, too.
        shift = free - (np.cumsum(here) - here)
        places = np.arange(len(order)) + shift[keys[order]]
        indices[places] = elements[order]
        nodes[places] = field.nodes[elements[order]]
        free += here
    return indices, nodes


def trit_planes(field: Field, plane: Plane = plane_by_priority) -> Iterator[Step]:
    """Yield the planes of *field* from the most significant to the least, each ordered by falling priority.

    An element joins at the plane of its first trit.

    Args:
        plane: `plane_by_priority`, or something faster that returns the same.
    """
    yield from _one_by_one(field, plane)


def in_array_order(field: Field) -> Iterator[Step]:
    """Yield the planes of *field* from the most significant to the least, each in the order of the array."""
    yield from _one_by_one(field, _as_they_lie)


def _as_they_lie(field: Field, place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    indices = np.flatnonzero(field.trits >= place)
    return indices, field.nodes[indices]


def _one_by_one(field: Field, plane: Plane) -> Iterator[Step]:
    """Yield a step per plane; each is released as the next is made."""
    step: Step | None = None
    for place in range(int(field.trits.max(initial=0)), 0, -1):
        if step is not None:
            step.release()
        indices, nodes = plane(field, place)
        step = Step(field, place, indices, nodes, rows=nodes)
        del indices, nodes
        yield step
