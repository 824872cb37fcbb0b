"""The page's section on rate and distortion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime.evaluate.distortion import decibels
from runtime.evaluate.rd.cuts import Cut
from runtime.evaluate.rd.overview import RdSummary, summarise_run
from runtime.evaluate.rd.summary import Curve, Point
from runtime.evaluate.report.drawing import Line, drawn, lines_for, shared_legend, svg_of
from runtime.evaluate.report.html import figure, heading, paragraph, strips, table
from runtime.evaluate.report.section import Section, measured_by
from runtime.evaluate.runs.folder import Run
from runtime.evaluate.texts import text_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rd_section(run: Run[Cut], name: str) -> Section:
    """Return the section on *run*, which the page calls *name*, and its figure."""
    summary = summarise_run(run)
    curves = rd_figure(summary)
    strong = {curve.label for curve in summary.bundles}
    pictures = len(run.about["pictures"]) - len(run.skipped) - run.left
    parts = [
        paragraph(
            f"{pictures} pictures, each encoded once by every progressive codec; the stream is cut at every rate, and "
            "what is left is decoded. WebP and AVIF, where they are shown, have a file of its own for every rate: the "
            "best quality that fits. Sizes are those of real bytes; where a stream is shorter than the cut, its real "
            "length counts. Means are over pictures at the same cut."
        ),
        figure(
            svg_of(curves, f"rd-{name}"),
            "Distortion over rate, means over pictures at fixed bits per pixel. Points at which a picture had nothing "
            "to show are left out. Broken lines are published curves, which may be averaged otherwise.",
        ),
        heading("PSNR (dB, RGB) at fixed bits per pixel"),
        _by_target(summary.points, "psnr_db", strong),
        heading("MS-SSIM (dB, RGB) at fixed bits per pixel"),
        _by_target(summary.points, "ms_ssim", strong),
        paragraph(
            "In brackets: pictures averaged over, where some had nothing to show at that cut. Behind 'at': the mean "
            "rate, where streams had ended before the cut, or files fit below it.",
            "soft",
        ),
        *_deltas(summary),
        heading("Time, warm, in the same run"),
        _times(summary.points, strong),
        paragraph(
            "Medians over pictures, in milliseconds: from samples to the whole stream, and from a prefix to samples. "
            "Of WebP and AVIF encoding is that of one file; the search for its quality is not counted.",
            "soft",
        ),
        strips(run.panels, run.path),
        measured_by(run),
    ]
    return Section("Rate and distortion", "rd", name, "".join(parts), {"rd": curves})


def rd_figure(summary: RdSummary) -> Figure:
    """Draw PSNR and MS-SSIM over bits per pixel; the rates shown are those of the bundles, or of peers if alone."""
    everything = [*summary.bundles, *summary.peers, *summary.published]
    lines = lines_for(
        *([curve.label for curve in some] for some in (summary.bundles, summary.peers, summary.published))
    )
    reach = [float(curve.bpp.max()) for curve in summary.bundles or summary.peers if len(curve.bpp)]
    highest = 1.06 * max(reach, default=1.0)

    def draw(figure: Figure) -> None:
        for place, (name, label) in enumerate((("psnr_db", "PSNR, dB"), ("ms_ssim_db", "MS-SSIM, dB")), start=1):
            axes = figure.add_subplot(1, 2, place)
            for curve in everything:
                _plot(axes, curve, name, lines[curve.label], highest)
            axes.set(xlabel="bits per pixel", title=label, xlim=(0, highest))
        shared_legend(figure)

    return drawn((10.4, 5.2), draw)


def _plot(axes: object, curve: Curve, name: str, line: Line, highest: float) -> None:
    values = getattr(curve, name)
    shown = np.isfinite(values) & (curve.bpp <= highest)
    if shown.any():
        axes.plot(curve.bpp[shown], values[shown], label=curve.label, **line.options())  # type: ignore[attr-defined]


def _by_target(points: Sequence[Point], name: str, strong: set[str]) -> str:
    targets = sorted({point.target_bpp for point in points if point.target_bpp is not None})
    rows = []
    for codec in dict.fromkeys(point.codec for point in points):
        found = {point.target_bpp: point for point in points if point.codec == codec}
        rows.append((codec, *(_at(found.get(target), name) for target in targets), _whole(found.get(None), name)))
    header = ("codec", *(f"{target:g}" for target in targets), "whole stream")
    return table(header, rows, lambda row: row[0] in strong)


def _value(point: Point | None, name: str) -> str:
    value = None if point is None else getattr(point, name)
    if point is None or value is None:
        return "-"
    text = f"{decibels(value) if name == 'ms_ssim' else value:.2f}"
    return f"{text}|({point.n}/{point.n + point.nothing_to_show})" if point.nothing_to_show else text


def _at(point: Point | None, name: str) -> str:
    text = _value(point, name)
    return f"{text}|at {point.bpp:.{2 if point.bpp >= 0.1 else 3}f}" if point and point.bpp and point.short else text


def _whole(point: Point | None, name: str) -> str:
    if point is None or point.bpp is None:
        return "-"
    return f"{_value(point, name)}|at {point.bpp:.2f} bpp"


def _deltas(summary: RdSummary) -> list[str]:
    parts = []
    for curve in summary.bundles:
        deltas = [delta for delta in summary.deltas if delta.codec == curve.label]
        if deltas:
            rows = [
                (
                    delta.reference,
                    text_of(delta.percent, "+.1f"),
                    text_of(delta.gain_db, "+.2f"),
                    "-" if delta.bpp_range is None else "{:.2f} to {:.2f}".format(*delta.bpp_range),
                    "-" if delta.psnr_range is None else "{:.1f} to {:.1f}".format(*delta.psnr_range),
                    "at fixed bpp" if delta.fixed_bpp else "otherwise",
                )
                for delta in deltas
            ]
            parts.append(heading(f"{curve.label} against others"))
            parts.append(
                table(("reference", "BD-rate, %", "BD-PSNR, dB", "bpp compared", "PSNR compared", "averaged"), rows)
            )
    if parts:
        parts.append(
            paragraph(
                "BD-rate: rate at equal PSNR, negative is better; BD-PSNR: PSNR at equal rate, positive is better. "
                "Both over 0.1 to 1 bpp, or as much of it as both curves reach. References that are averaged "
                "otherwise, as published ones are at fixed quality settings, read some tenths of a decibel lower than "
                "at fixed bpp.",
                "soft",
            )
        )
    return parts


def _times(points: Sequence[Point], strong: set[str]) -> str:
    rows = []
    for codec in dict.fromkeys(point.codec for point in points):
        timed = [point for point in points if point.codec == codec and point.decode_ms is not None]
        if timed:
            low, last = timed[0], timed[-1]
            rows.append(
                (
                    codec,
                    text_of(last.encode_ms, ".1f"),
                    f"{text_of(low.decode_ms, '.1f')}|at {low.bpp:.2f} bpp",
                    f"{text_of(last.decode_ms, '.1f')}|at {last.bpp:.2f} bpp",
                )
            )
    return table(
        ("codec", "encode, ms", "decode the least, ms", "decode the most, ms"), rows, lambda row: row[0] in strong
    )
