"""Encoding: one picture, once, into one stream.

image -> g_a, h_a -> z -> head segment; h_s(z_hat) -> symbols of y -> plan -> range code -> body
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.tiles import TILE_SIDE
from runtime.entropy.tables import MEAN_UNIT
from runtime.errors import LimitExceeded
from runtime.model import Model
from runtime.picture import Image, check_image, source_from_image
from runtime.stream import Header, framed_bytes, write_stream

_PORTION = 1 << 14  # trits between two points of the value curve


@dataclass(frozen=True)
class Value:
    """What a longer prefix is worth: a falling curve over byte offsets.

    Attributes:
        offsets: int64 (n,), rising; lengths of prefixes in bytes, from the shortest that decodes to the whole stream.
        squared_error: float64 (n,); expected squared error left, summed over all samples, in grey levels of 0..255
            squared. What the networks lose of complete latents is not in it: differences are what counts.
    """

    offsets: NDArray[np.int64]
    squared_error: NDArray[np.float64]

    def at(self, size_bytes: int) -> float:
        """Return the expected squared error left after *size_bytes*, interpolated; infinite before the first offset."""
        if size_bytes < self.offsets[0]:
            return float("inf")
        return float(np.interp(size_bytes, self.offsets, self.squared_error))


@dataclass(frozen=True)
class Encoding:
    """An encoded picture.

    Attributes:
        stream: the whole stream; every prefix of at least `value.offsets[0]` bytes decodes.
        value: what its bytes are worth.
        timings: milliseconds by stage, and in all.
    """

    stream: bytes
    value: Value
    timings: dict[str, float]


def encode(model: Model, image: Image) -> Encoding:
    """Encode *image*; see `Codec.encode`."""
    started = time.perf_counter()
    check_image(image, model.limits.pixels)
    height, width = image.shape[:2]
    x = source_from_image(image, model.family.stride, TILE_SIDE**2)
    prepared = time.perf_counter()
    latents = model.family.analyse(x)
    analysed = time.perf_counter()

    head = model.coder.encoder()
    for step in latents.head():
        head.encode_step(step, len(step))
    head_code = head.finish()
    if len(head_code) > model.limits.head_bytes:
        raise LimitExceeded(f"the head segment takes {len(head_code)} bytes; allowed: {model.limits.head_bytes}")

    body = model.coder.encoder()
    curve = _ValueCurve(model.family.value_gain)
    for step in latents.body():
        while not step.complete:
            fall = body.encode_step(step, _PORTION)
            curve.add(fall * step.worth, body.size_bytes)
    body_code = body.finish()

    header = Header(
        exact_id=model.bundle.exact_id,
        width=width,
        height=height,
        grey=image.ndim == 2,
        trimmed=False,
        head_bytes=len(head_code),
        body_bytes=len(body_code),
    )
    stream = write_stream(header, head_code, body_code)
    finished = time.perf_counter()
    timings = {
        "prepare": prepared - started,
        "networks": analysed - prepared,
        "entropy": finished - analysed,
        "total": finished - started,
    }
    return Encoding(stream, curve.finish(header), {stage: 1000 * seconds for stage, seconds in timings.items()})


class _ValueCurve:
    """Collects the fall of expected squared error while trits are coded."""

    def __init__(self, value_gain: float) -> None:
        self._unit = value_gain / MEAN_UNIT**2
        self._body_bytes = [0]
        self._falls = [0.0]

    def add(self, fall: float, body_bytes: int) -> None:
        """Note that variance fell by *fall*, in 1/64² squared symbols, and the body has *body_bytes* now."""
        self._falls.append(fall)
        self._body_bytes.append(body_bytes)

    def finish(self, header: Header) -> Value:
        """Return the curve over offsets of the stream."""
        offsets = [header.body_start + framed_bytes(min(size, header.body_bytes)) for size in self._body_bytes]
        error = (np.sum(self._falls) - np.cumsum(self._falls)) * self._unit
        return Value(np.array(offsets, np.int64), np.maximum(error, 0.0))
