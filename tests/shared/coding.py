"""What tests of the coders share: tables of single trits, and messages coded with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.entropy.choose import Coder, Encoder, open_coder
from runtime.entropy.tables import Tables

TOTAL = 1 << 24
Ints = NDArray[np.int32]
Row = tuple[int, int, int]  # frequencies
EXTREME: list[Row] = [
    (1, 1, TOTAL - 2),
    (1, TOTAL - 2, 1),
    (TOTAL - 2, 1, 1),
    (TOTAL // 2, TOTAL // 2 - 1, 1),
    (5592405, 5592405, 5592406),
]


def one_trit_tables(rows: Sequence[Row]) -> Tables:
    """Return tables in which model and row i is one trit with the frequencies *rows[i]*."""
    count = len(rows)
    return Tables(
        trits=np.ones(count, np.uint8),
        root=np.arange(count, dtype=np.int32),
        first_child=np.arange(count, 4 * count, 3, dtype=np.int32),
        frequencies=np.array(rows, np.uint32).reshape(count, 3),
        priority=np.zeros(count, np.int16),
        mean=np.concatenate([np.zeros(count), np.tile([-64, 0, 64], count)]).astype(np.int16),
        deviation=np.zeros(4 * count, np.uint16),
        sigma_thresholds=np.zeros(0, np.int32),
    )


def constriction(tables: Tables) -> Coder:
    return open_coder(tables, "constriction", Path())


def coded(encoder: Encoder, trits: Ints, rows: Ints) -> bytes:
    encoder.encode(trits, rows)
    size = encoder.size_bytes
    code = encoder.finish()
    assert len(code) == size
    return code


def decoded(coder: Coder, code: bytes, rows: Ints, *, whole: bool = False) -> Ints:
    decoder = coder.decoder()
    decoder.extend(code, whole=whole)
    return decoder.decode(rows)


def random_message(seed: int, size: int, rows: int, *, likely: bool = True) -> tuple[Tables, Ints, Ints]:
    """Return tables, trits and rows; trits as the frequencies have it, or all alike."""
    random = np.random.default_rng(seed)
    cuts = np.sort(random.integers(1, TOTAL - 1, (rows, 2)), axis=1)
    cuts[:, 1] += 1
    frequencies = np.stack([cuts[:, 0], cuts[:, 1] - cuts[:, 0], TOTAL - cuts[:, 1]], axis=1)
    chosen = random.integers(rows, size=size).astype(np.int32)
    drawn = random.integers(TOTAL, size=size)[:, None] >= np.cumsum(frequencies, axis=1)[chosen, :2]
    trits = drawn.sum(axis=1) if likely else random.integers(3, size=size)
    return one_trit_tables([tuple(row) for row in frequencies.tolist()]), trits.astype(np.int32), chosen
