"""One HTML page of several runs, with nothing outside it: style, drawings and pictures stand inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from runtime.errors import DataError
from runtime.evaluate.accuracy.guesses import Guess
from runtime.evaluate.deadline.decodes import Decode
from runtime.evaluate.rd.cuts import Cut
from runtime.evaluate.report.accuracy_section import accuracy_section
from runtime.evaluate.report.deadline_section import deadline_section
from runtime.evaluate.report.rd_section import rd_section
from runtime.evaluate.report.section import Section
from runtime.evaluate.runs.folder import RUN_FILE, load_run, read_run

_KINDS: Mapping[str, tuple[type[Any], Callable[[Any, str], Section]]] = {
    "rd": (Cut, rd_section),
    "accuracy": (Guess, accuracy_section),
    "deadline": (Decode, deadline_section),
}


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of runs among *folders*: themselves, or those directly inside; rd, accuracy, deadline in turn.

    Each once, however often it is given.

    Raises:
        DataError: a folder neither is nor holds one, or cannot be read.
    """
    found = []
    for folder in folders:
        try:
            inside = (
                [folder] if (folder / RUN_FILE).is_file() else sorted(p.parent for p in folder.glob(f"*/{RUN_FILE}"))
            )
        except OSError as fault:
            raise DataError(f"{folder}: cannot be read: {fault.strerror}") from fault
        if not inside:
            raise DataError(f"{folder}: neither the folder of a run nor a folder of such: no {RUN_FILE}")
        found += inside
    order = list(_KINDS)
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(path.resolve(), path)
    return sorted(once.values(), key=lambda path: order.index(_report_of(path)))


def names_of(runs: Sequence[Path]) -> list[str]:
    """Return a name for each of *runs*, all of which differ: that of its folder, behind as many above as it takes."""
    parts = [path.resolve().parts[1:] for path in runs]
    lengths = [1] * len(parts)
    while True:
        names = ["-".join(some[-length:]) for some, length in zip(parts, lengths, strict=True)]
        alike = [names.count(name) > 1 and len(some) > n for name, some, n in zip(names, parts, lengths, strict=True)]
        if not any(alike):
            return names
        lengths = [length + again for length, again in zip(lengths, alike, strict=True)]


def section_of(path: Path, name: str) -> Section:
    """Return the section on the run in the folder *path*; *name* tells it from others on the page.

    Raises:
        DataError: it is no run, or has no results yet.
    """
    kind, make = _KINDS[_report_of(path)]
    run = load_run(path, kind)
    if not run.rows:
        raise DataError(f"{path}: this run has no results yet")
    return make(run, name)


def page_of(sections: Sequence[Section], title: str) -> str:
    """Return the page."""
    links = "".join(f'<a href="#{i}-{one.anchor}">{escape(one.title)}</a>' for i, one in enumerate(sections))
    body = "".join(
        f'<section id="{i}-{one.anchor}"><h2>{escape(one.title)}</h2>{one.html}</section>'
        for i, one in enumerate(sections)
    )
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body><header><h1>{escape(title)}</h1><nav>{links}</nav></header>{body}</body></html>\n"
    )


def _report_of(path: Path) -> str:
    report = str(read_run(path)["report"])
    if report not in _KINDS:
        raise DataError(f"{path / RUN_FILE}: report {report!r} is unknown; there are {', '.join(_KINDS)}")
    return report
