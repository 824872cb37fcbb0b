"""The connection to the server: one after another, each with a hello, a reader and a writer.

What is said stands in `Dispatch`; here it is carried. Attempts to connect come later and later, each after a random
share of the pause, so that cameras do not come back all at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from edge_client.dispatch import Dispatch
from edge_client.metrics import Metrics
from edge_client.settings import ServerSettings
from edge_client.tasks import until_first
from runtime.errors import ConfigurationError
from runtime.patience import within
from runtime.protocol import (
    INGEST_PATH,
    MAX_TEXT,
    NAME_HEADER,
    PROTOCOL,
    SUBPROTOCOL,
    Fault,
    Hello,
    Message,
    ProtocolError,
    Welcome,
    read_message,
    write_message,
)

_LOG = logging.getLogger(__name__)
_LASTING_S = 5.0  # a connection that stood for so long was a good one
_CLOSE_S = 1.0
# Of a URL or a proxy's, as the environment names one, that cannot be connected to, or takes a package that is not here.
_UNREACHABLE = (OSError, ValueError, ImportError, InvalidHandshake, TimeoutError, asyncio.TimeoutError)
_FAILURES = (*_UNREACHABLE, WebSocketException, ProtocolError)


class Refused(Exception):
    """The server does not want us, now or at all."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def backoff_s(attempt: int, first_s: float, most_s: float, share: float) -> float:
    """Return the pause before attempt number *attempt* (from 1): *share* of a span that doubles up to *most_s*."""
    return share * min(most_s, first_s * 2.0 ** min(attempt - 1, 60))


class _Direct(connect):
    """A connection to the server that the settings name: whoever may redirect it would be told the token."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Take a redirect for what it is, an answer other than a WebSocket."""
        return exc


class Transport:
    """Keeps a connection to one server as long as it runs."""

    def __init__(
        self,
        settings: ServerSettings,
        camera: str,
        exact_id: bytes,
        dispatch: Dispatch,
        metrics: Metrics,
        changed: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        share: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare it.

        Args:
            changed: called after every message and whenever the connection came or went.
            share: random numbers of 0 to 1.

        Raises:
            ConfigurationError: the certificates to trust cannot be read.
        """
        self._settings, self._camera, self._exact_id = settings, camera, exact_id
        self._dispatch, self._metrics, self._changed = dispatch, metrics, changed
        self._clock, self._share, self._sleep = clock, share, sleep
        self._wake = asyncio.Event()
        self._url = ingest_url(settings.url)
        self._tls = trusted(settings.ca_file) if self._url.startswith("wss://") else None

    def wake(self) -> None:
        """Look again for something to send."""
        self._wake.set()

    async def run(self) -> None:
        """Connect, and again whenever the connection is lost, until cancelled."""
        attempt = 0
        while True:
            began, retry_after_s = self._clock(), 0.0
            try:
                await self._connection()
                fault = "closed by the server"
            except Refused as refusal:
                fault, retry_after_s = str(refusal), refusal.retry_after_s
            except _FAILURES as failure:
                fault = str(failure) or type(failure).__name__
            attempt = 1 if self._clock() - began > _LASTING_S + self._settings.connect_s else attempt + 1
            most_s = self._settings.backoff_most_s
            pause_s = max(backoff_s(attempt, self._settings.backoff_s, most_s, self._share()), retry_after_s)
            _LOG.warning("not connected", extra={"fault": fault, "attempt": attempt, "again_in_s": round(pause_s, 2)})
            await self._sleep(pause_s)

    async def _connection(self) -> None:
        """Run one connection until it ends.

        Raises:
            Refused, or one of _FAILURES: why it ended.
        """
        settings = self._settings
        try:
            opened = await _Direct(
                self._url,
                ssl=self._tls,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                additional_headers={NAME_HEADER: self._camera},
                compression=None,  # streams do not compress, and each message would cost time
                open_timeout=settings.connect_s,
                ping_interval=settings.silence_s / 2,
                ping_timeout=settings.silence_s / 2,
                close_timeout=_CLOSE_S,
                max_size=4 * MAX_TEXT,
            )
        except InvalidStatus as fault:
            self._metrics.connections.labels("refused").inc()
            raise Refused(f"HTTP {fault.response.status_code}", _retry_after(fault)) from fault
        except _UNREACHABLE:
            self._metrics.connections.labels("failed").inc()
            raise
        async with opened as socket:
            await self._greet(socket)
            try:
                await until_first(self._read(socket), self._write(socket))
            finally:
                self._dispatch.lost(self._clock())
                self._changed()

    async def _greet(self, socket: ClientConnection) -> None:
        if socket.subprotocol != SUBPROTOCOL:
            self._metrics.connections.labels("refused").inc()
            raise Refused(f"the server does not speak {SUBPROTOCOL}", self._settings.backoff_most_s)
        hello = Hello(PROTOCOL, self._settings.token, self._camera, self._exact_id.hex(), self._clock(), "cutoff edge")
        await socket.send(write_message(hello))
        answer = read_message(await within(self._settings.connect_s, socket.recv()))
        if isinstance(answer, Fault):
            self._metrics.connections.labels("refused").inc()
            raise Refused(f"{answer.code}: {answer.message}", answer.retry_after_s or 0.0)
        if not isinstance(answer, Welcome) or answer.protocol != PROTOCOL:
            raise ProtocolError(f"{type(answer).__name__.lower()} in answer to hello")
        self._metrics.connections.labels("welcomed").inc()
        self._dispatch.connected(answer, self._clock())
        _LOG.info("connected", extra={"frames": answer.frames, "frame_bytes": answer.frame_bytes})
        self._changed()

    async def _read(self, socket: ClientConnection) -> None:
        async for data in socket:
            try:
                message = read_message(data)
                self._dispatch.receive(message, self._clock())
            except ProtocolError as fault:
                await socket.send(write_message(Fault("malformed", str(fault))))
                raise
            if isinstance(message, Fault):
                self._heed(message)
            self._wake.set()
            self._changed()

    def _heed(self, fault: Fault) -> None:
        if fault.sequence is None:
            raise Refused(f"{fault.code}: {fault.message}", fault.retry_after_s or 0.0)
        _LOG.warning("frame refused", extra={"sequence": fault.sequence, "code": fault.code, "fault": fault.message})

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            self._wake.clear()
            now = self._clock()
            message: Message | None
            while (message := self._dispatch.next_message(now)) is not None:
                await socket.send(write_message(message))
                now = self._clock()
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await within(max(self._dispatch.wake_at(now) - now, 0.001), self._wake.wait())


def ingest_url(url: str) -> str:
    """Return *url* with the protocol's path, if it has none of its own."""
    parts = urlsplit(url)
    return url if parts.path.strip("/") else parts._replace(path=INGEST_PATH).geturl()


def trusted(ca_file: Path | None) -> ssl.SSLContext:
    """Return what checks a server's certificate: by *ca_file*, or by what the system trusts.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as fault:
        raise ConfigurationError(f"server.ca_file: {ca_file} cannot be read: {fault}") from fault


def _retry_after(fault: InvalidStatus) -> float:
    try:
        return max(0.0, min(float(fault.response.headers.get("Retry-After", "0")), 3600.0))
    except ValueError:  # a date
        return 0.0
