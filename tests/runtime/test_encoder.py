"""Encoding: one picture gives one stream, and a curve of what its bytes are worth."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Codec, Encoding, Limits, Value
from runtime.errors import Incomplete, LimitExceeded, PictureError
from runtime.stream import Header

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def part(photographs: dict[str, Image]) -> Image:
    """A part of a photograph, uint8 (130, 200, 3), not contiguous."""
    return photographs["astronaut"][40:170, 150:350]


@pytest.fixture(scope="module", params=["tiny", "shipped"])
def either_codec(request: pytest.FixtureRequest) -> Codec:
    """Both bundles, in turn."""
    opened: Codec = request.getfixturevalue("tiny_codec" if request.param == "tiny" else "codec")
    return opened


@pytest.fixture(scope="module")
def encoding(either_codec: Codec, part: Image) -> Encoding:
    return either_codec.encode(part)


def test_header_says_what_was_encoded(either_codec: Codec, encoding: Encoding) -> None:
    """Size, colour and exact_id are the picture's and the bundle's; nothing is trimmed; the lengths add up."""
    header = Header.from_bytes(encoding.stream, Limits())
    assert (header.width, header.height, header.grey, header.trimmed) == (200, 130, False, False)
    assert header.exact_id == either_codec.bundle.exact_id
    assert header.stream_bytes == len(encoding.stream)


def test_same_picture_twice_gives_the_same_stream(either_codec: Codec, encoding: Encoding, part: Image) -> None:
    """Encoding has no memory; how the picture lies in memory does not matter."""
    for image in (part, np.ascontiguousarray(part), np.asfortranarray(part)):
        assert either_codec.encode(image).stream == encoding.stream


def test_picture_is_left_as_it_was(either_codec: Codec, part: Image) -> None:
    """A picture that must not be written to can be encoded."""
    image = part.copy()
    image.flags.writeable = False
    either_codec.encode(image)
    assert (image == part).all()


def test_value_curve_goes_from_the_head_segment_to_the_whole_stream(encoding: Encoding) -> None:
    """Offsets rise, from the shortest prefix that decodes to the stream's length; the error falls, to 0."""
    offsets, error = encoding.value.offsets, encoding.value.squared_error
    header = Header.from_bytes(encoding.stream, Limits())
    assert offsets[0] == header.body_start and offsets[-1] == len(encoding.stream)
    assert (np.diff(offsets) >= 0).all() and (np.diff(error) <= 0).all()
    assert error[0] > 0 and error[-1] == 0 and (error >= 0).all()


def test_value_is_interpolated_between_offsets() -> None:
    """Before the first offset nothing decodes; behind the last nothing is left to gain."""
    value = Value(np.array([100, 200, 400]), np.array([60.0, 20.0, 0.0]))
    assert value.at(99) == float("inf")
    assert [value.at(size) for size in (100, 150, 200, 300, 400, 999)] == [60.0, 40.0, 20.0, 10.0, 0.0, 0.0]


def test_value_is_of_the_size_of_the_error_that_more_bytes_take_away(
    either_codec: Codec, encoding: Encoding, part: Image
) -> None:
    """The expected fall of squared error from a quarter of the stream on is the real one, within a factor of five."""
    quarter = int(encoding.value.offsets[0]) + len(encoding.stream) // 4
    errors = []
    for size in (quarter, len(encoding.stream)):
        image = either_codec.decode(encoding.stream[:size]).image
        assert image is not None
        errors.append(float(np.square(image.astype(float) - part).sum()))
    assert 0.2 < encoding.value.at(quarter) / (errors[0] - errors[1]) < 5


def test_first_offset_is_the_shortest_prefix_that_decodes(either_codec: Codec, encoding: Encoding) -> None:
    """One byte less is incomplete."""
    shortest = int(encoding.value.offsets[0])
    assert either_codec.decode(encoding.stream[:shortest]).image is not None
    with pytest.raises(Incomplete):
        either_codec.decode(encoding.stream[: shortest - 1])


def test_timings_name_the_stages(encoding: Encoding) -> None:
    """Stages add up to the total, in milliseconds."""
    timings = dict(encoding.timings)
    total = timings.pop("total")
    assert set(timings) == {"prepare", "networks", "entropy"}
    assert sum(timings.values()) == pytest.approx(total) and min(timings.values()) > 0


def test_extreme_picture_survives_clamping(either_codec: Codec) -> None:
    """Noise of black and white, for which no network was made, still comes back complete and in its shape."""
    image = np.where(np.random.default_rng(0).random((70, 90, 3)) < 0.5, 0, 255).astype(np.uint8)
    picture = either_codec.decode(either_codec.encode(image).stream)
    assert picture.complete and picture.image is not None and picture.image.shape == image.shape


def test_grey_picture_is_marked_and_comes_back_grey(either_codec: Codec, part: Image) -> None:
    """A picture of one channel has one channel again, and looks as its colour picture does."""
    grey = np.ascontiguousarray(part[:, :, 0])
    stream = either_codec.encode(grey).stream
    assert Header.from_bytes(stream, Limits()).grey
    image = either_codec.decode(stream).image
    coloured = either_codec.decode(either_codec.encode(np.stack([grey] * 3, axis=2)).stream).image
    assert image is not None and image.shape == grey.shape and coloured is not None
    assert np.abs(coloured.mean(axis=2) - image).mean() <= 1


@pytest.mark.parametrize("name", ["example", "one-pixel", "no-body", "rgb", "trimmed-inside-word"])
def test_golden_pictures_give_the_golden_streams(tiny_codec: Codec, make_golden: ModuleType, name: str) -> None:
    """Networks, plan and coder together make the bytes on file, from pictures that a formula gives."""
    on_file = (make_golden.HERE / "valid" / f"{name}.cut").read_bytes()
    assert make_golden.valid_streams(tiny_codec)[name] == on_file


def test_picture_above_the_limit_is_refused(tiny_folder: Path) -> None:
    """Limits hold for encoding as for decoding."""
    with Codec.open(tiny_folder, threads=1, limits=Limits(pixels=100)) as limited:
        assert limited.encode(np.zeros((10, 10), np.uint8)).stream
        with pytest.raises(LimitExceeded, match="11x10 = 110 pixels; allowed: 100"):
            limited.encode(np.zeros((10, 11), np.uint8))


def test_head_segment_above_the_limit_is_refused(tiny_folder: Path) -> None:
    """No stream is written that a decoder with the same limits would refuse."""
    with (
        Codec.open(tiny_folder, threads=1, limits=Limits(head_bytes=8)) as limited,
        pytest.raises(LimitExceeded, match=r"head segment takes [0-9]+ bytes; allowed: 8"),
    ):
        limited.encode(np.random.default_rng(1).integers(0, 256, (400, 400, 3)).astype(np.uint8))


@pytest.fixture(scope="module")
def tiny_folder(golden_folder: Path) -> Path:
    """The tiny bundle's folder."""
    return golden_folder / "tiny"


def test_what_is_no_picture_is_refused(tiny_codec: Codec) -> None:
    """The encoder takes what `check_image` takes, whose rules `test_picture.py` tests, and nothing else."""
    wrong: Any = np.zeros((4, 4), np.uint16)
    with pytest.raises(PictureError, match=r"a uint8 array, not uint16"):
        tiny_codec.encode(wrong)
