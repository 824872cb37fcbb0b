"""Context tables: which row a change selects, and what a reader refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.entropy.context import CHANGE_LIMIT, Context
from runtime.entropy.tables import Tables
from runtime.errors import BundleError

STEPS = 10


def grid(steps: int = STEPS) -> NDArray[np.uint32]:
    rows = np.full(((2 * steps + 1) ** 2, 3), 1, np.uint32)
    rows[:, 1] = (1 << 24) - 2
    return rows


@pytest.fixture(scope="module")
def tables(tiny_tables: Tables) -> Tables:
    """The tiny tables with random context."""
    random = np.random.default_rng(0)
    context = Context(
        features=random.integers(-128, 128, (len(tiny_tables.mean), 3)).astype(np.int8),
        log_odds=random.integers(-600, 600, (len(tiny_tables.first_child), 2)).astype(np.int16),
        grid=grid(),
    )
    return replace(tiny_tables, context=context)


def test_a_row_is_what_the_document_says(tables: Tables) -> None:
    """Every row, for changes up to their limits, is that of plain integer arithmetic."""
    context = tables.context
    assert context is not None
    random = np.random.default_rng(1)
    nodes = np.arange(len(tables.first_child), dtype=np.int32)
    features, odds = context.features.astype(int), context.log_odds.astype(int)
    slopes = context.slopes(tables.first_child)
    ends = np.full((2, len(nodes)), CHANGE_LIMIT, np.int32)
    small = random.integers(-9, 10, (2, len(nodes))).astype(np.int32)
    seen = set()
    for changes in (small, ends, -ends, small * 0):
        rows = context.rows(slopes, nodes, changes)
        assert rows.dtype == np.int32
        for node in nodes.tolist():
            place = []
            for side in range(2):
                middle = tables.first_child[node] + 1
                towards = middle - 1 + 2 * side
                tilt = sum(int(changes[i, node]) * (features[towards, i] - features[middle, i]) for i in range(2))
                place.append(max(-STEPS, min(STEPS, (odds[node, side] + (tilt >> 4) + 4) >> 3)) + STEPS)
            assert rows[node] == place[0] * (2 * STEPS + 1) + place[1]
            seen.add(int(rows[node]))
    assert min(seen) == 0 and max(seen) == (2 * STEPS + 1) ** 2 - 1


def test_tables_with_context_come_back_from_their_file(tables: Tables, tiny_tables: Tables) -> None:
    """A file of one's own gives the same tables; without context it has the arrays that it always had."""
    content = tables.to_bytes()
    again = Tables.from_bytes(content)
    assert again.to_bytes() == content and again.context is not None and tables.context is not None
    assert (again.context.features == tables.context.features).all()
    assert len(again.row_frequencies) == len(tables.first_child) + len(tables.context.grid)
    assert replace(tables, context=None).to_bytes() == tiny_tables.to_bytes()
    assert tiny_tables.row_frequencies is tiny_tables.frequencies


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"features": np.zeros((5, 3), np.int8)}, "one row per node"),
        ({"features": np.zeros(5, np.int8)}, "no F columns"),
        ({"features": np.zeros((5, 1), np.int8)}, "no F columns"),
        ({"features": np.zeros((5, 9), np.int8)}, "no F columns"),
        ({"log_odds": np.zeros((5, 2), np.int16)}, "one row per inner node"),
        ({"log_odds": np.zeros((5, 3), np.int16)}, "two columns"),
        ({"grid": grid()[:, :2]}, "three columns"),
        ({"grid": grid()[:-1]}, "each pair"),
        ({"grid": grid()[:400]}, "each pair"),
        ({"grid": grid()[:0]}, "each pair"),
        ({"grid": grid(128)}, "more than 255 steps"),
        ({"grid": np.where(np.arange(3) == 0, 0, grid()).astype(np.uint32)}, "is zero"),
        ({"grid": grid() + np.uint32(1)}, "sum of the grid"),
    ],
)
def test_contradictions_are_refused(tables: Tables, change: dict[str, NDArray[np.generic]], fault: str) -> None:
    """Each ends in an error that names the array."""
    assert tables.context is not None
    with pytest.raises(BundleError, match=fault):
        replace(tables, context=replace(tables.context, **change))


@pytest.mark.parametrize("name", ["features", "log_odds", "grid"])
def test_arrays_come_together_and_in_their_types(tables: Tables, name: str) -> None:
    """Some of the arrays without the others, or one of another type, are refused."""
    assert tables.context is not None
    arrays = tables.context.arrays()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Context.from_arrays({k: v for k, v in arrays.items() if k != f"context_{name}"})
    with pytest.raises(BundleError, match=f"{name} must be"):
        Context.from_arrays(arrays | {f"context_{name}": arrays[f"context_{name}"].astype(np.int64)})
    assert Context.from_arrays({}) is None


@pytest.mark.parametrize("name", ["features", "log_odds", "grid"])
def test_arrays_without_dimensions_are_refused(tables: Tables, name: str) -> None:
    """A number is no array of rows."""
    assert tables.context is not None
    arrays = {**tables.context.arrays(), f"context_{name}": getattr(tables.context, name).reshape(-1)[0]}
    with pytest.raises(BundleError, match="tables: context: "):
        Context.from_arrays(arrays)
