"""A run from beginning to end: what is left is measured, here, by processes or on a cluster, and kept as it comes.

Plan -> RunFolder -> units that are not done -> outcomes -> RunFolder -> Run
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from engines.open import available_cores
from runtime.cli.console import note, warn
from runtime.cli.options import add_engine_options, add_json, positive_int
from runtime.errors import DataError
from runtime.evaluate.codecs import CodecChoice
from runtime.evaluate.peers import PEERS
from runtime.evaluate.runs.folder import Run, RunFolder, load_run
from runtime.evaluate.runs.on_ray import LOCAL, import_ray, run_on_ray
from runtime.evaluate.runs.processes import run_here, run_in_processes
from runtime.evaluate.runs.progress import progress
from runtime.evaluate.runs.provenance import command_line, machine, software
from runtime.evaluate.runs.rows import UnitRow
from runtime.evaluate.runs.work import Job, Outcome, Unit

R = TypeVar("R", bound=UnitRow)
N = TypeVar("N")


@dataclass(frozen=True)
class Plan:
    """What a run is.

    Attributes:
        report: which report it is for.
        job, units: what is measured, and of what.
        settings: all that figures depend on, besides inputs; a folder holds runs of the same settings only.
        codecs: identities by name.
        files: hashes of other inputs, by what they are for.
        view: how the report shows it; the newest counts.
        kept: files that the report needs, as paths below the run's folder and where they are; copied there at once.
        unit: what a unit is, in the plural, for people.
    """

    report: str
    job: Job
    units: Sequence[Unit]
    settings: Mapping[str, Any]
    codecs: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, str]
    view: Mapping[str, Any]
    kept: Mapping[str, Path] = field(default_factory=dict)
    unit: str = "pictures"


@dataclass(frozen=True)
class Crew:
    """Who measures: how many workers, with how many CPU threads each, and on which Ray cluster, if on one."""

    workers: int
    threads: int
    ray: str | None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Crew:
        """Return what was asked for; cores are shared out where threads were not."""
        workers = arguments.workers
        return cls(workers, arguments.threads or max(1, available_cores() // workers), arguments.ray)

    def run(self, job: Job, units: Sequence[Unit]) -> Iterator[Outcome]:
        """Measure *units*."""
        if self.ray is not None:
            return run_on_ray(job, units, self.workers, self.threads, self.ray)
        return run_here(job, units) if self.workers == 1 else run_in_processes(job, units, self.workers)


def add_run_arguments(parser: argparse.ArgumentParser, *, peers: bool = True) -> None:
    """Add what all reports need: codecs, pictures, the run's folder, and who measures."""
    parser.add_argument("--bundle", action="append", default=[], metavar="NAME", help="a bundle, by name or path")
    if peers:
        parser.add_argument(
            "--peers", type=peer_names, default=(), metavar="NAME,...", help=f"codecs beside them: {', '.join(PEERS)}"
        )
    parser.add_argument("--images", nargs="+", required=True, type=Path, metavar="PATH", help="pictures or folders")
    parser.add_argument("--most", type=positive_int, metavar="N", help="take N of the pictures, evenly spread")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the run's folder; a run that was stopped goes on there"
    )
    add_engine_options(parser)
    add_json(parser)


def add_crew_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --workers, --ray and --strips."""
    parser.add_argument(
        "--workers", type=positive_int, default=1, metavar="N", help="processes, or actors (default: 1); times of more "
        "than one are those of a busy machine",
    )  # fmt: skip
    parser.add_argument(
        "--ray",
        nargs="?",
        const=LOCAL,
        metavar="ADDRESS",
        help="measure on the Ray cluster at ADDRESS, or on a local one",
    )
    parser.add_argument(
        "--strips", type=int, default=2, metavar="N", help="pictures that the report shows (default: 2)"
    )


def peer_names(text: str) -> tuple[str, ...]:
    """Read names of peers, separated by commas."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"{name!r} is unknown; there are {', '.join(PEERS)}")
    return names


def choose_codecs(
    arguments: argparse.Namespace, threads: int, cuts: tuple[int, ...] = ()
) -> tuple[CodecChoice, dict[str, Mapping[str, Any]]]:
    """Return the codecs that were asked for, and what tells them apart, by name; errors as of `CodecChoice.opened`.

    Paths of bundles become whole ones, as workers may stand elsewhere. *cuts* are those of `CodecChoice`.
    """
    bundles = tuple(str(Path(name).resolve()) if os.path.exists(name) else name for name in arguments.bundle)
    peers = tuple(getattr(arguments, "peers", ()))
    return CodecChoice(bundles, peers, arguments.engine, threads, arguments.precision, cuts=cuts).identified()


def evenly(items: Sequence[N], most: int | None) -> list[N]:
    """Return *most* of *items*, evenly spread; all if there are not more."""
    if most is None or most >= len(items):
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


def conduct(plan: Plan, out: Path, crew: Crew, kind: type[R]) -> Run[R]:
    """Measure what is left of *plan* in the folder *out*, and return all of it.

    Skipped units are reported on stderr as they come, and counted in the end.

    Raises:
        CutoffError: as of `RunFolder`, of the workers; a file to keep cannot be read; or nothing at all could be
            measured.
    """
    if crew.ray is not None:
        import_ray()  # before anything is written
    names = [unit.name for unit in plan.units]
    run = {
        "report": plan.report,
        "settings": plan.settings,
        "codecs": plan.codecs,
        "pictures": {unit.name: unit.sha256 for unit in plan.units},
        "files": plan.files,
        "units": names,
        "software": software(),
        "machine": machine(),
    }
    command = {"command": command_line(), "workers": crew.workers, "ray": crew.ray is not None}
    with RunFolder(out, kind, run, plan.view, command) as folder:
        for name, path in plan.kept.items():
            folder.keep(name, _content(path))
        left = [unit for unit in plan.units if unit.name not in folder.done]
        if len(left) < len(names):
            note(f"{out}: {len(names) - len(left)} of {len(names)} were there already")
        with progress(len(left), plan.report) as advance, closing(crew.run(plan.job, left)) as outcomes:  # type: ignore[type-var]
            for outcome in outcomes if left else ():
                folder.add(outcome)
                if outcome.fault is not None:
                    warn(f"skipped: {outcome.fault}")
                advance()
    result = load_run(out, kind)
    if result.skipped:
        warn(f"{len(result.skipped)} of {len(names)} {plan.unit} were skipped; {out / 'units.csv'} says why")
    if not result.rows:
        raise DataError(f"{out}: none of {len(names)} {plan.unit} could be measured; the first: "
                        f"{next(iter(result.skipped.values()))}")  # fmt: skip
    return result


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise DataError(f"{path}: cannot be read: {fault.strerror}") from fault
