"""Picture files, read and written through Pillow, which is imported at first use.

    file -> size against the limits -> pixels -> orientation -> uint8 (H, W, 3) or (H, W)

Whatever Pillow raises leaves here as one of the project's errors, with the file's name in it.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import LimitExceeded, OutputError, PictureError, UsageError
from runtime.picture import LONGEST_SIDE, Image
from runtime.stream import Limits
from runtime.whole_files import write_whole

if TYPE_CHECKING:
    import PIL.Image

READ_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
FORMAT_OF_SUFFIX = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
_SAVE_OPTIONS: dict[str, dict[str, int | bool]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}
_MODES = {"RGB": "RGB", "L": "L", "1": "L", "P": "RGB"}  # what is read, and what it becomes
_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339  # tags of TIFF
_UNSIGNED = 1
# What Pillow's readers raise on files that are not as they should be.
_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def read_image(path: Path, limits: Limits = Limits()) -> Image:
    """Read the picture file at *path*, its EXIF orientation applied; of several pictures in it, the first.

    Returns:
        uint8 (H, W, 3) RGB, or (H, W) if the file is grey. Palettes without transparency become RGB, 1 bit grey.

    Raises:
        PictureError: not a picture, truncated, or with alpha, more than 8 bits, or other colours than RGB.
        LimitExceeded: more pixels than *limits* allow; none was decoded.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as fault:
        raise PictureError(f"{path}: cannot be read: {getattr(fault, 'strerror', None) or fault}") from fault
    return image_from_bytes(content, path, limits)


def image_from_bytes(content: bytes, path: Path, limits: Limits = Limits()) -> Image:
    """Return the picture in *content*, the bytes of a file that errors call *path*; otherwise as `read_image`."""
    import PIL.Image
    import PIL.ImageOps

    if not content:
        raise PictureError(f"{path}: not a picture: the file is empty")
    with _translated(path), PIL.Image.open(io.BytesIO(content), formats=READ_FORMATS) as picture:
        _check_size(path, picture.size, limits)
        _check_kind(path, picture)
        _verify(content, picture)
        picture.load()
        upright = PIL.ImageOps.exif_transpose(picture)
        return np.array(upright.convert(_MODES[picture.mode]), np.uint8)


def format_of(path: Path) -> str:
    """Return the format in which `write_image` writes *path*, by its suffix.

    Raises:
        UsageError: there is none of that suffix.
    """
    try:
        return FORMAT_OF_SUFFIX[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{path}: pictures are written as {', '.join(FORMAT_OF_SUFFIX)}, not {path.suffix or 'without a suffix'}"
        ) from None


def write_image(path: Path, image: Image) -> None:
    """Write *image*, uint8 (H, W, 3) or (H, W), in the format of *path*'s suffix, whole or not at all.

    Raises:
        UsageError: there is no format of that suffix.
        OutputError: the file cannot be written, or the format cannot hold the picture.
    """
    import PIL.Image

    name = format_of(path)
    buffer = io.BytesIO()
    try:
        PIL.Image.fromarray(image).save(buffer, name, **_SAVE_OPTIONS.get(name, {}))
    except _FAULTS as fault:
        height, width = image.shape[:2]
        raise OutputError(f"{path}: {name} cannot hold this picture of {width}x{height}: {fault}") from fault
    write_whole(path, buffer.getvalue())


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what Pillow raises or warns of while reading *path* into the project's errors."""
    import PIL
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on metadata; sizes are checked against our own limits
        try:
            yield
        except PIL.UnidentifiedImageError as fault:
            raise PictureError(
                f"{path}: not a picture: no intact file of a format that is read ({', '.join(READ_FORMATS)})"
            ) from fault
        except PIL.Image.DecompressionBombError as fault:
            raise LimitExceeded(f"{path}: {fault}") from fault
        except _FAULTS as fault:
            raise PictureError(f"{path}: damaged or truncated picture: {fault}") from fault


def _check_size(path: Path, size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if max(width, height) > LONGEST_SIDE:
        raise PictureError(f"{path}: a picture is 1 to {LONGEST_SIDE} pixels a side, not {width}x{height}")
    if width * height > limits.pixels:
        raise LimitExceeded(
            f"{path}: the picture is {width}x{height} = {width * height} pixels; allowed: {limits.pixels}"
        )


def _check_kind(path: Path, picture: PIL.Image.Image) -> None:
    if picture.has_transparency_data:
        raise PictureError(f"{path}: pictures with transparency (alpha) are not supported; flatten it first")
    if picture.mode[0] in "IF" or _has_deep_samples(picture):
        raise PictureError(f"{path}: only pictures of 8 bits per channel are supported; this one has more")
    if picture.mode not in _MODES:
        raise PictureError(f"{path}: colours must be RGB or grey, not {picture.mode}")


def _verify(content: bytes, picture: PIL.Image.Image) -> None:
    """Check the checksums of a PNG file and that it has its end; loading would stop at the last pixel."""
    import PIL.Image

    if picture.format == "PNG":
        with PIL.Image.open(io.BytesIO(content), formats=("PNG",)) as unread:
            unread.verify()


def _has_deep_samples(picture: PIL.Image.Image) -> bool:
    """True if samples are not unsigned 8 bit at most, although Pillow would silently make them so."""
    tags = getattr(picture, "tag_v2", None)
    if tags is not None:  # TIFF; its tiles do not name the depth if planes are stored apart
        depths, formats = tags.get(_BITS_PER_SAMPLE, (1,)), tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))
        return max(depths) > 8 or set(formats) != {_UNSIGNED}
    for tile in getattr(picture, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        for argument in arguments:
            if isinstance(argument, str) and ";16" in argument and not argument.startswith("BGR;"):  # all three in 16
                return True
        if tile[0].startswith("ppm") and isinstance(arguments[-1], int) and arguments[-1] > 255:
            return True
    return False
