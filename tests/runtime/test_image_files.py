"""Picture files: what is read comes out right, and what is refused says why."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from numpy.typing import NDArray

from runtime.errors import LimitExceeded, OutputError, PictureError, UsageError
from runtime.image_files import read_image, write_image
from runtime.stream import Limits

Image = NDArray[np.uint8]
ORIENTATION = 0x0112
LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".ppm", ".webp")
PNG_GREY, PNG_RGB, PNG_GREY_ALPHA = 0, 2, 4


@pytest.fixture(scope="module")
def colour() -> Image:
    return np.random.default_rng(1).integers(0, 256, (13, 21, 3), np.uint8)


def _png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _deep_png(kind: int, channels: int) -> bytes:
    return _png(2, 2, 16, kind, 2 * (b"\0" + bytes(range(2 * 2 * channels))))


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_colour_survives_a_round_trip(suffix: str, colour: Image, tmp_path: Path) -> None:
    path = tmp_path / f"picture{suffix}"
    write_image(path, colour)
    assert np.array_equal(read_image(path), colour)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".pgm"])
def test_grey_stays_one_channel(suffix: str, colour: Image, tmp_path: Path) -> None:
    path = tmp_path / f"picture{suffix}"
    write_image(path, colour[..., 0])
    assert np.array_equal(read_image(path), colour[..., 0])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
def test_jpeg_is_close(suffix: str, photographs: dict[str, Image], tmp_path: Path) -> None:
    path = tmp_path / f"picture{suffix}"
    write_image(path, photographs["chelsea"])
    error = np.abs(read_image(path).astype(int) - photographs["chelsea"])
    assert error.mean() < 2


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(orientation: int, suffix: str, colour: Image, tmp_path: Path) -> None:
    transposed = colour.transpose(1, 0, 2)
    upright = {
        1: colour,
        2: colour[:, ::-1],
        3: colour[::-1, ::-1],
        4: colour[::-1],
        5: transposed,
        6: transposed[:, ::-1],
        7: transposed[::-1, ::-1],
        8: transposed[::-1],
    }
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"picture{suffix}"
    PIL.Image.fromarray(colour).save(path, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(read_image(path), upright[orientation])


def test_palette_without_transparency_becomes_rgb(colour: Image, tmp_path: Path) -> None:
    paletted = PIL.Image.fromarray(colour).quantize(16)
    paletted.save(tmp_path / "p.png")
    assert np.array_equal(read_image(tmp_path / "p.png"), np.array(paletted.convert("RGB")))


def test_one_bit_becomes_grey(tmp_path: Path) -> None:
    (tmp_path / "p.pbm").write_bytes(b"P4 8 1\n\xa5")
    assert read_image(tmp_path / "p.pbm").tolist() == [[0, 255, 0, 255, 255, 0, 255, 0]]


def test_first_of_several_pictures_is_taken(colour: Image, tmp_path: Path) -> None:
    first, second = PIL.Image.fromarray(colour), PIL.Image.fromarray(255 - colour)
    first.save(tmp_path / "p.tif", save_all=True, append_images=[second])
    assert np.array_equal(read_image(tmp_path / "p.tif"), colour)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_refused(mode: str, colour: Image, tmp_path: Path) -> None:
    path = tmp_path / ("p.tif" if mode == "PA" else "p.png")
    picture = PIL.Image.fromarray(colour).convert("LA" if mode == "PA" else mode)
    picture.save(path)
    with pytest.raises(PictureError, match=r"p\.\w+: .*transparency"):
        read_image(path)


@pytest.mark.parametrize(("mode", "transparency"), [("P", 0), ("L", 3), ("RGB", (1, 2, 3))])
def test_transparent_colour_is_refused(mode: str, transparency: object, colour: Image, tmp_path: Path) -> None:
    PIL.Image.fromarray(colour).convert(mode).save(tmp_path / "p.png", transparency=transparency)
    with pytest.raises(PictureError, match="transparency"):
        read_image(tmp_path / "p.png")


def _deep_tiff(path: Path, **options: object) -> None:
    samples = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(4, 5, 3) * 1000
    if options.get("planarconfig") == "separate":
        samples = samples.transpose(2, 0, 1).copy()
    tifffile.imwrite(path, samples, photometric="rgb", **options)


def test_bmp_with_16_bits_for_all_three_channels_is_read(tmp_path: Path) -> None:
    """Five or six for each: fewer than eight."""
    header = struct.pack("<2sIHHI", b"BM", 70 + 8, 0, 0, 70) + struct.pack(
        "<IiiHHIIiiII", 56, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0
    )
    masks = struct.pack("<4I", 0xF800, 0x07E0, 0x001F, 0)
    (tmp_path / "a.bmp").write_bytes(header + masks + struct.pack("<4H", 0xF800, 0x07E0, 0x001F, 0xFFFF))
    assert read_image(tmp_path / "a.bmp").tolist() == [[[0, 0, 255], [255, 255, 255]], [[255, 0, 0], [0, 255, 0]]]


def test_16_bit_png_is_refused(tmp_path: Path) -> None:
    """Pillow would read colour of 16 bits as 8 bits without a word."""
    for kind, channels in ((PNG_GREY, 1), (PNG_RGB, 3)):
        (tmp_path / "p.png").write_bytes(_deep_png(kind, channels))
        with pytest.raises(PictureError, match="8 bits"):
            read_image(tmp_path / "p.png")


def test_16_bit_png_with_alpha_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(_deep_png(PNG_GREY_ALPHA, 2))
    with pytest.raises(PictureError, match="transparency"):
        read_image(tmp_path / "p.png")


@pytest.mark.parametrize("options", [{}, {"planarconfig": "separate"}, {"compression": "zlib"}])
def test_16_bit_tiff_is_refused(options: dict[str, object], tmp_path: Path) -> None:
    _deep_tiff(tmp_path / "p.tif", **options)
    with pytest.raises(PictureError, match="8 bits"):
        read_image(tmp_path / "p.tif")


def test_float_tiff_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "p.tif", np.zeros((3, 4), np.float32))
    with pytest.raises(PictureError, match="8 bits"):
        read_image(tmp_path / "p.tif")


@pytest.mark.parametrize(
    "content",
    [b"P5 2 1 65535\n" + bytes(4), b"P6 2 1 65535\n" + bytes(12), b"P3 1 1 1023\n1 2 3\n", b"P5 2 1 256\n" + bytes(4)],
)
def test_16_bit_ppm_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.ppm").write_bytes(content)
    with pytest.raises(PictureError, match="8 bits"):
        read_image(tmp_path / "p.ppm")


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_is_refused(suffix: str, colour: Image, tmp_path: Path) -> None:
    PIL.Image.fromarray(colour).convert("CMYK").save(tmp_path / f"p{suffix}")
    with pytest.raises(PictureError, match="CMYK"):
        read_image(tmp_path / f"p{suffix}")


def test_more_pixels_than_the_limit_are_refused(colour: Image, tmp_path: Path) -> None:
    write_image(tmp_path / "p.png", colour)
    with pytest.raises(LimitExceeded, match="21x13 = 273 pixels; allowed: 272"):
        read_image(tmp_path / "p.png", Limits(pixels=272))
    assert read_image(tmp_path / "p.png", Limits(pixels=273)).shape == colour.shape


def test_too_long_a_side_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(_png(65_536, 1, 8, PNG_GREY, bytes(65_537)))
    with pytest.raises(PictureError, match="65536x1"):
        read_image(tmp_path / "p.png")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="cannot be read"):
        read_image(tmp_path)


def test_unknown_suffix_is_wrong_usage(colour: Image, tmp_path: Path) -> None:
    for name in ("picture.gif", "picture"):
        with pytest.raises(UsageError, match=r"\.png"):
            write_image(tmp_path / name, colour)
    assert not list(tmp_path.iterdir())


def test_a_format_that_cannot_hold_the_picture_says_so(tmp_path: Path) -> None:
    """WebP ends at 16,383 pixels a side."""
    with pytest.raises(OutputError, match="WEBP cannot hold this picture of 16384x1"):
        write_image(tmp_path / "p.webp", np.zeros((1, 16_384, 3), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".ppm"])
def test_damaged_files_raise_picture_errors_only(suffix: str, colour: Image, tmp_path: Path) -> None:
    """Whatever is wrong with a file, it is read or refused; Pillow's own exceptions do not come through."""
    path = tmp_path / f"p{suffix}"
    write_image(path, colour)
    intact = path.read_bytes()
    generator = np.random.default_rng(7)
    for case in range(60):
        damaged = bytearray(intact[: len(intact) - case * len(intact) // 120])
        for position in generator.integers(0, len(damaged), 3 if case else 0):
            damaged[position] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_image(path)
        except (PictureError, LimitExceeded) as fault:
            assert str(fault).startswith(str(path))
