"""Deadlines under arrival: real decodes against real clocks, beside what unlimited time would have given.

    calibrate: the minimum, and full synthesis, on this picture under this load
    for every deadline, trace and repeat: packets arrive -> Decoder.feed -> finish -> Decode

A decode's loop is what a receiver does: it waits for the next packet or for `Decoder.finish_by`, whichever is first,
and lets the decoder use the wait (`Decoder.prepare`).
Definitions, all of what is measured after a wait (`_WAIT_S`), as receivers mostly wait: a machine that was idle for a
moment takes longer than one that does the same over and over.

    minimum     p99 of reading the head segment, h_s, reconstruction, preview and conversion
    synthesis   p99 of reading the head segment, h_s, reconstruction, synthesis without refinements and conversion
    path        p99 of reconstruction, synthesis without refinements and conversion: the cheapest path through synthesis
    ideal       the picture that unlimited time makes of the bytes that had arrived at the deadline less `path`
"""

from __future__ import annotations

import gc
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runtime.codec import Codec
from runtime.deadline import Deadline
from runtime.decoder import Picture
from runtime.errors import Incomplete
from runtime.evaluate.codecs import OWN_STREAMS
from runtime.evaluate.deadline.load import busy
from runtime.evaluate.deadline.traces import TRACES, Trace
from runtime.evaluate.distortion import psnr
from runtime.evaluate.runs.work import Findings, Unit
from runtime.evaluate.shares import quantile
from runtime.image_files import image_from_bytes
from runtime.picture import Image
from runtime.stream import Header

IDLE, LOADED = "idle", "loaded"
LOADS = (IDLE, LOADED)
SYNTHESIS, PREVIEW, NOTHING, NOT_ARRIVED = "synthesis", "preview", "nothing", "not arrived"
# Deadlines from hopeless to generous: a factor, and of what.
DEADLINES = (
    (0.5, "minimum"),
    (0.9, "minimum"),
    (1.2, "minimum"),
    (1.5, "minimum"),
    (1.0, "synthesis"),
    (1.2, "synthesis"),
    (1.5, "synthesis"),
    (2.0, "synthesis"),
    (4.0, "synthesis"),
)
_P99 = 0.99
_WAIT_S = 0.02


@dataclass(frozen=True)
class Decode:
    """One decode against a deadline; the fields are the columns of rows.csv.

    Attributes:
        codec, load, image, trace: names.
        factor, relative_to: how the deadline was chosen.
        repeat: which draw of the trace.
        deadline_ms, minimum_ms, synthesis_ms: as defined above; the deadline counts from the beginning of the trace.
        head_ms: when the head segment was there, without which there is no picture; infinite if never.
        finished_ms: when the answer was there.
        answer: "synthesis", "preview", "nothing" (the decoder said that there was no time, or nobody came to feed it by
            the deadline), or "not arrived" (the head segment was not there in time).
        bytes_used, bytes_ideal: what the answer rests on, and the ideal would.
        psnr_db, ideal_db: of the answer, and of the ideal; None if there is none.
    """

    codec: str
    load: str
    image: str
    trace: str
    factor: float
    relative_to: str
    repeat: int
    deadline_ms: float
    minimum_ms: float
    synthesis_ms: float
    head_ms: float
    finished_ms: float
    answer: str
    bytes_used: int
    bytes_ideal: int
    psnr_db: float | None
    ideal_db: float | None

    @property
    def unit(self) -> str:
        """A picture of a codec under a load."""
        return unit_name(self.load, self.codec, self.image)


@dataclass(frozen=True)
class Place:
    """What a unit measures: a bundle, as it was named, under a load, on a picture."""

    bundle: str
    codec: str
    load: str
    image: str


def unit_name(load: str, codec: str, image: str) -> str:
    """Return the name of a unit."""
    return f"{load} / {codec} / {image}"


@dataclass(frozen=True)
class DeadlineJob:
    """What the one worker does.

    Attributes:
        places: by unit.
        engine, threads, precision: as of `Codec.open`.
        cores: to keep busy when loaded.
        repeats: draws of each trace for each deadline.
        calibration: runs from which percentiles are taken.
        seed: of the traces.
    """

    places: Mapping[str, Place]
    engine: str
    threads: int
    precision: str
    cores: int
    repeats: int
    calibration: int
    seed: int

    def codec_of(self, bundle: str) -> Codec:
        """Open *bundle*."""
        return Codec.open(bundle, self.engine, self.threads, OWN_STREAMS, precision=self.precision)

    def open(self) -> DeadlineWorker:
        """Return the worker; codecs are opened under the load that they are measured under."""
        return DeadlineWorker(self)


class _Trial(NamedTuple):
    """One decode to be made."""

    factor: float
    relative_to: str
    trace: str
    repeat: int


class DeadlineWorker:
    """Decodes against deadlines, one unit after another; *sleep* waits for so many seconds of the codecs' clock."""

    def __init__(self, job: DeadlineJob, sleep: Callable[[float], None] = time.sleep) -> None:
        self._job, self._sleep, self._stack = job, sleep, ExitStack()
        self._open: tuple[str, str] | None = None

    def measure(self, unit: Unit, content: bytes) -> Findings:
        """Measure a bundle under a load on a picture; see `runtime.evaluate.runs.work.Worker`."""
        place = self._job.places[unit.name]
        image = image_from_bytes(content, unit.path)
        codec = self._codec_of(place)
        codec.warm(image.shape[1], image.shape[0])
        gc.collect()
        gc.freeze()  # a collection looks through all that is loaded: 60 ms, at any moment; receivers do this, too
        stream = codec.encode(image).stream
        costs = calibrate(codec, stream, self._job.calibration, self._sleep)
        ideals = _Ideals(codec, stream, image)
        trials = [
            _Trial(factor, relative_to, trace, repeat)
            for factor, relative_to in DEADLINES
            for trace in TRACES
            for repeat in range(self._job.repeats)
        ]
        rows: dict[_Trial, Decode] = {}
        order = _generator(self._job.seed, unit.name).permutation(len(trials))  # what drifts must not favour a deadline
        for number in order.tolist():
            trial = trials[number]
            rows[trial] = self._decode(place, trial, codec, stream, costs, ideals)
        return Findings([rows[trial] for trial in trials])

    def close(self) -> None:
        """Free the engines, and end the load."""
        gc.unfreeze()
        self._stack.close()

    def _decode(
        self, place: Place, trial: _Trial, codec: Codec, stream: bytes, costs: MeasuredCosts, ideals: _Ideals
    ) -> Decode:
        deadline_s = trial.factor * (costs.minimum_s if trial.relative_to == "minimum" else costs.synthesis_s)
        generator = _generator(self._job.seed, place.image, *trial)
        trace = TRACES[trial.trace](len(stream), deadline_s, generator)
        picture, finished_s = receive(codec, stream, trace, deadline_s, self._sleep)
        head_s = trace.after(Header.from_bytes(stream, codec.model.limits).body_start - 1)
        bytes_ideal = trace.at(deadline_s - costs.path_s)
        return Decode(
            codec=place.codec,
            load=place.load,
            image=place.image,
            trace=trial.trace,
            factor=trial.factor,
            relative_to=trial.relative_to,
            repeat=trial.repeat,
            deadline_ms=1000 * deadline_s,
            minimum_ms=1000 * costs.minimum_s,
            synthesis_ms=1000 * costs.synthesis_s,
            head_ms=1000 * (math.inf if head_s is None else head_s),
            finished_ms=1000 * finished_s,
            answer=_answer(codec, picture, arrived=head_s is not None and head_s <= deadline_s),
            bytes_used=0 if picture is None else picture.bytes_used,
            bytes_ideal=bytes_ideal,
            psnr_db=None if picture is None or picture.image is None else psnr(picture.image, ideals.image),
            ideal_db=ideals.psnr_db(bytes_ideal),
        )

    def _codec_of(self, place: Place) -> Codec:
        if self._open != (place.load, place.bundle):
            self._stack.close()
            if place.load == LOADED:
                self._stack.enter_context(busy(self._job.cores))
            self._codec = self._stack.enter_context(self._job.codec_of(place.bundle))
            self._open = (place.load, place.bundle)
        return self._codec


@dataclass(frozen=True)
class MeasuredCosts:
    """Percentiles in seconds, as the module's text defines them."""

    minimum_s: float
    synthesis_s: float
    path_s: float


def calibrate(codec: Codec, stream: bytes, runs: int, sleep: Callable[[float], None] = time.sleep) -> MeasuredCosts:
    """Measure on *stream* what pictures take at least, with entropy decoding of the body left out."""
    shortest = stream[: Header.from_bytes(stream, codec.model.limits).body_start]
    synthesis = codec.model.family.synthesis
    path = ("reconstruct", *synthesis, "finish")
    clock = codec.model.clock
    minima, syntheses, paths = [], [], []
    for _ in range(runs):
        decoder = codec.decoder()
        sleep(_WAIT_S)
        started = clock()
        decoder.feed(shortest)
        fed = clock()
        decoder.preview()
        minima.append(clock() - started)
        timings = _synthesis_timings(codec, shortest, sleep)
        paths.append(sum(timings.get(stage, 0.0) for stage in path) / 1000)
        syntheses.append(fed - started + paths[-1])
    return MeasuredCosts(*(quantile(values, _P99) for values in (minima, syntheses, paths)))


def receive(
    codec: Codec, stream: bytes, trace: Trace, deadline_s: float, sleep: Callable[[float], None] = time.sleep
) -> tuple[Picture | None, float]:
    """Decode *stream* as it arrives by *trace*, against a deadline that counts from now.

    Returns:
        The picture, None if the head segment was not fed in time, and the seconds until that was known.
    """
    clock = codec.model.clock
    begun = clock()
    decoder = codec.decoder(Deadline(begun + deadline_s))
    fed = 0
    while fed < len(stream):
        now = clock() - begun
        latest = _finish_by(decoder.finish_by(), begun, deadline_s)
        if now >= latest:
            break
        arrived = trace.at(now)
        if arrived > fed:
            decoder.feed(stream[fed:arrived])
            fed = arrived
            continue
        if decoder.prepare():
            continue
        following = trace.after(fed)
        sleep(max(0.0, (latest if following is None else min(latest, following)) - now))
    try:
        picture = decoder.finish()
    except Incomplete:
        picture = None
    return picture, clock() - begun


def _finish_by(instant: float | None, begun: float, deadline_s: float) -> float:
    return deadline_s if instant is None else instant - begun


def _synthesis_timings(codec: Codec, prefix: bytes, sleep: Callable[[float], None]) -> Mapping[str, float]:
    decoder = codec.decoder()
    decoder.feed(prefix)
    sleep(_WAIT_S)
    return decoder.finish().timings


def _answer(codec: Codec, picture: Picture | None, *, arrived: bool) -> str:
    """Return what *picture* is; *arrived* says whether the head segment was there by the deadline."""
    if picture is None and not arrived:
        return NOT_ARRIVED
    # A machine that stood still until the deadline was over has not fed what was there: no fault of the link.
    if picture is None or picture.image is None:
        return NOTHING
    return PREVIEW if set(picture.skipped) & set(codec.model.family.synthesis) else SYNTHESIS


class _Ideals:
    """What unlimited time makes of prefixes of a stream, each decoded once."""

    def __init__(self, codec: Codec, stream: bytes, image: Image) -> None:
        self._codec, self._stream, self.image = codec, stream, image
        self._known: dict[int, float | None] = {}

    def psnr_db(self, size: int) -> float | None:
        if size not in self._known:
            try:
                decoded = self._codec.decode(self._stream[:size]).image
            except Incomplete:
                decoded = None
            self._known[size] = None if decoded is None else psnr(decoded, self.image)
        return self._known[size]


def _generator(seed: int, *what: object) -> np.random.Generator:
    text = "/".join(map(str, (seed, *what)))
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
    return np.random.default_rng(np.frombuffer(digest[:8], np.uint64))
