"""`cutoff doctor`: what this machine is, and what every back end makes of every graph, in one file to send along.

Every back end that is here opens every graph of a bundle (plans are built where they are needed), is compared with the
CPU, and timed; then it encodes and decodes a picture. The file holds no host or user name and no path of the home
folder.

JSON: report (the file's path), ok, and what the file holds: cutoff, machine, gpu, packages, environment, coder (list of
{name, ok, detail}), bundle, picture, engines (list of {engine, library, missing, graphs (list of {role, exact, ok,
engine, precision, reason, open_ms, ms, difference, detail}), encode_ms, decode_ms, same_stream}). Exit status 1 if
anything that is here does not do what it should.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from engines.backends import BACKENDS, EXACT_ONLY
from engines.bundle import Bundle
from engines.costs import cache_folder
from engines.cuda_driver import open_driver
from engines.engine import Tensor
from engines.known_answers import check_known_answers
from engines.open import OpenedEngine, available_cores, open_engine
from runtime.cli.coder_check import check_agreement, check_coder
from runtime.cli.console import note, print_object, print_table
from runtime.cli.engines import picture_size
from runtime.cli.exercise import RecordingModel, exercise
from runtime.cli.options import add_bundle, add_json, positive_int
from runtime.cli.samples import synthetic_picture
from runtime.codec import Codec
from runtime.errors import CutoffError, EngineError
from runtime.evaluate.runs.provenance import processor
from runtime.model import Model
from runtime.picture import Image
from runtime.stream import Limits
from runtime.whole_files import write_whole

PACKAGES = (
    "cutoff",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "constriction",
    "numba",
    "pillow",
)
# Values of these say nothing about a person; of all others only whether they are set is told.
_TOLD = ("CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY", "NUMBA_CPU_NAME")
_ONLY_WHETHER = ("CUTOFF_CACHE", "LD_LIBRARY_PATH", "LD_PRELOAD", "XDG_CACHE_HOME")
_JETSON = (Path("/etc/nv_tegra_release"), Path("/proc/device-tree/model"))
_DIFFERENCE = 0.02  # of a free graph's range


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("-o", "--output", type=Path, default=Path("cutoff-doctor.json"), metavar="FILE")
    parser.add_argument("--size", type=picture_size, default=(768, 512), metavar="WxH", help="default: 768x512")
    parser.add_argument("--repeats", type=positive_int, default=9, metavar="N", help="measured runs (default: 9)")
    parser.add_argument("--no-build", action="store_true", help="use the plans that are there, and build none")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads of a run (default: all cores)")
    add_bundle(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Examine, write the file and print a table."""
    bundle = Bundle.open(arguments.bundle)
    width, height = arguments.size
    examination = Examination(bundle, synthetic_picture(width, height), arguments)
    coder = [_checked("golden words", check_coder), _checked("agreement", check_agreement)]
    engines = [examination.of_engine(name) for name in BACKENDS]
    here = [engine for engine in engines if engine["missing"] is None]
    ok = all(check["ok"] for check in coder) and all(
        graph["ok"] for engine in here for graph in engine["graphs"] if not _is_unplanned(graph, arguments)
    )
    report = {
        "ok": ok,
        "cutoff": _version("cutoff"),
        "machine": machine(),
        "gpu": gpu(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "environment": environment(),
        "coder": coder,
        "bundle": {"name": bundle.name, "version": bundle.version, "exact_id": bundle.exact_id.hex()},
        "picture": {"width": width, "height": height, "threads": examination.threads, "repeats": arguments.repeats},
        "engines": engines,
    }
    clean = without_names(report)
    write_whole(arguments.output, (json.dumps(clean, indent=1) + "\n").encode())
    if arguments.json:
        print_object({"report": str(arguments.output), **clean})
    else:
        _print(clean)
        print(f"\n{'ok' if ok else 'NOT ok'}; {arguments.output} has it all")
    return 0 if ok else 1


class Examination:
    """Opens, compares and times the graphs of a bundle on one back end after another."""

    def __init__(self, bundle: Bundle, image: Image, arguments: argparse.Namespace) -> None:
        """Run everything on the CPU once, to have inputs that are like real ones and outputs to compare with."""
        self.threads: int = arguments.threads or available_cores()
        self._bundle, self._image, self._repeats = bundle, image, arguments.repeats
        self._may_build = not arguments.no_build
        model = RecordingModel(bundle, "cpu", self.threads)
        with Codec(model) as codec:
            exercise(codec, image)
            self._inputs = {role: model.seen[role] for role in bundle.graphs if role in model.seen}
            self._expected = {
                role: [output.astype(np.float32) for output in model.run(role, *inputs)]
                for role, inputs in self._inputs.items()
            }
            self._stream = codec.encode(image).stream

    def of_engine(self, name: str) -> dict[str, Any]:
        """Return what there is to say of one back end."""
        backend = BACKENDS[name]
        missing = backend.missing()
        found: dict[str, Any] = {"engine": name, "library": backend.library, "missing": missing, "graphs": []}
        if missing is not None:
            return found
        for role, spec in self._bundle.graphs.items():
            suits = backend.takes_exact if spec.exact else name != EXACT_ONLY
            if suits:
                note(f"{name}: {role}")
                found["graphs"].append(self._of_graph(name, role))
        if name != EXACT_ONLY and all(graph["ok"] for graph in found["graphs"]):
            found |= self._of_codec(name)
        return found

    def _of_graph(self, name: str, role: str) -> dict[str, Any]:
        exact = self._bundle.graphs[role].exact
        found: dict[str, Any] = {"role": role, "exact": exact, "ok": False}
        if role not in self._inputs:
            return found | {"detail": "neither encoding nor decoding runs it, so there is nothing to run it on"}
        started = time.perf_counter()
        try:
            engine = self._opened(name, role)
        except CutoffError as fault:
            return found | {"detail": str(fault)}
        try:
            outputs = engine.run(*self._inputs[role])
            found["open_ms"] = 1000 * (time.perf_counter() - started)
            found["ms"] = self._timed(lambda: engine.run(*self._inputs[role]), warm=2)
            found |= {"engine": engine.backend, "precision": engine.precision, "reason": engine.reason}
            found["difference"] = _difference(outputs, self._expected[role])
            if exact:
                check_known_answers(self._bundle, self._bundle.graphs[role], engine)
            found["ok"] = engine.backend == name and found["difference"] <= (0.0 if exact else _DIFFERENCE)
        except CutoffError as fault:
            found["detail"] = str(fault)
        finally:
            engine.close()
        return found

    def _opened(self, name: str, role: str) -> OpenedEngine:
        if name == EXACT_ONLY:  # no choice of users, but the last to fall back on
            return OpenedEngine.only(self._bundle, role, name, self.threads)
        return open_engine(self._bundle, role, name, self.threads, may_build=self._may_build)

    def _of_codec(self, name: str) -> dict[str, Any]:
        model = Model(self._bundle, name, self.threads, Limits(), may_build=self._may_build)
        try:
            with Codec(model) as codec:
                codec.warm(self._image.shape[1], self._image.shape[0])
                stream = codec.encode(self._image).stream
                return {
                    "encode_ms": self._timed(lambda: codec.encode(self._image)),
                    "decode_ms": self._timed(lambda: codec.decode(self._stream)),
                    "same_stream": stream == self._stream,
                }
        except CutoffError as fault:
            return {"detail": str(fault)}

    def _timed(self, work: Callable[[], object], warm: int = 1) -> float:
        durations = []
        for repeat in range(warm + self._repeats):
            started = time.perf_counter()
            work()
            if repeat >= warm:
                durations.append(time.perf_counter() - started)
        return 1000 * median(durations)


def machine() -> dict[str, Any]:
    """Return what kind of computer this is."""
    found: dict[str, Any] = {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "cores_allowed": available_cores(),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
    }
    with contextlib.suppress(OSError, ValueError):
        found["memory_mb"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    for path in _JETSON:
        try:
            found[path.name] = path.read_text(encoding="utf-8", errors="replace").strip("\0\n ").splitlines()[0]
        except (OSError, IndexError):
            continue
    return found


def gpu() -> dict[str, Any]:
    """Return what GPU there is, or why there is none."""
    try:
        device = open_driver().device()
    except EngineError as fault:
        return {"missing": str(fault)}
    return {
        "name": device.name,
        "compute_capability": ".".join(map(str, device.capability)),
        "multiprocessors": device.multiprocessors,
        "memory_mb": device.memory_bytes // 2**20,
        "integrated": device.integrated,
        "cuda_of_driver": f"{device.driver // 1000}.{device.driver % 1000 // 10}",
    }


def environment() -> dict[str, str]:
    """Return the variables that decide how networks run; of those that hold paths only that they are set."""
    values = {name: os.environ[name] for name in _TOLD if name in os.environ}
    return values | {name: "set" for name in _ONLY_WHETHER if name in os.environ}


def without_names(value: Any) -> Any:
    """Return *value* with the names of user and host, and of folders that hold them, replaced in every text."""
    if isinstance(value, str):
        for pattern, instead in _names():
            value = re.sub(pattern, instead, value)
        return value
    if isinstance(value, dict):
        return {key: without_names(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_names(item) for item in value]
    return value


def _names() -> list[tuple[str, str]]:
    folders = {cache_folder(): "<cache>", Path.cwd(): "<here>", Path(sys.prefix): "<python>", Path.home(): "~"}
    found = [(re.escape(str(path)), name) for path, name in folders.items() if len(path.parts) > 1]
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    for word, instead in ((user, "<user>"), (platform.node(), "<host>")):
        if word not in ("", "root", "localhost"):
            found.append((rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", instead))
    return found


def _is_unplanned(graph: dict[str, Any], arguments: argparse.Namespace) -> bool:
    return bool(arguments.no_build) and "cutoff engines build" in f"{graph.get('detail')} {graph.get('reason')}"


def _difference(found: Any, expected: list[Tensor]) -> float:
    """Return the largest difference as a share of the range of *expected*; a number, however bad."""
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        with np.errstate(all="ignore"):
            difference = float(np.abs(ours - theirs).max() / (np.ptp(theirs) or 1.0))
        worst = max(worst, difference if np.isfinite(difference) else 1e9)
    return worst


def _checked(name: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "detail": check()}
    except CutoffError as fault:
        return {"name": name, "ok": False, "detail": str(fault)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _print(report: dict[str, Any]) -> None:
    about, device = report["machine"], report["gpu"]
    print(f"{about['processor']}, {about['cores']} cores, {about['architecture']}, Python {about['python']}")
    print(f"GPU: {device.get('name') or 'none: ' + device['missing']}")
    rows = []
    for engine in report["engines"]:
        if engine["missing"] is not None:
            rows.append((engine["engine"], "", "", "", "", f"not here: {engine['missing']}"))
        for graph in engine["graphs"]:
            state = "ok" if graph["ok"] else graph.get("detail") or graph.get("reason", "")
            time_ms = f"{graph['ms']:.2f}" if "ms" in graph else ""
            difference = f"{graph['difference']:.1g}" if "difference" in graph else ""
            rows.append((engine["engine"], graph["role"], graph.get("precision", ""), time_ms, difference, state))
        for what in ("encode_ms", "decode_ms"):
            if what in engine:
                rows.append((engine["engine"], what.removesuffix("_ms"), "", f"{engine[what]:.2f}", "", ""))
    print_table(("engine", "graph", "precision", "ms", "difference", ""), rows, text=(0, 1, 5))
