"""Where pictures come from: one class for pictures that are at hand, one for what OpenCV opens, one for the pattern.

How OpenCV is told of a camera is a pure function for each kind: device and back end, or a pipeline as a string.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from edge_client.settings import SourceSettings
from runtime.errors import CutoffError, DataError, MissingExtra
from runtime.image_files import FORMAT_OF_SUFFIX, read_image
from runtime.picture import Image


class SourceLost(DataError):
    """A source that gives no pictures (any more); opening it again may help."""


class Source(Protocol):
    """A camera, or what stands for one."""

    live: bool
    """Pictures come when they come; otherwise they wait to be taken."""

    def read(self) -> Image | None:
        """Return the next picture, uint8 (H, W, 3) RGB or (H, W); None at the end.

        Raises:
            SourceLost: there is none, although there should be.
        """

    def close(self) -> None:
        """Free the device."""


@dataclass(frozen=True)
class Opening:
    """What OpenCV's `VideoCapture` is called with.

    Attributes:
        target: device, address, path or pipeline.
        backend: name of OpenCV's constant.
        options: names of OpenCV's properties and their values, in order.
    """

    target: str
    backend: str
    options: tuple[tuple[str, float], ...] = ()


def import_cv2() -> Any:
    """Return OpenCV.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import cv2
    except ImportError as fault:
        raise MissingExtra(
            f"`cutoff edge` needs OpenCV ({fault}): pip install '.[edge]' in the checkout; on a Jetson see docs/edge.md"
        ) from fault
    return cv2


def v4l2(settings: SourceSettings) -> Opening:
    """Return how a V4L2 camera is opened: one buffer, so that the picture is new."""
    return Opening(settings.device, "CAP_V4L2", (("CAP_PROP_BUFFERSIZE", 1), *_size(settings)))


def rtsp(settings: SourceSettings) -> Opening:
    """Return how a network camera is opened: with timeouts, as OpenCV waits for ever otherwise."""
    timeouts = (("CAP_PROP_OPEN_TIMEOUT_MSEC", 10_000.0), ("CAP_PROP_READ_TIMEOUT_MSEC", 10_000.0))
    return Opening(settings.url, "CAP_FFMPEG", timeouts)


def csi(settings: SourceSettings) -> Opening:
    """Return how a Jetson's CSI camera is opened."""
    return Opening(csi_pipeline(settings), "CAP_GSTREAMER")


def csi_pipeline(settings: SourceSettings) -> str:
    """Return the pipeline of a CSI camera, which hands out the newest picture and drops what nobody took."""
    size = f", width={settings.width}, height={settings.height}" if settings.width and settings.height else ""
    return (
        f"nvarguscamerasrc sensor-id={settings.sensor} ! video/x-raw(memory:NVMM){size}, format=NV12 ! "
        f"nvvidconv flip-method={settings.flip} ! video/x-raw, format=BGRx ! "
        "videoconvert ! video/x-raw, format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )


def film(settings: SourceSettings) -> Opening:
    """Return how a film is opened."""
    return Opening(str(settings.path), "CAP_FFMPEG")


def _size(settings: SourceSettings) -> tuple[tuple[str, float], ...]:
    asked = (("CAP_PROP_FRAME_WIDTH", settings.width), ("CAP_PROP_FRAME_HEIGHT", settings.height))
    return (*((name, float(number)) for name, number in asked if number), ("CAP_PROP_FPS", settings.fps))


class OpenCVSource:
    """What `cv2.VideoCapture` opens."""

    def __init__(self, opening: Opening, name: str, cv2: Any, *, live: bool, loop: bool = False) -> None:
        """Open it.

        Args:
            name: for errors; without passwords.
            loop: begin anew at the end.

        Raises:
            SourceLost: it cannot be opened.
        """
        self.live = live
        self._opening, self._name, self._cv2, self._loop = opening, name, cv2, loop
        self._taken = 0
        self._capture = self._opened()

    def read(self) -> Image | None:
        """Return the next picture; see `Source`."""
        sound, picture = self._capture.read()
        if sound and picture is not None:
            self._taken += 1
            colours: Image = picture if picture.ndim == 2 else self._cv2.cvtColor(picture, self._cv2.COLOR_BGR2RGB)
            return colours
        if self.live or not self._taken:
            raise SourceLost(f"{self._name}: no picture")
        if not self._loop:
            return None
        self.close()
        self._taken, self._capture = 0, self._opened()
        return self.read()

    def close(self) -> None:
        """Free the device."""
        self._capture.release()

    def _opened(self) -> Any:
        options: list[int] = []
        for name, value in self._opening.options:
            options += [int(getattr(self._cv2, name)), int(value)]
        backend = getattr(self._cv2, self._opening.backend)
        try:
            capture = self._cv2.VideoCapture(self._opening.target, backend, options)
        except (self._cv2.error, TypeError) as fault:
            raise SourceLost(f"{self._name}: cannot be opened: {fault}") from fault
        if not capture.isOpened():
            capture.release()
            raise SourceLost(f"{self._name}: cannot be opened")
        return capture


class PictureFiles:
    """Picture files, one after another; those that are no pictures are left out."""

    live = False

    def __init__(self, files: Callable[[], list[Path]], name: str, *, loop: bool) -> None:
        self._files, self._name, self._loop = files, name, loop
        self._images = self._walk()

    def read(self) -> Image | None:
        """Return the next picture; see `Source`."""
        return next(self._images, None)

    def close(self) -> None:
        """Nothing is open."""

    def _walk(self) -> Iterator[Image]:
        while True:
            fault, found = "no picture file", False
            for path in self._files():
                try:
                    image = read_image(path)
                except CutoffError as refusal:
                    fault = str(refusal)
                    continue
                found = True
                yield image
            if not found:
                self._images = self._walk()
                raise SourceLost(f"{self._name}: {fault}")
            if not self._loop:
                return


class TestPattern:
    """Colours that move, with an edge and noise that is the same in every run: no camera is needed."""

    live = False
    __test__ = False  # no test, whatever pytest thinks of the name

    def __init__(self, width: int, height: int) -> None:
        self._row, self._column = np.mgrid[0:height, 0:width]
        self._noise = np.random.default_rng(1).normal(0, 6, (height, width, 1))
        self._number = 0

    def read(self) -> Image | None:
        """Return the next picture."""
        shift = self._number % max(self._row.shape[1], 1)
        self._number += 1
        column = self._column + 4 * shift
        planes = [128 + 80 * np.sin(self._row / (9 + 4 * c) + c) * np.cos(column / (13 + 3 * c)) for c in range(3)]
        picture = np.stack(planes, axis=2) + np.where((column // 32 + self._row // 32) % 5 == 0, 60, 0)[:, :, None]
        return np.clip(picture + self._noise, 0, 255).astype(np.uint8)

    def close(self) -> None:
        """Nothing is open."""


_OPENINGS: dict[str, Callable[[SourceSettings], Opening]] = {"v4l2": v4l2, "rtsp": rtsp, "csi": csi}


def open_source(settings: SourceSettings, cv2: Any) -> Source:
    """Open the source that *settings* describe.

    Raises:
        SourceLost: it cannot be opened now.
    """
    name = source_name(settings)
    if settings.kind == "pattern":
        return TestPattern(settings.width or 640, settings.height or 480)
    if settings.kind in _OPENINGS:
        return OpenCVSource(_OPENINGS[settings.kind](settings), name, cv2, live=True)
    path = settings.path
    assert path is not None  # the settings were checked
    if settings.kind == "folder":
        return PictureFiles(lambda: pictures_in(path), name, loop=settings.loop)
    if path.suffix.lower() in FORMAT_OF_SUFFIX:
        return PictureFiles(lambda: [path], name, loop=settings.loop)
    if not path.is_file():
        raise SourceLost(f"{name}: no such file")
    return OpenCVSource(film(settings), name, cv2, live=False, loop=settings.loop)


def source_name(settings: SourceSettings) -> str:
    """Return a name of the source for logs, without user and password."""
    if settings.kind == "rtsp":
        address = urlsplit(settings.url)
        return f"rtsp {address.hostname}{address.path}"
    names = {"v4l2": settings.device, "csi": f"sensor {settings.sensor}", "pattern": ""}
    return f"{settings.kind} {names.get(settings.kind, settings.path)}".strip()


def pictures_in(folder: Path) -> list[Path]:
    """Return the picture files of *folder* by name.

    Raises:
        SourceLost: it cannot be listed.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as fault:
        raise SourceLost(f"{folder}: cannot be listed: {fault.strerror}") from fault
    return [folder / name for name in names if Path(name).suffix.lower() in FORMAT_OF_SUFFIX]
