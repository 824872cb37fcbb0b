"""The command `cutoff`: find the verb, parse, call, and turn errors into one line and an exit status.

Results go to stdout, notes and errors to stderr. Exit status: 0, 1 for bad data, 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NoReturn

from runtime.cli import bench, bundles, decode, demo, doctor, encode, engines, inspect, selfcheck, serve, trim
from runtime.errors import CutoffError, MissingExtra, UsageError

_INTERRUPTED = 130  # as shells report it


@dataclass(frozen=True)
class Verb:
    """A verb: its line in the help, what it adds to its parser, and what it does."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _by_name(summary: str, module: str, extra: str) -> Verb:
    """Return a verb whose module is imported when it is called: it needs the packages of an extra.

    A name, as no file of `runtime` imports the packages above it; the verb of such a package stands here nevertheless.
    """

    def command() -> Any:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as fault:
            raise MissingExtra(
                f"`cutoff {extra}` needs {fault.name}: pip install '.[{extra}]' in the checkout"
            ) from fault

    return Verb(
        summary, lambda parser: command().add_arguments(parser), lambda arguments: int(command().run(arguments))
    )


VERBS = {
    "encode": Verb("encode a picture file into a stream", encode.add_arguments, encode.run),
    "decode": Verb("decode a stream, or a prefix of it, into a picture file", decode.add_arguments, decode.run),
    "trim": Verb("make a smaller stream of a stream, without decoding", trim.add_arguments, trim.run),
    "inspect": Verb("print a stream's header and slices, without decoding", inspect.add_arguments, inspect.run),
    "bundles": Verb("list the bundles that come with this installation", bundles.add_arguments, bundles.run),
    "bench": Verb("measure entropy coding, networks and memory on this machine", bench.add_arguments, bench.run),
    "selfcheck": Verb("check bundles, graphs and coder on this machine", selfcheck.add_arguments, selfcheck.run),
    "engines": Verb("list what networks can run on, build plans, remove them", engines.add_arguments, engines.run),
    "doctor": Verb("examine this machine and every back end, into one file", doctor.add_arguments, doctor.run),
    "serve": Verb("serve cameras: decode what they send, by its deadline", serve.add_arguments, serve.run),
    "demo": Verb("encode pictures, cut the streams, and show what comes of them", demo.add_arguments, demo.run),
    "eval": _by_name("evaluate bundles over folders of pictures", "runtime.evaluate.command", "eval"),
    "edge": _by_name("send a camera's pictures to a server", "edge_client.command", "edge"),
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: the process's own) and return its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    show_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]  # allowed anywhere, also behind a verb's own verbs
    try:
        arguments = _parser(words).parse_args(words)
        status = VERBS[arguments.verb].run(arguments)
        if sys.stdout is not None:  # a process may have been started without one
            sys.stdout.flush()
        return status
    except CutoffError as fault:
        if show_traceback:
            traceback.print_exc()
        print(f"cutoff: error: {' '.join(str(fault).split())}", file=sys.stderr)
        return fault.exit_status
    except KeyboardInterrupt:
        print("cutoff: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # nobody reads stdout any more
        _forget_stdout()
        return 1
    except (OSError, MemoryError) as fault:  # of stdout on a full disk; of a size that a machine has no memory for
        if show_traceback:
            traceback.print_exc()
        print(f"cutoff: error: {fault or 'out of memory'}", file=sys.stderr)
        _forget_stdout()
        return 1


def _forget_stdout() -> None:
    """Keep the interpreter from trying once more, as it ends, to write what could not be written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be no file, or none at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of all verbs; only the verb that *words* name gets its arguments, as that may need imports."""
    parser = _Parser(
        prog="cutoff",
        description="Learned progressive image compression: encode once, cut anywhere, decode what arrived.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cutoff {_version()}")
    _add_traceback(parser)
    choices = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    named = next((word for word in words if not word.startswith("-")), None)
    for name, verb in VERBS.items():
        sub = choices.add_parser(name, help=verb.summary, description=verb.summary, allow_abbrev=False)
        if name == named:
            _add_traceback(sub)
            verb.add_arguments(sub)
    return parser


def _add_traceback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--traceback", action="store_true", default=argparse.SUPPRESS, help="show where an error came from"
    )


def _version() -> str:
    try:
        return metadata.version("cutoff")
    except metadata.PackageNotFoundError:
        return "of a checkout that is not installed"
