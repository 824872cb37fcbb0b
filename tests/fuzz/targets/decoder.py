"""The whole decoder of the tiny bundle: parser, head segment, body, networks, picture.

Input: mode (bit 0: repair checksums; bit 1: strict; bit 2: preview; bits 3 to 5: the frame that keeps its own checksum;
bit 6: with a deadline; bit 7: the coder), three splits, how many looks at the clock the deadline allows, the stream.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from targets.source import Source
from targets.streams import GOLDEN, golden_streams, portions, repaired

from engines.costs import Costs
from runtime import Codec, Deadline, Limits
from runtime.entropy.choose import installed_coders
from runtime.errors import Incomplete, LimitExceeded, ModelMismatch, StreamError

_LONGEST_SIDE = 160
_LIMITS = Limits(pixels=_LONGEST_SIDE**2, head_bytes=1 << 12, body_bytes=1 << 16, seconds=math.inf)  # hangs: see run.py


class Looks:
    """A clock on which a second passes whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        self.now += 1.0
        return self.now


def one_input(data: bytes) -> None:
    """Decode in portions: a picture whose claims are true, or an error by name."""
    source = Source(data)
    mode, splits, looks = source.number(), source.take(3), source.number()
    codec = _codecs()[mode >> 7]
    stream = source.rest()
    if mode & 1:
        stream = repaired(stream, codec.bundle.exact_id, _LONGEST_SIDE, mode >> 3 & 7)
    strict = bool(mode & 2)
    codec.model.costs = Costs()  # what one input does depends on no other
    deadline = Deadline(codec.model.clock() + looks) if mode & 64 else None
    decoder = codec.decoder(deadline, strict=strict)
    try:
        for portion in portions(stream, splits):
            decoder.feed(portion)
            if mode & 4:
                preview = decoder.preview()
                assert preview is None or preview.dtype == np.uint8
        picture = decoder.finish()
    except (StreamError, ModelMismatch, Incomplete, LimitExceeded):
        return
    width, height = (int.from_bytes(stream[begin : begin + 2], "big") for begin in (14, 16))
    shape = (height, width) if stream[5] & 1 else (height, width, 3)
    if picture.image is None:
        assert deadline is not None and picture.missed
    else:
        assert picture.image.shape == shape and picture.image.dtype == np.uint8
    assert 0 <= picture.steps <= picture.steps_total
    assert picture.bytes_verified <= len(stream) and picture.bytes_used <= len(stream)
    assert not (picture.complete and picture.damaged)
    if picture.damaged:
        sound = codec.decode(stream[: picture.bytes_verified])
        assert picture.steps <= sound.steps and (deadline is not None or picture.steps == sound.steps)
    if strict:
        assert not picture.damaged and picture.bytes_used <= picture.bytes_verified


def seeds() -> dict[str, bytes]:
    """The small golden streams, in several modes."""
    modes = {"raw": 0, "repaired": 57, "strict": 59, "compiled": 189, "late": 125}
    return {
        f"{name}-{kind}": bytes([mode, 60, 120, 250, 9]) + stream
        for name, stream in golden_streams().items()
        for kind, mode in modes.items()
        if len(stream) < 600
    }


@cache
def _codecs() -> list[Codec]:
    """Return the tiny bundle opened with the first and with the last of the installed coders."""
    names = installed_coders()
    return [
        Codec.open(GOLDEN / "tiny", threads=1, limits=_LIMITS, coder=name, clock=Looks())
        for name in (names[0], names[-1])
    ]
