"""Checks of the range coder for `cutoff selfcheck`: golden words, and that all implementations give the same code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.costs import cache_folder
from runtime.entropy.choose import Coder, installed_coders, open_coder
from runtime.entropy.plan import Field, trit_planes
from runtime.entropy.tables import MEAN_UNIT, Tables
from runtime.errors import EngineError

_GOLDEN_CODE = (
    "02ffffffd5aceb58fed1d7bd07c1a4b1d2760247000002fbd70c608546be3276669ba9b0bfd1a5a3045386a3d24002350af02543"
    "f90000dda903977aa6a29d8af4b3c6b63b7714421d395effc0a7272989b922400c0000404d010abaa8e4e90acfd2612a04f97074"
)  # the format: may never change
_RANDOM_SYMBOLS = 4000


def check_coder() -> str:
    """Code a fixed sequence of trits with every coder, compare with the golden words, and decode it, whole and cut.

    Raises:
        EngineError: a coder's words or trits are other ones, or there is no coder.
        MissingExtra: a coder's package is there but cannot be imported.
    """
    coders = _coders(_golden_tables())
    for coder in coders:
        _check_golden(coder)
    names = ", ".join(coder.name for coder in coders)
    return f"{len(_golden_trits()[0])} trits in {len(_GOLDEN_CODE) // 2} bytes by {names}"


def check_agreement() -> str:
    """Code random symbols with every coder, and decode cut codes of one by every other.

    Raises:
        EngineError: two coders write other codes, or determine other trits.
    """
    tables = _golden_tables()
    coders = _coders(tables)
    if len(coders) < 2:
        return f"only {coders[0].name} is installed: nothing to compare with"
    random = np.random.default_rng()
    symbols = random.integers(-4, 5, _RANDOM_SYMBOLS)
    codes = {coder.name: _encoded(coder, tables, symbols) for coder in coders}
    if len(set(codes.values())) > 1:
        raise EngineError(f"{' and '.join(codes)} write other codes for the same symbols")
    code = codes[coders[0].name]
    for length in (*random.integers(len(code), size=8), len(code)):
        known = [_decoded(coder, tables, code[:length], whole=length == len(code)) for coder in coders]
        if any(not np.array_equal(nodes, known[0]) for nodes in known):
            raise EngineError(f"{' and '.join(codes)} decode {length} of {len(code)} bytes to other trits")
    return f"{' and '.join(codes)}: the same {len(code)} bytes"


def _coders(tables: Tables) -> list[Coder]:
    """Return all coders that are installed, or raise what `open_coder` raises if there is none."""
    folder = cache_folder() / "kernels"
    return [open_coder(tables, name, folder) for name in installed_coders() or ("auto",)]


def _check_golden(coder: Coder) -> None:
    rows, trits = _golden_trits()
    encoder = coder.encoder()
    encoder.encode(trits, rows)
    code = encoder.finish()
    if code.hex() != _GOLDEN_CODE:
        raise EngineError(
            f"the coder {coder.name} wrote {code.hex()}, not {_GOLDEN_CODE}; streams would not be portable"
        )
    for length in (len(code), len(code) // 2):
        decoder = coder.decoder()
        decoder.extend(code[:length], whole=length == len(code))
        found = decoder.decode(rows)
        least = len(trits) if length == len(code) else len(trits) // 4
        if len(found) < least or not np.array_equal(found, trits[: len(found)]):
            raise EngineError(f"the coder {coder.name} does not decode {length} bytes of its own code")


def _encoded(coder: Coder, tables: Tables, symbols: NDArray[np.integer]) -> bytes:
    field = Field(np.zeros(len(symbols), np.int32), tables, symbols)
    encoder = coder.encoder()
    for step in trit_planes(field, coder.plane):
        encoder.encode_step(step, len(step))
    return encoder.finish()


def _decoded(coder: Coder, tables: Tables, code: bytes, *, whole: bool) -> NDArray[np.int32]:
    """Return the nodes that *code* leads to."""
    field = Field(np.zeros(_RANDOM_SYMBOLS, np.int32), tables)
    decoder = coder.decoder()
    decoder.extend(code, whole=whole)
    for step in trit_planes(field, coder.plane):
        if not decoder.decode_step(step, len(step)):
            break
    return field.nodes


def _golden_tables() -> Tables:
    """Return tables of one model with two trits: its root is row 0, the root's children are rows 1 to 3."""
    frequencies = [[1 << 20, 13 << 20, 2 << 20], [1, (1 << 24) - 2, 1], [5592405, 5592406, 5592405], [9 << 20, 7, 0]]
    frequencies[3][2] = (1 << 24) - sum(frequencies[3])
    means = np.concatenate([np.zeros(4), MEAN_UNIT * np.arange(-4, 5)])  # leaves give their symbols
    return Tables(
        trits=np.array([2], np.uint8),
        root=np.array([0], np.int32),
        first_child=np.array([1, 4, 7, 10], np.int32),
        frequencies=np.array(frequencies, np.uint32),
        priority=np.zeros(4, np.int16),
        mean=means.astype(np.int16),
        deviation=np.zeros(13, np.uint16),
        sigma_thresholds=np.empty(0, np.int32),
    )


def _golden_trits() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return 120 rows of the golden tables, and trits to code with them."""
    number = np.arange(120, dtype=np.int32)
    return number * 7 % 4, number**2 // 3 % 3
