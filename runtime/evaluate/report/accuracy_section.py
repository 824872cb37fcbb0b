"""The page's section on accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime.evaluate.accuracy.answers import AccuracyPoint, DeadlinePoint
from runtime.evaluate.accuracy.guesses import ORIGINAL, Guess
from runtime.evaluate.accuracy.overview import AccuracySummary, summarise_run
from runtime.evaluate.report.drawing import Line, drawn, lines_for, shared_legend, svg_of
from runtime.evaluate.report.html import figure, heading, paragraph, share_cell, strips, table
from runtime.evaluate.report.section import Section, measured_by
from runtime.evaluate.runs.folder import Run
from runtime.evaluate.shares import Share
from runtime.evaluate.texts import percent_of, text_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_THIN = 1.5  # lines of peers
_BPP_TICKS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def accuracy_section(run: Run[Guess], name: str) -> Section:
    """Return the section on *run*, which the page calls *name*, and its figures."""
    summary = summarise_run(run)
    codecs = run.about["codecs"]
    bundles = [name for name, identity in codecs.items() if identity["kind"] == "bundle"]
    lines = lines_for(bundles, [name for name in codecs if name not in bundles])
    view = run.about["view"]
    curves = accuracy_figure(summary, lines)
    deadlines = deadline_figure(summary.deadlines, lines)
    stopping = stopping_figure(summary, lines)
    (original,) = (point for point in summary.points if point.codec == ORIGINAL)
    n, side = original.top1.n, run.about["settings"]["preparation"]["side"]
    strong = set(bundles)
    parts = [
        paragraph(
            f"{n} pictures of {side}x{side}, classified by {view['classifier']} after decoding what is left of their "
            f"streams. Of the originals, {percent_of(original.top1)} % are right at first guess and "
            f"{percent_of(original.top5)} % among the first five (95 % intervals after Wilson, in brackets, here and "
            "below). A prefix that shows nothing gives no answer, which counts as a wrong one."
        ),
        figure(
            svg_of(curves, f"accuracy-{name}"),
            "Accuracy over the bytes at which streams were cut, with 95 % intervals. The broken line is the accuracy "
            "on originals.",
        ),
        heading("First guess right, in percent"),
        _by_cut(summary.points, strong, lambda point: share_cell(point.top1)),
        heading("Among the first five, in percent"),
        _by_cut(summary.points, strong, lambda point: share_cell(point.top5)),
        heading("Agreement with the original, in percent"),
        _by_cut(summary.points, strong, lambda point: share_cell(point.agreement)),
        paragraph("The label is that of the original, right or wrong.", "soft"),
        heading("Calibration error"),
        _by_cut(summary.points, strong, lambda point: text_of(point.calibration_error, ".3f")),
        paragraph("Mean distance of confidence from accuracy, over tenths of confidence.", "soft"),
        figure(
            svg_of(deadlines, f"accuracy-deadlines-{name}"),
            "Accuracy over the time from the first bit sent to the answer. Arrival is simulated at a steady rate; "
            "decoding and classifying took as long as they did. The longest cut answers that is done in time.",
        ),
        heading("First guess right by a deadline, in percent"),
        _deadlines(summary.deadlines, strong),
        figure(
            svg_of(stopping, f"accuracy-stops-{name}"),
            "Left: accuracy over mean bytes when receiving stops at the first answer of enough confidence; each point "
            "is a confidence. Right: how often answers of a confidence are right, at all cuts together; on the "
            "diagonal confidence is what it claims to be.",
        ),
        heading("Mean bytes when stopping at a confidence"),
        _stops(summary, strong),
        paragraph(
            "Below: how many answers are right then. First correct: mean bytes of the first cut with the right label, "
            "the whole stream where there is none. No rule can do better.",
            "soft",
        ),
        strips(run.panels, run.path),
        measured_by(run),
    ]
    figures = {"accuracy": curves, "accuracy-deadlines": deadlines, "accuracy-stops": stopping}
    return Section("Accuracy of a classifier", "accuracy", name, "".join(parts), figures)


def accuracy_figure(summary: AccuracySummary, lines: dict[str, Line]) -> Figure:
    """Draw top-1 and top-5 over bytes, with bits per pixel above."""
    (original,) = (point for point in summary.points if point.codec == ORIGINAL)

    def draw(figure: Figure) -> None:
        for place, (name, title) in enumerate(
            (("top1", "first guess right, %"), ("top5", "among first five, %")), start=1
        ):
            axes = figure.add_subplot(1, 2, place)
            for codec, line in lines.items():
                points = [point for point in summary.points if point.codec == codec and point.cut_bytes is not None]
                shares = [getattr(point, name) for point in points]
                _with_interval(axes, [float(point.cut_bytes or 0) for point in points], shares, codec, line)
            axes.axhline(
                100 * getattr(original, name).value, color="#5d6b7a", linestyle="--", linewidth=1, label=ORIGINAL
            )
            axes.set_xscale("log", base=2)
            axes.set(xlabel="bytes received", title=title, ylim=(0, 100))
            cuts = sorted({point.cut_bytes for point in summary.points if point.cut_bytes is not None})
            axes.set_xticks(cuts[:: max(1, len(cuts) // 6)], [str(cut) for cut in cuts[:: max(1, len(cuts) // 6)]])
            axes.set_xticks([], minor=True)
            bits = original.bpp / original.bytes  # all pictures have one size
            above = axes.secondary_xaxis("top", functions=(_times(bits), _times(1 / bits)))
            above.set_xlabel("bits per pixel", fontsize=8.5)
            above.set_xticks(_BPP_TICKS, [f"{value:g}" for value in _BPP_TICKS])
            above.set_xticks([], minor=True)
            above.tick_params(labelsize=8)
        shared_legend(figure)

    return drawn((10.4, 5.2), draw)


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: factor * values


def deadline_figure(points: Sequence[DeadlinePoint], lines: dict[str, Line]) -> Figure:
    """Draw top-1 over deadlines, a panel for each link."""
    links = sorted({point.link_kbps for point in points})

    def draw(figure: Figure) -> None:
        for place, link in enumerate(links, start=1):
            axes = figure.add_subplot(1, max(1, len(links)), place)
            for codec, line in lines.items():
                some = [point for point in points if (point.codec, point.link_kbps) == (codec, link)]
                _with_interval(axes, [point.deadline_ms for point in some], [point.top1 for point in some], codec, line)
            axes.set_xscale("log")
            deadlines = sorted({point.deadline_ms for point in points})
            axes.set_xticks(deadlines[::2], [f"{value:g}" for value in deadlines[::2]])
            axes.set_xticks([], minor=True)
            axes.set(xlabel="deadline, ms", title=f"first guess right, %, at {link:g} kbit/s", ylim=(0, 100))
        shared_legend(figure)

    return drawn((10.4, 4.6), draw)


def stopping_figure(summary: AccuracySummary, lines: dict[str, Line]) -> Figure:
    """Draw accuracy over mean bytes under the early-stop rule, and reliability of confidence."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for codec, line in lines.items():
            stops = [stop for stop in summary.stops if stop.codec == codec]
            _with_interval(left, [stop.bytes for stop in stops], [stop.top1 for stop in stops], codec, line)
            bins = [one for one in summary.calibration if one.codec == codec]
            if bins:
                x, y = [one.confidence for one in bins], [one.accuracy for one in bins]
                right.plot(x, y, label=codec, **line.options())
        left.set(xlabel="mean bytes received", title="first guess right when stopping early, %")
        right.plot([0, 1], [0, 1], color="#5d6b7a", linewidth=0.9, linestyle="--")
        right.set(xlabel="confidence", title="share of right answers", xlim=(0, 1), ylim=(0, 1))
        shared_legend(figure)

    return drawn((10.4, 4.6), draw)


def _with_interval(axes: Axes, x: Sequence[float], shares: Sequence[Share], label: str, line: Line) -> None:
    if x:
        axes.plot(x, [100 * share.value for share in shares], label=label, **line.options())
        low, high = ([100 * getattr(share, end) for share in shares] for end in ("low", "high"))
        shade: dict[str, Any] = {"color": line.colour, "alpha": 0.13 if line.width > _THIN else 0.05, "linewidth": 0}
        axes.fill_between(x, low, high, **shade)


def _by_cut(points: Sequence[AccuracyPoint], strong: set[str], cell: Callable[[AccuracyPoint], str]) -> str:
    cuts = sorted({point.cut_bytes for point in points if point.cut_bytes is not None})
    bits = next(point.bpp / point.bytes for point in points if point.codec == ORIGINAL)  # all pictures have one size
    rows = []
    for codec in dict.fromkeys(point.codec for point in points):
        found = {point.cut_bytes: point for point in points if point.codec == codec}
        cells = [cell(found[cut]) if cut in found else "-" for cut in (*cuts, None)]
        size = f"{found[None].bytes:.0f}" if None in found else "-"
        rows.append((codec, *cells, size))
    header = ("codec", *(f"{cut} B, {bits * cut:.2f} bpp" for cut in cuts), "whole stream", "its bytes")
    return table(header, rows, lambda row: row[0] in strong, kind="stacked")


def _deadlines(points: Sequence[DeadlinePoint], strong: set[str]) -> str:
    deadlines = sorted({point.deadline_ms for point in points})
    rows = []
    for codec, link in dict.fromkeys((point.codec, point.link_kbps) for point in points):
        found = {point.deadline_ms: point for point in points if (point.codec, point.link_kbps) == (codec, link)}
        rows.append((codec, f"{link:g}", *(f"{100 * found[ms].top1.value:.1f}" for ms in deadlines)))
    header = ("codec", "kbit/s", *(f"{ms:g} ms" for ms in deadlines))
    return table(header, rows, lambda row: row[0] in strong)


def _stops(summary: AccuracySummary, strong: set[str]) -> str:
    thresholds = sorted({stop.threshold for stop in summary.stops})
    rows = []
    for first in summary.first_correct:
        found = {stop.threshold: stop for stop in summary.stops if stop.codec == first.codec}
        cells = [_bytes_and_share(found[threshold].bytes, found[threshold].top1) for threshold in thresholds]
        rows.append((first.codec, *cells, _bytes_and_share(first.bytes, first.ever)))
    header = ("codec", *(f"at {threshold:g}" for threshold in thresholds), "first correct")
    return table(header, rows, lambda row: row[0] in strong, kind="stacked")


def _bytes_and_share(size: float, share: Share) -> str:
    return f"{size:.0f}|{100 * share.value:.1f} % right"
