"""`cutoff eval report`: one self-contained page of runs, and its figures as files where they are wanted."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from runtime.errors import OutputError
from runtime.evaluate.report.drawing import require_matplotlib, write_figure
from runtime.evaluate.report.page import find_runs, names_of, page_of, section_of
from runtime.whole_files import write_whole

_PAGE = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the report's arguments."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="DIR", help="folders of runs, or a folder of such folders"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=f"default: {_PAGE} in the first folder")
    parser.add_argument("--title", default="cutoff: evaluation", help="default: %(default)s")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write the page's figures there, too, as PNG; "
                        "of two runs of a kind with the run's name")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Write the page, and say where.

    Raises:
        CutoffError: a folder is no run, matplotlib is not installed, or the page cannot be written.
    """
    require_matplotlib()
    runs = find_runs(arguments.runs)
    sections = [section_of(path, name) for path, name in zip(runs, names_of(runs), strict=True)]
    output = arguments.output or arguments.runs[0] / _PAGE
    write_whole(output, page_of(sections, arguments.title).encode(errors="backslashreplace"))
    print(output)
    if arguments.figures is not None:
        try:
            arguments.figures.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise OutputError(f"{arguments.figures}: cannot be written: {fault.strerror}") from fault
        times = Counter(section.anchor for section in sections)
        for section in sections:
            behind = f"-{section.run}" if times[section.anchor] > 1 else ""
            for name, figure in section.figures.items():
                write_figure(figure, arguments.figures / f"{name}{behind}.png")
    return 0
