"""A server and cameras as processes, for benchmarks and tests: settings, start, what they say of themselves, end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TOKEN = "a-secret-of-thirty-two-letters-00"
_ROOT = Path(__file__).parents[1]


class Program:
    """A process with settings in a file, its output in another, and a port that tells how it is.

    Attributes:
        process: as started last.
        port: of /healthz, /readyz and /metrics.
        log: file of its output.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        folder: Path,
        port: int,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare `python WORDS...`, which runs in *folder*; *prefix* stands in front of the command."""
        self.name, self.port, self.log = name, port, folder / f"{name}.log"
        self._command = [*prefix, sys.executable, *words]
        self._folder = folder
        inherited = {**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        self._environment = {**inherited, "PYTHONFAULTHANDLER": "1", **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Program:
        """Start it (again)."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )
        return self

    def wait_ready(self, timeout_s: float = 60.0, path: str = "/readyz") -> Program:
        """Wait until it answers *path* with 200; RuntimeError with its output if it ends, or never does."""
        ends = time.monotonic() + timeout_s
        while time.monotonic() < ends:
            if self.process is None or self.process.poll() is not None:
                break
            if self.status(path) == 200:
                return self
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} is not ready: {self.said()[-3000:]}")

    def status(self, path: str = "/readyz") -> int | None:
        """Return the HTTP status of *path*; None if nobody answers."""
        try:
            return int(urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5).status)
        except urllib.error.HTTPError as fault:
            fault.close()
            return fault.code
        except OSError:
            return None

    def metrics(self) -> dict[str, float]:
        """Return its counters and gauges by name and labels, as Prometheus writes them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def metric(self, name: str) -> float:
        """Return the sum over all labels of *name*; 0 if there is none."""
        return sum(value for key, value in self.metrics().items() if key.partition("{")[0] == name)

    def said(self) -> str:
        """Return its output so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def stop(self, timeout_s: float = 30.0) -> int:
        """Ask it to end, and return its exit status.

        One that does not end is aborted, for which it writes down where it was; RuntimeError with that.
        """
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise RuntimeError(f"{self.name} has not ended in {timeout_s:g} s: {self.said()[-6000:]}") from None

    def kill(self) -> None:
        """End it without a word, as a power cut would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()


def server(
    folder: Path,
    cameras: Sequence[str],
    *,
    words: Sequence[str] = ("-m", "runtime", "serve"),
    settings: Mapping[str, Any] | None = None,
    prefix: Sequence[str] = (),
    port: int | None = None,
) -> Program:
    """Return a server for *cameras*, all with `TOKEN`; *settings* override by table and key."""
    port = port or free_port()
    tables: dict[str, Any] = {
        "listen": {"port": port},
        "tokens": {"cameras": dict.fromkeys(cameras, TOKEN)},
        "decode": {"threads": 1},
        "store": {"folder": str(folder / "store")},
    }
    file = write_settings(folder / "server.toml", tables, settings or {})
    return Program("server", [*words, "--config", str(file)], folder, port, prefix)


def camera(
    folder: Path,
    name: str,
    server_port: int,
    *,
    words: Sequence[str] = ("-m", "runtime", "edge"),
    settings: Mapping[str, Any] | None = None,
    prefix: Sequence[str] = (),
    host: str = "127.0.0.1",
) -> Program:
    """Return the client of camera *name*, which sends a test pattern to a port of *host*; *settings* override."""
    port = free_port()
    tables: dict[str, Any] = {
        "camera": name,
        "state": str(folder / "state"),
        "server": {"url": f"ws://{host}:{server_port}", "token": TOKEN, "plain": True},
        "source": {"kind": "pattern", "width": 256, "height": 192, "fps": 2.0},
        "codec": {"threads": 1},
        "status": {"port": port},
    }
    file = write_settings(folder / f"{name}.toml", tables, settings or {})
    return Program(name, [*words, "--config", str(file)], folder, port, prefix)


@contextlib.contextmanager
def running(*programs: Program) -> Iterator[None]:
    """Start *programs*, each when the one before is ready, and kill what is left of them at the end."""
    try:
        for program in programs:
            program.start().wait_ready()
        yield
    finally:
        for program in programs:
            program.kill()


def report_text(report: Mapping[str, Any]) -> str:
    """Return *report* as JSON for people: indented, but lists of plain values on one line each."""
    indented = json.dumps(report, indent=1)
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda found: "[" + re.sub(r"\n\s*", " ", found[1]) + "]", indented) + "\n"


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def write_settings(file: Path, tables: Mapping[str, Any], overrides: Mapping[str, Any]) -> Path:
    """Write TOML: *tables*, in which values of *overrides* take the place of those of the same table and key."""
    merged = _merged(tables, overrides)
    file.write_text("".join(_lines(merged, ())), encoding="utf-8")
    return file


def _merged(tables: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(tables)
    for key, value in overrides.items():
        known = result.get(key)
        result[key] = _merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    if path:
        yield f"[{'.'.join(json.dumps(part) for part in path)}]\n"
    for key, value in table.items():
        if not isinstance(value, dict):
            # What JSON writes for strings, numbers, truth values and lists of them is TOML.
            yield f"{json.dumps(key)} = {json.dumps(str(value) if isinstance(value, Path) else value)}\n"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _lines(value, (*path, key))
