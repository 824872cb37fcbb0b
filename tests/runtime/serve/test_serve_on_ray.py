"""Two servers under a real Ray Serve on this machine: cameras stay where they are, also when a server is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from serving import Camera
from websockets.exceptions import WebSocketException

from runtime.protocol import NAME_HEADER, Ack, Chunk, Frame, Result, Welcome
from runtime.serve.settings import RaySettings, ServerSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("ray.serve", reason="ray[serve] is not installed", exc_type=ImportError)
    from runtime.serve.on_ray import deployment

ROOT = Path(__file__).parents[3]
TINY = ROOT / "tests" / "golden" / "tiny"
CAMERAS = {f"camera-{number}": f"token-{number}-0123456789" for number in range(12)}
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
    """Connect as a camera does: again and again, until it is welcome. It says its name in one of the two ways."""
    until = time.monotonic() + PATIENCE_S
    in_query: dict[str, Any] = {"query": f"?camera={name}"}
    way = in_query if int(name[-1]) % 2 else {"additional_headers": {NAME_HEADER: name}}
    while True:
        with contextlib.suppress(OSError, EOFError, WebSocketException):
            one = Camera(port, name, CAMERAS[name], exact_id, **way)
            with contextlib.suppress(OSError, EOFError, WebSocketException):
                if isinstance(one.greet(), Welcome):
                    return one
            one.close()
        assert time.monotonic() < until, "nobody answers"
        threading.Event().wait(0.5)


def answered(camera: Camera, sequence: int, stream: bytes) -> Result:
    camera.send(Frame(sequence, len(stream), None, None, 1e9), Chunk(sequence, 0, stream))
    return camera.until(Result)


def all_at_once(port: int, exact_id: str, names: Iterable[str], sequence: int, stream: bytes) -> None:
    """Every camera connects, all at the same time, and has frame *sequence* stored."""

    def one(name: str) -> bool:
        with connected(port, name, exact_id) as camera:
            return answered(camera, sequence, stream).stored

    with ThreadPoolExecutor(len(CAMERAS)) as threads:
        assert all(threads.map(one, names))


def homes(folder: Path, sequence: int) -> dict[str, int]:
    """Return by camera where frame *sequence* is kept: the number of the server's place."""
    found = list((folder / "store").glob(f"slot-*/streams/*/{sequence}-*.cut"))
    assert len({path.parts[-2] for path in found}) == len(found), "a frame is at two servers"
    return {path.parts[-2]: int(path.parts[-4].removeprefix("slot-")) for path in found}


def stream_of(port: int, name: str, sequence: int) -> bytes:
    """Return what a browser gets of a frame: it says whose in the path alone."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/frames/{name}/{sequence}/stream", timeout=60) as answer:
        content: bytes = answer.read()
        return content


def holders(folder: Path) -> dict[int, int]:
    """Return by place which process holds it."""
    locks = {path.parent.name: path.read_text().strip() for path in (folder / "store").glob("slot-*/lock")}
    return {int(name.removeprefix("slot-")): int(pid) for name, pid in locks.items() if pid}


def until(reached: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < ends
        threading.Event().wait(0.5)


def test_cameras_stay_with_their_server_and_find_its_store_again_when_it_was_killed(
    cluster: int, tmp_path: Path, tiny_codec: Any, tiny_stream: bytes
) -> None:
    """Over many connections, by header, query and path; if a server dies, its cameras go to another, and only they."""
    exact_id = tiny_codec.bundle.exact_id.hex()
    until(lambda: len(holders(tmp_path)) == 2)
    sequence = 0
    while set(homes(tmp_path, sequence).values()) != {0, 1}:  # until the second server takes cameras, too
        sequence += 1
        all_at_once(cluster, exact_id, CAMERAS, sequence, tiny_stream)
    sequence += 1
    all_at_once(cluster, exact_id, CAMERAS, sequence, tiny_stream)
    home = homes(tmp_path, sequence)
    assert set(home) == set(CAMERAS) and set(home.values()) == {0, 1}
    for _ in range(3):
        sequence += 1
        all_at_once(cluster, exact_id, CAMERAS, sequence, tiny_stream)
        assert homes(tmp_path, sequence) == home
    for name in CAMERAS:
        assert stream_of(cluster, name, sequence) == tiny_stream

    victim, pids, stored = 1, holders(tmp_path), sequence
    theirs = [name for name in CAMERAS if home[name] == victim]
    others = [name for name in CAMERAS if home[name] != victim]
    with ExitStack() as stack:
        bystanders = {name: stack.enter_context(connected(cluster, name, exact_id)) for name in others}
        os.kill(pids[victim], signal.SIGKILL)
        sequence += 1
        all_at_once(cluster, exact_id, theirs, sequence, tiny_stream)
        for bystander in bystanders.values():
            assert answered(bystander, sequence, tiny_stream).status == "ok"  # never noticed
        moved = homes(tmp_path, sequence)
        assert all(moved[name] == home[name] for name in others)
        assert all(moved[name] != victim or holders(tmp_path).get(victim) != pids[victim] for name in theirs)

    until(lambda: holders(tmp_path).get(victim) not in (None, pids[victim]))
    for name in theirs:

        def is_home(name: str = name) -> bool:
            with connected(cluster, name, exact_id) as camera:
                camera.send(Frame(stored, len(tiny_stream), None, None, 1e9))
                return camera.until(Ack).bytes == len(tiny_stream) and camera.until(Result).stored

        until(is_home)  # once the new server is ready
    sequence += 1
    all_at_once(cluster, exact_id, CAMERAS, sequence, tiny_stream)
    assert homes(tmp_path, sequence) == home


@pytest.mark.parametrize("most", [None, 5])
def test_settings_reach_the_deployment(settings: ServerSettings, most: int | None) -> None:
    """As Ray Serve keeps them: so many servers, or between so many and so many by their cameras."""
    ray = RaySettings(replicas=3, most_replicas=most, cameras_per_replica=6.0, cpus=0.5)
    made = deployment(replace(settings, ray=ray))._bound_deployment
    scaling = made._deployment_config.autoscaling_config
    if most is None:
        assert made.num_replicas == 3 and scaling is None
    else:
        assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (3, 5, 6.0)
    assert made.max_ongoing_requests == settings.listen.connections
    assert made.ray_actor_options["num_cpus"] == 0.5
    assert made._deployment_config.request_router_config.get_request_router_class().__name__ == "Sticky"
