"""uvicorn around the application: sockets, TLS, caps on connections, logs."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import signal
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtime.cli.console import warn
from runtime.codec import Codec
from runtime.errors import ConfigurationError, MissingExtra
from runtime.protocol import MAX_CHUNK, MAX_TEXT
from runtime.serve.app import build_app
from runtime.serve.classify import open_classifier
from runtime.serve.settings import ListenSettings, ServerSettings, read_server_settings
from runtime.serve.tokens import Tokens

_LONGEST_MESSAGE = max(4 * MAX_TEXT, MAX_CHUNK + 64)  # bytes of a WebSocket message
_GRACE_S = 20  # for connections and open frames, when the server is asked to end
_KEEP_ALIVE_S = 5.0
_UNREAD_S = 60.0  # after which a connection ends whose other side takes nothing of what is sent
_BACKLOG = 128  # connections that are accepted at once, before any of them is looked at
_SWITCH_S = 0.001  # between two threads that both want the interpreter: a deadline should not wait for 5 ms


def command(path: Path, *, check_only: bool = False, ray: bool = False) -> int:
    """Serve by the settings in *path*; what `cutoff serve` does.

    Raises:
        CutoffError: settings, secrets, bundle, classifier or store are not as they must be.
    """
    settings = read_server_settings(path)
    listen, tokens, decode = settings.listen, Tokens.read(settings), settings.decode
    # What fails here says so in a line; what fails once the application starts is the server's traceback.
    with Codec.open(decode.bundle, decode.engine, decode.threads, precision=decode.precision) as codec:
        codec.model.open_all()
        bundle = codec.bundle.name
    if settings.classifier is not None:
        open_classifier(settings.classifier)
    _check_certificate(listen, path)
    if not tokens.cameras:
        warn(f"{path}: no camera has a token, so none can connect")
    if listen.certificate is None and not listen.on_loopback:
        warn(f"{path}: listen: without a certificate tokens cross the network as they are, unless a proxy ends TLS")
    if tokens.open_to_viewers:
        warn(
            f"{path}: no viewer has a token: whoever asks from this machine sees all, as does whom a proxy lets through"
        )
    if check_only:
        print(f"{path}: {len(tokens.cameras)} camera(s), bundle {bundle}, {listen.host}:{listen.port}")
        return 0
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sys.setswitchinterval(_SWITCH_S)
    if ray:
        return _on_ray(settings)
    # uvicorn ends in good order on these, and then raises them once more for whoever had a handler before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = _Server(uvicorn_config(settings))
    server.run()
    return 0 if server.started else 1


def _check_certificate(listen: ListenSettings, path: Path) -> None:
    if listen.certificate is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(listen.certificate, listen.key, password=lambda: "")  # or it would ask for one
    except (OSError, ssl.SSLError) as fault:
        files = f"{listen.certificate} and {listen.key}"
        raise ConfigurationError(f"{path}: listen: {files} are no certificate and its key: {fault}") from fault


class _Server(uvicorn.Server):
    """uvicorn in a process of its own."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; what was made until now lives as long as the process, and the collector need not look through it."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()


def _on_ray(settings: ServerSettings) -> int:
    try:
        from runtime.serve import on_ray
    except ImportError as fault:  # ray.serve wraps what it misses
        raise MissingExtra(f"`cutoff serve --ray` needs Ray Serve: pip install 'ray[serve]' ({fault})") from fault
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    on_ray.run(settings, end)
    return 0


def uvicorn_config(settings: ServerSettings, **options: Any) -> uvicorn.Config:
    """Return how uvicorn runs the application of *settings*."""
    listen = settings.listen
    return uvicorn.Config(
        build_app(settings),
        host=listen.host,
        port=listen.port,
        http=guarded(listen),
        ws="websockets-sansio",
        ws_max_size=_LONGEST_MESSAGE,
        ws_per_message_deflate=False,
        ssl_certfile=None if listen.certificate is None else str(listen.certificate),
        ssl_keyfile=None if listen.key is None else str(listen.key),
        timeout_graceful_shutdown=_GRACE_S,
        backlog=_BACKLOG,
        timeout_keep_alive=math.ceil(min(_KEEP_ALIVE_S, listen.request_s)),
        server_header=False,
        access_log=False,
        lifespan="on",
        log_config=None,
        **options,
    )


def end_unread(transport: asyncio.BaseTransport, seconds: float) -> None:
    """End a connection whose other side takes nothing for so long, though it lives; where the system can (Linux).

    Whoever closes such a connection would wait for its bytes to be taken.
    """
    connection = transport.get_extra_info("socket")
    option: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, option, int(1000 * seconds))


def guarded(listen: ListenSettings) -> type[H11Protocol]:
    """Return uvicorn's HTTP protocol with caps on connections and a time by which a request is there.

    That is its headers; its body, where it was answered without. Who needs a body sets a time for it (`Views`).

    Connections that have become WebSockets count, too.
    """

    class Guarded(H11Protocol):
        _overdue: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            host = self.client[0] if self.client else None
            clients = [getattr(one, "client", None) for one in self.connections]
            same = [client for client in clients if client and client[0] == host]
            if len(self.connections) > listen.connections or len(same) > listen.connections_per_address:
                transport.abort()
                return
            end_unread(transport, _UNREAD_S)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.our_state is h11.DONE:  # the request's body has not all come yet
                self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._overdue is not None:
                self._overdue.cancel()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Start the clock where headers, or a body of no use, are awaited; stop it where a request is under way."""
            awaited = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE
            waits = awaited and self.transport.get_protocol() is self
            if waits and self._overdue is None:
                self._overdue = self.loop.call_later(listen.request_s, self._close_overdue)
            elif not waits and self._overdue is not None:
                self._overdue.cancel()
                self._overdue = None

        def _close_overdue(self) -> None:
            self._overdue = None
            if self.transport.get_protocol() is self:
                self.transport.abort()

    return Guarded
