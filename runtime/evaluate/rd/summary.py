"""From cuts to curves: means over pictures at fixed bits per pixel, and delta rates between them.

    Cut, Cut, ... -> summarise -> Point, Point, ... -> Curve -> DeltaRate

Nothing here knows of pictures or streams.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from runtime.evaluate.distortion import decibels
from runtime.evaluate.rd.bjontegaard import compare
from runtime.evaluate.rd.cuts import Cut

Floats = NDArray[np.float64]
COMPARED_BPP = (0.1, 1.0)  # the rates over which delta rates are reported, as far as streams reach
_AT_ITS_RATE = 0.99  # of where streams were cut: what has less is not said to be at it


@dataclass(frozen=True)
class Point:
    """The mean over all pictures of one codec, every stream cut at the same bits per pixel.

    Attributes:
        codec: its name.
        target_bpp: where streams were cut; None for full streams.
        bpp, psnr_db: means over the pictures that had something to show; None if there was none.
        ms_ssim: the same, over those large enough for it.
        n: how many pictures the means are over.
        nothing_to_show: how many pictures had nothing to show; they are in no mean.
        encode_ms, decode_ms: medians over the pictures that had something to show; None if there was none.
    """

    codec: str
    target_bpp: float | None
    bpp: float | None
    psnr_db: float | None
    ms_ssim: float | None
    n: int
    nothing_to_show: int
    encode_ms: float | None
    decode_ms: float | None

    @property
    def short(self) -> bool:
        """Whether the mean rate is less than where streams were cut, by what is not said to be at it: some ended."""
        return self.bpp is not None and self.target_bpp is not None and self.bpp < _AT_ITS_RATE * self.target_bpp


@dataclass(frozen=True)
class Curve:
    """A rate-distortion curve, of this run or published; rates rise, what is not known is NaN.

    Attributes:
        label: its name.
        fixed_bpp: its points are means over pictures cut at the same bits per pixel. Means at the same quality setting
            read lower by some tenths of a decibel for the same codec.
        bpp, psnr_db, ms_ssim_db: float64 (n,); MS-SSIM as -10 log10(1 - MS-SSIM).
    """

    label: str
    fixed_bpp: bool
    bpp: Floats
    psnr_db: Floats
    ms_ssim_db: Floats

    @property
    def has_psnr(self) -> bool:
        """True if PSNR is known anywhere."""
        return bool(np.isfinite(self.psnr_db).any())


@dataclass(frozen=True)
class DeltaRate:
    """How much more rate a codec takes than a reference at equal PSNR (`runtime.evaluate.rd.bjontegaard`).

    Attributes:
        codec, reference: names.
        percent: negative if the codec is better; None if the curves share no PSNR inside *bpp_range*.
        bpp_range: COMPARED_BPP as far as both curves reach, to which both were cut; None if they do not.
        psnr_range: what both cut curves reach, in dB; None if nothing.
        gain_db: PSNR gained at equal rate, inside *bpp_range*; None if the curves share no rate there.
        fixed_bpp: the reference is averaged as the codec is; if not, some percent are due to the averaging.
    """

    codec: str
    reference: str
    percent: float | None
    bpp_range: tuple[float, float] | None
    psnr_range: tuple[float, float] | None
    gain_db: float | None
    fixed_bpp: bool


def summarise(cuts: Iterable[Cut]) -> list[Point]:
    """Average *cuts* over pictures, codec by codec as they first come, by rising target and full streams last."""
    groups: dict[str, dict[float | None, list[Cut]]] = {}
    for cut in cuts:
        groups.setdefault(cut.codec, {}).setdefault(cut.target_bpp, []).append(cut)
    return [
        _point(codec, target, targets[target])
        for codec, targets in groups.items()
        for target in sorted(targets, key=lambda target: math.inf if target is None else target)
    ]


def _point(codec: str, target_bpp: float | None, cuts: Sequence[Cut]) -> Point:
    shown = [cut for cut in cuts if cut.psnr_db is not None]
    return Point(
        codec=codec,
        target_bpp=target_bpp,
        bpp=_mean(cut.bpp for cut in shown),
        psnr_db=_mean(cut.psnr_db for cut in shown),
        ms_ssim=_mean(cut.ms_ssim for cut in shown),
        n=len(shown),
        nothing_to_show=len(cuts) - len(shown),
        encode_ms=median(cut.encode_ms for cut in shown) if shown else None,
        decode_ms=median(cut.decode_ms for cut in shown) if shown else None,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def curves_from_points(points: Iterable[Point]) -> list[Curve]:
    """Return the curve of each codec; points at which a picture had nothing to show, means over fewer, are left out."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.codec, []).extend([point] if point.n and not point.nothing_to_show else [])
    return [
        sorted_curve(
            label=codec,
            fixed_bpp=True,
            bpp=[_or_nan(point.bpp) for point in group],
            psnr_db=[_or_nan(point.psnr_db) for point in group],
            ms_ssim_db=[math.nan if point.ms_ssim is None else decibels(point.ms_ssim) for point in group],
        )
        for codec, group in groups.items()
    ]


def sorted_curve(
    label: str, fixed_bpp: bool, bpp: Sequence[float], psnr_db: Sequence[float], ms_ssim_db: Sequence[float]
) -> Curve:
    """Return the curve through points in any order; equal lengths."""
    order = np.argsort(np.asarray(bpp, np.float64), kind="stable")
    columns = [np.asarray(column, np.float64)[order] for column in (bpp, psnr_db, ms_ssim_db)]
    return Curve(label, fixed_bpp, *columns)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def delta_rate(codec: Curve, reference: Curve) -> DeltaRate:
    """Compare *codec* with *reference* over `COMPARED_BPP`, or as much of it as both curves reach."""
    reached = [curve.bpp[np.isfinite(curve.psnr_db)] for curve in (codec, reference)]
    lowest, highest = COMPARED_BPP
    if all(len(bpp) for bpp in reached):
        lowest = max(lowest, *(float(bpp[0]) for bpp in reached))
        highest = min(highest, *(float(bpp[-1]) for bpp in reached))
    if not (all(len(bpp) for bpp in reached) and lowest < highest):
        return DeltaRate(codec.label, reference.label, None, None, None, None, reference.fixed_bpp)
    bpp_range = (lowest, highest)
    result = compare(reference.bpp, reference.psnr_db, codec.bpp, codec.psnr_db, rate_range=bpp_range)
    known = math.isfinite(result.percent)
    return DeltaRate(
        codec=codec.label,
        reference=reference.label,
        percent=result.percent if known else None,
        bpp_range=bpp_range,
        psnr_range=result.psnr_range if known else None,
        gain_db=result.gain_db if math.isfinite(result.gain_db) else None,
        fixed_bpp=reference.fixed_bpp,
    )
