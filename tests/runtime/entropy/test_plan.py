"""The plan: which trits come in which order, what they say, and that both sides walk alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.entropy import plan as plan_module
from runtime.entropy.coder import CoderTables, TritDecoder, TritEncoder
from runtime.entropy.plan import Field, Step, in_array_order, plane_by_priority, trit_planes
from runtime.entropy.tables import Tables

Plan = Callable[[Field], Iterator[Step]]
Integers = NDArray[np.integer]


def random_field(tables: Tables, seed: int, size: int) -> Field:
    """Return a field of random models and symbols, some beyond their models' range."""
    generator = np.random.default_rng(seed)
    models = generator.integers(len(tables.trits), size=size)
    spread = tables.largest[models] * 0.4 + 0.5
    return Field(models, tables, np.rint(generator.normal(0, spread)).astype(np.int32))


def symbols_of(field: Field) -> NDArray[np.int32]:
    assert field.symbols is not None
    return field.symbols


def balanced_digits(symbol: int, count: int) -> list[int]:
    """Return *count* balanced ternary digits of *symbol* plus one each, most significant first."""
    digits = []
    for _ in range(count):
        digit = (symbol + 1) % 3 - 1
        symbol = (symbol - digit) // 3
        digits.append(digit + 1)
    assert symbol == 0
    return digits[::-1]


def leaf_symbols(tables: Tables, node: int) -> list[int]:
    """Return the symbols of all leaves below *node*, in order."""
    if node >= len(tables.first_child):
        return [(int(tables.mean[node]) + 32) >> 6]
    return [s for t in range(3) for s in leaf_symbols(tables, int(tables.first_child[node]) + t)]


def walk(field: Field, plan: Plan = trit_planes) -> list[Step]:
    """Run the plan with the true trits; return its steps."""
    steps = []
    for step in plan(field):
        step.receive(step.trits())
        steps.append(replace(step))  # a step gives its arrays back as the next is made
    return steps


def test_children_are_the_thirds_of_their_parents_interval(tiny_tables: Tables) -> None:
    """A node's symbols are consecutive; each of its three children has one third of them."""
    for node, child in enumerate(tiny_tables.first_child.tolist()):
        symbols = leaf_symbols(tiny_tables, node)
        assert symbols == list(range(symbols[0], symbols[0] + len(symbols)))
        third = len(symbols) // 3
        for trit in range(3):
            assert leaf_symbols(tiny_tables, child + trit) == symbols[trit * third : (trit + 1) * third]


def test_every_step_narrows_to_an_interval_that_holds_the_symbol(tiny_tables: Tables) -> None:
    """After each plane every element's node still admits its true symbol."""
    field = random_field(tiny_tables, 1, 300)
    intervals = [set(leaf_symbols(tiny_tables, node)) for node in range(len(tiny_tables.mean))]
    for step in trit_planes(field):
        step.receive(step.trits())
        assert all(s in intervals[n] for s, n in zip(symbols_of(field).tolist(), field.nodes.tolist(), strict=True))


def test_elements_join_at_the_plane_of_their_first_trit(tiny_tables: Tables) -> None:
    """The plane of place p holds just the elements that have at least p trits, none of them twice."""
    field = random_field(tiny_tables, 2, 500)
    trits = tiny_tables.trits[field.models]
    steps = walk(field)
    assert [step.place for step in steps] == list(range(int(trits.max()), 0, -1))
    for step in steps:
        assert sorted(step.indices.tolist()) == np.flatnonzero(trits >= step.place).tolist()


def test_plane_falls_in_priority_and_keeps_the_array_order_of_equals(tiny_tables: Tables) -> None:
    """The order is the stable sort by falling priority of the nodes at the plane's start."""
    field = random_field(tiny_tables, 3, 800)
    for step in trit_planes(field):
        joined = np.flatnonzero(tiny_tables.trits[field.models] >= step.place).tolist()
        priority = {i: int(tiny_tables.priority[field.nodes[i]]) for i in joined}
        assert step.indices.tolist() == sorted(joined, key=lambda i: -priority[i])
        assert (step.rows == field.nodes[step.indices]).all()
        step.receive(step.trits())


def test_extreme_priorities_sort_like_any_other(tiny_tables: Tables) -> None:
    """Turning the order round does not overflow at the ends of int16."""
    priority = tiny_tables.priority.copy()
    models = np.array([1, 2, 3, 6, 7, 2, 4, 5])
    joining = models[tiny_tables.trits[models] == 2]  # at place 2 these stand at their roots
    priority[tiny_tables.root[joining]] = [-32768, 32767, -32768]
    fields = {name: getattr(tiny_tables, name) for name in tiny_tables.__dataclass_fields__}
    field = Field(models, Tables(**fields | {"priority": priority}))
    for step in trit_planes(field):
        if step.place == 2:
            assert step.indices.tolist()[0] == 2 and step.indices.tolist()[-2:] == [1, 5]
        step.receive(np.ones(len(step), np.int32))


def test_large_planes_are_sorted_portion_by_portion(codec_tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    """In as little memory as the result takes, and to the same order."""
    generator = np.random.default_rng(5)
    models = generator.integers(0, codec_tables.y_levels, 3000).astype(np.uint8)
    field = Field(models, codec_tables, np.rint(generator.normal(0, 4, 3000)).astype(np.int32))
    monkeypatch.setattr(plan_module, "_PORTION", 700)
    for step in trit_planes(field):
        expected = plane_by_priority(field, step.place)
        with monkeypatch.context() as patch:
            patch.setattr(plan_module, "_AT_ONCE", 0)
            found = plane_by_priority(field, step.place)
        for one, other in zip(expected, found, strict=True):
            assert one.dtype == other.dtype and np.array_equal(one, other)
        step.receive(step.trits())


def test_array_order_is_kept_where_asked_for(tiny_tables: Tables) -> None:
    """Side information goes plane by plane in the order of the array."""
    field = random_field(tiny_tables, 4, 200)
    for step in walk(field, in_array_order):
        assert step.indices.tolist() == sorted(step.indices.tolist())


@pytest.mark.parametrize("plan", [trit_planes, in_array_order])
def test_trits_are_balanced_ternary_digits(tiny_tables: Tables, plan: Plan) -> None:
    """The trits of an element, in order, are the digits of its symbol."""
    field = random_field(tiny_tables, 5, 400)
    sent: list[list[int]] = [[] for _ in field.models]
    for step in plan(field):
        trits = step.trits()
        for index, trit in zip(step.indices.tolist(), trits.tolist(), strict=True):
            sent[index].append(trit)
        step.receive(trits)
    symbols = symbols_of(field).tolist()
    counts = tiny_tables.trits[field.models].tolist()
    assert sent == [balanced_digits(s, n) for s, n in zip(symbols, counts, strict=True)]


def test_digits_of_the_widest_symbols(codec_tables: Tables) -> None:
    """The first and last symbol of every model have digits of 0 and 2 alone, and come back."""
    models = np.repeat(np.arange(len(codec_tables.trits)), 2)
    ends = np.tile([-1000, 1000], len(codec_tables.trits))
    field = Field(models, codec_tables, ends)
    for step in walk(field):
        trits = dict(zip(step.indices.tolist(), step.trits().tolist(), strict=True))
        assert all(trit == (0 if index % 2 == 0 else 2) for index, trit in trits.items())
    assert (field.known_symbols() == np.sign(ends) * codec_tables.largest[models]).all()


@pytest.fixture(scope="module", params=["tiny", "shipped"])
def codec_tables(request: pytest.FixtureRequest, tiny_tables: Tables) -> Tables:
    """The tables of both bundles, in turn."""
    if request.param == "tiny":
        return tiny_tables
    tables: Tables = request.getfixturevalue("codec").model.tables
    return tables


def test_known_symbols_are_the_truth_after_the_last_step(codec_tables: Tables) -> None:
    """All trits give the symbols back, clamped to their models' range; elements without trits are 0."""
    field = random_field(codec_tables, 6, 3000)
    generator = np.random.default_rng(7)
    field = Field(field.models, codec_tables, generator.integers(-1000, 1000, 3000))
    walk(field)
    largest = codec_tables.largest[field.models]
    assert (np.abs(symbols_of(field)) <= largest).all() and (np.abs(symbols_of(field)) == largest).any()
    assert (field.known_symbols() == symbols_of(field)).all()


def test_field_without_trits_has_no_steps(tiny_tables: Tables) -> None:
    """Elements of models that are never sent are known at once, to be 0; so is an empty field."""
    for size in (0, 9):
        field = Field(np.zeros(size, np.int64), tiny_tables, np.arange(size))
        assert list(trit_planes(field)) == [] == list(in_array_order(field))
        assert field.known_symbols().tolist() == [0] * size


@given(st.integers(0, 2**32), st.integers(1, 3))
@settings(max_examples=30)
def test_steps_depend_on_earlier_trits_only(tiny_tables: Tables, seed: int, place: int) -> None:
    """Two fields that differ below some place have the same steps down to that place, orders and rows included."""
    field = random_field(tiny_tables, seed, 200)
    unit = 3**place
    symbols = symbols_of(field)
    coarse = np.rint(symbols / unit).astype(np.int64) * unit  # the balanced digits below `place` made zero
    other = Field(field.models, tiny_tables, coarse)
    for one, two in zip(trit_planes(field), trit_planes(other), strict=True):
        assert (one.indices == two.indices).all() and (one.rows == two.rows).all()
        if one.place <= place:
            break
        assert (one.trits() == two.trits()).all()
        one.receive(one.trits())
        two.receive(two.trits())


@given(st.integers(0, 2**32), st.lists(st.integers(0, 200), max_size=6))
@settings(max_examples=30)
def test_receiving_in_portions_is_receiving_at_once(tiny_tables: Tables, seed: int, cuts: list[int]) -> None:
    """Portions of any size, empty ones too, leave the same nodes, and `complete` tells the end."""
    at_once, in_portions = (random_field(tiny_tables, seed, 150) for _ in range(2))
    for one, two in zip(trit_planes(at_once), trit_planes(in_portions), strict=True):
        trits = one.trits()
        one.receive(trits)
        bounds = [0, *sorted(min(cut, len(two)) for cut in cuts), len(two)]
        for start, end in pairwise(bounds):
            assert two.complete == (start == len(two))
            two.receive(trits[start:end])
        assert two.complete and (at_once.nodes == in_portions.nodes).all()


@given(st.integers(0, 2**32), st.integers(0, 400), st.sampled_from([trit_planes, in_array_order]))
@settings(max_examples=50)
def test_decoder_walks_the_plan_that_the_encoder_walked(tiny_tables: Tables, seed: int, size: int, plan: Plan) -> None:
    """Coder and plan together give every symbol back, and the same code when done twice."""
    codes = []
    for _ in range(2):
        field = random_field(tiny_tables, seed, size)
        encoder = TritEncoder(CoderTables(tiny_tables))
        for step in plan(field):
            encoder.encode(step.trits(), step.rows)
            step.receive(step.trits())
        codes.append(encoder.finish())
    assert codes[0] == codes[1]
    known = Field(field.models, tiny_tables)
    decoder = TritDecoder(CoderTables(tiny_tables))
    decoder.extend(codes[0], whole=True)
    for step in plan(known):
        step.receive(decoder.decode(step.rows))
    assert (known.known_symbols() == symbols_of(field)).all()
