"""Kept streams decoded at any cut, for people who look at them, in a process of its own.

    prefix -> worker process: Codec -> Facts, and the picture as a file

The process has the lowest priority and its own interpreter: whatever viewers ask for, decoding by deadlines does not
wait for it. It is started by the first question and ends with the server.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import multiprocessing
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from runtime.codec import Codec
from runtime.errors import CutoffError, Incomplete
from runtime.picture import Image
from runtime.serve.classify import open_classifier
from runtime.serve.labeller import Classify
from runtime.serve.settings import ClassifierSettings
from runtime.stream import HEADER_BYTES, Header, Limits

T = TypeVar("T")

FORMATS = {"jpeg": "image/jpeg", "webp": "image/webp", "png": "image/png"}
_SAVE_OPTIONS: dict[str, dict[str, int]] = {
    "jpeg": {"quality": 92, "subsampling": 0},
    "webp": {"quality": 92, "method": 1},
    "png": {"compress_level": 1},
}
_KEPT_BYTES = 16 << 20  # of decoded pictures that the process keeps: facts and picture are asked for one by one
_ENTRY_BYTES = 1 << 14  # what an entry without a picture counts
_NICE = 19


class Busy(CutoffError):
    """More pictures are asked for than can be made now."""


@dataclass(frozen=True)
class Facts:
    """What a prefix is worth.

    Attributes:
        bytes: its length.
        decodable: it holds header and head segment, so that there is a picture.
        first_bytes: length of the shortest prefix with a picture; None while the header is not all there.
        width, height, size: of the picture and of the whole stream by the header; None without it.
        steps, steps_total, planes: how far the body is known; see `Picture`.
        label, confidence: of the classifier; None without one, or without a picture.
    """

    bytes: int
    decodable: bool
    first_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    size: int | None = None
    steps: float = 0.0
    steps_total: int = 0
    planes: float | None = None
    complete: bool = False
    damaged: bool = False
    label: str | None = None
    confidence: float | None = None


class Cuts:
    """Decodes prefixes, a few at a time."""

    def __init__(
        self,
        bundle: str | Path,
        classifier: ClassifierSettings | None = None,
        limits: Limits = Limits(),
        most_waiting: int = 16,
    ) -> None:
        """Nothing is opened yet.

        Args:
            bundle: as for `Codec.open`.
            classifier: opened in the process; None for no labels.
            limits: what a stream may cost.
            most_waiting: questions at a time; more are refused.
        """
        self._setting, self._limits = (bundle, classifier, limits), limits
        self._most_waiting, self._waiting = most_waiting, 0
        self._pool: ProcessPoolExecutor | None = None

    async def facts(self, stream: bytes, cut: int) -> Facts:
        """Return what the first *cut* bytes of *stream* are worth; where they hold no picture, at once.

        Raises:
            Busy: too many questions at a time, or the process had to be started anew.
            CutoffError: it is no stream, or needs another bundle.
        """
        short = facts_without_picture(stream, cut, self._limits)
        return short if short is not None else await self._ask(_facts, stream[:cut])

    async def picture(self, prefix: bytes, width: int | None, form: str) -> bytes:
        """Return the picture of *prefix*, at most *width* pixels wide, as a file of format *form*, one of `FORMATS`.

        Raises:
            Incomplete: there is none yet.
            Busy, CutoffError: as `facts`.
        """
        return await self._ask(_picture, prefix, width, form)

    def close(self) -> None:
        """End the process; what was asked and not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    async def _ask(self, job: Callable[..., T], *arguments: Any) -> T:
        if self._waiting >= self._most_waiting:
            raise Busy("too many pictures are asked for at a time")
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, self._setting)
        pool = self._pool
        self._waiting += 1
        try:
            return await asyncio.wrap_future(pool.submit(job, *arguments))
        except BrokenProcessPool as fault:
            if self._pool is pool:
                self._pool = None
            raise Busy("the process that decodes for viewers ended; a new one begins") from fault
        finally:
            self._waiting -= 1


# In the process.


@dataclass
class _Room:
    codec: Codec
    classify: Classify | None
    decoded: OrderedDict[bytes, tuple[Facts, Image | None]]


_setting: tuple[Any, ...] = ()


def _begin(*setting: Any) -> None:
    """Make this process one that serves its parent: last in line, deaf to Ctrl-C, gone when its parent is."""
    global _setting  # noqa: PLW0603
    _setting = setting
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICE)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=follow, name="follow-parent", daemon=True).start()


@functools.cache
def _room() -> _Room:
    bundle, classifier, limits = _setting
    codec = Codec.open(bundle, engine="cpu", threads=1, limits=limits)
    return _Room(codec, None if classifier is None else open_classifier(classifier), OrderedDict())


def _facts(prefix: bytes) -> Facts:
    return _decoded(prefix)[0]


def _picture(prefix: bytes, width: int | None, form: str) -> bytes:
    facts, image = _decoded(prefix)
    if image is None:
        raise Incomplete(f"no picture yet: {facts.bytes} bytes; the first takes {facts.first_bytes or 'the header'}")
    return write_picture(image, width, form)


def _decoded(prefix: bytes) -> tuple[Facts, Image | None]:
    room, key = _room(), hashlib.sha256(prefix).digest()
    found = room.decoded.get(key)
    if found is None:
        found = room.decoded[key] = decode_cut(room.codec, room.classify, prefix)
        while len(room.decoded) > 1 and _size(room) > _KEPT_BYTES:
            room.decoded.popitem(last=False)
    else:
        room.decoded.move_to_end(key)
    return found


def _size(room: _Room) -> int:
    return sum(_ENTRY_BYTES + (0 if image is None else image.nbytes) for _, image in room.decoded.values())


def decode_cut(codec: Codec, classify: Classify | None, prefix: bytes) -> tuple[Facts, Image | None]:
    """Return what *prefix* is worth and its picture, None if it is too short for one.

    Raises:
        CutoffError: it is no stream, or needs another bundle.
    """
    short = facts_without_picture(prefix, len(prefix), codec.model.limits)
    if short is not None:
        return short, None
    picture = codec.decode(prefix)
    image = picture.image
    assert image is not None  # there was no deadline
    label = None if classify is None else classify(image)
    facts = Facts(
        bytes=len(prefix),
        decodable=True,
        first_bytes=Header.from_bytes(prefix, codec.model.limits).body_start,
        width=image.shape[1],
        height=image.shape[0],
        size=picture.bytes_total,
        steps=picture.steps,
        steps_total=picture.steps_total,
        planes=picture.planes,
        complete=picture.complete,
        damaged=picture.damaged,
        label=None if label is None else label.name,
        confidence=None if label is None else label.confidence,
    )
    return facts, image


def facts_without_picture(stream: bytes, cut: int, limits: Limits) -> Facts | None:
    """Return what is known of the first *cut* bytes of *stream* if they are too few for a picture, else None.

    Raises:
        CutoffError: it is no stream.
    """
    if len(stream) < HEADER_BYTES:
        return Facts(cut, decodable=False)
    header = Header.from_bytes(stream, limits)
    if cut >= header.body_start:
        return None
    return Facts(cut, False, header.body_start, header.width, header.height, header.stream_bytes)


def write_picture(image: Image, width: int | None, form: str) -> bytes:
    """Return *image*, uint8 (H, W, 3) or (H, W), as a file of format *form*, at most *width* pixels wide."""
    import PIL.Image

    picture = PIL.Image.fromarray(image)
    if width is not None and width < picture.width:
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height), PIL.Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, form.upper(), **_SAVE_OPTIONS[form])
    return file.getvalue()
