"""`cutoff eval rd`: bundles, peers and published curves in one run and one table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from runtime.cli.console import print_object, print_table
from runtime.cli.options import positive_numbers
from runtime.errors import UsageError
from runtime.evaluate.pictures import find_pictures, units_of
from runtime.evaluate.rd.curves import read_curves
from runtime.evaluate.rd.cuts import Cut, RdJob
from runtime.evaluate.rd.overview import RdSummary, summarise_run
from runtime.evaluate.rd.summary import COMPARED_BPP, DeltaRate, Point
from runtime.evaluate.runs.conduct import (
    Crew,
    Plan,
    add_crew_arguments,
    add_run_arguments,
    choose_codecs,
    conduct,
    evenly,
)
from runtime.evaluate.runs.provenance import sha256_of
from runtime.evaluate.runs.rows import FULL
from runtime.evaluate.texts import finite, text_of

DEFAULT_POINTS = "0.05,0.1,0.15,0.2,0.3,0.4,0.5,0.6,0.75,1.0,1.25"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the report's arguments."""
    add_run_arguments(parser)
    parser.add_argument(
        "--points", type=positive_numbers, default=DEFAULT_POINTS, metavar="BPP,...", help="default: %(default)s"
    )
    parser.add_argument(
        "--curves", nargs="+", default=[], type=Path, metavar="FILE", help="CSV files of published curves"
    )
    add_crew_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure what is left of the run, and print.

    With --json: `{"pictures": n, "skipped": {name: why}, "points": [Point, ...], "bd_rate": [DeltaRate, ...]}`, the
    fields as `runtime.evaluate.rd.summary` documents them. A `target_bpp` of null stands for full streams; otherwise
    null is what is not known, or infinite because pictures were equal.
    """
    crew = Crew.of(arguments)
    pictures = find_pictures(arguments.images)
    chosen = evenly(list(pictures), arguments.most)
    curves = _by_name(arguments.curves)
    for path in curves.values():
        read_curves(path)
    points = tuple(sorted(set(arguments.points)))
    choice, codecs = choose_codecs(arguments, crew.threads)
    plan = Plan(
        report="rd",
        job=RdJob(choice, points, frozenset(evenly(chosen, arguments.strips) if arguments.strips > 0 else ())),
        units=units_of({name: pictures[name] for name in chosen}),
        settings={"points_bpp": points, "strips": arguments.strips},
        codecs=codecs,
        files={name: sha256_of(path) for name, path in curves.items()},
        view={},
        kept=curves,
    )
    result = conduct(plan, arguments.out, crew, Cut)
    summary = summarise_run(result)
    if arguments.json:
        print_object(
            finite(
                {
                    "pictures": len(result.about["pictures"]) - len(result.skipped),
                    "skipped": dict(result.skipped),
                    "points": [asdict(point) for point in summary.points],
                    "bd_rate": [asdict(delta) for delta in summary.deltas],
                }
            )
        )
    else:
        _print(summary)
    return 0


def _by_name(curves: Sequence[Path]) -> dict[str, Path]:
    """Return the files of published curves by where they lie in the run's folder."""
    names = [path.name for path in curves]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--curves: two files are named {name}; rename one")
    return {f"curves/{path.name}": path for path in curves}


def _print(summary: RdSummary) -> None:
    print_table(
        ("codec", "target_bpp", "bpp", "psnr_db", "ms_ssim", "n", "nothing", "encode_ms", "decode_ms"),
        [_point_row(point) for point in summary.points],
    )
    for codec in dict.fromkeys(delta.codec for delta in summary.deltas):
        low, high = COMPARED_BPP
        print(f"\nBD-rate and BD-PSNR of {codec}, {low} to {high} bpp as far as both curves reach:")
        rows = [_delta_row(delta) for delta in summary.deltas if delta.codec == codec]
        print_table(("reference", "percent", "gain_db", "bpp", "psnr_db", "reference averaged"), rows)


def _point_row(point: Point) -> tuple[str, ...]:
    return (
        point.codec,
        FULL if point.target_bpp is None else f"{point.target_bpp:g}",
        text_of(point.bpp, ".4f"),
        text_of(point.psnr_db, ".3f"),
        text_of(point.ms_ssim, ".5f"),
        str(point.n),
        str(point.nothing_to_show),
        text_of(point.encode_ms, ".1f"),
        text_of(point.decode_ms, ".1f"),
    )


def _delta_row(delta: DeltaRate) -> tuple[str, ...]:
    spans = [
        "-" if span is None else f"{span[0]:.{digits}f} to {span[1]:.{digits}f}"
        for span, digits in ((delta.bpp_range, 3), (delta.psnr_range, 2))
    ]
    averaged = "at fixed bpp" if delta.fixed_bpp else "otherwise"
    return (delta.reference, text_of(delta.percent, "+.2f"), text_of(delta.gain_db, "+.2f"), *spans, averaged)
