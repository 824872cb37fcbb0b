"""What a server holds after many frames is what it held after a few: everything that a frame brings goes with it."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
from serving import PATIENCE_S, Camera, Running, serving
from websockets.sync.client import connect

from runtime.codec import Codec
from runtime.protocol import Chunk, End, Fault, Frame, Result, Welcome
from runtime.serve.settings import LimitSettings, ServerSettings

GATE, LOOK = "gate-0123456789abcdef", "look-0123456789abcdef"
WARM_UP, MORE = 150, 1200  # frames
LEFT = 600  # objects: SQLite's connections keep up to 200 dead references each, and timers of connections run out late


@pytest.fixture
def running(settings: ServerSettings) -> Iterator[Running]:
    """A server that takes small frames alone."""
    with serving(replace(settings, limits=LimitSettings(frames=4, frame_bytes=1 << 16))) as one:
        yield one


@contextmanager
def viewer(running: Running) -> Iterator[None]:
    """Somebody who looks at all that happens."""
    with connect(f"{running.ws}/v1/watch", additional_headers={"Authorization": f"Bearer {LOOK}"}) as socket:
        thread = threading.Thread(target=lambda: [None for _ in socket])
        thread.start()
        try:
            yield
        finally:
            socket.close()
            thread.join(PATIENCE_S)


class Traffic:
    """Frames of every kind, one after another, over connections that do not last."""

    def __init__(self, running: Running, http: httpx.Client, exact_id: str, stream: bytes) -> None:
        self._running, self._http, self._exact_id, self._stream = running, http, exact_id, stream
        self._sequence = 0

    def go_on(self, frames: int) -> None:
        """Send so many more; every tenth comes over HTTP, and of every ten a few are cut, late, garbage or too long."""
        ends = self._sequence + frames
        while self._sequence < ends:
            with Camera(self._running.port, "gate", GATE, self._exact_id) as camera:
                assert isinstance(camera.greet(), Welcome)
                for _ in range(25):
                    self._sequence += 1
                    self._one(camera, self._sequence)
                camera.send(Frame(self._sequence + 1_000_000, len(self._stream), None, 0.05, 1e9))  # and is gone

    def _one(self, camera: Camera, sequence: int) -> None:
        stream, half, kind = self._stream, len(self._stream) // 2, sequence % 10
        if kind == 1:
            assert camera_fault(camera, Frame(sequence, 1 << 20, None, None, 1e9)).code == "too_large"
        elif kind == 2:
            assert self._http.post("/v1/decode", content=stream).status_code == 200
        elif kind == 3:
            camera.send(
                Frame(sequence, len(stream), None, None, 1e9), Chunk(sequence, 0, stream[:half]), End(sequence, half)
            )
            assert camera.until(Result).status == "ok"
        elif kind == 4:
            camera.send(Frame(sequence, len(stream), None, 0.0, 1e9), Chunk(sequence, 0, stream))
            assert camera.until(Result).status == "missed"
        elif kind == 5:
            camera.send(Frame(sequence, 100, None, None, 1e9), Chunk(sequence, 0, bytes(100)))
            assert camera.until(Result).status == "unusable"
        else:
            camera.send(Frame(sequence, len(stream), None, None, 1e9), Chunk(sequence, 0, stream))
            assert camera.until(Result).status == "ok"


def camera_fault(camera: Camera, frame: Frame) -> Fault:
    camera.send(frame)
    return camera.until(Fault)


def held(running: Running) -> Counter[str]:
    """Return how many objects there are by type, once everything is settled."""
    intake, waited = running.server.intake, threading.Event()
    assert intake is not None
    for _ in range(int(PATIENCE_S / 0.05)):
        if not (intake._frames or intake._tasks or intake.connected_cameras):
            break
        waited.wait(0.05)
    waited.wait(0.2)
    gc.collect()
    return Counter(type(one).__qualname__ for one in gc.get_objects())


def test_what_a_server_holds_does_not_grow_with_frames(running: Running, tiny_codec: Codec, tiny_stream: bytes) -> None:
    """One object lost with each frame would be twice as many as are allowed."""
    headers = {"Authorization": f"Bearer {GATE}"}
    with viewer(running), httpx.Client(base_url=running.http, headers=headers, trust_env=False) as http:
        traffic = Traffic(running, http, tiny_codec.bundle.exact_id.hex(), tiny_stream)
        traffic.go_on(WARM_UP)
        before = held(running)
        traffic.go_on(MORE)
        after = held(running)
    assert after.total() - before.total() < LEFT, (after - before).most_common(10)
