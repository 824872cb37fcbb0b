"""`cutoff eval`: reports over folders of pictures.

cutoff eval rd         rate and distortion: one stream for each picture, cut at every point
cutoff eval accuracy   what a classifier still sees in cut streams
cutoff eval deadline   whether pictures are finished in time, and what that costs
cutoff eval report     one page of any of these runs
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from runtime.evaluate.accuracy import command as accuracy_command
from runtime.evaluate.deadline import command as deadline_command
from runtime.evaluate.rd import command as rd_command
from runtime.evaluate.report import command as report_command


@dataclass(frozen=True)
class Report:
    """A sub-command: its line in the help, its description, what it adds to its parser, and what it does."""

    summary: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


REPORTS = {
    "rd": Report(
        "rate and distortion of streams cut at fixed bits per pixel",
        "Encode every picture once, decode the stream cut at every point, and average over pictures.",
        rd_command.add_arguments,
        rd_command.run,
    ),
    "accuracy": Report(
        "accuracy of a classifier on cut streams",
        "Encode every picture once, decode the stream cut at every point, and classify what comes of it.",
        accuracy_command.add_arguments,
        accuracy_command.run,
    ),
    "deadline": Report(
        "decodes against deadlines while bytes arrive",
        "Decode streams that arrive over simulated links, against deadlines from hopeless to generous.",
        deadline_command.add_arguments,
        deadline_command.run,
    ),
    "report": Report(
        "one self-contained page of runs",
        "Make an HTML page of what the other reports have left in their folders.",
        report_command.add_arguments,
        report_command.run,
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the reports as sub-commands."""
    choices = parser.add_subparsers(dest="report", required=True, metavar="REPORT")
    for name, report in REPORTS.items():
        sub = choices.add_parser(name, help=report.summary, description=report.description, allow_abbrev=False)
        report.add_arguments(sub)


def run(arguments: argparse.Namespace) -> int:
    """Do what was parsed with `add_arguments`, and return the exit status.

    Raises:
        CutoffError: whatever stops the report; what was measured until then stays in the run's folder.
    """
    return REPORTS[arguments.report].run(arguments)
