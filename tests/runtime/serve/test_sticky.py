"""Which server a camera belongs to, and places for servers."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from runtime.errors import OutputError
from runtime.serve.slots import Slot
from runtime.serve.sticky import camera_of, ranked

ROOT = Path(__file__).parents[3]
CAMERAS = [f"camera-{number}" for number in range(300)]


@pytest.mark.parametrize(
    ("path", "query", "camera"),
    [
        ("/v1/ingest", b"camera=gate", "gate"),
        ("/v1/ingest", b"camera=gate&camera=yard", "gate"),
        ("/v1/ingest", b"", None),
        ("/v1/ingest", b"camera=", None),
        ("/v1/ingest", b"camera=" + b"x" * 65, None),
        ("/v1/ingest", b"a=1&" * 300, None),
        ("/v1/cameras/gate/frames", b"", "gate"),
        ("/v1/frames/gate/7/picture", b"bytes=5", "gate"),
        ("/v1/cameras", b"", None),
        ("/v1/decode", b"camera=gate", None),
        ("/", b"", None),
    ],
)
def test_whom_a_request_is_about(path, query, camera):
    """Path and query say it; else the session does, which is a camera's name or anything at all."""
    scope = {"path": path, "query_string": query}
    assert camera_of(scope) == camera
    assert camera_of(scope, "yard") == (camera or ("yard" if b"x" not in query else None))
    assert camera_of(scope, "x" * 65) == camera
    assert camera_of({}, "yard") == "yard" and camera_of({}) is None


def test_cameras_spread_and_stay():
    """Every server has its share; if one goes, only its cameras move, and they spread."""
    servers = ["a", "b", "c", "d"]
    before = {camera: ranked(camera, servers)[0] for camera in CAMERAS}
    assert all(count > 40 for count in Counter(before.values()).values())
    after = {camera: ranked(camera, ["d", "b", "a"])[0] for camera in CAMERAS}
    assert all(after[camera] == server for camera, server in before.items() if server != "c")
    assert len({after[camera] for camera, server in before.items() if server == "c"}) == 3


def test_places_are_held_by_one_process_and_free_when_it_ends(tmp_path):
    """The lowest free one is taken: also that of a process that was killed."""
    first, second = Slot(tmp_path), Slot(tmp_path)
    assert (first.number, second.number) == (0, 1) and first.folder != second.folder
    first.release()
    code = (
        "import os, sys; from pathlib import Path; from runtime.serve.slots import Slot;"
        "print(Slot(Path(sys.argv[1])).number, flush=True); os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        found = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, check=False)
        assert found.stdout == b"0\n"
    third = Slot(tmp_path)
    assert third.number == 0
    third.release()
    second.release()


def test_no_place_in_what_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Slot(tmp_path / "file")
