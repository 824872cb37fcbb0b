"""The trit coder against an independent range coder, golden words, and every way to cut or split a code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from coding import EXTREME, Row, one_trit_tables
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import Codec
from runtime.entropy.coder import CoderTables, TritDecoder, TritEncoder
from runtime.entropy.tables import Tables

TOTAL = 1 << 24
MASK = (1 << 64) - 1
Message = list[tuple[Row, int]]  # (frequencies, trit)


# An independent range coder in plain integers, after FORMAT.md, "Range code".


class PlainEncoder:
    """64 bits of state, words of 32 bits, frequencies of 24."""

    def __init__(self) -> None:
        self.lower, self.range = 0, MASK
        self.words: list[int] = []
        self.held: list[int] = []  # words that a carry may still change

    def encode(self, row: Row, trit: int) -> None:
        scale = self.range >> 24
        before = self.lower
        self.lower = (self.lower + scale * sum(row[:trit])) & MASK
        self.range = scale * row[trit]
        if self.held and not self.straddles():
            self.release(carry=self.lower < before)
        if self.range < 1 << 32:
            word = self.lower >> 32
            self.lower, self.range = self.lower << 32 & MASK, self.range << 32
            if self.held or self.straddles():
                self.held.append(word)
            else:
                self.words.append(word)

    def straddles(self) -> bool:
        """True if the interval holds a multiple of 2^64, so that the next word but one may still carry."""
        return self.lower + self.range > MASK

    def release(self, carry: bool) -> None:
        first, *others = self.held
        self.words.append((first + carry) & 0xFFFFFFFF)
        self.words += [0 if carry else 0xFFFFFFFF] * len(others)
        self.held = []

    def finish(self) -> bytes:
        if self.range == MASK:
            return b""
        point = (self.lower + (1 << 32) - 1) & MASK
        if self.held:
            self.release(carry=point < self.lower)
        self.words.append(point >> 32)
        if (self.lower + self.range & MASK) >> 32 == point >> 32:
            self.words.append(0)
        return b"".join(word.to_bytes(4, "big") for word in self.words)


class PlainDecoder:
    """Reads a code that goes on with *padding* bits, all 0 or all 1."""

    def __init__(self, code: bytes, padding: int) -> None:
        self.bytes = code + bytes([0xFF * padding]) * (-len(code) % 4)
        self.padding = 0xFFFFFFFF * padding
        self.lower, self.range, self.next = 0, MASK, 8
        self.point = self.word(0) << 32 | self.word(4)

    def word(self, start: int) -> int:
        return int.from_bytes(self.bytes[start : start + 4], "big") if start < len(self.bytes) else self.padding

    def decode(self, row: Row) -> int | None:
        """Return the next trit, or None if the code has none here."""
        scale = self.range >> 24
        quantile = (self.point - self.lower & MASK) // scale
        if quantile >= TOTAL:
            return None
        trit = 0 if quantile < row[0] else 1 if quantile < row[0] + row[1] else 2
        self.lower = (self.lower + scale * sum(row[:trit])) & MASK
        self.range = scale * row[trit]
        if self.range < 1 << 32:
            self.lower, self.range = self.lower << 32 & MASK, self.range << 32
            self.point = self.point << 32 & MASK | self.word(self.next)
            self.next += 4
        return trit


def plain_code(message: Message) -> bytes:
    encoder = PlainEncoder()
    for row, trit in message:
        encoder.encode(row, trit)
    return encoder.finish()


def plain_trusted(code: bytes, rows: Sequence[Row]) -> list[int]:
    """Return the trits that no continuation of *code* changes: the definition, without any cleverness."""
    low, high = PlainDecoder(code, 0), PlainDecoder(code, 1)
    trits = []
    for row in rows:
        trit = low.decode(row)
        if trit is None or trit != high.decode(row):
            break
        trits.append(trit)
    return trits


# The coder under test, fed with the same messages.


class Coded:
    """A message, its code by the coder under test, and decoders for it."""

    def __init__(self, message: Message) -> None:
        distinct = sorted({row for row, _ in message}) or EXTREME
        self.message = message
        self.tables = CoderTables(one_trit_tables(distinct))
        self.rows = np.array([distinct.index(row) for row, _ in message], np.int32)
        self.trits = np.array([trit for _, trit in message], np.int32)
        encoder = TritEncoder(self.tables)
        encoder.encode(self.trits, self.rows)
        self.size_bytes = encoder.size_bytes
        self.code = encoder.finish()

    def decoded(self, code: bytes, *, whole: bool = False) -> list[int]:
        decoder = TritDecoder(self.tables)
        decoder.extend(code, whole=whole)
        return decoder.decode(self.rows).tolist()

    def information_bits(self, trits: int) -> float:
        """Return what the first *trits* trits are worth."""
        return -sum(np.log2(row[trit] / TOTAL) for row, trit in self.message[:trits])


def message_of(seed: int, length: int, rows: Sequence[Row]) -> Message:
    """Return a message whose trits follow their frequencies."""
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(rows), size=length)
    points = generator.integers(TOTAL, size=length)
    return [
        (rows[i], int(point >= rows[i][0]) + int(point >= rows[i][0] + rows[i][1]))
        for i, point in zip(chosen, points, strict=True)
    ]


def random_rows(seed: int, count: int) -> list[Row]:
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet([0.5, 0.5, 0.5], count)
    first, second = (np.floor(weights[:, :2] * (TOTAL - 3)).astype(int) + 1).T
    return [(a, b, TOTAL - a - b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]


@pytest.fixture(scope="module")
def coded() -> Coded:
    """A code of about 500 bytes over many rows."""
    return Coded(message_of(1, 3000, random_rows(1, 40)))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Messages over a few rows; trits of any frequency, so also runs of the most improbable ones."""
    cuts = st.lists(st.integers(1, TOTAL - 1), min_size=2, max_size=2, unique=True).map(sorted)
    row = st.one_of(st.sampled_from(EXTREME), cuts.map(lambda cut: (cut[0], cut[1] - cut[0], TOTAL - cut[1])))
    rows = draw(st.lists(row, min_size=1, max_size=4))
    return draw(st.lists(st.tuples(st.sampled_from(rows), st.integers(0, 2)), max_size=150))


# What the words are.


def test_every_row_of_a_bundle_codes_with_its_integer_frequencies(tiny_tables: Tables, codec: Codec) -> None:
    """A code of all three trits of every row is, word by word, that of a coder in plain integers."""
    for tables in (tiny_tables, codec.model.tables):
        rows = np.repeat(np.arange(len(tables.frequencies), dtype=np.int32), 3)
        trits = np.tile(np.arange(3, dtype=np.int32), len(tables.frequencies))
        encoder = TritEncoder(CoderTables(tables))
        encoder.encode(trits, rows)
        frequencies = [tuple(row) for row in tables.frequencies.tolist()]
        message = [(frequencies[row], trit) for row, trit in zip(rows.tolist(), trits.tolist(), strict=True)]
        code = encoder.finish()
        assert code == plain_code(message)
        plain = PlainDecoder(code, 0)
        assert [plain.decode(row) for row, _ in message] == trits.tolist()


@pytest.mark.parametrize("row", EXTREME)
@pytest.mark.parametrize("trit", [0, 1, 2])
def test_extreme_row_converts_exactly(row: Row, trit: int) -> None:
    """Frequencies of 1 and of nearly 2^24 are used as they are."""
    message = [(row, trit)] * 7 + [(row, 0), (row, 1), (row, 2)]
    coded = Coded(message)
    assert coded.code == plain_code(message)
    assert coded.decoded(coded.code) == [trit for _, trit in message]


def test_code_has_the_golden_words() -> None:
    """The words of a fixed message never change."""
    rows: list[Row] = [
        (1 << 23, 1 << 22, 1 << 22),
        (1, 1, TOTAL - 2),
        (5_000_000, 11_777_215, 1),
        (70_000, 16_700_000, 7216),
    ]
    message = [(rows[i % 4], (i * i // 3 + i // 5) % 3) for i in range(40)]
    assert Coded(message).code.hex(" ", 4) == (
        "00000026 6d4d7ecb fb3bd630 ed480f89 bb0298f9 2b0b3958 016a1750"
        " 78c5a5d8 139aec04 fed051c8 14299204 dbd6eea7 6075e84e"
    )


@pytest.mark.parametrize("trits", [0, 1])
def test_shortest_codes(trits: int) -> None:
    """Nothing codes as nothing; one trit codes as one word."""
    coded = Coded([((1 << 23, 1 << 22, 1 << 22), 1)] * trits)
    assert coded.code == [b"", b"\x80\x00\x00\x00"][trits]
    assert coded.decoded(coded.code, whole=True) == [1] * trits


@pytest.mark.parametrize("carry", [False, True])
def test_carry_runs_through_held_words(carry: bool) -> None:
    """Words that a carry may still change are held back, and come out right either way."""
    row: Row = (6_000_000, 4_777_216, 6_000_000)
    encoder, message = PlainEncoder(), []
    while len(encoder.held) < 5:  # stay on the trit whose interval holds the multiple of 2^64, if there is one
        scale = encoder.range >> 24
        bounds = [encoder.lower + scale * sum(row[:t]) for t in range(4)]
        trit = next((t for t in range(3) if bounds[t] <= MASK < bounds[t + 1]), 1)
        encoder.encode(row, trit)
        message.append((row, trit))
    while encoder.held:  # the outer trits lead away from that multiple: upwards past it, or down before it
        encoder.encode(row, 2 if carry else 0)
        message.append((row, 2 if carry else 0))
    expected = plain_code(message)
    assert (bytes(16) if carry else b"\xff" * 16) in expected
    coded = Coded(message)
    assert coded.code == expected
    for cut in range(len(expected) + 1):
        assert coded.decoded(expected[:cut]) == plain_trusted(expected[:cut], [row for row, _ in message])


@given(messages())
def test_any_message_codes_like_the_plain_coder_and_comes_back(message: Message) -> None:
    """Words are those of the plain coder; as a whole code or a prefix of something longer they give the trits back."""
    coded = Coded(message)
    assert coded.code == plain_code(message)
    assert coded.size_bytes == len(coded.code)
    truth = coded.trits.tolist()
    assert coded.decoded(coded.code, whole=True) == truth
    assert coded.decoded(coded.code) == truth
    assert coded.decoded(coded.code + b"\xa5" * 9) == truth


@given(messages(), st.data())
def test_encoding_in_portions_gives_the_same_code(message: Message, data: st.DataObject) -> None:
    """The code depends on the trits, not on how they were handed over; twice the same."""
    coded = Coded(message)
    cut = data.draw(st.integers(0, len(message)))
    encoder = TritEncoder(coded.tables)
    for window in (slice(0, cut), slice(cut, None)):
        encoder.encode(coded.trits[window], coded.rows[window])
    assert encoder.finish() == coded.code == encoder.finish()


def test_code_is_as_short_as_its_frequencies_say(coded: Coded) -> None:
    """A code takes at most two words more than the information in it."""
    assert 8 * len(coded.code) <= coded.information_bits(len(coded.message)) + 64


# Cuts and portions.


def test_every_byte_cut_gives_the_trits_that_no_continuation_changes(coded: Coded) -> None:
    """At every cut the trits are exactly the trusted ones: right, and at most 64 bits behind what arrived."""
    rows = [row for row, _ in coded.message]
    truth = coded.trits.tolist()
    for cut in range(len(coded.code) + 1):
        trits = coded.decoded(coded.code[:cut])
        assert trits == truth[: len(trits)] == plain_trusted(coded.code[:cut], rows)
        if len(trits) < len(truth):
            assert 8 * cut - coded.information_bits(len(trits)) <= 64


def test_typical_cut_loses_less_than_one_byte(coded: Coded) -> None:
    """On average a cut loses far less than the coder's state."""
    lost = [
        8 * cut - coded.information_bits(len(coded.decoded(coded.code[:cut]))) for cut in range(len(coded.code) - 8)
    ]
    assert np.mean(lost) < 8


@given(messages(), st.data())
def test_any_cut_of_any_message_gives_the_trusted_trits(message: Message, data: st.DataObject) -> None:
    """The rule holds for improbable messages as well."""
    coded = Coded(message)
    cut = data.draw(st.integers(0, len(coded.code)))
    assert coded.decoded(coded.code[:cut]) == plain_trusted(coded.code[:cut], [row for row, _ in message])


@given(st.lists(st.integers(0, 600), max_size=12), st.booleans())
@settings(max_examples=50)
def test_any_split_of_the_bytes_gives_the_same_trits(coded: Coded, cuts: list[int], whole: bool) -> None:
    """Portions of any size give, after each of them, the trits that all bytes so far give at once."""
    bounds = [0, *sorted(min(cut, len(coded.code)) for cut in cuts), len(coded.code)]
    decoder = TritDecoder(coded.tables)
    known: list[int] = []
    for start, end in pairwise(bounds):
        decoder.extend(coded.code[start:end], whole=whole and end == len(coded.code))
        known += decoder.decode(coded.rows[len(known) :]).tolist()
        assert known == coded.decoded(coded.code[:end])
    assert known == coded.trits.tolist()


def test_byte_by_byte_gives_the_same_trits(coded: Coded) -> None:
    """Single bytes are portions, too; rows asked for in small windows change nothing."""
    decoder = TritDecoder(coded.tables)
    known: list[int] = []
    for byte in coded.code:
        decoder.extend(bytes([byte]))
        while True:
            trits = decoder.decode(coded.rows[len(known) : len(known) + 7]).tolist()
            known += trits
            if len(trits) < 7:
                break
    assert known == coded.trits.tolist()


def test_long_message_crosses_the_calls_into_the_coder() -> None:
    """Messages longer than one call's portion decode whole, as a prefix, and in two portions."""
    coded = Coded(message_of(3, 40_000, random_rows(3, 20)))
    truth = coded.trits.tolist()
    assert coded.decoded(coded.code, whole=True) == truth
    half = len(coded.code) // 2 + 1
    first = coded.decoded(coded.code[:half])
    assert first == truth[: len(first)] and len(first) > 15_000
    decoder = TritDecoder(coded.tables)
    decoder.extend(coded.code[:half])
    decoder.decode(coded.rows)
    decoder.extend(coded.code[half:], whole=True)
    assert decoder.decode(coded.rows[len(first) :]).tolist() == truth[len(first) :]


def test_bytes_read_are_enough_for_the_same_trits(coded: Coded) -> None:
    """What a decoder says to have read gives the same trits, and is no more than two words ahead of them."""
    for count in range(0, len(coded.rows), 97):
        decoder = TritDecoder(coded.tables)
        decoder.extend(coded.code)
        trits = decoder.decode(coded.rows[:count])
        assert len(trits) == count
        assert coded.decoded(coded.code[: decoder.bytes_read])[:count] == trits.tolist()
        assert 8 * decoder.bytes_read <= coded.information_bits(count) + 64 + 32


# Codes that no encoder writes.


@pytest.mark.parametrize("whole", [False, True])
def test_code_of_ones_has_no_trit(whole: bool) -> None:
    """The value above all intervals is no trit, and not an exception either."""
    coded = Coded([(EXTREME[4], 2)] * 10)
    assert coded.decoded(b"\xff" * 40, whole=whole) == []


@given(st.binary(max_size=300), st.integers(0, 300))
def test_any_bytes_decode_without_an_exception(code: bytes, split: int) -> None:
    """Whatever bytes come: a whole code gives what the plain decoder finds before the point that no encoder writes."""
    message = message_of(5, 400, random_rows(5, 10))
    coded = Coded(message)
    plain, expected = PlainDecoder(code, 0), []
    for row, _ in message:
        trit = plain.decode(row)
        if trit is None:
            break
        expected.append(trit)
    words = code[: len(code) // 4 * 4]
    if words == code:
        assert coded.decoded(code, whole=True) == expected
    trusted = coded.decoded(code)
    assert trusted == plain_trusted(code, [row for row, _ in message])
    decoder = TritDecoder(coded.tables)
    decoder.extend(code[:split])
    known = decoder.decode(coded.rows).tolist()
    decoder.extend(code[split:])
    assert known + decoder.decode(coded.rows[len(known) :]).tolist() == trusted


def test_whole_code_that_ends_in_nonsense_stays_ended() -> None:
    """Behind the point that no encoder writes nothing is decoded, however often one asks."""
    coded = Coded([(EXTREME[4], 2)] * 10)
    decoder = TritDecoder(coded.tables)
    decoder.extend(b"\xff" * 8, whole=True)
    assert decoder.decode(coded.rows).tolist() == []
    decoder.extend(b"", whole=True)
    assert decoder.decode(coded.rows).tolist() == []
