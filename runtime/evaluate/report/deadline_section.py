"""The page's section on deadlines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from runtime.evaluate.deadline.decodes import LOADS, NOTHING, PREVIEW, SYNTHESIS, Decode
from runtime.evaluate.deadline.promptness import Punctuality, goals, overshoot_ms, punctuality
from runtime.evaluate.report.drawing import drawn, shared_legend, svg_of
from runtime.evaluate.report.html import figure, heading, paragraph, share_cell, table
from runtime.evaluate.report.section import Section, measured_by
from runtime.evaluate.runs.folder import Run
from runtime.evaluate.texts import text_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {SYNTHESIS: "#0b5fa5", PREVIEW: "#8fbbdf", NOTHING: "#c9d0d8", "late": "#cf4a1c"}


def deadline_section(run: Run[Decode], name: str) -> Section:
    """Return the section on *run*, which the page calls *name*, and its figure."""
    lines = punctuality(run.rows)
    answers = answers_figure(run.rows)
    parts = [
        paragraph(
            f"{len(run.rows)} decodes of streams that arrive over simulated links (constant, bursty, stalled, cut "
            "off), against real clocks. Deadlines are chosen relative to what this machine needs under the same load: "
            "the minimum is the 99th percentile of head segment, h_s, reconstruction and preview; synthesis is that "
            "of head segment, h_s, reconstruction and the synthesis network. Idle: nothing else runs; loaded: all "
            "cores are kept busy."
        ),
        heading("Figures to reach"),
        table(
            ("codec", "load", "figure", "wanted", "measured", "decodes", "reached"),
            [
                (g.codec, g.load, g.figure, g.wanted, g.measured, str(g.n), "yes" if g.reached else "no")
                for g in goals(run.rows)
            ],
            kind="words",
        ),
        figure(
            svg_of(answers, f"deadline-{name}"),
            "What there was at the deadline, over all links, of decodes whose head segment had arrived.",
        ),
        heading("Every deadline"),
        _table(lines),
        paragraph(
            "In time: a picture by the deadline, of decodes whose head segment had arrived by then; the others are "
            "'not arrived' and count nowhere else. Nothing: there was no time for a picture. Overshoot is 0 for "
            "answers in time. Loss: PSNR of what unlimited time makes of the bytes that had arrived when the cheapest "
            "path through synthesis had to start, less that of the picture; negative where later bytes were used as "
            "well. Decodes answered with nothing are in no loss.",
            "soft",
        ),
        heading("By link, all deadlines together"),
        _by_trace(run.rows),
        measured_by(run),
    ]
    return Section("Deadlines", "deadline", name, "".join(parts), {"deadline": answers})


def answers_figure(decodes: Sequence[Decode]) -> Figure:
    """Draw what there was at the deadline: a panel for each codec and load, a bar for each deadline."""
    lines = punctuality(decodes)
    codecs = list(dict.fromkeys(line.codec for line in lines))
    loads = [load for load in LOADS if any(line.load == load for line in lines)]

    def draw(figure: Figure) -> None:
        for row, codec in enumerate(codecs):
            for column, load in enumerate(loads):
                axes = figure.add_subplot(len(codecs), len(loads), row * len(loads) + column + 1)
                some = [line for line in lines if (line.codec, line.load) == (codec, load)]
                place, bottom = np.arange(len(some)), np.zeros(len(some))
                for kind, heights in _heights(decodes, some).items():
                    axes.bar(place, heights, 0.78, bottom=bottom, color=_COLOURS[kind], label=kind)
                    bottom += heights
                names = [f"{line.factor:g} {line.relative_to[:3]}\n{line.deadline_ms:.0f} ms" for line in some]
                axes.set_xticks(place, names, fontsize=7.5)
                axes.grid(axis="x", visible=False)
                axes.set(title=f"{codec}, {load}", ylim=(0, 100), ylabel="% of decodes" if column == 0 else "")
        shared_legend(figure)

    return drawn((10.4, 0.6 + 2.6 * len(codecs)), draw)


def _heights(decodes: Sequence[Decode], lines: Sequence[Punctuality]) -> dict[str, list[float]]:
    heights: dict[str, list[float]] = {kind: [] for kind in _COLOURS}
    for line in lines:
        key = (line.codec, line.load, line.factor, line.relative_to)
        some = [one for one in decodes if (one.codec, one.load, one.factor, one.relative_to) == key]
        for kind, values in heights.items():
            count = sum(_kind(one) == kind for one in some)
            values.append(100 * count / line.n if line.n else 0.0)
    return heights


def _kind(one: Decode) -> str:
    return "late" if one.answer in (SYNTHESIS, PREVIEW) and overshoot_ms(one) > 0 else one.answer


def _table(lines: Sequence[Punctuality]) -> str:
    rows = [
        (
            line.codec,
            line.load,
            f"{line.factor:g} x {line.relative_to}",
            f"{line.deadline_ms:.1f}",
            str(line.n),
            str(line.not_arrived),
            share_cell(line.in_time),
            str(line.late),
            str(line.nothing),
            share_cell(line.preview),
            text_of(line.overshoot_p99_ms, ".2f"),
            text_of(line.overshoot_p999_ms, ".2f"),
            text_of(line.overshoot_max_ms, ".2f"),
            text_of(line.loss_mean_db, ".3f"),
            text_of(line.loss_p95_db, ".3f"),
        )
        for line in lines
    ]
    header = ("codec", "load", "deadline", "ms", "n", "not arrived", "in time, %", "late", "nothing", "preview, %",
              "overshoot p99, ms", "p99.9", "largest", "loss, dB", "p95")  # fmt: skip
    return table(header, rows, kind="stacked")


def _by_trace(decodes: Sequence[Decode]) -> str:
    rows = []
    for codec, load, trace in dict.fromkeys((one.codec, one.load, one.trace) for one in decodes):
        (*lines,) = punctuality(one for one in decodes if (one.codec, one.load, one.trace) == (codec, load, trace))
        n, in_time = sum(line.n for line in lines), sum(line.in_time.count for line in lines)
        preview, absent = sum(line.preview.count for line in lines), sum(line.not_arrived for line in lines)
        rows.append((codec, load, trace, str(n), str(absent), _percent(in_time, n), _percent(preview, n)))
    return table(("codec", "load", "link", "n", "not arrived", "in time, %", "preview, %"), rows)


def _percent(count: int, n: int) -> str:
    return f"{100 * count / n:.1f}" if n else "-"
