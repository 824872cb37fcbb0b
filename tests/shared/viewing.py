"""A store with frames, and an application that shows them, for tests of what people see."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from runtime.protocol import Result
from runtime.serve.cuts import Cuts
from runtime.serve.events import CameraChanged, Events, FrameAnswered
from runtime.serve.settings import StoreSettings
from runtime.serve.store import Store
from runtime.serve.tokens import COOKIE, Tokens, bearer
from runtime.serve.views import Views

TINY = Path(__file__).parents[1] / "golden" / "tiny"


@dataclass
class Gallery:
    """What a server shows, without a server: a store in *folder*, events, cameras that are there or were."""

    folder: Path
    token: str | None = None
    events: Events = field(default_factory=Events)

    def __post_init__(self) -> None:
        self.store = Store(StoreSettings(folder=self.folder))

    def keep(self, camera: str, sequence: int, stream: bytes, held: int | None = None, **answer: Any) -> FrameAnswered:
        """Keep a stream, or its first bytes, with an answer that rests on what came, unless *answer* says otherwise."""
        data = stream if held is None else stream[:held]
        values: dict[str, Any] = {"status": "ok", "bytes": len(data), "steps": 3.0, "steps_total": 4, "margin_ms": 12.0}
        result = Result(sequence=sequence, stored=True, **{**values, **answer})
        now = time.time()
        self.store.keep(camera, sequence, len(stream), now - 0.5, data)
        self.store.note(camera, result)
        self.events.presence.setdefault(camera, CameraChanged(camera, True, now))
        return FrameAnswered(camera, result, len(stream), len(data), now, None)

    def lose(self, camera: str) -> CameraChanged:
        """Lose the connection of *camera*."""
        self.events.presence[camera] = change = CameraChanged(camera, False, time.time())
        return change

    def app(self, cuts: Cuts) -> Starlette:
        """Return an application with the views alone, which asks for `token` if there is one."""

        tokens = Tokens({}, {"eve": self.token} if self.token else {}, open_to_viewers=self.token is None)

        def viewer(connection: HTTPConnection) -> str | None:
            return tokens.viewer_of(bearer(connection.headers.get("authorization")) or connection.cookies.get(COOKIE))

        return Starlette(routes=Views(self.store, self.events, cuts, viewer, tokens.viewer_of).routes())


def scene(width: int, height: int, turned: int = 0) -> NDArray[np.uint8]:
    """Return a picture, uint8 (H, W, 3), with flat parts, edges and colours, which go round with *turned*."""
    row, column = np.mgrid[:height, :width]
    image = np.stack([row * 255 // height, column * 255 // width, (row // 16 + column // 16) % 2 * 160], axis=2)
    image[height // 3 : height // 2, width // 4 : width // 2] = (230, 60, 40)
    return np.ascontiguousarray(np.roll(image, turned, axis=2).astype(np.uint8))
