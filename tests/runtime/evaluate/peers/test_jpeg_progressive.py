from __future__ import annotations

import numpy as np
import PIL.ImageFile
import pytest
from numpy.typing import NDArray

from runtime.evaluate.distortion import psnr
from runtime.evaluate.peers.jpeg_progressive import ProgressiveJpeg, ended_prefix

Image = NDArray[np.uint8]


def test_names_tell_the_quality() -> None:
    assert ProgressiveJpeg(75).name == "jpeg-progressive-q75"


def test_whole_file_is_as_pillow_decodes_it(chelsea: Image) -> None:
    codec = ProgressiveJpeg(90)
    stream = codec.encode(chelsea)
    assert ended_prefix(stream) is not None and ended_prefix(stream)[: len(stream)] == stream
    decoded = codec.decode(stream)
    assert decoded is not None and decoded.shape == chelsea.shape and psnr(decoded, chelsea) > 33


def test_more_bytes_give_a_better_picture(chelsea: Image) -> None:
    codec = ProgressiveJpeg(75)
    stream = codec.encode(chelsea)
    values = [psnr(codec.decode(stream[: len(stream) * share // 100]), chelsea) for share in (10, 30, 50, 80, 100)]
    assert values == sorted(values)


def test_every_prefix_decodes_or_shows_nothing(chelsea: Image) -> None:
    """Wherever the file is cut, also inside markers and tables, there is a picture once a scan has begun."""
    codec = ProgressiveJpeg(75)
    image = chelsea[:40, :50]
    stream = codec.encode(image)
    shown = [codec.decode(stream[:size]) is not None for size in range(len(stream) + 1)]
    first = shown.index(True)
    assert stream[:first].count(b"\xff\xda") == 1  # the first scan's header is all there
    assert all(shown[first:])


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (33, 2), (17, 16, 3), (1, 1, 3)])
def test_any_size_and_grey(shape: tuple[int, ...]) -> None:
    image = np.arange(int(np.prod(shape)), dtype=np.uint8).reshape(shape)
    codec = ProgressiveJpeg(95)
    decoded = codec.decode(codec.encode(image))
    assert decoded is not None and decoded.shape == shape


def test_global_state_stays(chelsea: Image) -> None:
    codec = ProgressiveJpeg(75)
    before = PIL.ImageFile.LOAD_TRUNCATED_IMAGES
    codec.decode(codec.encode(chelsea)[:2000])
    assert before is PIL.ImageFile.LOAD_TRUNCATED_IMAGES


def test_what_is_refused_shows_nothing(chelsea: Image) -> None:
    codec = ProgressiveJpeg(75)
    stream = bytearray(codec.encode(chelsea))
    frame = stream.index(b"\xff\xc2")
    stream[frame + 4] = 99  # no such sample depth
    assert codec.decode(bytes(stream)) is None
