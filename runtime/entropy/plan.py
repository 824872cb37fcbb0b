"""The plan: which trits are coded in which order, from what is known on both sides.

    Field (an array of symbols) -> trit_planes -> Step, Step, ... each a run of trits to code

Encoder and decoder run the same generator. The consumer codes a step's trits with the rows that the step names, hands
them back through `Step.receive` (in portions, if it likes), and asks for the next step when the step is complete. A
step's rows and order depend on earlier steps only, so a decoder may stop anywhere, also inside a step.

Source: DPICT (CVPR 2022), sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.entropy.tables import Tables


class Field:
    """An array of symbols, and what is known of each.

    Attributes:
        models: (n,) integers; the model of every element.
        nodes: int32 (n,); the node of every element: all that is known of it.
        symbols: int32 (n,), or None in a decoder: the true values, within the models' ranges.
    """

    def __init__(self, models: NDArray[np.integer], tables: Tables, symbols: NDArray[np.integer] | None = None) -> None:
        self.models, self.tables = models, tables
        self.nodes: NDArray[np.int32] = tables.root[models]
        self.symbols: NDArray[np.int32] | None = None
        if symbols is not None:
            largest = tables.largest[models]
            self.symbols = np.clip(symbols, -largest, largest).astype(np.int32)

    def known_symbols(self) -> NDArray[np.int32]:
        """int32 (n,): the symbols of a field whose steps are all complete."""
        return np.right_shift(self.tables.mean[self.nodes].astype(np.int32) + 32, 6)


@dataclass
class Step:
    """A run of trits: `rows[i]` is the table row of the trit that belongs to element `indices[i]` of `field`.

    Attributes:
        place: digit place, 1 for the least significant.
        indices: int64 (n,), in coding order; no element twice.
        rows: int32 (n,); the elements' nodes when the step began.
        received: how many trits, from the first, are known.
    """

    field: Field
    place: int
    indices: NDArray[np.int64]
    rows: NDArray[np.int32]
    received: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def trits(self) -> NDArray[np.int32]:
        """int32 (n,): the true digits, 0..2, in coding order (encoder only)."""
        symbols = self.field.symbols
        assert symbols is not None, "only an encoder knows the symbols"
        unit = 3 ** (self.place - 1)
        # Balanced digits: adding (3^L - 1)/2 for any L that covers the symbols makes them plain ones.
        offset = (3 ** (int(self.field.tables.trits.max()) + 1) - 1) // 2
        return (symbols[self.indices] + np.int32(offset)) // np.int32(unit) % np.int32(3)

    def receive(self, trits: NDArray[np.integer]) -> None:
        """Note the trits of the next elements of this step."""
        window = slice(self.received, self.received + len(trits))
        children = self.field.tables.first_child[self.rows[window]]
        self.field.nodes[self.indices[window]] = children + trits
        self.received += len(trits)

    @property
    def complete(self) -> bool:
        """True if every trit of the step is known."""
        return self.received == len(self.rows)


def trit_planes(field: Field) -> Iterator[Step]:
    """Yield the planes of *field* from the most significant to the least, each ordered by falling priority.

    An element joins at the plane of its first trit. Elements of equal priority keep their order in the array.
    """
    trits_left = field.tables.trits[field.models]
    for place in range(int(trits_left.max(initial=0)), 0, -1):
        indices = np.flatnonzero(trits_left >= place)
        rows = field.nodes[indices]
        # numpy sorts 16-bit keys stably by counting digits
        order = np.argsort(-1 - field.tables.priority[rows], kind="stable")
        yield Step(field, place, indices[order], rows[order])


def in_array_order(field: Field) -> Iterator[Step]:
    """Yield the planes of *field* from the most significant to the least, each in the order of the array."""
    trits_left = field.tables.trits[field.models]
    for place in range(int(trits_left.max(initial=0)), 0, -1):
        indices = np.flatnonzero(trits_left >= place)
        yield Step(field, place, indices, field.nodes[indices])
