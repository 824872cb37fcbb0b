"""`cutoff eval accuracy`: what a classifier still sees in cut streams, beside peers cut at the same bytes."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from runtime.cli.console import print_object, print_table
from runtime.cli.options import positive_int, positive_number, positive_numbers
from runtime.errors import DataError, UsageError
from runtime.evaluate.accuracy.classifier import Classifier, Preparation, check_side
from runtime.evaluate.accuracy.guesses import AccuracyJob, Guess
from runtime.evaluate.accuracy.labels import Labels, labelled_pictures
from runtime.evaluate.accuracy.overview import AccuracySummary, summarise_run
from runtime.evaluate.pictures import units_of
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
from runtime.evaluate.texts import finite, percent_of, text_of

DEFAULT_CUTS = "384,512,768,1024,1536,2048,3072,4096,6144,8192"
DEFAULT_LINKS = "64,256"
DEFAULT_DEADLINES = "25,50,75,100,150,200,300,400,600,800,1200"
DEFAULT_STOPS = "0.3,0.5,0.7,0.8,0.9,0.95,0.99"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the report's arguments."""
    add_run_arguments(parser)
    parser.add_argument("--classifier", type=Path, required=True, metavar="ONNX", help="takes RGB, gives class scores")
    parser.add_argument("--labels", type=Path, required=True, metavar="FILE", help="a line 'wnid name' for each class")
    parser.add_argument("--side", type=positive_int, default=224, metavar="PIXELS", help="of its input (default: 224)")
    parser.add_argument(
        "--mean", type=channels, default="0,0,0", metavar="R,G,B", help="subtracted from samples of 0..1 (default: 0)"
    )
    parser.add_argument(
        "--deviation", type=channels, default="1,1,1", metavar="R,G,B", help="divided out then (default: 1)"
    )
    parser.add_argument(
        "--cuts", type=byte_counts, default=DEFAULT_CUTS, metavar="BYTES,...", help="default: %(default)s"
    )
    parser.add_argument(
        "--link-kbps", type=positive_numbers, default=DEFAULT_LINKS, metavar="RATE,...", help="default: %(default)s"
    )
    parser.add_argument(
        "--deadlines-ms",
        type=positive_numbers,
        default=DEFAULT_DEADLINES,
        metavar="MS,...",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--stops", type=shares, default=DEFAULT_STOPS, metavar="P,...", help="confidences that end receiving (default: "
        "%(default)s)",
    )  # fmt: skip
    add_crew_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure what is left of the run, and print.

    With --json: `{"pictures": n, "skipped": {name: why}, "points": [...], "deadlines": [...], "stops": [...],
    "first_correct": [...], "calibration": [...]}`, the fields as `runtime.evaluate.accuracy.answers` documents them.
    """
    check_side(arguments.side)
    crew = Crew.of(arguments)
    labels = Labels.read(arguments.labels)
    pictures = labelled_pictures(arguments.images, labels)
    chosen = evenly(list(pictures), arguments.most)
    model = _read(arguments.classifier)
    preparation = Preparation(arguments.side, arguments.mean, arguments.deviation)
    Classifier(
        model, str(arguments.classifier), len(labels.wnids), preparation, 1
    )  # what is wrong shows before the run
    cuts = tuple(sorted(set(arguments.cuts)))
    choice, codecs = choose_codecs(arguments, crew.threads, cuts)
    job = AccuracyJob(
        codecs=choice,
        cuts=cuts,
        classifier=model,
        classifier_name=str(arguments.classifier),
        names=labels.names,
        truths={name: pictures[name][1] for name in chosen},
        preparation=preparation,
        shown=frozenset(evenly(chosen, arguments.strips) if arguments.strips > 0 else ()),
    )
    plan = Plan(
        report="accuracy",
        job=job,
        units=units_of({name: pictures[name][0] for name in chosen}),
        settings={"cuts_bytes": cuts, "preparation": asdict(preparation), "strips": arguments.strips},
        codecs=codecs,
        files={"classifier": sha256_of(arguments.classifier), "labels": sha256_of(arguments.labels)},
        view={
            "link_kbps": sorted(set(arguments.link_kbps)),
            "deadlines_ms": sorted(set(arguments.deadlines_ms)),
            "stops": sorted(set(arguments.stops)),
            "classifier": arguments.classifier.name,
        },
    )
    result = conduct(plan, arguments.out, crew, Guess)
    summary = summarise_run(result)
    if arguments.json:
        counts = {"pictures": len(chosen) - len(result.skipped), "skipped": dict(result.skipped)}
        print_object(finite({**counts, **asdict(summary)}))
    else:
        _print(summary)
    return 0


def channels(text: str) -> tuple[float, ...]:
    """Read three numbers, separated by commas."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise argparse.ArgumentTypeError(f"must be three numbers R,G,B, not {text!r}")
    return values


def byte_counts(text: str) -> tuple[int, ...]:
    """Read whole numbers of at least 1, separated by commas."""
    return tuple(positive_int(part) for part in text.split(","))


def shares(text: str) -> tuple[float, ...]:
    """Read numbers above 0 and up to 1, separated by commas."""
    values = tuple(positive_number(part) for part in text.split(","))
    for value in values:
        if value > 1:
            raise argparse.ArgumentTypeError(f"must be shares of at most 1, not {value:g}")
    return values


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as fault:
        raise UsageError(f"{path}: no such file; --classifier takes an ONNX file") from fault
    except OSError as fault:
        raise DataError(f"{path}: cannot be read: {fault.strerror}") from fault


def _print(summary: AccuracySummary) -> None:
    print("Accuracy in percent, with 95 % intervals:")
    print_table(
        ("codec", "cut_bytes", "bytes", "bpp", "top-1", "top-5", "agreement", "shown", "calibration error"),
        [
            (
                point.codec,
                FULL if point.cut_bytes is None else str(point.cut_bytes),
                f"{point.bytes:.0f}",
                f"{point.bpp:.3f}",
                percent_of(point.top1),
                percent_of(point.top5),
                percent_of(point.agreement),
                str(point.shown),
                text_of(point.calibration_error, ".3f"),
            )
            for point in summary.points
        ],
    )
    deadlines = list(dict.fromkeys(point.deadline_ms for point in summary.deadlines))
    print("\nTop-1 in percent by a deadline in ms, from the first bit sent to the answer:")
    print_table(
        ("codec", "link_kbps", *(f"{deadline:g}" for deadline in deadlines)),
        [
            (codec, f"{link:g}", *(_top1_by(summary, codec, link, deadline) for deadline in deadlines))
            for codec, link in dict.fromkeys((point.codec, point.link_kbps) for point in summary.deadlines)
        ],
    )
    print("\nStopping at the first answer of enough confidence:")
    print_table(
        ("codec", "confidence", "mean bytes", "top-1", "stopped early"),
        [
            (stop.codec, f"{stop.threshold:g}", f"{stop.bytes:.0f}", percent_of(stop.top1), percent_of(stop.stopped))
            for stop in summary.stops
        ],
    )
    print("\nFirst correct answer:")
    print_table(
        ("codec", "mean bytes", "median bytes", "ever correct"),
        [
            (first.codec, f"{first.bytes:.0f}", f"{first.median_bytes:.0f}", percent_of(first.ever))
            for first in summary.first_correct
        ],
    )


def _top1_by(summary: AccuracySummary, codec: str, link_kbps: float, deadline_ms: float) -> str:
    key = codec, link_kbps, deadline_ms
    (point,) = (one for one in summary.deadlines if (one.codec, one.link_kbps, one.deadline_ms) == key)
    return f"{100 * point.top1.value:.1f}"
