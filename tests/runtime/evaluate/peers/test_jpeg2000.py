from __future__ import annotations

import io
import struct
from itertools import accumulate

import numpy as np
import PIL.features
import PIL.Image
import pytest
from numpy.typing import NDArray

from runtime.evaluate.accuracy.classifier import prepared
from runtime.evaluate.distortion import psnr
from runtime.evaluate.peers.jpeg2000 import LAYER_RATES_BPP, Jpeg2000, _Layout, whole_layers

Image = NDArray[np.uint8]

pytestmark = pytest.mark.skipif(not PIL.features.check("jpg_2000"), reason="this Pillow has no OpenJPEG")


def ends_of(stream: bytes) -> tuple[_Layout, list[int]]:
    layout = _Layout.read(stream)
    return layout, list(layout.layer_ends(stream))


def lengths_in_markers(stream: bytes) -> list[int]:
    """Lengths of all packets as the PLT marker segments give them (A.7.3): the encoder's own word."""
    position, lengths, value = 2, [], 0
    while True:
        marker, size = struct.unpack_from(">HH", stream, position)
        if marker == 0xFF93:
            return lengths
        if marker == 0xFF58:
            for byte in stream[position + 5 : position + 2 + size]:
                value = value << 7 | byte & 0x7F
                if byte < 0x80:
                    lengths.append(value)
                    value = 0
        position += 2 + size


@pytest.mark.parametrize("name", ["chelsea", "astronaut"])
@pytest.mark.parametrize("grey", [False, True])
def test_layers_end_where_the_encoder_says(name: str, grey: bool, request: pytest.FixtureRequest) -> None:
    """Packet headers are read as the standard has them: a stream that carries packet lengths agrees."""
    image = request.getfixturevalue(name)
    buffer = io.BytesIO()
    layers = 12
    PIL.Image.fromarray(image[..., 1] if grey else image).save(
        buffer,
        "JPEG2000",
        no_jp2=True,
        irreversible=True,
        mct=int(not grey),
        progression="LRCP",
        plt=True,
        quality_layers=[400 / 1.5**layer for layer in range(layers)],
    )
    stream = buffer.getvalue()
    lengths = lengths_in_markers(stream)
    layout, ends = ends_of(stream)
    by_layer = np.array(lengths).reshape(layers, -1).sum(axis=1)
    assert ends == list(accumulate(by_layer.tolist(), initial=layout.data))[1:]
    assert ends[-1] == len(stream) - 2


def test_every_layer_fits_into_its_rate(astronaut: Image) -> None:
    """A cut at a layer's nominal rate has that layer, and the whole stream is at most 2 bits per pixel."""
    stream = Jpeg2000().encode(astronaut)
    _, ends = ends_of(stream)
    pixels = astronaut.shape[0] * astronaut.shape[1]
    assert len(ends) == len(LAYER_RATES_BPP) == 38
    assert all(end <= int(rate * pixels / 8) for end, rate in zip(ends, LAYER_RATES_BPP, strict=True))
    assert all(end > 0.9 * rate * pixels / 8 for end, rate in zip(ends, LAYER_RATES_BPP, strict=True))


def test_whole_layers_are_decoded_and_nothing_behind_them(chelsea: Image) -> None:
    codec = Jpeg2000()
    stream = codec.encode(chelsea)
    _, ends = ends_of(stream)
    at_end = codec.decode(stream[: ends[9]])
    behind = codec.decode(stream[: ends[10] - 1])
    assert at_end is not None and np.array_equal(at_end, behind)
    following = codec.decode(stream[: ends[10]])
    assert following is not None and psnr(following, chelsea) > psnr(at_end, chelsea)


def test_more_layers_give_a_better_picture(chelsea: Image) -> None:
    codec = Jpeg2000()
    stream = codec.encode(chelsea)
    values = [psnr(codec.decode(stream[:end]), chelsea) for end in ends_of(stream)[1][::6]]
    assert values == sorted(values)


def test_last_layer_is_the_whole_stream(chelsea: Image) -> None:
    codec = Jpeg2000()
    stream = codec.encode(chelsea)
    with PIL.Image.open(io.BytesIO(stream)) as picture:
        assert np.array_equal(np.array(picture), codec.decode(stream))


def test_prefix_without_a_whole_layer_shows_nothing(chelsea: Image) -> None:
    codec = Jpeg2000()
    stream = codec.encode(chelsea)
    _, ends = ends_of(stream)
    for size in (*range(0, 250), ends[0] - 1):
        assert whole_layers(stream[:size]) is None
        assert codec.decode(stream[:size]) is None
    assert codec.decode(stream[: ends[0]]) is not None


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (3, 2, 3), (65, 63, 3), (257, 31), (64, 64, 3)])
def test_any_size_and_grey(shape: tuple[int, ...]) -> None:
    image = (np.arange(int(np.prod(shape))) * 37 % 256).astype(np.uint8).reshape(shape)
    codec = Jpeg2000()
    decoded = codec.decode(codec.encode(image))
    assert decoded is not None and decoded.shape == shape


CUTS = (384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)


@pytest.mark.parametrize("name", ["chelsea", "astronaut"])
@pytest.mark.parametrize("grey", [False, True])
def test_layers_end_at_the_bytes_where_streams_will_be_cut(
    name: str, grey: bool, request: pytest.FixtureRequest
) -> None:
    """Hardly a byte of a cut is of no use, pictures are better than with the usual layers, and streams as long."""
    image = prepared(request.getfixturevalue(name), 224)
    image = np.ascontiguousarray(image[..., 1]) if grey else image
    codec, usual = Jpeg2000(CUTS), Jpeg2000()
    *deliveries, whole = codec.deliver(image, [*CUTS, None])
    assert whole is not None
    _, ends = ends_of(whole.data)
    used = [max(end for end in ends if end <= cut) / cut for cut in CUTS]
    assert min(used) > 0.9 and np.mean(used) > 0.97
    plain = usual.encode(image)
    gains = []
    for delivery, cut in zip(deliveries, CUTS, strict=True):
        assert delivery is not None and len(delivery.data) == cut
        ours, before = codec.decode(delivery.data), usual.decode(plain[:cut])
        assert ours is not None and before is not None
        gains.append(psnr(ours, image) - psnr(before, image))
    assert min(gains) >= 0 and np.mean(gains) > 0.2
    assert len(whole.data) == pytest.approx(len(plain), rel=0.03)


@pytest.mark.parametrize("cuts", [(1,), (40, 300, 900), (150, 151, 152, 10**6)])
@pytest.mark.parametrize("shape", [(1, 1), (64, 64, 3)])
def test_cuts_without_room_for_a_layer(cuts: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """They show nothing, or what a smaller one shows; the whole stream is a picture."""
    image = (np.arange(int(np.prod(shape))) * 37 % 256).astype(np.uint8).reshape(shape)
    codec = Jpeg2000(cuts)
    first, *_, whole = codec.deliver(image, [1, *cuts, None])
    assert first is not None and codec.decode(first.data) is None
    decoded = None if whole is None else codec.decode(whole.data)
    assert decoded is not None and decoded.shape == shape


def test_layers_at_cuts_are_another_codec_for_a_run() -> None:
    assert Jpeg2000().identity()["layers"] == 38
    assert Jpeg2000(CUTS).identity() != Jpeg2000().identity()
