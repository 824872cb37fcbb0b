"""Decoding by feeding: bytes in any portions, a picture at any time, on time.

    feed: bytes -> StreamParser -> head: z, h_s -> plan <-> coder, as far as bytes and deadline go
    finish, preview: Rendering -> render: free graphs that still fit -> Picture

Two portions of bytes or one: the state is the same. A frame whose checksum turns out wrong takes the decoder back to
that frame's start: what came before is decoded anew, or, once a deadline has ended decoding, what came of the frame is
taken back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from runtime.deadline import Deadline
from runtime.entropy.plan import Step
from runtime.errors import CutoffError, Incomplete, ModelMismatch, StreamError
from runtime.families.base import Latents
from runtime.model import Model
from runtime.picture import Image, padded_size
from runtime.render import Rendered, Rendering, preview, render
from runtime.reserves import PREVIEW, SAFETY_S, cost_s, least_s, preview_s, reserve_s
from runtime.stopwatch import Stopwatch
from runtime.stream import HEADER_BYTES, Header, StreamParser, framed_bytes, prefix_bytes

_SLICE = 1 << 13  # trits decoded between two looks at the clock: well under a millisecond
_NEAR = 4  # into which slices are divided close to the end
_SLICE_S = 0.001  # what a slice may take, until some were measured
_FORGET = 0.9  # of the slowest slice, with each that is faster
_CLEARLY = 12.0  # times what a preview loses, which is little, must be gained by more bytes for it to be aimed at
_WORTH_DARING = 1.25  # times the bytes that are decoded must have come for a full picture to begin later than planned
_WORTH_ANOTHER = 1.25  # times the bytes of the last preview: what makes a new one in a wait worth its time
_STANDSTILL_S = 0.015  # that a machine may stand still while it makes a preview, which few more bytes hardly improve
_ROUNDING_S = 1e-6  # whoever waits for an instant gets there


@dataclass(frozen=True)
class Picture:
    """A decoded picture and how it came about.

    Attributes:
        image: uint8 (H, W, 3), or (H, W) if the stream is grey; None only if a deadline left no time for anything.
        bytes_used: length of the prefix that the picture rests on; of a preview that answers because there was no time
            for anything after it, less than was decoded. So are `steps`, `planes` and `complete`.
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


@dataclass(frozen=True)
class _Basis:
    """What a picture rests on; see `Picture`."""

    bytes_used: int
    steps: float
    complete: bool


@dataclass(frozen=True)
class _Preview:
    """The last preview, what it rests on, and how many bytes had come when it was made."""

    image: Image
    basis: _Basis
    received: int


class Decoder:
    """Decodes one stream. Call `feed` as bytes come, `preview` at will, `finish` once.

    With a deadline, call `finish` by `finish_by()` at the latest: what remains to be done after it takes its time, too.
    """

    def __init__(self, model: Model, deadline: Deadline | None, *, strict: bool) -> None:
        self._model, self._deadline, self._strict = model, deadline, strict
        self._parser = StreamParser(model.limits)
        self._watch = Stopwatch(model.clock, model.costs, model.limits.seconds)
        self._late = False  # the deadline ended entropy decoding
        self._last_preview: _Preview | None = None
        self._aim = model.family.synthesis  # the networks that are to make the picture
        self._slice_s = _SLICE_S  # what a slice takes
        self._error_at_start = 0.0
        self._begun = 0.0  # when the first bytes came
        self._had_s = math.inf  # what was left when the head segment was known
        self._restart()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream and decode what they determine; stops decoding in time for the deadline.

        Raises:
            StreamError: no stream, an unknown version, or damage in header or head segment.
            ModelMismatch: the stream needs another bundle.
            LimitExceeded: it claims more than the codec's limits, or takes more time to decode.
            Cancelled: `cancel` was called.
        """
        if self._parser.received == 0:
            self._begun = self._model.clock()
        with self._working():
            with self._watch.timed("parse"):
                self._parser.feed(data)
                if self._parser.header is not None:
                    self._check_model(self._parser.header)
            if self._parser.damaged:
                self._forget_preview_of_damage()
            if self._parser.head is not None and not self._late:
                self._advance()
            elif self._late and self._parser.damaged and self._fed > self._parser.verified:
                self._take_back()

    @property
    def model(self) -> Model:
        """The opened bundle that decodes."""
        return self._model

    @property
    def deadline(self) -> Deadline | None:
        """What `finish` keeps."""
        return self._deadline

    def finish_by(self) -> float | None:
        """Return the latest instant, on the deadline's clock, at which `finish` can still make a full picture in time.

        Or a preview, where that of more bytes is worth more than a full picture of what there is by then: so ask again
        after waiting. Later once there is a preview (`prepare`): no time need be kept to make one in place of a picture
        that takes too long. For several decoders that finish together see `runtime.batch.start_by`.
        """
        if self._deadline is None:
            return None
        due = self._left_s() - self._reserve_s() < _ROUNDING_S
        if due and not self._late and self._preview_is_better():
            self._aim = PREVIEW
        return self._deadline.instant - self._reserve_s()

    def prepare(self) -> bool:
        """Make the preview that will answer if synthesis has to be ended, if there is time; return whether it was made.

        To be called when there is nothing to feed; `finish_by` is later afterwards. Nothing is done without a deadline,
        nor for little more than the last preview shows.

        Raises:
            LimitExceeded, Cancelled: see `preview`.
        """
        if not self.may_prepare():
            return False
        self.preview()
        return True

    def may_prepare(self) -> bool:
        """True if `prepare` would make a preview now."""
        if self._deadline is None or self._latents is None or self._late or self._finished:
            return False
        if self._last_preview is not None and self._parser.received < _WORTH_ANOTHER * self._last_preview.received:
            return False
        reserve_s = preview_s(self._model, self._pixels) + self._reserve_s(preview_made=True)
        return self._left_s() >= reserve_s

    def preview(self) -> Image | None:
        """Return a cheap picture of full size from what has arrived; None while the head segment is not all there.

        Raises:
            LimitExceeded: the stream has taken more time than the codec's limits allow.
            Cancelled: `cancel` was called.
        """
        if self._latents is None:
            with self._working():
                self._watch.check()
            return None
        image, header, latents = preview(self._model, self.rendering()), self._parser.header, self._latents
        if header is not None and latents is not None:  # not cancelled meanwhile
            self._last_preview = _Preview(image, self._basis(header, latents), self._parser.received)
        return image

    def finish(self) -> Picture:
        """Make the best picture of what was fed that the deadline still allows.

        Raises:
            Incomplete: the prefix ends before the head segment does.
            StreamError: strict decoding of a damaged body.
            LimitExceeded: the stream has taken more time than the codec's limits allow.
            Cancelled: `cancel` was called.
        """
        ((_, outcome),) = render(self._model, [self.rendering()])
        if isinstance(outcome, CutoffError):
            raise outcome
        return self.picture(outcome)

    def cancel(self) -> None:
        """Give up the picture and free what it holds; any thread may call this, and as often as it likes.

        A call that another thread has under way ends soon. That call, unless its work was done, and every later one
        raise `Cancelled`.
        """
        self._watch.cancelled = True
        if not self._watch.busy:
            self._free()

    # For `runtime.batch`: `finish` in two halves, with `render` between them.

    def rendering(self) -> Rendering:
        """Return what `finish` has to render.

        Raises:
            Incomplete, StreamError, LimitExceeded, Cancelled: see `finish`.
        """
        with self._working():
            self._watch.check()
            header, received = self._parser.header, self._parser.received
            if header is None:
                raise Incomplete(f"incomplete stream: {received} bytes; the header alone takes {HEADER_BYTES}")
            if self._latents is None:
                needed = header.body_start
                raise Incomplete(f"incomplete stream: {received} bytes; header and head segment take {needed}")
            if self._strict and self._parser.damaged:
                frame = header.body_start + framed_bytes(self._parser.verified)
                raise StreamError(f"damaged body: the checksum of the frame at byte {frame} is wrong")
            return Rendering(
                latents=self._latents,
                header=header,
                size=padded_size(header.height, header.width, self._model.family.stride),
                deadline=self._deadline,
                aim=self._aim,
                last_preview=None if self._last_preview is None else self._last_preview.image,
                watch=self._watch,
                working=self._working,
            )

    def picture(self, rendered: Rendered) -> Picture:
        """Return what came of `rendering`, with all that is to be said of it.

        Raises:
            Cancelled: see `finish`.
        """
        with self._working():
            header, latents = self._parser.header, self._latents
            assert header is not None and latents is not None
            return self._picture(rendered, header, latents)

    def _picture(self, rendered: Rendered, header: Header, latents: Latents) -> Picture:
        margin_s = None if self._deadline is None else self._deadline.instant - rendered.instant
        last = self._last_preview
        basis = last.basis if last is not None and rendered.image is last.image else self._basis(header, latents)
        return Picture(
            image=rendered.image,
            bytes_used=basis.bytes_used,
            bytes_verified=self._parser.bytes_verified,
            bytes_total=header.stream_bytes,
            steps=basis.steps,
            steps_total=latents.steps_total,
            planes=basis.steps if self._model.family.has_planes else None,
            complete=basis.complete,
            damaged=self._parser.damaged,
            skipped=rendered.skipped,
            missed=margin_s is not None and (margin_s < 0 or rendered.image is None),
            margin_ms=None if margin_s is None else 1000 * margin_s,
            timings={stage: 1000 * seconds for stage, seconds in self._watch.seconds.items()},
        )

    # Entropy decoding.

    def _restart(self) -> None:
        self._latents: Latents | None = None
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
        with self._watch.timed("entropy"):
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

    def _forget_preview_of_damage(self) -> None:
        last = self._last_preview
        if last is not None and last.basis.bytes_used > self._parser.bytes_verified:
            self._last_preview = None

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
        self._pixels = self._watch.pixels = height * width
        self._watch.check()
        with self._watch.timed("head"):
            latents = self._model.family.begin(height, width)
            coder = self._model.coder.decoder()
            coder.extend(head, whole=True)
            for step in latents.head():
                if not coder.decode_step(step, len(step)):
                    raise StreamError("damaged head segment: its checksum is right, but no encoder writes such a code")
        self._watch.check()
        with self._watch.timed("side"):
            self._plan = latents.body()
            self._step = self._following()
        self._latents = latents
        self._finished = self._step is None
        # Where a full picture is out of reach from the start, the time is better spent on what the preview will show.
        if self._deadline is not None:
            self._error_at_start = latents.error_left()
            self._had_s = self._left_s()
            if self._had_s <= self._least_s():
                self._aim = PREVIEW

    def _decode(self) -> None:
        """Decode until bytes, plan or time end."""
        reserve_s = self._reserve_s()
        while self._step is not None and not self._finished:
            self._watch.check()
            left_s = self._left_s() - reserve_s
            near = left_s < 2 * self._slice_s
            if left_s < max(self._next_step_s(), self._slice_s / (_NEAR if near else 1)):
                if self._preview_is_better():
                    self._aim = PREVIEW
                    reserve_s = self._reserve_s()
                    continue
                least_s = self._least_s()
                if self._aim != PREVIEW and least_s < reserve_s and self._fed > _WORTH_DARING * self._coder.bytes_read:
                    reserve_s = least_s
                    continue
                self._late = True
                return
            step = self._step
            if step.complete:
                started = self._model.clock()
                following = self._following()
                self._watch.record(_start_of_next(step), self._model.clock() - started)
                if following is None:
                    self._finished = True
                else:
                    self._step = following
                continue
            started = self._model.clock()
            if not self._coder.decode_step(step, _SLICE // _NEAR if near else _SLICE):
                return
            took_s = (self._model.clock() - started) * (_NEAR if near else 1)
            self._slice_s = max(took_s, _FORGET * self._slice_s)

    def _following(self) -> Step | None:
        """Return the plan's next step. A plan that failed has ended; then decoding begins anew with the next bytes."""
        try:
            return None if self._plan is None else next(self._plan, None)
        except BaseException:
            self._restart()
            raise

    def _basis(self, header: Header, latents: Latents) -> _Basis:
        complete = self._finished and self._parser.complete
        return _Basis(self._bytes_used(header), latents.steps, complete)

    def _bytes_used(self, header: Header) -> int:
        if not self._late:
            return header.body_start + framed_bytes(self._parser.verified) + max(0, self._fed - self._parser.verified)
        return header.body_start + prefix_bytes(min(self._fed, self._coder.bytes_read))

    # Time.

    def _left_s(self) -> float:
        return math.inf if self._deadline is None else self._deadline.left_s(self._model.clock)

    def _reserve_s(self, *, preview_made: bool = False) -> float:
        """Return what must be kept for the cheapest picture of the kind aimed at.

        Where there never was as much as ought to be kept, half of what was more than the least goes into decoding.
        """
        if self._latents is None:
            return SAFETY_S
        made = preview_made or self._last_preview is not None
        wanted_s = reserve_s(self._model, self._pixels, self._aim, preview_made=made)
        if self._aim == PREVIEW:
            wanted_s += _STANDSTILL_S
        worth_s = self._least_s(preview_made=made)
        return min(wanted_s, max(worth_s, (worth_s + self._had_s) / 2))

    def _least_s(self, *, preview_made: bool = False) -> float:
        """Return with how much time left a picture of the kind aimed at is still worth a try."""
        made = preview_made or self._last_preview is not None
        return least_s(self._model, self._pixels, self._aim, preview_made=made)

    def _preview_is_better(self) -> bool:
        """Decide, when g_s has to start now or never, whether more bytes and the preview will make a better picture.

        Clearly better, as what will come is a guess. The more bytes, the less error: in proportion, roughly. Until the
        preview has to start there are those that have arrived and are not decoded, and those that will arrive if bytes
        go on coming as they did.
        """
        header, latents = self._parser.header, self._latents  # which `cancel` may take away
        if self._aim == PREVIEW or latents is None or header is None:
            return False
        waited_s = self._model.clock() - self._begun
        kept_s = reserve_s(self._model, self._pixels, PREVIEW, preview_made=False) + _STANDSTILL_S
        saved_s = max(0.0, self._reserve_s() - kept_s)
        arriving = self._parser.received * saved_s / max(waited_s, _ROUNDING_S)
        later = min(len(self._parser.body) + arriving, header.body_bytes)
        gain = 1 - self._coder.bytes_read / later if later > 0 else 0.0
        lost = self._model.family.preview_share * self._error_at_start
        return latents.error_left() * gain > _CLEARLY * lost

    def _next_step_s(self) -> float:
        """Return what the start of the next step may take, if this one is complete."""
        assert self._step is not None
        if self._deadline is None or not self._step.complete:
            return 0.0
        return cost_s(self._model, self._pixels, [_start_of_next(self._step)])

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Count the block as work on this stream; if it was cancelled meanwhile, free what it holds."""
        try:
            with self._watch.working():
                yield
        finally:
            if self._watch.cancelled:
                self._free()

    def _free(self) -> None:
        self._parser, self._last_preview = StreamParser(self._model.limits), None
        self._restart()


def _start_of_next(step: Step) -> str:
    """Return the name under which the cost model knows the start of the step that follows *step*."""
    return "_".join(("step", *step.then))
