"""`cutoff engines`: what networks can run on here, and the plans that were built for it.

list   JSON: engines (list of {engine, library, missing}), bundle, graphs (list of {role, exact, engine, precision,
       reason}), plans (list of {role, engine, gpu, library, profile, bytes, facts, digest}).
build  JSON: built (list as plans above), seconds.
clear  JSON: bytes.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import Any

from engines.backends import BACKENDS
from engines.bundle import Bundle
from engines.plan_cache import PlanCache, PlanEntry
from runtime.cli.console import note, print_object, print_table
from runtime.cli.exercise import exercise
from runtime.cli.options import add_bundle, add_engine_options, add_json, engine_options
from runtime.cli.samples import synthetic_picture
from runtime.codec import Codec
from runtime.model import Model
from runtime.stream import Limits

_LARGEST_SIDE = 65_535
_BUILDERS = tuple(name for name, backend in BACKENDS.items() if backend.has_plans)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own verbs."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    shown = verbs.add_parser("list", help="what is here, what runs each graph and why, and plans", allow_abbrev=False)
    add_bundle(shown)
    add_engine_options(shown)
    add_json(shown)
    build = verbs.add_parser(
        "build",
        help="build plans of all networks for pictures of given sizes",
        description="Build plans for pictures of given sizes; takes minutes per size. What is there already stays.",
        allow_abbrev=False,
    )
    build.add_argument(
        "--size", type=picture_size, action="append", required=True, metavar="WxH", help="of pictures; may be repeated"
    )
    add_bundle(build)
    add_engine_options(build, _BUILDERS, default="tensorrt")
    add_json(build)
    clear = verbs.add_parser("clear", help="remove all plans", allow_abbrev=False)
    add_json(clear)


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked."""
    return {"list": _list, "build": _build, "clear": _clear}[arguments.action](arguments)


def picture_size(text: str) -> tuple[int, int]:
    """Read width and height as in 768x512."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(1 <= side <= _LARGEST_SIDE for side in size):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, 1 to {_LARGEST_SIDE} each, not {text!r}")
    return size


def _list(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.bundle)
    model = Model(bundle, limits=Limits(), **engine_options(arguments))
    model.open_all()
    here = [(b.name, b.library, b.missing()) for b in BACKENDS.values()]
    graphs = [(use.role, bundle.graphs[use.role].exact, use) for use in model.engines_report()]
    plans = PlanCache().entries()
    if arguments.json:
        print_object(
            {
                "engines": [{"engine": n, "library": library, "missing": missing} for n, library, missing in here],
                "bundle": bundle.name,
                "graphs": [
                    {
                        "role": role,
                        "exact": exact,
                        "engine": use.backend,
                        "precision": use.precision,
                        "reason": use.reason,
                    }
                    for role, exact, use in graphs
                ],
                "plans": [_described(entry) for entry in plans],
            }
        )
        return 0
    print_table(
        ("engine", "library", "here"),
        [(n, lib, "yes" if why is None else f"no: {why}") for n, lib, why in here],
        text=(0, 1, 2),
    )
    print()
    print_table(
        ("graph", "kind", "runs on", "precision", "why"),
        [(role, "exact" if exact else "free", u.backend, u.precision, u.reason) for role, exact, u in graphs],
        text=(0, 1, 2, 3, 4),
    )
    print()
    if plans:
        print_table(("plan", "engine", "GPU", "sizes", "MB"), [_row(entry) for entry in plans], text=(0, 1, 2, 3))
    else:
        print("no plans")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    cache = PlanCache()
    before = {entry.digest for entry in cache.entries()}
    started = time.perf_counter()
    for width, height in arguments.size:
        note(f"{width}x{height}")
        model = Model(
            Bundle.open(arguments.bundle),
            limits=Limits(),
            may_build=True,
            progress=_Progress() if sys.stderr.isatty() else None,
            **engine_options(arguments),
        )
        with Codec(model) as codec:
            model.open_all()
            exercise(codec, synthetic_picture(width, height))
            for use in model.engines_report():
                if use.backend != arguments.engine:
                    note(f"{use.role} runs on {use.backend}: {use.reason}")
    built = [entry for entry in cache.entries() if entry.digest not in before]
    seconds = time.perf_counter() - started
    if arguments.json:
        print_object({"built": [_described(entry) for entry in built], "seconds": seconds})
    else:
        print(f"{len(built)} plans built in {seconds:.0f} s, {sum(entry.size for entry in built) / 1e6:.1f} MB")
    return 0


def _clear(arguments: argparse.Namespace) -> int:
    size = PlanCache().clear()
    if arguments.json:
        print_object({"bytes": size})
    else:
        print(f"{size / 1e6:.1f} MB removed")
    return 0


def _described(entry: PlanEntry) -> dict[str, Any]:
    kept = ("role", "engine", "gpu", "library", "profile")
    return {
        **{name: entry.key.get(name) for name in kept},
        "bytes": entry.size,
        "facts": dict(entry.facts),
        "digest": entry.digest,
    }


def _row(entry: PlanEntry) -> tuple[str, ...]:
    sizes = []
    for name, (smallest, _, largest) in dict(entry.key.get("profile", {})).items():
        ends = ["x".join(map(str, shape)) for shape in (smallest, largest)]
        sizes.append(f"{name} {' to '.join(dict.fromkeys(ends))}")
    return (
        str(entry.key.get("role")),
        str(entry.key.get("engine")),
        str(entry.key.get("gpu")),
        ", ".join(sizes),
        f"{entry.size / 1e6:.2f}",
    )


class _Progress:
    """One line on a terminal that follows a build."""

    def __call__(self, phase: str, done: int, steps: int) -> None:
        end = "\n" if done >= steps else ""
        print(f"\r\033[Kcutoff: {phase} {done}/{steps}", end=end, file=sys.stderr, flush=True)
