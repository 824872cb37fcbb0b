"""Any picture, from 1x1 to 80x80, and whatever may happen to its stream: any cut, any split, any flipped bit.

The tiny bundle's networks take next to no time, so that hypothesis can look at many pictures.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from decoding import nodes_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime import Codec, Picture
from runtime.errors import Incomplete, StreamError
from runtime.stream import FRAME_BYTES, Header, Limits

Image = NDArray[np.uint8]
sizes = st.integers(1, 80)
shares = st.floats(0, 1)


@st.composite
def images(draw: st.DrawFn) -> Image:
    """Return a picture of any size: flat, a ramp, or noise of any strength."""
    height, width, grey = draw(sizes), draw(sizes), draw(st.booleans())
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    slope, noise, level = draw(st.integers(0, 9)), draw(st.integers(0, 255)), draw(st.integers(0, 255))
    shape = (height, width) if grey else (height, width, 3)
    row, column = np.ogrid[:height, :width]
    ramp = slope * (row + 2 * column)
    image = level + (ramp if grey else ramp[:, :, None]) + generator.integers(-noise, noise + 1, shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def same(one: Picture, other: Picture) -> bool:
    assert one.image is not None and other.image is not None
    return one.steps == other.steps and bool((one.image == other.image).all())


@given(images(), st.lists(shares, max_size=5), shares)
@settings(max_examples=60)
def test_any_picture_comes_back_from_any_cut_in_any_portions(
    tiny_codec: Codec, image: Image, splits: list[float], cut: float
) -> None:
    """The whole stream gives all symbols; a prefix gives what it gives in one portion, in the picture's shape."""
    stream = tiny_codec.encode(image).stream
    whole = tiny_codec.decode(stream)
    assert whole.complete and whole.image is not None and whole.image.shape == image.shape
    prefix = stream[: round(cut * len(stream))]
    bounds = [0, *sorted(round(split * len(prefix)) for split in splits), len(prefix)]
    decoder = tiny_codec.decoder()
    for begin, end in pairwise(bounds):
        decoder.feed(prefix[begin:end])
    if len(prefix) < Header.from_bytes(stream, Limits()).body_start:
        with pytest.raises(Incomplete):
            decoder.finish()
        return
    at_once = tiny_codec.decoder()
    at_once.feed(prefix)
    assert nodes_of(decoder) == nodes_of(at_once)
    picture = decoder.finish()
    assert same(picture, at_once.finish()) and picture.image is not None and picture.image.shape == image.shape
    assert picture.bytes_used <= len(prefix) and picture.complete == (len(prefix) == len(stream))


@given(images(), shares, st.integers(0, 7), shares)
@settings(max_examples=60)
def test_any_flipped_bit_is_refused_or_undone(
    tiny_codec: Codec, image: Image, place: float, bit: int, cut: float
) -> None:
    """In header or head segment it is an error; in the body the picture is that of the frames before it."""
    stream = tiny_codec.encode(image).stream
    start = Header.from_bytes(stream, Limits()).body_start
    position = min(round(place * len(stream)), len(stream) - 1)
    damaged = bytearray(stream)
    damaged[position] ^= 1 << bit
    decoder = tiny_codec.decoder()
    cut_at = round(cut * len(stream))
    if position < start:
        with pytest.raises(StreamError):
            for portion in (damaged[:cut_at], damaged[cut_at:]):
                decoder.feed(bytes(portion))
        return
    for portion in (damaged[:cut_at], damaged[cut_at:]):
        decoder.feed(bytes(portion))
    picture = decoder.finish()
    good = start + (position - start) // (FRAME_BYTES + 4) * (FRAME_BYTES + 4)
    assert picture.damaged and not picture.complete and picture.bytes_used == good
    assert same(picture, tiny_codec.decode(stream[:good]))
