"""A server and cameras for a long time on one machine: does anything grow?

    python benchmarks/soak.py --cameras 8 --minutes 30 --json benchmarks/results/soak.json

Every camera is a process that sends a test pattern over one link, which stalls for two seconds each minute and breaks
for five each second minute, so that connecting again and the spool are part of it. Caps of store and spool are low
enough to be reached. Somebody looks: a viewer of all events, who asks for two pictures at a cut every second. Memory
(resident, but for files: what a process and its children have allocated), file handles, threads and disk are noted
every few seconds.

The first half of the time is for caches to fill; what counts are the four quarters of the second. "Grows" is: memory
whose median rises from quarter to quarter by more than 0.75 KB for each frame, and 0.75 MB, at least two times of the
three, so that neither peaks nor one step count; or handles or threads whose maximum in the last quarter is higher than
in the first, by more than 3. Exit status 1 if anything does. A leak of a kilobyte for each frame is found where there
are 750 frames in a quarter; the report says for every process how small a leak is found.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import cycle, pairwise
from pathlib import Path
from statistics import median

import psutil
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

sys.path.insert(0, str(Path(__file__).parent))

import processes

from runtime.evaluate.runs.provenance import processor
from runtime.shaped_link import Conditions, ShapedLink, Stretch, Trace

_MB = 1e6
_WARM_UP = 0.5  # share of the time that is left out
_RISE_MB, _RISE_KB = 0.75, 0.75  # from one quarter of the rest to the next: at all, and for each frame


@dataclass(frozen=True)
class Sample:
    """What a process held at an instant.

    Attributes:
        seconds: since the beginning.
        memory_mb: resident, without that of files, of the process and its children.
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
        memory_mb: medians of the four quarters after the warm-up.
        memory_mb_per_hour: by the middle one of its three rises.
        found_kb_per_frame: smallest leak for each frame that counts as growth; None without frames.
        handles, threads: maxima of the first and of the last quarter.
        disk_mb: largest.
        processor: share of one core.
        grows: what does, by name.
    """

    name: str
    memory_mb: tuple[float, ...]
    memory_mb_per_hour: float
    found_kb_per_frame: float | None
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
    parser.add_argument("--size", default="128x96", help="of the pictures")
    parser.add_argument("--fps", type=float, default=5.0, help="of each camera")
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
        samples, busy = _watch(programs, folder, 60 * arguments.minutes, arguments.every)
        failed = [one.name for one in programs if one.process is None or one.process.poll() is not None]
        counts = {one.name: _counts(one) for one in programs if one.name not in failed}
        frames = {name: _frames(counts.get(name, {})) for name in samples}
        counts["viewer"] = {"events": viewer.events, "pictures": viewer.pictures, "refusals": viewer.refusals}
        statuses = {one.name: one.stop(60) for one in reversed(programs) if one.name not in failed}
    return {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "settings": {key: value for key, value in vars(arguments).items() if key not in ("json", "folder")},
        "growth": [asdict(growth_of(name, samples[name], frames[name], busy[name])) for name in samples],
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
        for camera in cycle(self._cameras):
            if self._stop.wait(0.5):
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


def growth_of(name: str, samples: Sequence[Sample], frames: float = 0.0, processor: float = 0.0) -> Growth:
    """Return what became of a process by its samples; *frames* passed through it in all."""
    whole = samples[-1].seconds
    kept = [one for one in samples if one.seconds >= _WARM_UP * whole]
    ends = [round(len(kept) * place / 4) for place in range(5)]
    quarters = [kept[start : max(start + 1, end)] or kept[-1:] for start, end in pairwise(ends)]
    first, last = quarters[0], quarters[-1]
    memory = [median(one.memory_mb for one in quarter) for quarter in quarters]
    rise = median(b - a for a, b in pairwise(memory))
    of_quarter = (1 - _WARM_UP) / 4
    most = max(_RISE_MB, _RISE_KB * frames * of_quarter / 1000)
    handles = max(one.handles for one in first), max(one.handles for one in last)
    threads = max(one.threads for one in first), max(one.threads for one in last)
    grows = [
        what
        for what, does in (
            ("memory", rise > most),
            ("handles", handles[1] > handles[0] + 3),
            ("threads", threads[1] > threads[0] + 3),
        )
        if does
    ]
    return Growth(
        name=name,
        memory_mb=tuple(round(one, 1) for one in memory),
        memory_mb_per_hour=round(3600 * rise / (whole * of_quarter), 2) if whole else 0.0,
        found_kb_per_frame=round(1000 * most / (frames * of_quarter), 2) if frames else None,
        handles=handles,
        threads=threads,
        disk_mb=round(max(one.disk_mb for one in samples), 2),
        processor=round(processor, 3),
        grows=tuple(grows),
    )


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
        memory_mb=round(sum(info.rss - info.shared for info in (one.memory_info() for one in family)) / _MB, 2),
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


def _frames(counts: Mapping[str, float]) -> float:
    """Return how many frames a server has answered, or a camera has captured, by its counters."""
    of_server = sum(value for name, value in counts.items() if name.startswith("cutoff_server_frames_total"))
    return of_server or counts.get("cutoff_edge_captured_pictures", 0.0)


def _table(growth: Sequence[dict[str, object]]) -> str:
    lines = [
        "| process | memory, MB | MB per hour | finds, KB per frame | handles | threads | disk, MB | core | grows |"
    ]
    lines.append("|" + " --- |" * 9)
    for one in growth:
        memory, handles, threads = (
            " → ".join(str(value) for value in one[key])  # type: ignore[attr-defined]
            for key in ("memory_mb", "handles", "threads")
        )
        grows = ", ".join(one["grows"]) or "no"  # type: ignore[call-overload]
        lines.append(
            f"| {one['name']} | {memory} | {one['memory_mb_per_hour']} | {one['found_kb_per_frame']} | {handles} "
            f"| {threads} | {one['disk_mb']} | {one['processor']} | {grows} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
