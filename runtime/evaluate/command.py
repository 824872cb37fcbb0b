"""`cutoff eval`: reports over folders of pictures.

    cutoff eval rd    rate-distortion: one stream for each picture, cut at every point

Bundles, peers and published curves stand side by side in one table, one file and one plot.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.cli.console import print_object, print_table
from runtime.cli.options import add_engine_options, add_json, engine_options, positive_numbers
from runtime.errors import UsageError
from runtime.evaluate.bundles import BundleCodec
from runtime.evaluate.curves import read_curves
from runtime.evaluate.output import FULL, CutWriter, replacing
from runtime.evaluate.peers import PEERS
from runtime.evaluate.pictures import find_pictures
from runtime.evaluate.plot import check_plot, write_plot
from runtime.evaluate.rd import Cut, ProgressiveCodec, measure
from runtime.evaluate.summary import (
    COMPARED_BPP,
    DeltaRate,
    Point,
    curves_from_points,
    delta_rate,
    summarise,
)
from runtime.image_files import read_image

DEFAULT_POINTS = "0.05,0.1,0.15,0.2,0.3,0.4,0.5,0.6,0.75,1.0,1.25"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the reports as sub-commands."""
    reports = parser.add_subparsers(dest="report", required=True, metavar="REPORT")
    rd = reports.add_parser(
        "rd",
        help="rate and distortion of streams cut at fixed bits per pixel",
        description="Encode every picture once, decode the stream cut at every point, and average over pictures.",
        allow_abbrev=False,
    )
    rd.add_argument("--bundle", action="append", default=[], metavar="NAME", help="a bundle, by name or folder")
    rd.add_argument("--images", nargs="+", required=True, type=Path, metavar="PATH", help="pictures or folders of them")
    rd.add_argument(
        "--points", type=positive_numbers, default=DEFAULT_POINTS, metavar="BPP,...", help="default: %(default)s"
    )
    rd.add_argument("--csv", type=Path, metavar="FILE", help="write a row for every picture and cut")
    rd.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves; the suffix names the format")
    rd.add_argument(
        "--peers", type=peer_names, default=(), metavar="NAME,...", help=f"codecs to measure, too: {', '.join(PEERS)}"
    )
    rd.add_argument("--curves", nargs="+", default=[], type=Path, metavar="FILE", help="CSV files of published curves")
    add_engine_options(rd)
    add_json(rd)


def run(arguments: argparse.Namespace) -> int:
    """Do what was parsed with `add_arguments`, and return the exit status.

    Raises:
        CutoffError: whatever stops the report; no file is left then.
    """
    reports: Mapping[str, Callable[[argparse.Namespace], int]] = {"rd": _run_rd}
    return reports[arguments.report](arguments)


def peer_names(text: str) -> tuple[str, ...]:
    """Read names of peers, separated by commas."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"{name!r} is unknown; there are {', '.join(PEERS)}")
    return names


def _run_rd(arguments: argparse.Namespace) -> int:
    """Measure, then write and print.

    With --json: `{"pictures": n, "points": [Point, ...], "bd_rate": [DeltaRate, ...]}`, the fields as
    `runtime.evaluate.summary` documents them. A `target_bpp` of null stands for full streams; otherwise null is what is
    not known, or infinite because pictures were equal.
    """
    pictures = find_pictures(arguments.images)
    published = [curve for path in arguments.curves for curve in read_curves(path)]
    if arguments.plot is not None:
        check_plot(arguments.plot)
    with ExitStack() as stack:
        csv_file = None if arguments.csv is None else stack.enter_context(replacing(arguments.csv))
        plot_file = None if arguments.plot is None else stack.enter_context(replacing(arguments.plot))
        bundles = [_open_bundle(name, arguments, stack) for name in arguments.bundle]
        codecs: list[ProgressiveCodec] = [*bundles, *(peer for name in arguments.peers for peer in PEERS[name]())]
        _check_names([codec.name for codec in codecs])
        means = summarise(_measure_all(codecs, pictures, sorted(set(arguments.points)), csv_file))
        curves = curves_from_points(means)
        of_bundles, of_peers = curves[: len(bundles)], curves[len(bundles) :]
        if plot_file is not None:
            title = f"{len(pictures)} pictures, streams cut at fixed bits per pixel"
            write_plot(plot_file, of_bundles, of_peers, published, title)
    references = [*of_peers, *(curve for curve in published if curve.has_psnr)]
    deltas = [delta_rate(curve, reference) for curve in of_bundles for reference in references]
    if arguments.json:
        points, rates = [asdict(point) for point in means], [asdict(delta) for delta in deltas]
        print_object(_finite({"pictures": len(pictures), "points": points, "bd_rate": rates}))
    else:
        _print_points(means)
        _print_delta_rates(deltas)
    return 0


def _open_bundle(name: str, arguments: argparse.Namespace, stack: ExitStack) -> BundleCodec:
    codec = BundleCodec.open(name, **engine_options(arguments))
    stack.callback(codec.close)
    return codec


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise UsageError("nothing to measure: give --bundle or --peers")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two codecs have the name {name!r}; results could not be told apart")


def _measure_all(
    codecs: Sequence[ProgressiveCodec], pictures: Mapping[str, Path], points: Sequence[float], csv_file: Path | None
) -> list[Cut]:
    """Measure every codec on every picture; a picture's cuts are in *csv_file* as soon as they are known."""
    cuts: list[Cut] = []
    with ExitStack() as stack:
        writer = None
        if csv_file is not None:
            writer = CutWriter(stack.enter_context(csv_file.open("w", newline="", encoding="utf-8")))
        advance = stack.enter_context(_progress(len(pictures) * len(codecs)))
        for name, path in pictures.items():
            image = read_image(path)
            of_picture: list[Cut] = []
            for codec in codecs:
                of_picture += measure(codec, name, image, points)
                advance()
            if writer is not None:
                writer.write(of_picture)
            cuts += of_picture
    return cuts


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a bar on stderr where that is a terminal, and yield what advances it by one."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    except ModuleNotFoundError:  # the report is the same without a bar
        yield lambda: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_points(means: Sequence[Point]) -> None:
    print_table(
        ("codec", "target_bpp", "bpp", "psnr_db", "ms_ssim", "n", "nothing"),
        [
            (
                point.codec,
                FULL if point.target_bpp is None else f"{point.target_bpp:g}",
                _text(point.bpp, ".4f"),
                _text(point.psnr_db, ".3f"),
                _text(point.ms_ssim, ".5f"),
                str(point.n),
                str(point.nothing_to_show),
            )
            for point in means
        ],
    )


def _print_delta_rates(deltas: Sequence[DeltaRate]) -> None:
    for codec in dict.fromkeys(delta.codec for delta in deltas):
        print(f"\nBD-rate of {codec}, PSNR, {COMPARED_BPP[0]} to {COMPARED_BPP[1]} bpp as far as both curves reach:")
        rows = [_delta_row(delta) for delta in deltas if delta.codec == codec]
        print_table(("reference", "percent", "bpp", "psnr_db", "reference averaged"), rows)


def _delta_row(delta: DeltaRate) -> tuple[str, ...]:
    spans = [
        "-" if span is None else f"{span[0]:.{digits}f} to {span[1]:.{digits}f}"
        for span, digits in ((delta.bpp_range, 3), (delta.psnr_range, 2))
    ]
    averaged = "at fixed bpp" if delta.fixed_bpp else "otherwise"
    return (delta.reference, _text(delta.percent, "+.2f"), *spans, averaged)


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
