"""Decoding by feeding: bytes in any portions, a picture at any time, on time.

    feed: bytes -> StreamParser -> head: z, h_s -> plan <-> coder, as far as bytes and deadline go
    finish, preview: Latents.reconstruct -> free graphs that still fit -> crop -> Picture

Two portions of bytes or one: the state is the same. A frame whose checksum turns out wrong takes the decoder back to
that frame's start: what came before is decoded anew, or, once a deadline has ended decoding, what came of the frame is
taken back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.deadline import Deadline
from runtime.entropy.plan import Step
from runtime.errors import Incomplete, LimitExceeded, ModelMismatch, StreamError
from runtime.families.base import Latents, Pass, Reconstruction, Tensor
from runtime.model import Model
from runtime.picture import Image, enlarged, image_from_tensor, padded_size
from runtime.stream import HEADER_BYTES, Header, StreamParser, framed_bytes, prefix_bytes

_SLICE = 1 << 13  # trits decoded between two looks at the clock: well under a millisecond
_PREVIEW = ("preview",)
_PREVIEW_FACTOR = 4
_SAFETY_S = 0.0005  # between the last stage's estimate and the deadline


@dataclass(frozen=True)
class Picture:
    """A decoded picture and how it came about.

    Attributes:
        image: uint8 (H, W, 3), or (H, W) if the stream is grey; None only if a deadline left no time for anything.
        bytes_used: length of the prefix that the picture rests on.
        bytes_verified: length of the prefix whose checksums were right.
        bytes_total: length of the whole stream by its header.
        steps, steps_total: how far the body is known, fractional, and of how many, in the unit of the family.
        planes: the same in planes, for families that have them.
        complete: every symbol is known, and verified.
        damaged: the body is damaged; what lies before the damage was used.
        skipped: stages left out to keep the deadline; the synthesis among them means that the preview network answered.
        missed: the picture was not finished by its deadline.
        margin_ms: time left when the picture was finished; None without a deadline.
        timings: milliseconds by stage, and in all ("total", previews included).
    """

    image: Image | None
    bytes_used: int
    bytes_verified: int
    bytes_total: int
    steps: float
    steps_total: int
    planes: float | None
    complete: bool
    damaged: bool
    skipped: tuple[str, ...]
    missed: bool
    margin_ms: float | None
    timings: dict[str, float] = field(default_factory=dict)


class Decoder:
    """Decodes one stream. Call `feed` as bytes come, `preview` at will, `finish` once.

    With a deadline, call `finish` by `finish_by()` at the latest: what remains to be done after it takes its time, too.
    """

    def __init__(self, model: Model, deadline: Deadline | None, *, strict: bool) -> None:
        self._model, self._deadline, self._strict = model, deadline, strict
        self._parser = StreamParser(model.limits)
        self._seconds: dict[str, float] = {}
        self._late = False  # the deadline ended entropy decoding
        self._last_preview: Image | None = None
        self._latents: Latents | None = None
        self._aim = model.family.synthesis  # the networks that are to make the picture
        self._error_at_start = 0.0
        self._call_began = 0.0  # on the clock of `_timed`
        self._restart()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream and decode what they determine; stops decoding in time for the deadline.

        Raises:
            StreamError: no stream, an unknown version, or damage in header or head segment.
            ModelMismatch: the stream needs another bundle.
            LimitExceeded: it claims more than the codec's limits, or takes more time to decode.
        """
        with self._working():
            with self._timed("parse"):
                self._parser.feed(data)
                if self._parser.header is not None:
                    self._check_model(self._parser.header)
            if self._parser.head is not None and not self._late:
                self._advance()
            elif self._late and self._parser.damaged and self._fed > self._parser.verified:
                self._take_back()

    def finish_by(self) -> float | None:
        """Return the latest instant (`time.monotonic`) at which `finish` can still make a full picture in time."""
        return None if self._deadline is None else self._deadline.instant - self._reserve_s()

    def preview(self) -> Image | None:
        """Return a cheap picture of full size from what has arrived; None while the head segment is not all there.

        Raises:
            LimitExceeded: the stream has taken more time than the codec's limits allow.
        """
        if self._latents is None:
            return None
        with self._working():
            self._last_preview = self._run_preview(self._reconstruct(self._latents))
        return self._last_preview

    def finish(self) -> Picture:
        """Make the best picture of what was fed that the deadline still allows.

        Raises:
            Incomplete: the prefix ends before the head segment does.
            StreamError: strict decoding of a damaged body.
            LimitExceeded: the stream has taken more time than the codec's limits allow.
        """
        header = self._parser.header
        if header is None:
            raise Incomplete(f"incomplete stream: {self._parser.received} bytes; the header alone takes {HEADER_BYTES}")
        if self._latents is None:
            raise Incomplete(
                f"incomplete stream: {self._parser.received} bytes; header and head segment take {header.body_start}"
            )
        if self._strict and self._parser.damaged:
            frame = header.body_start + framed_bytes(self._parser.verified)
            raise StreamError(f"damaged body: the checksum of the frame at byte {frame} is wrong")
        with self._working():
            image, skipped = self._render()
        margin_s = None if self._deadline is None else self._deadline.left_s()
        return Picture(
            image=image,
            bytes_used=self._bytes_used(header),
            bytes_verified=self._parser.bytes_verified,
            bytes_total=header.stream_bytes,
            steps=self._latents.steps,
            steps_total=self._latents.steps_total,
            planes=self._latents.steps if self._model.family.has_planes else None,
            complete=self._finished and self._parser.complete,
            damaged=self._parser.damaged,
            skipped=skipped,
            missed=margin_s is not None and (margin_s < 0 or image is None),
            margin_ms=None if margin_s is None else 1000 * margin_s,
            timings={stage: 1000 * seconds for stage, seconds in self._seconds.items()},
        )

    # Entropy decoding.

    def _restart(self) -> None:
        self._coder = self._model.coder.decoder()
        self._fed = 0  # bytes of the body that the coder has
        self._plan: Iterator[Step] | None = None
        self._step: Step | None = None
        self._finished = False
        # The step, and how much of it was known, when the coder had verified bytes only (kept under a deadline).
        self._verified_step: tuple[Step | None, int] = None, 0

    def _check_model(self, header: Header) -> None:
        ours = self._model.bundle
        if header.exact_id != ours.exact_id:
            raise ModelMismatch(
                f"the stream needs a bundle with exact_id {header.exact_id.hex()}; "
                f"{ours.name} {ours.version} has {ours.exact_id.hex()}"
            )

    def _advance(self) -> None:
        parser = self._parser
        header, head = parser.header, parser.head
        assert header is not None and head is not None
        available = parser.verified if self._strict else len(parser.body)
        if self._fed > available:  # symbols of a frame that turned out damaged
            self._restart()
        if self._plan is None:
            self._begin(header, head)
        with self._timed("entropy"):
            if self._deadline is not None and self._fed <= parser.verified:
                self._decode_until(parser.verified, header)
                self._verified_step = self._step, 0 if self._step is None else self._step.received
            self._decode_until(available, header)

    def _decode_until(self, available: int, header: Header) -> None:
        """Give the coder the first *available* bytes of the body, and decode."""
        whole = available == header.body_bytes and not header.trimmed
        # Without a deadline the coder need not say how far it has read.
        self._coder.extend(bytes(self._parser.body[self._fed : available]), whole=whole and self._deadline is None)
        self._fed = available
        self._decode()

    def _take_back(self) -> None:
        """Forget what came of bytes that turned out damaged, although there is no time left to decode.

        Where another step was begun since, more than trits may rest on those bytes; then all that is left is to begin
        anew, and to get as far as the deadline allows.
        """
        step, received = self._verified_step
        if step is self._step:
            if step is not None:
                step.forget(received)
                self._finished = self._finished and step.complete
            self._fed = self._parser.verified
        else:
            self._late = False
            self._restart()
            self._advance()

    def _begin(self, header: Header, head: bytes) -> None:
        height, width = padded_size(header.height, header.width, self._model.family.stride)
        self._pixels = height * width
        self._check_time()
        with self._timed("head"):
            latents = self._model.family.begin(height, width)
            coder = self._model.coder.decoder()
            coder.extend(head, whole=True)
            for step in latents.head():
                if not coder.decode_step(step, len(step)):
                    raise StreamError("damaged head segment: its checksum is right, but no encoder writes such a code")
        self._check_time()
        with self._timed("side"):
            self._plan = latents.body()
            self._step = next(self._plan, None)
        self._latents = latents
        self._finished = self._step is None
        # Where a full picture is out of reach from the start, the time is better spent on what the preview will show.
        if self._deadline is not None:
            self._error_at_start = latents.error_left()
            if self._deadline.left_s() <= self._reserve_s():
                self._aim = _PREVIEW

    def _decode(self) -> None:
        """Decode until bytes, plan or time end."""
        reserve_s = self._reserve_s()
        while self._step is not None and not self._finished:
            self._check_time()
            if self._deadline is not None and self._deadline.left_s() < reserve_s + self._slice_s():
                if self._preview_is_better():
                    self._aim = _PREVIEW
                    reserve_s = self._reserve_s()
                    continue
                self._late = True
                return
            step = self._step
            if step.complete:
                started = time.perf_counter()
                following = None if self._plan is None else next(self._plan, None)
                self._model.costs.record(_start_of_next(step), self._pixels, time.perf_counter() - started)
                if following is None:
                    self._finished = True
                else:
                    self._step = following
                continue
            if not self._coder.decode_step(step, _SLICE):
                return

    def _bytes_used(self, header: Header) -> int:
        if not self._late:
            return header.body_start + framed_bytes(self._parser.verified) + max(0, self._fed - self._parser.verified)
        return header.body_start + prefix_bytes(min(self._fed, self._coder.bytes_read))

    # Rendering.

    def _render(self) -> tuple[Image | None, tuple[str, ...]]:
        assert self._latents is not None
        if self._step is None and not self._finished:
            return None, ()
        known = self._reconstruct(self._latents)
        passes = list(known.passes)
        skipped = []
        for one in reversed(known.passes):
            if one.optional and not self._fits([p.role for p in passes]):
                passes.remove(one)
                skipped.append(one.role)
        if self._fits([p.role for p in passes]):
            return self._run_passes(known, passes), tuple(skipped)
        skipped += [p.role for p in reversed(passes)]
        if self._fits(list(_PREVIEW)):
            return self._run_preview(known), tuple(skipped)
        return self._last_preview, (*skipped, "preview")

    def _fits(self, roles: list[str]) -> bool:
        if self._deadline is None:
            return True
        return self._deadline.left_s() > sum(self._cost_s(role) for role in [*roles, "finish"]) + _SAFETY_S

    def _reserve_s(self) -> float:
        """Return what must be kept for the cheapest picture of the kind aimed at."""
        return sum(self._cost_s(stage) for stage in ("reconstruct", *self._aim, "finish")) + _SAFETY_S

    def _preview_is_better(self) -> bool:
        """Decide, when g_s has to start now or never, whether more trits and the preview will make a better picture.

        In the time that the preview saves at least a plane more can be decoded, which takes two thirds of the error.
        """
        if self._aim == _PREVIEW or self._latents is None:
            return False
        lost_by_preview = self._model.family.preview_share * self._error_at_start
        return self._latents.error_left() * 2 / 3 > lost_by_preview

    def _slice_s(self) -> float:
        """Return what the next slice, or the start of the next step, may take."""
        assert self._step is not None
        return max(self._cost_s(_start_of_next(self._step)) if self._step.complete else 0.0, 0.001)

    def _cost_s(self, stage: str) -> float:
        return self._model.costs.estimate_s(stage, self._pixels) if self._latents is not None else 0.0

    def _reconstruct(self, latents: Latents) -> Reconstruction:
        self._check_time()
        with self._timed("reconstruct"):
            return latents.reconstruct()

    def _run_passes(self, known: Reconstruction, passes: list[Pass]) -> Image:
        tensors = dict(known.tensors)
        *before, last = passes
        for one in before:
            self._check_time()
            with self._timed(one.role):
                (tensors[one.output],) = self._model.run(one.role, *(tensors[name] for name in one.inputs))
        self._check_time()
        with self._timed(last.role):
            x = self._model.picture(last.role, *(tensors[name] for name in last.inputs))
        return self._image(x)

    def _run_preview(self, known: Reconstruction) -> Image:
        one = known.preview
        header = self._parser.header
        assert header is not None
        self._check_time()
        with self._timed(one.role):
            (small,) = self._model.run(one.role, *(known.tensors[name] for name in one.inputs))
            x = enlarged(small, _PREVIEW_FACTOR, header.height, header.width)
        return self._image(x)

    def _image(self, x: Tensor | NDArray[np.uint8]) -> Image:
        header = self._parser.header
        assert header is not None
        with self._timed("finish"):
            return image_from_tensor(x, header.height, header.width, grey=header.grey)

    # Time.

    def _check_time(self) -> None:
        """Raise LimitExceeded if work on this stream, all calls together, has taken longer than it may."""
        allowed = self._model.limits.seconds
        spent = self._seconds.get("total", 0.0) + time.perf_counter() - self._call_began
        if spent > allowed:
            raise LimitExceeded(f"decoding has taken {spent:.3g} s; allowed: {allowed:g}")

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Count the block, a call from outside, as work on this stream."""
        self._call_began = time.perf_counter()
        try:
            yield
        finally:
            self._add("total", time.perf_counter() - self._call_began)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to `timings`, and tell the cost model."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self._add(stage, seconds)
        if self._latents is not None:
            self._model.costs.record(stage, self._pixels, seconds)

    def _add(self, stage: str, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds


def _start_of_next(step: Step) -> str:
    """Return the name under which the cost model knows the start of the step that follows *step*."""
    return "_".join(("step", *step.then))
