"""Rate and distortion: one real stream of a picture, cut at every point.

    picture -> Codec.deliver -> bytes at each point -> Codec.decode -> PSNR, MS-SSIM -> Cut

The decoder is handed those bytes and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from runtime.evaluate.codecs import Codec, CodecChoice
from runtime.evaluate.distortion import ms_ssim, psnr
from runtime.evaluate.panels import featured, panel, spread
from runtime.evaluate.runs.rows import FULL, FULL_IF_NONE
from runtime.evaluate.runs.work import Findings, Panel, Unit
from runtime.image_files import image_from_bytes
from runtime.picture import Image


@dataclass(frozen=True)
class Cut:
    """A picture as one codec shows it at one point; the fields are the columns of rows.csv.

    Attributes:
        codec, image: names.
        target_bpp: bits per pixel at which the stream was cut, or that the file had to fit; None for the full stream.
        bytes: length of what was decoded: that of the whole stream where it is shorter than the cut.
        bpp: 8 *bytes* per pixel.
        psnr_db: None if the prefix shows nothing; infinite for an equal picture.
        ms_ssim: 0..1; None if the prefix shows nothing or the picture is too small for it.
        encode_ms: from the picture to the whole stream, or file; warm. Not a number if it is not known.
        decode_ms: from what arrived to the picture; likewise.
    """

    codec: str
    image: str
    target_bpp: float | None = field(metadata=FULL_IF_NONE)
    bytes: int
    bpp: float
    psnr_db: float | None
    ms_ssim: float | None
    encode_ms: float = math.nan
    decode_ms: float = math.nan

    @property
    def unit(self) -> str:
        """The picture is the unit."""
        return self.image


@dataclass(frozen=True)
class RdJob:
    """What every worker does.

    Attributes:
        codecs: whom to measure.
        points_bpp: where to cut, rising.
        shown: pictures of which panels are kept, at a `spread` of these points.
    """

    codecs: CodecChoice
    points_bpp: tuple[float, ...]
    shown: frozenset[str]

    def open(self) -> RdWorker:
        """Open the codecs."""
        return RdWorker(self)


class RdWorker:
    """Opened codecs that measure pictures."""

    def __init__(self, job: RdJob) -> None:
        self._job, self._stack = job, ExitStack()
        self._codecs = self._stack.enter_context(job.codecs.opened())
        self._featured = featured(self._codecs)
        self._warm_for: set[tuple[int, ...]] = set()

    def measure(self, unit: Unit, content: bytes) -> Findings:
        """Measure every codec on the picture; see `runtime.evaluate.runs.work.Worker`."""
        image = image_from_bytes(content, unit.path)
        if image.shape not in self._warm_for:
            warm(self._codecs, image)
            self._warm_for.add(image.shape)
        rows: list[Cut] = []
        panels: list[Panel] = []
        kept = spread(self._job.points_bpp) if unit.name in self._job.shown else ()
        for codec in self._codecs:
            of_codec = kept if codec.name in self._featured else ()
            cuts, shown = measure(codec, unit.name, image, self._job.points_bpp, of_codec)
            rows += cuts
            panels += shown
        return Findings(rows, panels)

    def close(self) -> None:
        """Free the engines."""
        self._stack.close()


def warm(codecs: Sequence[Codec], image: Image) -> None:
    """Let *codecs* code a picture of this size once, so that times hold no first use."""
    for codec in codecs:
        budget = None if codec.progressive else image.shape[0] * image.shape[1] // 8
        (delivery,) = codec.deliver(image, [budget])
        assert delivery is not None
        codec.decode(delivery.data)


def measure(
    codec: Codec, image_name: str, image: Image, points_bpp: Sequence[float], kept: Sequence[float] = ()
) -> tuple[list[Cut], list[Panel]]:
    """Decode what *codec* delivers of *image* at each of *points_bpp*, and whole; keep panels of the points *kept*.

    A cut at b bits per pixel leaves floor(b * pixels / 8) bytes.
    """
    pixels = image.shape[0] * image.shape[1]
    targets = (*points_bpp, None)
    budgets = [None if target is None else int(target * pixels / 8) for target in targets]
    known: dict[int, tuple[float | None, float | None, float]] = {}  # by length: cuts beyond a stream's end are alike
    cuts, panels = [], []
    for target, delivery in zip(targets, codec.deliver(image, budgets), strict=True):
        if delivery is None:
            continue
        size = len(delivery.data)
        decoded = None
        if size not in known or target in kept:
            started = time.perf_counter()
            decoded = codec.decode(delivery.data)
            decode_ms = 1000 * (time.perf_counter() - started)
            known.setdefault(size, (*_distortion(decoded, image), decode_ms))
        decibels = known[size][0]
        if target in kept:
            caption = "" if decibels is None else f"{decibels:.1f} dB"
            panels.append(panel(codec, FULL if target is None else f"{target:g} bpp", caption, decoded))
        cuts.append(
            Cut(
                codec=codec.name,
                image=image_name,
                target_bpp=target,
                bytes=size,
                bpp=8 * size / pixels,
                psnr_db=decibels,
                ms_ssim=known[size][1],
                encode_ms=delivery.encode_ms,
                decode_ms=known[size][2],
            )
        )
    return cuts, panels


def _distortion(decoded: Image | None, image: Image) -> tuple[float | None, float | None]:
    if decoded is None:
        return None, None
    if decoded.ndim > image.ndim:  # a format without grey
        decoded = np.rint(decoded.mean(axis=2)).astype(np.uint8)
    return psnr(decoded, image), ms_ssim(decoded, image)
