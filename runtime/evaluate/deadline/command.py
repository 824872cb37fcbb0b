"""`cutoff eval deadline`: decodes against deadlines while bytes arrive, on an idle and on a busy machine.

One process measures, one decode after another: others would be load. So there are neither --workers nor --ray.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from engines.open import available_cores
from runtime.cli.console import print_object, print_table
from runtime.cli.options import positive_int
from runtime.errors import UsageError
from runtime.evaluate.deadline.decodes import DEADLINES, LOADS, DeadlineJob, Decode, Place, unit_name
from runtime.evaluate.deadline.promptness import Goal, Punctuality, goals, punctuality
from runtime.evaluate.deadline.traces import TRACES
from runtime.evaluate.pictures import find_pictures, units_of
from runtime.evaluate.runs.conduct import Crew, Plan, add_run_arguments, choose_codecs, conduct, evenly
from runtime.evaluate.runs.work import Unit
from runtime.evaluate.texts import finite, percent_of, text_of

_SEED = 2026


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the report's arguments."""
    add_run_arguments(parser, peers=False)
    parser.add_argument(
        "--loads",
        type=loads,
        default=",".join(LOADS),
        metavar="LOAD,...",
        help="idle, and loaded: all cores kept busy by other processes (default: both)",
    )
    parser.add_argument(
        "--repeats",
        type=positive_int,
        default=10,
        metavar="N",
        help=f"draws of each of {len(TRACES)} traces for each of {len(DEADLINES)} deadlines (default: 10)",
    )
    parser.add_argument(
        "--calibration", type=positive_int, default=300, metavar="N", help="runs for percentiles (default: 300)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure what is left of the run, and print.

    With --json: `{"pictures": n, "skipped": {name: why}, "decodes": n, "deadlines": [Punctuality, ...], "goals": [Goal,
    ...]}`, the fields as `runtime.evaluate.deadline.promptness` documents them. A picture counts if it was measured
    under any load.
    """
    if not arguments.bundle:
        raise UsageError("nothing to measure: give --bundle")
    threads = arguments.threads or available_cores()
    pictures = find_pictures(arguments.images)
    chosen = evenly(list(pictures), arguments.most)
    choice, codecs = choose_codecs(arguments, threads)
    places = {
        unit_name(load, codec, image): Place(bundle, codec, load, image)
        for load in arguments.loads
        for bundle, codec in zip(choice.bundles, codecs, strict=True)
        for image in chosen
    }
    files = {unit.name: unit for unit in units_of({name: pictures[name] for name in chosen})}
    units = [Unit(name, files[place.image].path, files[place.image].sha256) for name, place in places.items()]
    cores = available_cores()
    plan = Plan(
        report="deadline",
        job=DeadlineJob(
            places=places,
            engine=arguments.engine,
            threads=threads,
            precision=arguments.precision,
            cores=cores,
            repeats=arguments.repeats,
            calibration=arguments.calibration,
            seed=_SEED,
        ),
        units=units,
        settings={
            "loads": arguments.loads,
            "cores_loaded": cores,
            "threads": threads,
            "repeats": arguments.repeats,
            "calibration": arguments.calibration,
            "seed": _SEED,
            "deadlines": [f"{factor:g} x {relative_to}" for factor, relative_to in DEADLINES],
            "traces": list(TRACES),
        },
        codecs=codecs,
        files={},
        view={},
        unit="units (a picture under a load)",
    )
    result = conduct(plan, arguments.out, Crew(1, threads, None), Decode)
    lines, reached = punctuality(result.rows), goals(result.rows)
    if arguments.json:
        measured = {row.image for row in result.rows}
        counts = {"pictures": len(measured), "skipped": dict(result.skipped), "decodes": len(result.rows)}
        of_json = {"deadlines": [asdict(line) for line in lines], "goals": [asdict(goal) for goal in reached]}
        print_object(finite({**counts, **of_json}))
    else:
        _print(lines, reached)
    return 0


def loads(text: str) -> tuple[str, ...]:
    """Read names of loads, separated by commas, into their usual order."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in LOADS:
            raise argparse.ArgumentTypeError(f"{name!r} is unknown; there are {', '.join(LOADS)}")
    return tuple(load for load in LOADS if load in names)


def _print(lines: list[Punctuality], reached: list[Goal]) -> None:
    print_table(
        ("codec", "load", "deadline", "ms", "n", "not arrived", "in time, %", "late", "nothing", "preview, %",
         "over p99.9, ms", "over max, ms", "loss, dB"),
        [
            (
                line.codec,
                line.load,
                f"{line.factor:g} x {line.relative_to}",
                f"{line.deadline_ms:.1f}",
                str(line.n),
                str(line.not_arrived),
                percent_of(line.in_time),
                str(line.late),
                str(line.nothing),
                percent_of(line.preview),
                text_of(line.overshoot_p999_ms, ".2f"),
                text_of(line.overshoot_max_ms, ".2f"),
                text_of(line.loss_mean_db, ".3f"),
            )
            for line in lines
        ],
    )  # fmt: skip
    print()
    print_table(
        ("codec", "load", "figure", "wanted", "measured", "n", "reached"),
        [
            (
                goal.codec,
                goal.load,
                goal.figure,
                goal.wanted,
                goal.measured,
                str(goal.n),
                "yes" if goal.reached else "no",
            )
            for goal in reached
        ],
    )
