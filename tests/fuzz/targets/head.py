"""The head segment: z of any size from any range code, by every coder.

Input: height and width in units of 64 pixels, the code.
"""

from __future__ import annotations

import numpy as np
from targets.coders import tiny_coders, tiny_tables
from targets.source import Source
from targets.streams import golden_streams

from runtime.entropy.plan import Field, in_array_order
from runtime.errors import CutoffError
from runtime.stream import WORD_BYTES, StreamParser

_LARGEST = 9  # in units of 64 pixels


def one_input(data: bytes) -> None:
    """Decode z with every coder: the same symbols, within their models' ranges, or none by all."""
    source = Source(data)
    rows, columns = source.number() % _LARGEST + 1, source.number() % _LARGEST + 1
    code = source.rest()
    code = code[: len(code) // WORD_BYTES * WORD_BYTES]
    tables = tiny_tables()
    models = np.repeat(np.arange(tables.y_levels, len(tables.trits)), rows * columns)
    found = []
    for coder in tiny_coders():
        field, decoder = Field(models, tables), coder.decoder()
        decoder.extend(code, whole=True)
        whole = all(decoder.decode_step(step, len(step)) for step in in_array_order(field))
        found.append((whole, field.nodes.tolist() if whole else None))
        if whole:
            assert (np.abs(field.known_symbols()) <= tables.largest[models]).all()
    assert all(one == found[0] for one in found)


def seeds() -> dict[str, bytes]:
    """The head segments of the golden streams, and none."""
    made = {"empty": b""}
    for name, stream in golden_streams().items():
        parser = StreamParser()
        try:
            parser.feed(stream)
        except CutoffError:
            continue
        header = parser.header
        if header is not None and parser.head is not None:
            sizes = bytes([(header.height - 1) // 64, (header.width - 1) // 64])
            made[name] = sizes + parser.head
    return made
