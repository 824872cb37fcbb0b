"""A server and cameras for a long time on one machine: does anything grow?

    python benchmarks/soak.py --cameras 8 --minutes 30 --json benchmarks/results/soak.json

Every camera is a process that sends a test pattern over one link, which stalls for two seconds each minute and breaks
for five each second minute, so that connecting again and the spool are part of it. Caps of store and spool are low
enough to be reached. Somebody looks: a viewer of all events, who asks for a picture at a cut every other second.
Resident memory, file handles, threads and disk of every process are noted every few seconds; a line is fitted to what
was noted after a warm-up (the median of slopes between all pairs: single peaks do not move it).

"Grows" is: memory whose line rises over the time measured by more than 3 % and 8 MB; or handles or threads whose last
quarter has a higher maximum than the quarter after the warm-up, by more than 3. Exit status 1 if anything does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

sys.path.insert(0, str(Path(__file__).parent))

import processes

from runtime.shaped_link import Conditions, ShapedLink, Stretch, Trace

_MB = 1e6
_WARM_UP = 0.25  # share of the time that is left out
_PAIRS = 400  # samples that slopes are taken between, at most


@dataclass(frozen=True)
class Sample:
    """What a process held at an instant.

    Attributes:
        seconds: since the beginning.
        memory_mb: resident, of the process and its children.
        handles, threads: open file descriptors, and threads.
        disk_mb: of its folder.
    """

    seconds: float
    memory_mb: float
    handles: int
    threads: int
    disk_mb: float


@dataclass(frozen=True)
class Growth:
    """What became of a process.

    Attributes:
        memory_mb: median of the quarter after the warm-up, and of the last quarter.
        memory_mb_per_hour: slope of the fitted line.
        handles, threads: maxima of the same quarters.
        disk_mb: largest.
        processor: share of one core.
        grows: what does, by name.
    """

    name: str
    memory_mb: tuple[float, float]
    memory_mb_per_hour: float
    handles: tuple[int, int]
    threads: tuple[int, int]
    disk_mb: float
    processor: float
    grows: tuple[str, ...]


def main() -> int:
    """Run, print, write JSON; 1 if something grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples")
    parser.add_argument("--size", default="256x192", help="of the pictures")
    parser.add_argument("--fps", type=float, default=1.0, help="of each camera")
    parser.add_argument("--bundle", default="dpict-edge")
    parser.add_argument("--kbps", type=float, default=4000.0, help="of the link that all share")
    parser.add_argument("--folder", type=Path, help="to leave settings, logs and stores in (default: a temporary one)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        report = soak(arguments, folder.resolve())
    print(_table(report["growth"]))
    print(json.dumps(report["counts"], indent=1))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(processes.report_text(report))
    return int(any(one["grows"] for one in report["growth"]) or report["failed"] != [])


def soak(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run server and cameras, and return the report."""
    width, height = map(int, arguments.size.split("x"))
    names = [f"camera-{number}" for number in range(arguments.cameras)]
    server = _server(folder, names, arguments, f"{width}x{height}")
    trace = Trace(
        Stretch(58, 1000 * arguments.kbps),
        Stretch(2, 0),
        Stretch(55, 1000 * arguments.kbps),
        Stretch(5, 0, cut=True),
    )
    link = ShapedLink(("127.0.0.1", server.port), trace, Conditions(delay_s=0.02, queue_bytes=262_144))
    with ExitStack() as stack:
        stack.enter_context(processes.running(server))
        port = stack.enter_context(link.in_thread())
        cameras = [_camera(folder, name, port, arguments, width, height) for name in names]
        stack.enter_context(processes.running(*cameras))
        viewer = stack.enter_context(Viewer(server.port, names))
        programs = [server, *cameras]
        samples, processor = _watch(programs, folder, 60 * arguments.minutes, arguments.every)
        failed = [one.name for one in programs if one.process is None or one.process.poll() is not None]
        counts = {one.name: _counts(one) for one in programs if one.name not in failed}
        counts["viewer"] = {"events": viewer.events, "pictures": viewer.pictures, "refusals": viewer.refusals}
        statuses = {one.name: one.stop(60) for one in reversed(programs) if one.name not in failed}
    return {
        "machine": {"processor": processes.processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "settings": {key: value for key, value in vars(arguments).items() if key not in ("json", "folder")},
        "growth": [asdict(growth_of(name, samples[name], processor[name])) for name in samples],
        "failed": failed + [name for name, status in statuses.items() if status != 0],
        "counts": counts,
        "samples": {name: [list(asdict(one).values()) for one in found] for name, found in samples.items()},
    }


class Viewer:
    """Looks at the server as its page does.

    Attributes:
        events: messages of /v1/watch.
        pictures: at a cut.
        refusals: answers that were no success.
    """

    def __init__(self, port: int, cameras: Sequence[str]) -> None:
        """Prepare to look at *cameras*, one after another."""
        self._port, self._cameras = port, cameras
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._watch, self._ask)]
        self.events = self.pictures = self.refusals = 0

    def __enter__(self) -> Viewer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            with suppress(OSError, WebSocketException), connect(f"ws://127.0.0.1:{self._port}/v1/watch") as socket:
                while not self._stop.is_set():
                    with suppress(TimeoutError):
                        socket.recv(1.0)
                        self.events += 1

    def _ask(self) -> None:
        for camera in itertools.cycle(self._cameras):
            if self._stop.wait(2.0):
                return
            frames = self._get(f"/v1/cameras/{camera}/frames?limit=5")
            for frame in [] if frames is None else json.loads(frames)["frames"][:1]:
                size = max(1000, frame["held"] // 2)
                picture = self._get(f"/v1/frames/{camera}/{frame['sequence']}/picture?bytes={size}&width=160")
                self.pictures += picture is not None

    def _get(self, path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
                content: bytes = answer.read()
                return content
        except OSError:
            self.refusals += 1
            return None


def growth_of(name: str, samples: Sequence[Sample], processor: float = 0.0) -> Growth:
    """Return what became of a process by its samples."""
    whole = samples[-1].seconds
    kept = [one for one in samples if one.seconds >= _WARM_UP * whole]
    quarter = max(1, len(kept) // 4)
    first, last = kept[:quarter], kept[-quarter:]
    slope = _slope([one.seconds for one in kept], [one.memory_mb for one in kept])
    memory = median(one.memory_mb for one in first), median(one.memory_mb for one in last)
    handles = max(one.handles for one in first), max(one.handles for one in last)
    threads = max(one.threads for one in first), max(one.threads for one in last)
    risen = slope * (kept[-1].seconds - kept[0].seconds)
    grows = [
        what
        for what, does in (
            ("memory", risen > max(8.0, 0.03 * memory[0])),
            ("handles", handles[1] > handles[0] + 3),
            ("threads", threads[1] > threads[0] + 3),
        )
        if does
    ]
    return Growth(
        name=name,
        memory_mb=(round(memory[0], 1), round(memory[1], 1)),
        memory_mb_per_hour=round(3600 * slope, 2),
        handles=handles,
        threads=threads,
        disk_mb=round(max(one.disk_mb for one in samples), 2),
        processor=round(processor, 3),
        grows=tuple(grows),
    )


def _slope(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Return the median of the slopes between all pairs; 0 for fewer than two points."""
    step = max(1, len(seconds) // _PAIRS)
    points = list(zip(seconds[::step], values[::step], strict=True))
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(points) for b in points[i + 1 :] if b[0] > a[0]]
    return median(slopes) if slopes else 0.0


def _server(folder: Path, cameras: list[str], arguments: argparse.Namespace, size: str) -> processes.Program:
    settings = {
        "decode": {"bundle": arguments.bundle, "warm": [size]},
        "store": {"bytes": 20_000_000, "trimmed_bytes": 2_000, "every_s": 10.0},
    }
    place = folder / "server"
    place.mkdir(exist_ok=True)
    return processes.server(place, cameras, settings=settings)


def _camera(
    folder: Path, name: str, port: int, arguments: argparse.Namespace, width: int, height: int
) -> processes.Program:
    place = folder / name
    place.mkdir(exist_ok=True)
    settings = {
        "source": {"width": width, "height": height, "fps": arguments.fps},
        "codec": {"bundle": arguments.bundle},
        "sending": {"deadline_s": 1.0},
        "spool": {"file": str(place / "spool.sqlite"), "most_bytes": 2_000_000},
    }
    return processes.camera(place, name, port, settings=settings)


def _watch(
    programs: Sequence[processes.Program], folder: Path, seconds: float, every_s: float
) -> tuple[dict[str, list[Sample]], dict[str, float]]:
    began = time.monotonic()
    samples: dict[str, list[Sample]] = {one.name: [] for one in programs}
    watched = {one.name: psutil.Process(one.process.pid) for one in programs if one.process is not None}
    before = {name: sum(process.cpu_times()[:2]) for name, process in watched.items()}
    while (now := time.monotonic() - began) < seconds:
        for name, process in watched.items():
            try:
                samples[name].append(_sample(now, process, folder / name))
            except psutil.NoSuchProcess:  # the report says so
                continue
        if all(program.process is None or program.process.poll() is not None for program in programs):
            break
        time.sleep(max(0.0, min(every_s, seconds - now)))
    took = time.monotonic() - began
    processor = {}
    for name, process in watched.items():
        try:
            processor[name] = (sum(process.cpu_times()[:2]) - before[name]) / took
        except psutil.NoSuchProcess:
            processor[name] = 0.0
    return samples, processor


def _sample(now: float, process: psutil.Process, folder: Path) -> Sample:
    family = [process, *process.children(recursive=True)]
    return Sample(
        seconds=round(now, 1),
        memory_mb=round(sum(one.memory_info().rss for one in family) / _MB, 2),
        handles=sum(one.num_fds() for one in family),
        threads=sum(one.num_threads() for one in family),
        disk_mb=round(_disk_bytes(folder) / _MB, 3),
    )


def _disk_bytes(folder: Path) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(place, file)).st_size
            except FileNotFoundError:  # removed meanwhile
                continue
    return total


def _counts(program: processes.Program) -> dict[str, float]:
    """Return the program's own counters, without Python's and the process's."""
    return {
        name: value
        for name, value in program.metrics().items()
        if name.startswith("cutoff") and "_bucket" not in name and "_created" not in name
    }


def _table(growth: Sequence[dict[str, object]]) -> str:
    lines = ["| process | memory, MB | MB per hour | handles | threads | disk, MB | core | grows |", "|" + " --- |" * 8]
    for one in growth:
        memory, handles, threads = (
            " → ".join(str(value) for value in one[key])  # type: ignore[attr-defined]
            for key in ("memory_mb", "handles", "threads")
        )
        grows = ", ".join(one["grows"]) or "no"  # type: ignore[call-overload]
        lines.append(
            f"| {one['name']} | {memory} | {one['memory_mb_per_hour']} | {handles} | {threads} | {one['disk_mb']} "
            f"| {one['processor']} | {grows} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
