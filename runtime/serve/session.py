"""One camera's connection: FORMAT.md, sections 16 to 18, on a WebSocket.

    accept -> Hello within its time -> Welcome -> messages, read one by one;  a second task writes

Nothing is allocated by what a message claims before the camera has shown its token. Answers wait in a bounded outbox,
acknowledgements only as the latest of each frame; a camera that does not read its answers is cut off. None overtakes
another: a camera takes a result to speak of the bytes that were acknowledged before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from starlette.websockets import WebSocket, WebSocketDisconnect

from runtime.errors import CutoffError
from runtime.patience import within
from runtime.protocol import (
    PROTOCOL,
    SUBPROTOCOL,
    Ack,
    Chunk,
    Clock,
    End,
    Fault,
    Frame,
    Hello,
    Message,
    ProtocolError,
    Welcome,
    read_message,
    write_message,
)
from runtime.serve.intake import Intake, NotOpen, Refusal
from runtime.serve.settings import LimitSettings
from runtime.serve.tokens import Tokens

LOG = logging.getLogger("cutoff.serve")
_OUTBOX = 256  # messages that wait to be sent, acknowledgements not counted
_REMEMBERED = 1024  # frames of a connection whose late chunks are no fault
_BURST_S = 2.0
_POLICY, _TRY_LATER = 1008, 1013  # close codes of RFC 6455


@dataclass
class _Allowance:
    """A token bucket: *rate* per second, as many at once as *_BURST_S* seconds give."""

    rate: float
    level: float
    at: float

    def take(self, amount: float, now: float) -> float:
        """Take *amount*; return how long to wait until that was allowed, 0.0 if it is."""
        self.level = min(self.rate * _BURST_S, self.level + (now - self.at) * self.rate) - amount
        self.at = now
        return max(0.0, -self.level / self.rate)


class Session:
    """A connection from its first message to its last."""

    def __init__(
        self,
        websocket: WebSocket,
        intake: Intake,
        tokens: Tokens,
        limits: LimitSettings,
        exact_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._websocket, self._intake, self._tokens, self._limits = websocket, intake, tokens, limits
        self._exact_id, self._clock = exact_id, clock
        self._camera = ""
        self._outbox: deque[list[Message]] = deque()  # each with the acknowledgements that go before it
        self._acks: dict[int, Ack] = {}  # since then
        self._something_to_send = asyncio.Event()
        self._opened: OrderedDict[int, None] = OrderedDict()  # frames that this connection has tried to open
        self._ending: tuple[int, str] | None = None  # close code and reason, once nothing more is to be read
        self._reader: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve the connection until it ends."""
        if SUBPROTOCOL not in self._websocket.scope.get("subprotocols", []):
            await self._websocket.close(_POLICY, f"offer the subprotocol {SUBPROTOCOL}")
            return
        await self._websocket.accept(SUBPROTOCOL)
        writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())
        try:
            await asyncio.wait({self._reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._camera:
                self._intake.lost(self._camera, self)
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
            self._something_to_send.set()
            if self._ending is None:
                writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(writer, 2.0)  # the last fault, if the other side still reads

    def send(self, message: Message) -> None:
        """Put *message* into the outbox; see `runtime.serve.intake.Client`."""
        if isinstance(message, Ack):
            self._acks[message.sequence] = message
        else:
            if len(self._outbox) >= _OUTBOX:
                self._end(_POLICY, "answers are not read")
                return
            self._outbox.append([*self._acks.values(), message])
            self._acks.clear()
        self._something_to_send.set()

    def supersede(self) -> None:
        """End this connection: its camera has a newer one."""
        self._end(_POLICY, "the camera has connected again")

    # Reading.

    async def _read(self) -> None:
        try:
            self._greet(await within(self._limits.hello_s, self._message()))
            full_since = self._clock() - _BURST_S
            messages = _Allowance(self._limits.messages_per_s, 0.0, full_since)
            octets = _Allowance(self._limits.bytes_per_s, 0.0, full_since)
            while self._ending is None:
                message = await within(self._limits.idle_s, self._message())
                size = len(message.data) if isinstance(message, Chunk) else 0
                now = self._clock()
                # Too fast a sender is not refused but read more slowly; its own link then slows it down.
                wait_s = max(messages.take(1, now), octets.take(size, now))
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                await self._handle(message)
        except WebSocketDisconnect:
            return
        except (TimeoutError, asyncio.TimeoutError):
            self._end(_POLICY, "nothing was said for too long")
        except Refusal as refusal:
            self._fault(refusal.fault(None))
        except ProtocolError as fault:
            self._fault(Fault("malformed", str(fault)))
        except CutoffError as fault:
            LOG.error("camera %s: %s", self._camera, fault)
            self._fault(Fault("internal", "the server has failed; try again", retry_after_s=5.0))

    async def _message(self) -> Message:
        event = await self._websocket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        content: str | bytes = event["bytes"] if event.get("text") is None else event["text"]
        return read_message(content)

    def _greet(self, hello: Message) -> None:
        if not isinstance(hello, Hello):
            raise ProtocolError("the first message must be hello")
        if not self._tokens.is_camera(hello.camera, hello.token):
            raise Refusal("unauthorized", "no such camera, or not its token", closes=True)
        if hello.protocol != PROTOCOL:
            raise Refusal("version", f"protocol {hello.protocol}; this server speaks {PROTOCOL}", closes=True)
        if hello.exact_id.lower() != self._exact_id:
            raise Refusal(
                "wrong_bundle",
                f"streams of exact_id {hello.exact_id:.16}; this server has {self._exact_id}",
                closes=True,
            )
        self._camera = hello.camera
        former = self._intake.connected(self._camera, self)
        if isinstance(former, Session):
            former.supersede()
        LOG.info("camera %s connected: %.80s", self._camera, hello.client)
        self.send(Welcome(PROTOCOL, hello.sent_s, self._clock(), self._limits.frames, self._limits.frame_bytes))

    async def _handle(self, message: Message) -> None:
        try:
            if isinstance(message, Chunk):
                self._intake.take(self._camera, message)
            elif isinstance(message, Frame):
                self._remember(message.sequence)
                await self._intake.open(self._camera, message, self)
            elif isinstance(message, End):
                self._intake.end(self._camera, message)
            elif isinstance(message, Clock):
                self.send(Clock(message.sent_s, self._clock()))
            elif isinstance(message, Fault):
                LOG.warning("camera %s: %s: %.200s", self._camera, message.code, message.message)
                self._end(1000, "")
            else:
                raise ProtocolError(f"a client does not send {type(message).__name__.lower()}")
        except Refusal as refusal:
            if refusal.closes:
                raise
            self._intake.metrics.faults.labels(refusal.code).inc()
            self.send(refusal.fault(getattr(message, "sequence", None)))
        except NotOpen:  # late for a frame that was refused or is done
            sequence = getattr(message, "sequence", -1)
            if sequence not in self._opened:
                raise ProtocolError(f"frame {sequence} was not opened") from None

    def _remember(self, sequence: int) -> None:
        self._opened[sequence] = None
        self._opened.move_to_end(sequence)
        if len(self._opened) > _REMEMBERED:
            self._opened.popitem(last=False)

    # Writing and ending.

    async def _write(self) -> None:
        try:
            while True:
                await self._something_to_send.wait()
                self._something_to_send.clear()
                while self._outbox or self._acks:
                    for message in self._next():
                        await self._send(message)
                if self._ending is not None:
                    await self._websocket.close(*self._ending)
                    return
        except (WebSocketDisconnect, RuntimeError, OSError):  # the other side is gone
            return

    def _next(self) -> list[Message]:
        """Take what is to be sent next."""
        if self._outbox:
            return self._outbox.popleft()
        acks, self._acks = self._acks, {}
        return list(acks.values())

    async def _send(self, message: Message) -> None:
        content = write_message(message)
        if isinstance(content, str):
            await self._websocket.send_text(content)
        else:
            await self._websocket.send_bytes(content)

    def _fault(self, fault: Fault) -> None:
        """Tell the other side what went wrong, and end."""
        self._intake.metrics.faults.labels(fault.code).inc()
        self.send(fault)
        self._end(_TRY_LATER if fault.retry_after_s is not None else _POLICY, fault.code)

    def _end(self, code: int, reason: str) -> None:
        if self._ending is None:
            self._ending = code, reason
            self._something_to_send.set()
            if self._reader is not None and self._reader is not asyncio.current_task():
                self._reader.cancel()
