"""The compiled coder against constriction: the same words, the same trits at every cut, the same order.

Both hand out exactly the same trits of a prefix, neither more nor fewer: the rule is one, and the tests hold the
compiled coder to it byte by byte. The kernels also run uncompiled here, on small messages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coding import EXTREME, Ints, coded, constriction, decoded, one_trit_tables, random_message
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.entropy.choose import Coder
from runtime.entropy.compiled import CompiledCoder, load_kernels, plain_kernels
from runtime.entropy.plan import Field, plane_by_priority, trit_planes
from runtime.entropy.tables import Tables

pytest.importorskip("numba")
pytest.importorskip("constriction")

TOTAL = 1 << 24
MOST_BYTES_LOST = 8  # of a code that is cut: the coder's state
MakeCoder = Callable[[Tables], Coder]

GOLDEN = (
    "000000000000fffefe5557002aaa8053ab00091bfe04bd55fb42ac02c3c6586b1bffffffff9ae40021b3ffe39daaaaa9fffffffffb"
    "527fff10800078"
)


def rows_of_frequencies() -> st.SearchStrategy[tuple[int, int, int]]:
    """Return rows that sum to 2^24, with the extreme ones often among them."""
    cuts = st.tuples(st.integers(1, TOTAL - 2), st.integers(1, TOTAL - 2))
    free = cuts.map(lambda pair: sorted((min(pair), max(pair) + 1)))
    return st.sampled_from(EXTREME) | free.map(lambda ends: (ends[0], ends[1] - ends[0], TOTAL - ends[1]))


def deep_tables(seed: int, depths: tuple[int, ...] = (0, 1, 2, 3, 4, 6)) -> Tables:
    """Return tables of one model for each of *depths*, with random frequencies, priorities and deviations."""
    random = np.random.default_rng(seed)
    inner = sum((3**depth - 1) // 2 for depth in depths)
    root, first_child, leaf_means = [], [], []
    inner_next, leaf_next = 0, inner
    for depth in depths:
        root.append(inner_next if depth else leaf_next)
        for level in range(depth):
            base = inner_next + 3**level if level + 1 < depth else leaf_next
            first_child += [base + 3 * node for node in range(3**level)]
            inner_next += 3**level
        leaf_next += 3**depth
        largest = (3**depth - 1) // 2
        leaf_means.append(64 * np.arange(-largest, largest + 1))
    weights = random.dirichlet((0.5, 1.0, 0.5), inner)
    frequencies = np.floor(weights * (TOTAL - 3)).astype(np.int64) + 1
    frequencies[:, 1] += TOTAL - frequencies.sum(axis=1)
    return Tables(
        trits=np.array(depths, np.uint8),
        root=np.array(root, np.int32),
        first_child=np.array(first_child, np.int32),
        frequencies=frequencies.astype(np.uint32),
        priority=random.choice([-32768, -32000, -5, 0, 1, 900, 32767], inner).astype(np.int16),
        mean=np.concatenate([np.zeros(inner), *leaf_means]).astype(np.int16),
        deviation=np.concatenate([random.integers(1, 65536, inner), np.zeros(leaf_next - inner)]).astype(np.uint16),
        sigma_thresholds=np.zeros(0, np.int32),
    )


@pytest.fixture(scope="module", params=["compiled", "plain"])
def make_coder(request: pytest.FixtureRequest, kernel_folder: Path) -> MakeCoder:
    """The kernels compiled, and as Python runs them."""
    kernels = load_kernels(kernel_folder) if request.param == "compiled" else plain_kernels()
    return lambda tables: CompiledCoder(tables, kernels)


# The same words.


def test_golden_words(make_coder: MakeCoder) -> None:
    """These words may never change."""
    number = np.arange(40, dtype=np.int32)
    rows, trits = number % 5, number**2 // 3 % 3
    code = coded(make_coder(one_trit_tables(EXTREME)).encoder(), trits, rows)
    assert code.hex() == GOLDEN
    assert code == coded(constriction(one_trit_tables(EXTREME)).encoder(), trits, rows)


def test_an_empty_code_has_no_words(make_coder: MakeCoder) -> None:
    coder = make_coder(one_trit_tables(EXTREME))
    assert coder.encoder().finish() == b""
    assert coder.encoder().size_bytes == 0
    assert len(decoded(coder, b"", np.zeros(0, np.int32), whole=True)) == 0
    assert len(decoded(coder, b"", np.zeros(3, np.int32))) == 0


@given(message=st.lists(st.tuples(rows_of_frequencies(), st.integers(0, 2)), max_size=60))
def test_writes_the_words_of_constriction(
    make_coder: MakeCoder, message: list[tuple[tuple[int, int, int], int]]
) -> None:
    """Any frequencies, any trits: the same words, and the same size before the end."""
    frequencies = sorted({row for row, _ in message}) or EXTREME
    tables = one_trit_tables(frequencies)
    rows = np.array([frequencies.index(row) for row, _ in message], np.int32)
    trits = np.array([trit for _, trit in message], np.int32)
    code = coded(make_coder(tables).encoder(), trits, rows)
    assert code == coded(constriction(tables).encoder(), trits, rows)
    assert np.array_equal(decoded(make_coder(tables), code, rows, whole=True), trits)


@pytest.mark.parametrize("likely", [True, False])
def test_writes_the_words_of_constriction_over_long_messages(make_compiled: MakeCoder, likely: bool) -> None:
    tables, trits, rows = random_message(3, 300_000, 2_000, likely=likely)
    code = coded(make_compiled(tables).encoder(), trits, rows)
    assert code == coded(constriction(tables).encoder(), trits, rows)
    assert np.array_equal(decoded(make_compiled(tables), code, rows, whole=True), trits)


def straddling_message(count: int, last: int) -> tuple[list[tuple[int, int, int]], Ints, Ints]:
    """Return a message whose interval holds the middle of the code space for *count* trits.

    The last trit then goes below the middle (0), stays (1), or goes above (2).
    """
    lower, length, middle = 0, (1 << 64) - 1, 1 << 63  # in units that shrink by 2^32 with every word
    frequencies = []
    for _ in range(count):
        below = min(max((middle - lower) // (length >> 24), 2), TOTAL - 3)
        frequencies.append((below - 1, 2, TOTAL - below - 1))
        lower, length = lower + (length >> 24) * (below - 1), (length >> 24) * 2
        if length < 1 << 32:
            lower, length, middle = lower << 32, length << 32, middle << 32
    assert lower < middle < lower + length
    below = (middle - lower) // (length >> 24)
    frequencies.append((below, 1, TOTAL - below - 1))
    return frequencies, np.array([1] * count + [last], np.int32), np.arange(count + 1, dtype=np.int32)


@pytest.mark.parametrize("last", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_carries_go_back_over_any_number_of_words(make_coder: MakeCoder, count: int, last: int) -> None:
    """While the interval holds 1/2 no word is certain: 0x7fffffff... or 0x80000000... ."""
    frequencies, trits, rows = straddling_message(count, last)
    tables = one_trit_tables(frequencies)
    code = coded(make_coder(tables).encoder(), trits, rows)
    assert code == coded(constriction(tables).encoder(), trits, rows)
    assert np.array_equal(decoded(make_coder(tables), code, rows, whole=True), trits)


def test_carrying_messages_do_carry(make_coder: MakeCoder) -> None:
    """The messages of the test above end on both sides of 1/2."""
    codes = []
    for last in (0, 2):
        frequencies, trits, rows = straddling_message(7, last)
        codes.append(coded(make_coder(one_trit_tables(frequencies)).encoder(), trits, rows))
    assert codes[0].startswith(b"\x7f" + 11 * b"\xff")
    assert codes[1].startswith(b"\x80" + bytes(11))


# The same trits at every cut.


def every_cut_alike(coder: Coder, tables: Tables, trits: Ints, rows: Ints, cuts: range | None = None) -> None:
    """Check that *coder* determines what constriction determines at every cut, and enough, and nothing wrong."""
    peer = constriction(tables)
    code = coded(coder.encoder(), trits, rows)
    bits = -np.log2(tables.frequencies[rows, trits] / TOTAL)
    ends = np.cumsum(bits)
    for length in cuts or range(len(code) + 1):
        found = decoded(coder, code[:length], rows)
        assert np.array_equal(found, trits[: len(found)])
        assert np.array_equal(found, decoded(peer, code[:length], rows))
        assert len(found) >= np.searchsorted(ends, 8 * (length - MOST_BYTES_LOST) - 1, side="right")
    assert np.array_equal(decoded(coder, code, rows, whole=True), trits)


@given(seed=st.integers(0, 1 << 32), size=st.integers(0, 120))
@settings(max_examples=25)
def test_determines_what_constriction_determines_at_every_cut(make_coder: MakeCoder, seed: int, size: int) -> None:
    tables, trits, rows = random_message(seed, size, 10)
    every_cut_alike(make_coder(tables), tables, trits, rows)


@pytest.mark.parametrize("last", [0, 1, 2])
def test_determines_what_constriction_determines_while_words_may_carry(make_coder: MakeCoder, last: int) -> None:
    frequencies, trits, rows = straddling_message(20, last)
    tables = one_trit_tables(frequencies)
    every_cut_alike(make_coder(tables), tables, trits, rows)


def test_determines_what_constriction_determines_in_long_codes(make_compiled: MakeCoder) -> None:
    tables, trits, rows = random_message(5, 40_000, 500)
    size = len(coded(make_compiled(tables).encoder(), trits, rows))
    for start in (0, size // 2, size - 20):
        every_cut_alike(make_compiled(tables), tables, trits, rows, range(start, start + 21))


@given(
    seed=st.integers(0, 1 << 32),
    portions=st.lists(st.integers(0, 13), max_size=30),
    wanted=st.lists(st.integers(0, 40), min_size=1, max_size=8),
)
def test_any_portions_of_bytes_and_trits_give_the_same(
    make_coder: MakeCoder, seed: int, portions: list[int], wanted: list[int]
) -> None:
    """Bytes in any portions, trits asked for in any numbers, and an end that is announced late."""
    tables, trits, rows = random_message(seed, 150, 10)
    coder = make_coder(tables)
    code = coded(coder.encoder(), trits, rows)
    decoder, fed, done = coder.decoder(), 0, 0
    for i, size in enumerate(portions):
        decoder.extend(code[fed : fed + size])
        fed = min(len(code), fed + size)
        found = decoder.decode(rows[done : done + wanted[i % len(wanted)]])
        assert np.array_equal(found, trits[done : done + len(found)])
        done += len(found)
    known = len(decoded(coder, code[:fed], rows))
    done += len(decoder.decode(rows[done:]))
    assert done == known
    decoder.extend(code[fed:])
    decoder.extend(b"", whole=True)
    assert np.array_equal(decoder.decode(rows[done:]), trits[done:])


def test_bytes_read_are_exact(make_coder: MakeCoder) -> None:
    """A code cut at `bytes_read` still determines, but for the coder's look ahead, what was decoded by then."""
    tables, trits, rows = random_message(11, 200, 10)
    coder, peer = make_coder(tables), constriction(tables)
    code = coded(coder.encoder(), trits, rows)
    ours, theirs = coder.decoder(), peer.decoder()
    ours.extend(code)
    theirs.extend(code)
    for start in range(0, len(rows), 7):
        ours.decode(rows[start : start + 7])
        theirs.decode(rows[start : start + 7])
        assert ours.bytes_read == min(theirs.bytes_read, len(code))
        shorter = coder.decoder()
        shorter.extend(code[: ours.bytes_read], whole=True)
        assert np.array_equal(shorter.decode(rows[: start + 7]), trits[: start + 7])


# What no encoder writes.


@given(garbage=st.binary(max_size=64), whole=st.booleans())
def test_garbage_stops_the_decoder_where_it_stops_constriction(
    make_coder: MakeCoder, garbage: bytes, whole: bool
) -> None:
    """Bytes that no encoder wrote decode to something and end; nothing is raised, and both agree."""
    tables = one_trit_tables(EXTREME)
    rows = np.arange(100, dtype=np.int32) % 5
    code = garbage + bytes(-len(garbage) % 4) if whole else garbage
    found = decoded(make_coder(tables), code, rows, whole=whole)
    assert ((found >= 0) & (found <= 2)).all()
    assert np.array_equal(found, decoded(constriction(tables), code, rows, whole=whole))


def test_an_impossible_code_decodes_to_nothing(make_coder: MakeCoder) -> None:
    """The highest code value lies in no trit's part of the interval; more bytes do not change that."""
    decoder = make_coder(one_trit_tables(EXTREME)).decoder()
    rows = np.zeros(5, np.int32)
    decoder.extend(b"\xff" * 8)
    assert len(decoder.decode(rows)) == 0
    decoder.extend(b"\xff" * 8, whole=True)
    assert len(decoder.decode(rows)) == 0


# The walk.


def random_symbols(tables: Tables, seed: int, size: int) -> tuple[NDArray[np.uint8], Ints]:
    """Return models, and symbols of which some lie beyond their model's range."""
    random = np.random.default_rng(seed)
    models = random.integers(len(tables.trits), size=size).astype(np.uint8)
    spread = tables.largest[models] * 0.4 + 0.5
    return models, np.rint(random.normal(0, spread)).astype(np.int32)


@given(seed=st.integers(0, 1 << 32), size=st.integers(0, 300))
@settings(max_examples=25)
def test_orders_as_numpys_stable_sort_does(make_coder: MakeCoder, seed: int, size: int) -> None:
    """Every plane: the same elements in the same order with the same rows, of the same types."""
    tables = deep_tables(seed)
    coder = make_coder(tables)
    models, symbols = random_symbols(tables, seed, size)
    field = Field(models, tables, symbols)
    for step in trit_planes(field):
        indices, rows = coder.plane(field, step.place)
        expected = plane_by_priority(field, step.place)
        assert np.array_equal(indices, expected[0]) and indices.dtype == expected[0].dtype
        assert np.array_equal(rows, expected[1]) and rows.dtype == expected[1].dtype
        step.receive(step.trits())


@given(seed=st.integers(0, 1 << 32), size=st.integers(0, 200), most=st.sampled_from([1, 7, 64, 1000]))
@settings(max_examples=25)
def test_steps_are_coded_as_constriction_codes_them(make_coder: MakeCoder, seed: int, size: int, most: int) -> None:
    """Steps in portions: the same code, falls of variance, sizes on the way, and symbols."""
    tables = deep_tables(seed)
    models, symbols = random_symbols(tables, seed, size)
    results = []
    for coder in (make_coder(tables), constriction(tables)):
        field, encoder, notes = Field(models, tables, symbols), coder.encoder(), []
        for step in trit_planes(field, coder.plane):
            while not step.complete:
                notes.append((encoder.encode_step(step, most), encoder.size_bytes, step.received))
        results.append((encoder.finish(), notes, field.nodes.tolist()))
    assert results[0] == results[1]
    coder, known = make_coder(tables), Field(models, tables)
    decoder = coder.decoder()
    decoder.extend(results[0][0], whole=True)
    for step in trit_planes(known, coder.plane):
        while not step.complete:
            assert decoder.decode_step(step, most)
    clipped = Field(models, tables, symbols).symbols
    assert clipped is not None
    assert np.array_equal(known.known_symbols(), clipped)


def test_a_cut_ends_inside_a_step_where_constriction_ends(make_coder: MakeCoder) -> None:
    """What is known of every element after a cut is the same."""
    tables = deep_tables(17)
    models, symbols = random_symbols(tables, 17, 150)
    field, encoder = Field(models, tables, symbols), make_coder(tables).encoder()
    for step in trit_planes(field):
        encoder.encode_step(step, len(step))
    code = encoder.finish()
    for length in range(0, len(code), 5):
        states = []
        for coder in (make_coder(tables), constriction(tables)):
            known, decoder = Field(models, tables), coder.decoder()
            decoder.extend(code[:length])
            received = []
            for step in trit_planes(known, coder.plane):
                going_on = decoder.decode_step(step, len(step))
                received.append(step.received)
                if not going_on:
                    break
            states.append((received, known.nodes.tolist()))
        assert states[0] == states[1]
