"""Connections to a server that is a double: greeting, refusals, coming back, going on."""

from __future__ import annotations

import asyncio
import gc
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from edge_frames import frame
from ingest_double import IngestDouble, ingest_double
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from edge_client.dispatch import Dispatch, Finished
from edge_client.frames import CameraFrame
from edge_client.link import Link
from edge_client.metrics import Metrics
from edge_client.schedule import Pace
from edge_client.settings import ServerSettings
from edge_client.transport import Transport, backoff_s, ingest_url
from runtime.errors import ConfigurationError
from runtime.protocol import Fault

SAFETY_S = 60.0
EXACT_ID = bytes(range(8))


class Client:
    """A transport with its dispatch, and what was finished."""

    def __init__(self, url: str, **settings: object) -> None:
        self.dispatch = Dispatch(Link(), Pace(), 8)
        self.metrics = Metrics()
        self.finished: list[Finished] = []
        self.pauses: list[float] = []
        server = replace(ServerSettings(url, "secret", backoff_s=1.0, backoff_most_s=8.0), **settings)  # type: ignore[arg-type]
        self.transport = Transport(
            server, "gate", EXACT_ID, self.dispatch, self.metrics, self.changed, share=lambda: 1.0, sleep=self.sleep
        )
        self._news = asyncio.Event()

    def changed(self) -> None:
        self.finished += self.dispatch.finished(self.transport._clock())
        self._news.set()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._news.set()
        await asyncio.sleep(0.001)

    def add(self, *frames: CameraFrame) -> None:
        for one in frames:
            self.dispatch.add(one, known=0 if one.due is None else None)
        self.transport.wake()

    async def until(self, reached: Callable[[], bool]) -> None:
        async def wait() -> None:
            while not reached():
                self._news.clear()
                await self._news.wait()

        await asyncio.wait_for(wait(), SAFETY_S)

    def connections(self, outcome: str) -> float:
        name = "cutoff_edge_connections_total"
        return self.metrics.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


@asynccontextmanager
async def running(client: Client) -> AsyncIterator[None]:
    """Keep *client* connecting for the time of the block."""
    task = asyncio.ensure_future(client.transport.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def with_double(work: Callable[[IngestDouble, Client], Awaitable[None]], **options: object) -> None:
    """Do *work* with a double and a running client of it."""

    async def run() -> None:
        async with ingest_double(**options) as double:
            client = Client(double.url)
            async with running(client):
                await work(double, client)

    asyncio.run(run())


def test_hello_says_who_it_is() -> None:
    """Token, camera, bundle, and the camera to whom routes by headers; then it knows the server's clock."""

    async def work(double: IngestDouble, client: Client) -> None:
        await client.until(lambda: client.dispatch.online)
        (hello,) = double.hellos
        assert (hello.protocol, hello.token, hello.camera) == (1, "secret", "gate")
        assert hello.exact_id == EXACT_ID.hex()
        assert double.headers[0].get_all("X-Session-Id") == ["gate"]
        at = client.dispatch.server_clock.at(0.0)
        assert at is not None and at == pytest.approx(1000.0, abs=SAFETY_S)
        assert client.connections("welcomed") == 1

    with_double(work)


def test_frames_arrive_whole() -> None:
    """Several at a time, byte for byte."""

    async def work(double: IngestDouble, client: Client) -> None:
        frames = [frame(number) for number in range(4)]
        await client.until(lambda: client.dispatch.online)
        client.add(*frames)
        await client.until(lambda: len(client.finished) == 4)
        assert {number: bytes(held.data) for number, held in double.held.items()} == {
            one.sequence: one.stream for one in frames
        }
        assert [one.held for one in client.finished] == [20_000] * 4

    with_double(work)


def test_cut_connection_goes_on_where_the_server_is() -> None:
    """After seven chunks: connected again, the frame is completed, and no byte that was held is sent again."""

    async def work(double: IngestDouble, client: Client) -> None:
        await client.until(lambda: client.dispatch.online)
        client.add(frame(1, due=client.transport._clock() + 1e6))
        await client.until(lambda: bool(client.finished))
        held = double.held[1]
        assert bytes(held.data) == frame(1).stream
        assert len(held.openings) == 2
        assert sum(size for _, _, size in double.chunks) == 20_000
        assert client.finished[0].why == "answered"
        assert client.pauses == [1.0]

    with_double(work, drop_after=7)


def test_server_that_restarts_is_found_again() -> None:
    """While it is away attempts come later and later; then frames flow again."""

    async def work(double: IngestDouble, client: Client) -> None:
        await client.until(lambda: client.dispatch.online)
        await double.stop()
        await client.until(lambda: len(client.pauses) > 4)
        assert not client.dispatch.online
        assert client.pauses[:5] == [1.0, 2.0, 4.0, 8.0, 8.0]
        await double.start()
        await client.until(lambda: client.dispatch.online)
        client.add(frame(1))
        await client.until(lambda: bool(client.finished))
        assert client.finished[0].why == "answered"

    with_double(work)


def test_wrong_token_is_refused_and_tried_seldom() -> None:
    """The fault's code is counted as a refusal, and pauses grow."""

    async def work(double: IngestDouble, client: Client) -> None:
        await client.until(lambda: len(client.pauses) >= 3)
        assert not client.dispatch.online
        assert client.pauses[:3] == [1.0, 2.0, 4.0]
        assert client.connections("refused") >= 3
        assert not double.held

    with_double(work, token="another")


def test_server_says_when_to_come_back() -> None:
    """retry_after_s is longer than the client's own pause: it is kept."""

    async def work(double: IngestDouble, client: Client) -> None:
        await client.until(lambda: bool(client.pauses))
        assert client.pauses[0] == 77.0

    with_double(work, refuse=Fault("busy", "full", None, 77.0))


def test_http_refusal_says_when_to_come_back() -> None:
    """429 with Retry-After before there is a WebSocket at all."""

    def refuse(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(429, "too many\n")
        response.headers["Retry-After"] = "33"
        return response

    async def run() -> None:
        async with serve(lambda socket: socket.wait_closed(), "127.0.0.1", 0, process_request=refuse) as server:
            client = Client(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}")
            async with running(client):
                await client.until(lambda: bool(client.pauses))
                assert client.pauses[0] == 33.0

    asyncio.run(run())


def test_a_redirect_is_not_followed() -> None:
    """Whom a server names is not whom the settings do: no connection, and no token, for it."""
    met: list[object] = []

    async def meet(socket: ServerConnection) -> None:
        met.append(socket)
        await socket.wait_closed()

    def redirect(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(301, "moved\n")
        response.headers["Location"] = elsewhere
        return response

    async def run() -> None:
        nonlocal elsewhere
        async with (
            serve(meet, "127.0.0.1", 0) as other,
            serve(meet, "127.0.0.1", 0, process_request=redirect) as server,
        ):
            elsewhere = f"ws://127.0.0.1:{next(iter(other.sockets)).getsockname()[1]}/v1/ingest"
            client = Client(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}")
            async with running(client):
                await client.until(lambda: len(client.pauses) >= 2)
                assert client.connections("refused") >= 2 and not met

    elsewhere = ""
    asyncio.run(run())


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://127.0.0.1:99999"])
def test_a_proxy_that_cannot_be_used_is_a_failure_like_others(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names it."""
    for variable in ("http_proxy", "https_proxy", "socks_proxy", "all_proxy"):
        monkeypatch.setenv(variable, proxy)
    monkeypatch.setenv("no_proxy", "")

    async def run() -> None:
        client = Client("ws://camera.example")
        async with running(client):
            await client.until(lambda: len(client.pauses) >= 2)
            assert client.connections("failed") >= 2

    asyncio.run(run())


def test_server_that_says_nothing_is_left() -> None:
    """A connection without a welcome ends after connect_s."""

    async def run() -> None:
        async with ingest_double(mute=True) as double:
            client = Client(double.url, connect_s=0.1)
            async with running(client):
                await client.until(lambda: len(client.pauses) >= 2)

    asyncio.run(run())


def test_nonsense_of_the_server_ends_the_connection_with_a_fault() -> None:
    """It is told what was wrong."""

    async def work(double: IngestDouble, client: Client) -> None:
        await client.until(lambda: client.dispatch.online)
        for connection in double.connections:
            await connection.send('{"type": "welcome"}')
        await client.until(lambda: bool(client.pauses))
        while not double.faults:
            await asyncio.sleep(0.001)
        assert double.faults[0].code == "malformed"

    with_double(work)


def test_host_that_has_no_name_is_a_failure_like_others() -> None:
    """It is counted, and tried again."""

    async def run() -> None:
        client = Client("ws://cam..example")
        async with running(client):
            await client.until(lambda: len(client.pauses) >= 2)
            assert client.connections("failed") >= 2

    asyncio.run(run())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that only itself vouches for, with its key in the same file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(
        [openssl, "req", *kind, *subject, "-keyout", path, "-out", path.with_suffix(".crt")],
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())
    return path


# Python 3.10's asyncio leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("trusted", [True, False])
def test_tls_connects_to_whom_it_trusts(certificate: Path, trusted: bool) -> None:
    """With the certificate in ca_file the hello goes out; without, no byte of the token does."""

    async def run() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        async with ingest_double(tls=context) as double:
            client = Client(double.url, ca_file=certificate.with_suffix(".crt") if trusted else None)
            async with running(client):
                await client.until(lambda: client.dispatch.online or len(client.pauses) >= 2)
                assert bool(double.hellos) == trusted
                assert bool(client.pauses) != trusted

    asyncio.run(run())
    gc.collect()


def test_pauses_double_up_to_the_most_and_are_shared_out() -> None:
    """Full jitter: any part of the span."""
    assert [backoff_s(attempt, 0.5, 30.0, 1.0) for attempt in (1, 2, 3, 7, 8, 10_000)] == [0.5, 1, 2, 30, 30, 30]
    assert backoff_s(4, 0.5, 30.0, 0.25) == 1.0
    assert backoff_s(4, 0.5, 30.0, 0.0) == 0.0


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("ws://a:1", "ws://a:1/v1/ingest"),
        ("wss://a/", "wss://a/v1/ingest"),
        ("wss://a/cameras/v1/ingest", "wss://a/cameras/v1/ingest"),
    ],
)
def test_path_of_the_protocol_is_added(url: str, whole: str) -> None:
    """Unless the address has one, as behind a proxy."""
    assert ingest_url(url) == whole


def test_certificates_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    """Before anything is connected."""
    with pytest.raises(ConfigurationError, match=r"server\.ca_file"):
        Client("wss://a", ca_file=tmp_path / "none.pem")
