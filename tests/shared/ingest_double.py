"""A server that speaks the protocol and decodes nothing: what it received is there to be looked at.

A real WebSocket on a real port. Faults are switched on by attributes, before or while a client is connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from runtime.protocol import (
    PROTOCOL,
    SUBPROTOCOL,
    Ack,
    Chunk,
    Clock,
    End,
    Enough,
    Fault,
    Frame,
    Hello,
    Message,
    Result,
    Welcome,
    read_message,
    write_message,
)


@dataclass
class Held:
    """A camera frame, as far as it came."""

    size: int
    data: bytearray = field(default_factory=bytearray)
    openings: list[Frame] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    open: bool = False


@dataclass
class IngestDouble:
    """The server's side.

    Attributes:
        token: what a client must show.
        stored: what results say.
        enough_bytes: of a frame, after which the server has enough; None for never.
        drop_after: chunks after which the connection is cut, once; None for never.
        refuse: a fault in answer to hello, instead of a welcome.
        mute: connections are made and nothing is answered.
        frames: camera frames that may be open.
        offset_s: of the server's clock.
        pause_s: time that each chunk takes to be read.
    """

    token: str = "secret"
    stored: bool = True
    enough_bytes: int | None = None
    drop_after: int | None = None
    refuse: Fault | None = None
    mute: bool = False
    frames: int = 8
    offset_s: float = 1000.0
    pause_s: float = 0.0
    held: dict[int, Held] = field(default_factory=dict)
    hellos: list[Hello] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)  # of handshakes
    faults: list[Fault] = field(default_factory=list)
    chunks: list[tuple[int, int, int]] = field(default_factory=list)  # sequence, offset, size, in order of arrival
    order: list[int] = field(default_factory=list)  # sequence numbers of openings
    port: int = 0
    tls: ssl.SSLContext | None = None
    connections: set[ServerConnection] = field(default_factory=set)
    _server: Server | None = None

    @property
    def url(self) -> str:
        return f"{'wss' if self.tls else 'ws'}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; on the same port as before, if there was one."""
        self._server = await serve(
            self._client, "127.0.0.1", self.port, subprotocols=[Subprotocol(SUBPROTOCOL)], ssl=self.tls
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Cut all connections and listen no more."""
        if self._server is not None:
            for connection in self.connections:
                connection.transport.abort()
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def now(self) -> float:
        return time.monotonic() + self.offset_s

    async def _client(self, socket: ServerConnection) -> None:
        self.connections.add(socket)
        try:
            await self._serve(socket)
        finally:
            self.connections.remove(socket)

    async def _serve(self, socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            hello = read_message(await socket.recv())
            assert isinstance(hello, Hello)
            self.hellos.append(hello)
            assert socket.request is not None
            self.headers.append(socket.request.headers)
            if self.mute:
                await socket.wait_closed()
            refusal = self.refuse
            if hello.token != self.token:
                refusal = Fault("unauthorized", "no such token")
            if refusal is not None:
                await self._say(socket, refusal)
                return
            await self._say(socket, Welcome(PROTOCOL, hello.sent_s, self.now(), self.frames, 4_000_000))
            tasks: list[asyncio.Task[None]] = []
            try:
                async for data in socket:
                    await self._hear(socket, read_message(data), tasks)
            finally:
                for task in tasks:
                    task.cancel()

    async def _hear(self, socket: ServerConnection, message: Message, tasks: list[asyncio.Task[None]]) -> None:
        if isinstance(message, Clock):
            await self._say(socket, Clock(message.sent_s, self.now()))
        elif isinstance(message, Frame):
            held = self.held.setdefault(message.sequence, Held(message.size))
            held.openings.append(message)
            held.open = True
            self.order.append(message.sequence)
            await self._say(socket, Ack(message.sequence, len(held.data)))
            if message.deadline_s is not None:
                begun = self.now() if message.at_s is None else min(message.at_s, self.now())
                tasks.append(asyncio.create_task(self._at(socket, message.sequence, begun + message.deadline_s)))
            if len(held.data) == held.size:
                await self._answer(socket, message.sequence)
        elif isinstance(message, Chunk):
            await self._chunk(socket, message)
        elif isinstance(message, End):
            await self._answer(socket, message.sequence)
        elif isinstance(message, Fault):
            self.faults.append(message)

    async def _chunk(self, socket: ServerConnection, chunk: Chunk) -> None:
        if self.drop_after is not None and len(self.chunks) >= self.drop_after:
            self.drop_after = None
            socket.transport.abort()
            return
        if self.pause_s:
            await asyncio.sleep(self.pause_s)
        held = self.held[chunk.sequence]
        assert chunk.offset <= len(held.data), "a gap"
        held.data[chunk.offset :] = held.data[chunk.offset : chunk.offset] + chunk.data
        self.chunks.append((chunk.sequence, chunk.offset, len(chunk.data)))
        await self._say(socket, Ack(chunk.sequence, len(held.data)))
        if held.open and self.enough_bytes is not None and len(held.data) >= self.enough_bytes:
            await self._say(socket, Enough(chunk.sequence))
            await self._answer(socket, chunk.sequence)
        elif len(held.data) == held.size:
            await self._answer(socket, chunk.sequence)

    async def _at(self, socket: ServerConnection, sequence: int, instant: float) -> None:
        await asyncio.sleep(max(0.0, instant - self.now()))
        with contextlib.suppress(ConnectionClosed):
            await self._answer(socket, sequence)

    async def _answer(self, socket: ServerConnection, sequence: int) -> None:
        held = self.held[sequence]
        if held.open:
            held.open = False
            result = Result(sequence, "ok", len(held.data), 1.0, 9, None, self.stored)
            held.results.append(result)
            await self._say(socket, result)

    async def _say(self, socket: ServerConnection, message: Message) -> None:
        await socket.send(write_message(message))


@contextlib.asynccontextmanager
async def ingest_double(**options: object) -> AsyncIterator[IngestDouble]:
    """Listen with these options until the end of the block."""
    double = IngestDouble(**options)  # type: ignore[arg-type]
    await double.start()
    try:
        yield double
    finally:
        await double.stop()
