"""Two servers under a real Ray Serve on this machine: cameras stay where they are, also when a server is killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Camera
from websockets.exceptions import WebSocketException

from runtime.protocol import Ack, Chunk, Frame, Result, Welcome

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray.serve", reason="ray[serve] is not installed", exc_type=ImportError)

ROOT = Path(__file__).parents[3]
TINY = ROOT / "tests" / "golden" / "tiny"
CAMERAS = {f"camera-{number}": f"token-{number}-0123456789" for number in range(6)}
PATIENCE_S = 240.0  # of a busy machine that starts Ray


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[int]:
    """`cutoff serve --ray` with two servers; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tokens = "".join(f'{name} = "{token}"\n' for name, token in CAMERAS.items())
    (tmp_path / "server.toml").write_text(
        f'[listen]\nport = {port}\n[decode]\nbundle = "{TINY}"\nthreads = 1\nwarm = ["96x80"]\n'
        f'[store]\nfolder = "{tmp_path}/store"\n[ray]\nreplicas = 2\ncpus = 0.1\n[tokens.cameras]\n{tokens}'
    )
    command = [sys.executable, "-m", "runtime", "serve", "--ray", "--config", str(tmp_path / "server.toml")]
    environment = os.environ | {"RAY_raylet_start_wait_time_s": "300", "RAY_USAGE_STATS_ENABLED": "0"}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
            process.kill()
            print((tmp_path / "log").read_text(errors="replace")[-3000:])


def connected(port: int, name: str, exact_id: str) -> Camera:
    """Connect as a camera does: again and again, until it is welcome."""
    until = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError, EOFError, WebSocketException):
            one = Camera(port, name, CAMERAS[name], exact_id, query=f"?camera={name}")
            with contextlib.suppress(OSError, EOFError, WebSocketException):
                if isinstance(one.greet(), Welcome):
                    return one
            one.close()
        assert time.monotonic() < until, "nobody answers"
        threading.Event().wait(0.5)


def answered(camera: Camera, sequence: int, stream: bytes) -> Any:
    camera.send(Frame(sequence, len(stream), None, None, 1e9), Chunk(sequence, 0, stream))
    return camera.until(Result)


def homes(folder: Path, sequence: int) -> dict[str, int]:
    """Return by camera where frame *sequence* is kept: the number of the server's place."""
    found = (folder / "store").glob(f"slot-*/streams/*/{sequence}-*.cut")
    return {path.parts[-2]: int(path.parts[-4].removeprefix("slot-")) for path in found}


def test_cameras_stay_with_their_server_and_find_its_store_again_when_it_was_killed(
    cluster: int, tmp_path: Path, tiny_codec: Any, tiny_stream: bytes
) -> None:
    exact_id = tiny_codec.bundle.exact_id.hex()
    pids: dict[int, int] = {}
    until = time.monotonic() + PATIENCE_S
    while len(pids) < 2 and time.monotonic() < until:
        for lock in (tmp_path / "store").glob("slot-*/lock"):
            if text := lock.read_text().strip():
                pids[int(re.search(r"slot-(\d+)", str(lock)).group(1))] = int(text)
        threading.Event().wait(0.5)
    assert len(pids) == 2
    # A server gets cameras once the router has heard of its place; until that is so of both, cameras may move.
    sequence, before, home = 0, {}, {}
    while home != before or set(home.values()) != {0, 1}:
        assert time.monotonic() < until, (before, home)
        sequence, before = sequence + 1, home
        for name in CAMERAS:
            with connected(cluster, name, exact_id) as camera:
                assert answered(camera, sequence, tiny_stream).stored
        home = homes(tmp_path, sequence)
        assert set(home) == set(CAMERAS)
        threading.Event().wait(0.5)

    with connected(cluster, "camera-0", exact_id) as bystander:
        assert answered(bystander, sequence + 1, tiny_stream).stored
        victim = 1 - homes(tmp_path, sequence + 1)["camera-0"]
        os.kill(pids[victim], signal.SIGKILL)
        assert answered(bystander, sequence + 2, tiny_stream).status == "ok"  # never noticed
    moved = next(name for name, place in home.items() if place == victim)
    while int((tmp_path / "store" / f"slot-{victim}" / "lock").read_text().strip() or 0) in (0, pids[victim]):
        assert time.monotonic() < until
        threading.Event().wait(0.5)
    while True:  # until the router knows that the place is back
        with connected(cluster, moved, exact_id) as camera:
            camera.send(Frame(sequence, len(tiny_stream), None, None, 1e9))
            if camera.until(Ack).bytes == len(tiny_stream):
                assert camera.until(Result).stored
                break
        assert time.monotonic() < until
        threading.Event().wait(1.0)
