"""Pictures of a camera for benchmarks: a film, or a view that moves over photographs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from runtime.cli.samples import photographs
from runtime.errors import UsageError
from runtime.picture import Image

_FILMS = (".mp4", ".mkv", ".avi", ".mov", ".webm")


def film_files(path: Path) -> list[Path]:
    """Return *path*, or the films in that folder by name.

    Raises:
        UsageError: there are none.
    """
    files = [path] if path.is_file() else sorted(one for one in path.glob("*") if one.suffix.lower() in _FILMS)
    if not files:
        raise UsageError(f"{path}: no film; films end in {', '.join(_FILMS)}")
    return files


def film_pictures(file: Path, size: tuple[int, int], count: int, fps: float) -> NDArray[np.uint8]:
    """Return *count* pictures of a film, uint8 (count, height, width, 3), as a camera sees it at *fps*.

    It plays forward and backward, so that it never jumps. *size* is width and height; what does not fit is cut off.
    """
    import cv2

    capture = cv2.VideoCapture(str(file))
    own_fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
    frames: list[Image] = []
    wanted = math.ceil(count * own_fps / fps)
    while len(frames) <= wanted:
        sound, picture = capture.read()
        if not sound:
            break
        frames.append(_fitted(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), size))
    capture.release()
    if not frames:
        raise UsageError(f"{file}: cannot be read as a film")
    places = (_there_and_back(round(number * own_fps / fps), len(frames)) for number in range(count))
    return np.stack([frames[place] for place in places])


def moving_views(size: tuple[int, int], count: int, fps: float) -> NDArray[np.uint8]:
    """Return *count* pictures, uint8 (count, height, width, 3), of a view that pans and zooms over photographs.

    Each photograph is shown for ten seconds.
    """
    return np.stack(list(_views(size, count, fps)))


def _views(size: tuple[int, int], count: int, fps: float) -> Iterator[Image]:
    pictures = [PIL.Image.fromarray(image) for image in photographs().values()]
    for number in range(count):
        turn, within = divmod(number / fps, 10.0)
        picture = pictures[int(turn) % len(pictures)]
        phase = 2 * math.pi * within / 10.0
        share = 0.75 + 0.2 * math.cos(phase)  # of the largest window of this shape
        largest = min(picture.width / size[0], picture.height / size[1])
        width, height = share * largest * size[0], share * largest * size[1]
        left = (picture.width - width) * (0.5 + 0.5 * math.sin(phase))
        top = (picture.height - height) * (0.5 - 0.5 * math.cos(phase / 2))
        box = (left, top, left + width, top + height)
        yield np.array(picture.resize(size, PIL.Image.Resampling.LANCZOS, box=box))


def _fitted(image: Image, size: tuple[int, int]) -> Image:
    import cv2

    height, width = image.shape[:2]
    scale = min(width / size[0], height / size[1])
    left, top = round((width - scale * size[0]) / 2), round((height - scale * size[1]) / 2)
    middle = image[top : height - top, left : width - left]
    fitted: Image = cv2.resize(middle, size, interpolation=cv2.INTER_AREA)
    return fitted


def _there_and_back(number: int, length: int) -> int:
    place = number % max(1, 2 * length - 2)
    return place if place < length else 2 * length - 2 - place
