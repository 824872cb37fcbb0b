"""Clients that mean harm, against a real server: a good camera is served, nobody gets in, memory stays bounded."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest
from plant import CAMERA, SCALE, TINY, Plant, wait_until
from processes import TOKEN, Program
from serving import Camera
from websockets.exceptions import ConnectionClosed

from engines.bundle import Bundle
from runtime.protocol import Fault, Frame, Hello, Welcome, write_message

MB = 1_000_000
HANDSHAKE = (
    b"GET /v1/ingest HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: cutoff.1\r\n\r\n"
)
LIMITS = {
    "listen": {"connections": 400, "connections_per_address": 100, "request_s": 2.0},
    "limits": {"hello_s": 2.0, "frame_bytes": 1_000_000, "memory_bytes": 8_000_000, "frames": 8},
}


@pytest.fixture(scope="module")
def exact_id() -> str:
    return Bundle.open(TINY).exact_id.hex()


@pytest.fixture(scope="module")
def plant_with_camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plant, Program]]:
    """A server with small limits, and a good camera that was there before the bad ones came.

    After all that was done to them, by however many tests, both end in order, the server has logged no error, and no
    frame of the good camera is lost.
    """
    plant = Plant(tmp_path_factory.mktemp("hostile"))
    try:
        server = plant.server(LIMITS, cameras=(CAMERA, "thief", "bully")).start().wait_ready()
        camera = plant.camera(server.port).start().wait_ready()
        yield plant, server
        assert camera.stop() == 0
        assert server.stop() == 0
        assert not [line for line in server.said().splitlines() if " ERROR " in line or "Traceback" in line]
        everything = plant.whole() | plant.spooled()
        assert everything == set(range(min(everything), max(everything) + 1))
    finally:
        plant.kill_all()


@contextmanager
def unharmed(plant: Plant, server: Program, memory_mb: float = 40) -> Iterator[None]:
    """Whatever happens in the block, frames of the good camera arrive, and the server is as large as before."""
    process = psutil.Process(server.process.pid)  # type: ignore[union-attr]
    wait_until(lambda: len(plant.whole()) >= 3, "frames arrive")
    before, handles = process.memory_info().rss, process.num_fds()
    yield
    known = plant.whole()
    wait_until(lambda: len(plant.whole() - known) >= 4, "the good camera's frames still arrive")
    wait_until(lambda: process.num_fds() <= handles + 3, "handles are closed again")
    assert process.memory_info().rss - before < memory_mb * MB
    assert server.status("/healthz") == 200


def test_garbage(plant_with_camera: tuple[Plant, Program]) -> None:
    """Random bytes, half requests, and WebSocket frames that are none."""
    plant, server = plant_with_camera
    generator = random.Random(3)
    openings = (b"", b"GET / HTTP/1.1\r\n", HANDSHAKE, HANDSHAKE + b"\x81\xfe\xff\xff", b"\x16\x03\x01\x02\x00")
    with unharmed(plant, server):
        for number in range(60):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as bad, suppress(OSError):
                bad.sendall(openings[number % len(openings)] + generator.randbytes(generator.randrange(1, 5000)))
                bad.settimeout(0.01)
                bad.recv(100)


def test_without_a_token_nobody_gets_in(plant_with_camera: tuple[Plant, Program], exact_id: str) -> None:
    """Neither with a wrong token, nor another camera's name, nor by frames without hello; nothing is kept of them."""
    plant, server = plant_with_camera
    guesses = ["", "a", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "\u0000" * 32, "x" * 10_000]
    with unharmed(plant, server):
        for name, token in [*((CAMERA, guess) for guess in guesses), ("nobody", TOKEN), ("../gate", TOKEN)]:
            with Camera(server.port, name, token, exact_id) as bad:
                answer = bad.greet()
                assert isinstance(answer, Fault) and answer.code == "unauthorized"
                with pytest.raises(ConnectionClosed):
                    bad.send(Frame(1, 100, None, None, 0.0))
                    bad.receive()
        with Camera(server.port, "thief", TOKEN, exact_id) as bad:
            bad.send(Frame(1, 100, None, None, 0.0))
            assert isinstance(bad.receive(), Fault)
        folders = {path.name for path in (plant.folder / "server" / "store" / "streams").iterdir()}
        assert folders == {CAMERA}


def test_huge_claims(plant_with_camera: tuple[Plant, Program], exact_id: str) -> None:
    """A camera with a token claims sizes, pictures and numbers of frames that no server could serve."""
    plant, server = plant_with_camera
    with unharmed(plant, server), Camera(server.port, "bully", TOKEN, exact_id) as bad:
        assert isinstance(bad.greet(), Welcome)
        for size in (0, 1_000_001, 2**53 - 1):
            bad.send(Frame(10, size, None, 5.0, 0.0))
            assert bad.until(Fault).code == "too_large"
        codes = set()
        for sequence in range(20, 60):
            bad.send(Frame(sequence, 1_000_000, None, 30.0, 0.0))
        while len(bad.seen) < 40:
            message = bad.receive()
            if isinstance(message, Fault):
                codes.add(message.code)
        assert codes and codes <= {"too_many", "busy"}


def test_a_huge_message(plant_with_camera: tuple[Plant, Program], exact_id: str) -> None:
    """A camera with a token sends more in one message than the server has for all of them: its connection is closed."""
    plant, server = plant_with_camera
    with unharmed(plant, server), Camera(server.port, "bully", TOKEN, exact_id) as bad:
        assert isinstance(bad.greet(), Welcome)
        with pytest.raises(ConnectionClosed):
            bad.send_raw(b"\x01" + bytes(60 * MB))
            bad.receive()


def test_a_flood_of_connections(plant_with_camera: tuple[Plant, Program], exact_id: str) -> None:
    """Silent ones, half headers, WebSockets without hello: those beyond the caps are turned away, all in the end."""
    plant, server = plant_with_camera
    process = psutil.Process(server.process.pid)  # type: ignore[union-attr]
    with unharmed(plant, server), ExitStack() as stack:
        handles = process.num_fds()
        for number in range(SCALE.connections):
            with suppress(OSError):
                bad = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
                bad.sendall((b"", b"GET /healthz HTTP/1.1\r\nHost:", HANDSHAKE)[number % 3])
        allowed = handles + LIMITS["listen"]["connections_per_address"] + 20
        wait_until(lambda: process.num_fds() <= allowed, "connections beyond the caps are turned away")
        known = plant.whole()
        wait_until(lambda: len(plant.whole() - known) >= 4, "frames arrive in the flood")
        wait_until(lambda: process.num_fds() <= handles + 10, "connections that say nothing are closed")
        with Camera(server.port, "thief", TOKEN, exact_id) as good:
            assert isinstance(good.greet(), Welcome)


def test_a_hello_that_comes_byte_by_byte(plant_with_camera: tuple[Plant, Program], exact_id: str) -> None:
    """A slow loris with a valid token has as long as everybody: its connection is closed."""
    plant, server = plant_with_camera
    hello = write_message(Hello(1, TOKEN, "thief", exact_id, 0.0))
    assert isinstance(hello, str)
    frame = b"\x81\xfe" + len(hello).to_bytes(2, "big") + bytes(4) + hello.encode()
    with unharmed(plant, server), socket.create_connection(("127.0.0.1", server.port), timeout=SCALE.patience_s) as bad:
        bad.sendall(HANDSHAKE)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += bad.recv(4096)
        bad.settimeout(0.1)
        closed = False
        for position in range(len(frame)):
            try:
                bad.sendall(frame[position : position + 1])
                data = bad.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            closed = closed or not data or data[0] == 0x88  # a close frame
            if closed:
                break
        assert closed and position < len(frame) - 1
