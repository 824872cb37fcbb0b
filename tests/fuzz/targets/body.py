"""The body's range code: y of any sigma levels from any bytes in any portions, by every coder.

Input: mode (bit 0: the code is whole, if it is whole words; bits 1 to 7: most trits per call), number of sigma levels
in units of 8, three splits, the levels, the code.
"""

from __future__ import annotations

import numpy as np
from targets.coders import tiny_coders, tiny_tables
from targets.source import Source
from targets.streams import golden_streams, portions

from runtime.entropy.choose import Coder
from runtime.entropy.plan import Field, trit_planes
from runtime.stream import WORD_BYTES, StreamParser

_GOLDEN_LEVELS = bytes([3, 4, 4, 4, 3, 1, 0, 2])


def one_input(data: bytes) -> None:
    """Decode y with every coder: after every portion the same nodes, and those of all bytes so far at once."""
    source = Source(data)
    mode, size, splits = source.number(), 8 * source.number(), source.take(3)
    tables = tiny_tables()
    models = np.frombuffer(source.take(size), np.uint8) % tables.y_levels
    code = source.rest()
    if len(code) % WORD_BYTES:
        mode &= ~1
    found = [_nodes(coder, models, portions(code, splits), mode) for coder in tiny_coders()]
    assert all(one == found[0] for one in found)
    assert _nodes(tiny_coders()[0], models, [code], mode)[-1] == found[0][-1]


def seeds() -> dict[str, bytes]:
    """The bodies of the golden streams, with levels that may or may not be theirs."""
    made = {"empty": b""}
    for name in ("example", "rgb", "one-pixel", "trimmed-inside-word"):
        parser = StreamParser()
        parser.feed(golden_streams()[name])
        for mode in (0, 1, 15):
            made[f"{name}-{mode}"] = bytes([mode, 6, 9, 99, 200]) + 6 * _GOLDEN_LEVELS + bytes(parser.body)
    return made


def _nodes(coder: Coder, models: np.ndarray, parts: list[bytes], mode: int) -> list[list[int]]:
    """Return what is known of all elements after each portion."""
    field, decoder, most = Field(models, tiny_tables()), coder.decoder(), 4 * (mode >> 1) + 1
    plan = trit_planes(field, coder.plane)
    step = next(plan, None)
    known = []
    for number, part in enumerate(parts):
        decoder.extend(part, whole=bool(mode & 1) and number == len(parts) - 1)
        while step is not None:
            if step.complete:
                step = next(plan, None)
            elif not decoder.decode_step(step, most):
                break
        known.append(field.nodes.tolist())
    return known
