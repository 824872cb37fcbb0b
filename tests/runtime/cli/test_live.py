"""The live part of `cutoff demo`: three programs that find each other, and end together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from commands import printed, refusal
from numpy.typing import NDArray

from runtime.cli import demo, live
from runtime.cli.options import EngineOptions
from runtime.cli.samples import camera_pictures
from runtime.errors import MissingExtra, UsageError
from runtime.image_files import write_image
from runtime.settings import load_settings

ROOT = Path(__file__).parents[3]
TINY = ROOT / "tests" / "golden" / "tiny"
PATIENCE_S = 90.0  # a safety net
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def views(tmp_path: Path, photographs: dict[str, NDArray[np.uint8]]) -> Path:
    """A folder of small pictures."""
    folder = tmp_path / "views"
    folder.mkdir()
    for number, view in enumerate(camera_pictures([photographs["coffee"]], 96, 64, 4)):
        write_image(folder / f"{number}.png", view)
    return folder


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_frames_come_through_and_everything_ends(views: Path) -> None:
    """Server, link and camera work together; the table has each frame once, in order; no program is left."""
    before = set(psutil.Process().children(recursive=True))
    with live.Live(str(TINY), views).running() as session:
        wait_for(lambda: len(session.frames()) >= 3)
        session.check()
        with urllib.request.urlopen(session.address) as answer:
            assert b"<title>cutoff</title>" in answer.read()
        session.end_camera()
        session.check()  # the server is still there
        frames = session.frames()
    assert [one.frame for one in frames] == sorted({one.frame for one in frames})
    answered = [one for one in frames if one.outcome in ("ok", "preview")]
    assert all(0 < one.bytes <= one.size and one.steps_total == 4 for one in answered)
    assert str(len(frames)) in live.summary(frames)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_program_that_ends_is_reported(views: Path) -> None:
    """Here the server, whose port is taken: by its name, without waiting for a time-out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        demonstration = live.Live(str(TINY), views, port=taken.getsockname()[1])
        with pytest.raises(live.ProgramEnded, match=r"cutoff serve"), demonstration.running():
            pass


def test_serving_ends_when_asked_to(views: Path) -> None:
    """The page's address is printed; SIGTERM ends all programs, orderly."""
    command = [sys.executable, "-m", "runtime", "demo", "--serve", "--bundle", str(TINY), "--source", str(views)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    overdue = threading.Timer(PATIENCE_S, process.kill)
    overdue.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line
        others = psutil.Process(process.pid).children(recursive=True)
        assert len(others) >= 2
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert not psutil.wait_procs(others, timeout=PATIENCE_S)[1]
    finally:
        overdue.cancel()
        process.kill()
        process.wait()


def test_live_part_is_left_out_where_its_packages_are_missing(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, views: Path, tmp_path: Path
) -> None:
    """With a warning; what needs no more than the codec is shown all the same."""

    def missing() -> None:
        raise MissingExtra("the live part of the demo needs uvicorn")

    monkeypatch.setattr(demo, "check_extras", missing)
    words = ["demo", views / "0.png", "--out", tmp_path / "out", "--bundle", TINY, "--points", "1"]
    result = printed(capsys, *words, "--deadlines-ms", "60000", "--live")
    assert result["frames"] == []
    assert result["rows"]
    assert "needs uvicorn" in refusal(capsys, "demo", "--serve")[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["demo"], "--out is needed"),
        (["demo", "--serve", "--classifier", "x.onnx"], "--classifier and --labels go together"),
        (["demo", "--serve", "--source", "/no/such/clip.mp4"], "--source: /no/such/clip.mp4 does not exist"),
        (["demo", "--serve", "--seconds", "0"], "--seconds"),
        (["demo", "--serve", "--source", "a" * 300], "a does not exist"),
        (["demo", "--serve", "--bundle", "no-such-bundle"], "no-such-bundle"),
        (["demo", "--serve", "--bundle", "a" * 300], "no bundle"),
    ],
)
def test_wrong_calls_are_refused(capsys: Capture, words: list[str], says: str) -> None:
    """In one line, before anything starts."""
    status, line = refusal(capsys, *words)
    assert status in (1, 2)
    assert says in line


def test_what_runs_networks_is_handed_on(tmp_path: Path) -> None:
    """To the camera and to the server."""
    one = live.Live("dpict-edge", engine=EngineOptions(engine="cpu", threads=3, precision="fp32"))
    for content in (one._server_toml(tmp_path, 1), one._edge_toml(tmp_path, 1, tmp_path)):
        assert all(line in content for line in ('engine = "cpu"', "threads = 3", 'precision = "fp32"'))


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    """TOML takes fewer characters in a string than JSON, and no halves of them."""
    path = '/films/\U0001f99a \x01\t\n\x7f "a\\b" é'
    file = tmp_path / "edge.toml"
    file.write_text(live._toml({"camera": path}, {"source": {"path": path, "loop": True}}), encoding="utf-8")

    @dataclass(frozen=True)
    class Written:
        camera: str
        source: dict[str, Any]

    assert load_settings(Written, file) == Written(path, {"path": path, "loop": True})
    with pytest.raises(UsageError, match="cannot hold a name that is not UTF-8"):
        live._toml({"camera": "\udcff"}, {})
