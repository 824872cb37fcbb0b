from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from runtime.evaluate.codecs import ProgressiveCodec
from runtime.evaluate.rd.cuts import Cut, measure

Image = NDArray[np.uint8]


class RawSamples(ProgressiveCodec):
    """A codec whose stream is the samples; it notes what its decoder is handed."""

    name = "raw"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.prefixes, self.encoded = shape, [], 0

    def encode(self, image: Image) -> bytes:
        self.encoded += 1
        return image.tobytes()

    def decode(self, data: bytes) -> Image | None:
        self.prefixes.append(data)
        if len(data) < 4:
            return None
        samples = np.full(int(np.prod(self.shape)), 128, np.uint8)
        samples[: len(data)] = np.frombuffer(data, np.uint8)
        return samples.reshape(self.shape)


def cuts_of(codec: RawSamples, name: str, image: Image, points: Sequence[float]) -> list[Cut]:
    cuts, panels = measure(codec, name, image, points)
    assert not panels
    return cuts


def gradient(height: int, width: int) -> Image:
    return (np.arange(height * width) % 251).astype(np.uint8).reshape(height, width)


def test_one_stream_is_cut_at_every_point() -> None:
    """A cut at b bits per pixel leaves floor(b * pixels / 8) bytes of one stream; the last cut is the full stream."""
    image = gradient(5, 7)
    codec = RawSamples(image.shape)
    cuts = cuts_of(codec, "gradient.png", image, (1.0, 2.5))
    assert codec.encoded == 1
    assert [(cut.target_bpp, cut.bytes) for cut in cuts] == [(1.0, 4), (2.5, 10), (None, 35)]
    assert [cut.bpp for cut in cuts] == [8 * 4 / 35, 8 * 10 / 35, 8.0]
    assert {(cut.codec, cut.image) for cut in cuts} == {("raw", "gradient.png")}


def test_decoder_is_handed_the_prefix_and_nothing_else() -> None:
    image = gradient(5, 7)
    codec = RawSamples(image.shape)
    cuts_of(codec, "gradient.png", image, (1.0, 2.5))
    stream = image.tobytes()
    assert codec.prefixes == [stream[:4], stream[:10], stream]
    assert all(type(prefix) is bytes for prefix in codec.prefixes)


def test_real_bytes_count_where_the_stream_is_shorter_than_the_cut() -> None:
    image = gradient(5, 7)
    codec = RawSamples(image.shape)
    cuts = cuts_of(codec, "gradient.png", image, (4.0, 20.0))
    assert [(cut.target_bpp, cut.bytes, cut.bpp) for cut in cuts] == [
        (4.0, 17, 8 * 17 / 35),
        (20.0, 35, 8.0),
        (None, 35, 8.0),
    ]
    assert cuts[1].psnr_db == cuts[2].psnr_db == float("inf")
    assert len(codec.prefixes) == 2  # equal prefixes are decoded once


def test_nothing_to_show_is_none() -> None:
    image = gradient(5, 7)
    cuts = cuts_of(RawSamples(image.shape), "gradient.png", image, (0.5, 1.0))
    assert (cuts[0].bytes, cuts[0].psnr_db, cuts[0].ms_ssim) == (2, None, None)
    assert cuts[1].psnr_db is not None


def test_ms_ssim_is_none_for_small_pictures() -> None:
    image = gradient(160, 200)
    assert cuts_of(RawSamples(image.shape), "small.png", image, ())[0].ms_ssim is None
    image = gradient(161, 200)
    assert cuts_of(RawSamples(image.shape), "large.png", image, ())[0].ms_ssim == 1.0


def test_times_are_measured() -> None:
    """Of a stream the same time counts for every cut, and equal prefixes take equally long."""
    cuts = cuts_of(RawSamples((5, 7)), "gradient.png", gradient(5, 7), (1.0, 20.0))
    assert len({cut.encode_ms for cut in cuts}) == 1
    assert cuts[1].decode_ms == cuts[2].decode_ms > 0


def test_panels_are_kept_where_they_are_wanted() -> None:
    """At the points asked for, with what they show; without loss."""
    image = gradient(40, 50)
    _, panels = measure(RawSamples(image.shape), "gradient.png", image, (0.01, 2.0, 8.0), (0.01, 8.0))
    captions = [(panel.cut, panel.caption) for panel in panels]
    assert captions == [("0.01 bpp", "nothing to show yet"), ("8 bpp", "inf dB")]
    with PIL.Image.open(io.BytesIO(panels[1].webp)) as shown:
        assert np.array_equal(np.array(shown)[..., 0], image)


def test_a_format_without_grey_is_compared_in_grey() -> None:
    image = gradient(40, 50)
    (*_, cut) = cuts_of(Coloured(image.shape), "gradient.png", image, ())
    assert cut.psnr_db == float("inf")


class Coloured(RawSamples):
    """A codec that decodes grey to RGB."""

    def decode(self, data: bytes) -> Image | None:
        grey = super().decode(data)
        return None if grey is None else np.repeat(grey[..., None], 3, axis=2)
