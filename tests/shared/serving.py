"""A server in this process on a free port, and a camera that speaks the protocol and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ssl import SSLContext
from types import TracebackType
from typing import Any, TypeVar

import uvicorn
from websockets.sync.client import ClientConnection, connect

from runtime.protocol import INGEST_PATH, PROTOCOL, SUBPROTOCOL, Hello, Message, read_message, write_message
from runtime.serve.app import Server
from runtime.serve.listen import uvicorn_config
from runtime.serve.settings import ServerSettings

PATIENCE_S = 20.0  # only ever used up by a test that fails
M = TypeVar("M")


class Running:
    """A server that runs: `port`, and what is inside."""

    def __init__(self, port: int, server: Server) -> None:
        self.port, self.server = port, server
        self.http, self.ws = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"


@contextmanager
def serving(settings: ServerSettings) -> Iterator[Running]:
    """Serve by *settings*, on a free port, for the time of the block."""
    config = uvicorn_config(settings)
    config.port = 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    waited = threading.Event()
    for _ in range(int(PATIENCE_S / 0.02)):
        if server.started or not thread.is_alive():
            break
        waited.wait(0.02)
    assert server.started, "the server has not started"
    try:
        yield Running(server.servers[0].sockets[0].getsockname()[1], config.app.state.server)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


class Camera:
    """A camera's connection."""

    def __init__(
        self,
        port: int,
        name: str,
        token: str,
        exact_id: str,
        trust: SSLContext | None = None,
        query: str = "",
        **options: Any,
    ) -> None:
        scheme = "ws" if trust is None else "wss"
        self._stack = ExitStack()
        self._socket: ClientConnection = self._stack.enter_context(
            connect(
                f"{scheme}://127.0.0.1:{port}{INGEST_PATH}{query}",
                subprotocols=[SUBPROTOCOL],
                compression=None,
                ssl=trust,
                **options,
            )
        )
        self.hello = Hello(PROTOCOL, token, name, exact_id, 1.0, "a test")
        self.seen: list[Message] = []  # everything that came

    def send(self, *messages: Message) -> None:
        for message in messages:
            self._socket.send(write_message(message))

    def send_raw(self, content: str | bytes) -> None:
        self._socket.send(content)

    def receive(self) -> Message:
        message = read_message(self._socket.recv(PATIENCE_S))
        self.seen.append(message)
        return message

    def until(self, kind: type[M]) -> M:
        """Return the next message of *kind*; others are skipped."""
        while not isinstance(message := self.receive(), kind):
            pass
        return message

    def greet(self) -> Message:
        self.send(self.hello)
        return self.receive()

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Camera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
