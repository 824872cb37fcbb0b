"""Accuracy of a classifier on pictures decoded from prefixes.

    picture -> resized and cropped, the same for all -> Codec.deliver -> bytes at each cut -> Codec.decode -> classifier

What is coded is what the classifier would see of the original, so that accuracy falls by compression alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from runtime.evaluate.accuracy.classifier import Answer, Classifier, Preparation, prepared
from runtime.evaluate.codecs import Codec, CodecChoice
from runtime.evaluate.panels import featured, panel, spread
from runtime.evaluate.rd.cuts import warm
from runtime.evaluate.runs.rows import FULL_IF_NONE
from runtime.evaluate.runs.work import Findings, Panel, Unit
from runtime.image_files import image_from_bytes
from runtime.picture import Image

ORIGINAL = "original"  # the codec that changes nothing


@dataclass(frozen=True)
class Guess:
    """What the classifier said of a picture at one cut; the fields are the columns of rows.csv.

    Attributes:
        codec, image: names; the codec "original" is the picture itself, sample by sample.
        cut_bytes: where the stream was cut, or what the file had to fit; None for the whole stream.
        bytes: length of what was decoded.
        bpp: 8 *bytes* per pixel.
        truth: place of the true class.
        label: place of the class with the highest score; None if there was no picture to classify.
        confidence: its probability, 0..1; None likewise.
        rank: of the true class, 1 for the highest score; None likewise.
        agrees: the label is that of the original.
        encode_ms, decode_ms, classify_ms: warm.
    """

    codec: str
    image: str
    cut_bytes: int | None = field(metadata=FULL_IF_NONE)
    bytes: int
    bpp: float
    truth: int
    label: int | None
    confidence: float | None
    rank: int | None
    agrees: bool
    encode_ms: float
    decode_ms: float
    classify_ms: float

    @property
    def unit(self) -> str:
        """The picture is the unit."""
        return self.image


@dataclass(frozen=True)
class AccuracyJob:
    """What every worker does.

    Attributes:
        codecs: whom to measure.
        cuts: in bytes, rising.
        classifier, classifier_name: the ONNX file, and what errors call it.
        names: of the classes, in the order of scores.
        truths: place of every picture's class.
        preparation: what the classifier is shown.
        shown: pictures of which panels are kept.
    """

    codecs: CodecChoice
    cuts: tuple[int, ...]
    classifier: bytes
    classifier_name: str
    names: tuple[str, ...]
    truths: Mapping[str, int]
    preparation: Preparation
    shown: frozenset[str]

    def open(self) -> AccuracyWorker:
        """Open codecs and classifier."""
        return AccuracyWorker(self)


@dataclass(frozen=True)
class _Asked:
    """What all guesses of a picture share: its name, pixels, true class, and the label of the original."""

    name: str
    pixels: int
    truth: int
    label: int

    def guess(
        self, codec: str, cut: int | None, size: int, answer: Answer | None, times_ms: tuple[float, float, float]
    ) -> Guess:
        """Return the row of one answer; *times_ms* of encoding, decoding and classifying."""
        encode_ms, decode_ms, classify_ms = times_ms
        return Guess(
            codec=codec,
            image=self.name,
            cut_bytes=cut,
            bytes=size,
            bpp=8 * size / self.pixels,
            truth=self.truth,
            label=None if answer is None else answer.label,
            confidence=None if answer is None else answer.confidence,
            rank=None if answer is None else answer.rank,
            agrees=answer is not None and answer.label == self.label,
            encode_ms=encode_ms,
            decode_ms=decode_ms,
            classify_ms=classify_ms,
        )


class AccuracyWorker:
    """Opened codecs and a classifier that measure pictures."""

    def __init__(self, job: AccuracyJob) -> None:
        self._job, self._stack = job, ExitStack()
        self._classifier = Classifier(
            job.classifier, job.classifier_name, len(job.names), job.preparation, job.codecs.threads
        )
        self._codecs = self._stack.enter_context(job.codecs.opened())
        self._featured = featured(self._codecs)
        self._warm = False

    def measure(self, unit: Unit, content: bytes) -> Findings:
        """Measure every codec on the picture; see `runtime.evaluate.runs.work.Worker`."""
        image = prepared(image_from_bytes(content, unit.path), self._job.preparation.side)
        truth = self._job.truths[unit.name]
        if not self._warm:
            warm(self._codecs, image)
            self._warm = True
        started = time.perf_counter()
        reference = self._classifier.classify(image, truth)
        classify_ms = 1000 * (time.perf_counter() - started)
        asked = _Asked(unit.name, image.shape[0] * image.shape[1], truth, reference.label)
        rows = [asked.guess(ORIGINAL, None, image.nbytes, reference, (0.0, 0.0, classify_ms))]
        panels: list[Panel] = []
        kept = spread(self._job.cuts) if unit.name in self._job.shown else ()
        for codec in self._codecs:
            guesses, shown = self._measure(codec, asked, image, kept if codec.name in self._featured else ())
            rows += guesses
            panels += shown
        return Findings(rows, panels)

    def close(self) -> None:
        """Free the engines."""
        self._stack.close()

    def _measure(
        self, codec: Codec, asked: _Asked, image: Image, kept: Sequence[int]
    ) -> tuple[list[Guess], list[Panel]]:
        cuts = (*self._job.cuts, None)
        rows: list[Guess] = []
        panels: list[Panel] = []
        for cut, delivery in zip(cuts, codec.deliver(image, cuts), strict=True):
            if delivery is None:
                continue
            started = time.perf_counter()
            decoded = codec.decode(delivery.data)
            decode_ms = 1000 * (time.perf_counter() - started)
            started = time.perf_counter()
            answer = None if decoded is None else self._classifier.classify(decoded, asked.truth)
            classify_ms = 1000 * (time.perf_counter() - started)
            times = (delivery.encode_ms, decode_ms, classify_ms)
            rows.append(asked.guess(codec.name, cut, len(delivery.data), answer, times))
            if cut in kept:
                caption = "" if answer is None else self._caption(answer)
                panels.append(panel(codec, f"{cut} bytes", caption, decoded))
        return rows, panels

    def _caption(self, answer: Answer) -> str:
        name = self._job.names[answer.label].replace("_", " ")
        return f"{'✓' if answer.rank == 1 else '✗'} {name}, {100 * answer.confidence:.0f} %"
