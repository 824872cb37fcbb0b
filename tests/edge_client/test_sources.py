"""Sources: files and folders for real, cameras as what OpenCV would be told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.settings import SourceSettings
from edge_client.sources import (
    OpenCVSource,
    Opening,
    SourceLost,
    csi,
    csi_pipeline,
    open_source,
    rtsp,
    source_name,
    v4l2,
)

Image = NDArray[np.uint8]


class FakeCapture:
    """A `cv2.VideoCapture` of made-up pictures."""

    def __init__(self, target: str, backend: int, options: list[int]) -> None:
        self.call = (target, backend, options)
        self.pictures: list[Image | None] = []
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return "missing" not in self.call[0]

    def read(self) -> tuple[bool, Image | None]:
        picture = self.pictures.pop(0) if self.pictures else None
        return picture is not None, picture

    def release(self) -> None:
        self.released = True


@pytest.fixture
def fake() -> Any:
    """OpenCV with a made-up `VideoCapture`; `fake.opened` are those that were made."""
    opened: list[FakeCapture] = []

    def make(*call: Any) -> FakeCapture:
        opened.append(FakeCapture(*call))
        return opened[-1]

    names = [name for name in dir(cv2) if name.startswith("CAP_") or name.startswith("COLOR_")]
    constants = {name: getattr(cv2, name) for name in names}
    return SimpleNamespace(VideoCapture=make, cvtColor=cv2.cvtColor, error=cv2.error, opened=opened, **constants)


def test_csi_pipeline_of_a_jetson() -> None:
    """The whole string: the sensor's pictures leave NVMM as BGR, one is kept, old ones are dropped."""
    settings = SourceSettings("csi", sensor=1, flip=2, width=1280, height=720)
    assert csi_pipeline(settings) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM), width=1280, height=720, format=NV12 ! "
        "nvvidconv flip-method=2 ! video/x-raw, format=BGRx ! "
        "videoconvert ! video/x-raw, format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )
    assert csi(settings) == Opening(csi_pipeline(settings), "CAP_GSTREAMER")
    assert "NVMM), format=NV12" in csi_pipeline(SourceSettings("csi"))


def test_v4l2_asks_for_size_and_one_buffer() -> None:
    """The back end is named, so that OpenCV tries no other."""
    opening = v4l2(SourceSettings("v4l2", device="/dev/video2", width=640, height=480, fps=10.0))
    assert (opening.target, opening.backend) == ("/dev/video2", "CAP_V4L2")
    assert dict(opening.options) == {
        "CAP_PROP_BUFFERSIZE": 1,
        "CAP_PROP_FRAME_WIDTH": 640,
        "CAP_PROP_FRAME_HEIGHT": 480,
        "CAP_PROP_FPS": 10,
    }


def test_rtsp_does_not_wait_for_ever_and_hides_its_password() -> None:
    """Timeouts of opening and reading; names in logs have neither user nor password."""
    settings = SourceSettings("rtsp", url="rtsp://user:hush@camera.example:554/live")
    opening = rtsp(settings)
    assert (opening.target, opening.backend) == (settings.url, "CAP_FFMPEG")
    assert {name for name, _ in opening.options} == {"CAP_PROP_OPEN_TIMEOUT_MSEC", "CAP_PROP_READ_TIMEOUT_MSEC"}
    assert source_name(settings) == "rtsp camera.example/live"
    assert "hush" not in repr(settings)


@pytest.mark.parametrize("kind", ["v4l2", "rtsp", "csi"])
def test_cameras_are_opened_as_told(fake: Any, kind: str) -> None:
    """Every constant exists in OpenCV; pictures arrive as RGB; the device is freed."""
    source = open_source(SourceSettings(kind, url="rtsp://camera/live", width=64, height=48), fake)
    (capture,) = fake.opened
    assert capture.call[1] in (cv2.CAP_V4L2, cv2.CAP_FFMPEG, cv2.CAP_GSTREAMER)
    blue = np.zeros((4, 4, 3), np.uint8)
    blue[..., 0] = 255
    capture.pictures = [blue]
    picture = source.read()
    assert source.live and picture is not None
    assert picture[0, 0].tolist() == [0, 0, 255]
    with pytest.raises(SourceLost, match="no picture"):
        source.read()
    source.close()
    assert capture.released


def test_camera_that_is_not_there(fake: Any) -> None:
    """An error that says which, and nothing is left open."""
    with pytest.raises(SourceLost, match="v4l2 /dev/missing: cannot be opened"):
        open_source(SourceSettings("v4l2", device="/dev/missing"), fake)
    assert fake.opened[0].released


def test_folder_gives_its_pictures_by_name(pictures: Path) -> None:
    """Twice around; what is no picture is left out."""
    source = open_source(SourceSettings("folder", path=pictures), cv2)
    shades = [int(image[0, 0, 0]) for image in (source.read() for _ in range(4)) if image is not None]
    assert shades == [0, 120, 0, 120]
    source.close()


def test_folder_without_loop_ends(pictures: Path) -> None:
    """After its last picture."""
    source = open_source(SourceSettings("folder", path=pictures, loop=False), cv2)
    assert [source.read() is None for _ in range(4)] == [False, False, True, True]


def test_folder_without_pictures_may_get_some(pictures: Path) -> None:
    """Until then there is nothing to send, and the error says why."""
    content = (pictures / "0.png").read_bytes()
    for name in ("0.png", "2.png"):
        (pictures / name).unlink()
    source = open_source(SourceSettings("folder", path=pictures), cv2)
    for _ in range(2):
        with pytest.raises(SourceLost, match=r"1\.png"):
            source.read()
    (pictures / "0.png").write_bytes(content)
    assert source.read() is not None


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_path_that_is_not_there(tmp_path: Path, kind: str) -> None:
    """It may come: an error that the capture answers by trying again."""
    with pytest.raises(SourceLost, match="missing"):
        open_source(SourceSettings(kind, path=tmp_path / "missing"), cv2).read()


def test_single_picture(pictures: Path) -> None:
    """A file with a picture's suffix is read as one."""
    source = open_source(SourceSettings("file", path=pictures / "2.png", loop=False), cv2)
    image = source.read()
    assert image is not None and image.shape == (40, 48, 3)
    assert source.read() is None


@pytest.mark.parametrize("loop", [True, False])
def test_film_is_read_for_real(tmp_path: Path, loop: bool) -> None:
    """A film of three shades of red, by OpenCV: RGB, in order, and from its beginning again if it should."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no films")
    for shade in (50, 120, 200):
        writer.write(np.full((48, 64, 3), (0, 0, shade), np.uint8))
    writer.release()
    source = open_source(SourceSettings("file", path=path, loop=loop), cv2)
    read = [source.read() for _ in range(4)]
    source.close()
    assert [image is None for image in read] == [False, False, False, not loop]
    for image, shade in zip(read, (50, 120, 200, 50), strict=True):
        if image is not None:
            assert image[..., 0].mean() == pytest.approx(shade, abs=8)
            assert image[..., 2].mean() < 20


def test_film_without_pictures_is_lost(fake: Any) -> None:
    """Looping over nothing would never end."""
    source = OpenCVSource(Opening("film", "CAP_FFMPEG"), "film", fake, live=False, loop=True)
    with pytest.raises(SourceLost):
        source.read()


def test_pattern_moves_and_is_the_same_in_every_run() -> None:
    """Pictures that differ from each other, alike in two sources."""
    one, other = (open_source(SourceSettings("pattern", width=50, height=40), cv2) for _ in range(2))
    first, second = one.read(), one.read()
    assert first is not None and second is not None
    assert first.shape == (40, 50, 3) and first.dtype == np.uint8
    assert not np.array_equal(first, second)
    assert np.array_equal(first, other.read())
