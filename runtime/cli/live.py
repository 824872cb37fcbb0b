"""The live part of `cutoff demo`: a camera, a poor link and a server, as separate programs on this machine.

    views of photographs, or a clip -> `cutoff edge` -> link with a varying rate -> `cutoff serve` -> page, table

JSON: see `Seen`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.bundle import Bundle
from runtime.cli.console import note
from runtime.cli.options import EngineOptions
from runtime.cli.samples import camera_pictures, photographs
from runtime.errors import CutoffError, MissingExtra, UsageError
from runtime.image_files import write_image
from runtime.shaped_link import Conditions, ShapedLink, varying

CAMERA = "demo"
_NEEDED = {"starlette": "serve", "uvicorn": "serve", "prometheus_client": "serve", "websockets": "serve", "cv2": "edge"}
_WIDTH, _HEIGHT = 480, 320  # of the views of photographs
_MOST_WIDTH, _MOST_HEIGHT = 768, 512  # of what is sent of a clip
_VIEWS, _FPS = 60, 3.0
_DEADLINE_S = 0.5
_LINK = varying(seed=7, low=64_000, high=512_000, stalls_per_minute=2.0, stall_s=(0.3, 1.5))
_START_S, _END_S = 120.0, 40.0  # safety nets: a first start may compile kernels
_MOST_FRAMES = 200  # that the server lists at once


class ProgramEnded(CutoffError):
    """A program of the demonstration ended, or did not begin its work."""


@dataclass(frozen=True)
class Seen:
    """A frame that was sent, and what the server made of it: columns of the table."""

    frame: int
    outcome: str
    bytes: int
    size: int
    steps: float
    steps_total: int
    margin_ms: float | None
    label: str | None
    confidence: float | None

    COLUMNS = ("frame", "outcome", "bytes", "of", "steps", "margin_ms", "label", "confidence")

    def written(self) -> tuple[str, ...]:
        """Return the line as it is printed."""
        return (
            str(self.frame),
            self.outcome,
            str(self.bytes),
            str(self.size),
            f"{self.steps:.2f}/{self.steps_total}" if self.steps_total else "-",
            "-" if self.margin_ms is None else f"{self.margin_ms:.1f}",
            self.label or "-",
            "-" if self.confidence is None else f"{self.confidence:.2f}",
        )


def check_extras() -> None:
    """MissingExtra if a package is missing, or cannot be loaded on this machine."""
    for module, extra in _NEEDED.items():
        try:
            importlib.import_module(module)
        except ImportError as fault:
            raise MissingExtra(
                f"the live part of the demo needs {module}: pip install '.[edge,serve]' in the checkout "
                f"(extra {extra}: {fault})"
            ) from fault


@dataclass(frozen=True)
class Live:
    """A demonstration.

    Attributes:
        bundle: a shipped bundle's name, or a path.
        source: a clip, or a folder of pictures; None for views of photographs.
        classifier, labels: of an ImageNet classifier, both or none.
        port: of the server; 0 for any that is free.
        engine: what camera and server run networks on.
    """

    bundle: str
    source: Path | None = None
    classifier: Path | None = None
    labels: Path | None = None
    port: int = 0
    engine: EngineOptions = field(default_factory=lambda: EngineOptions(engine="auto", threads=None, precision="auto"))

    def __post_init__(self) -> None:
        if (self.classifier is None) != (self.labels is None):
            raise UsageError("--classifier and --labels go together")
        for option, path in (("--source", self.source), ("--classifier", self.classifier), ("--labels", self.labels)):
            if path is not None and not os.path.exists(path):
                raise UsageError(f"{option}: {path} does not exist")

    @contextlib.contextmanager
    def running(self) -> Iterator[Session]:
        """Start server, link and camera; when the block ends, end them in the reverse order. In the main thread only.

        Raises:
            BundleError: there is no such bundle.
            ProgramEnded: one of the programs failed.
        """
        Bundle.open(self.bundle)
        with contextlib.ExitStack() as stack:
            # Asked to end in any way, this process takes the others with it.
            former = signal.signal(signal.SIGTERM, signal.default_int_handler)
            stack.callback(signal.signal, signal.SIGTERM, former)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cutoff-demo-")))
            token, port = secrets.token_hex(16), self.port or _free_port()
            source = self.source or _write_views(folder / "views")
            (folder / "server.toml").write_text(self._server_toml(folder, port), encoding="utf-8")
            server = stack.enter_context(_program(folder, "serve", CUTOFF_DEMO_TOKEN=token))
            session = Session(f"http://127.0.0.1:{port}", [server])
            session.wait_until_ready()
            link = ShapedLink(("127.0.0.1", port), _LINK, Conditions(delay_s=0.02, seed=7))
            link_port = stack.enter_context(link.in_thread())
            (folder / "edge.toml").write_text(self._edge_toml(folder, link_port, source), encoding="utf-8")
            session.programs.append(stack.enter_context(_program(folder, "edge", CUTOFF_EDGE_TOKEN=token)))
            yield session

    def _engine_keys(self) -> dict[str, Any]:
        return {key: value for key, value in self.engine.items() if value is not None}

    def _server_toml(self, folder: Path, port: int) -> str:
        warm = f"{_WIDTH}x{_HEIGHT}" if self.source is None else f"{_MOST_WIDTH}x{_MOST_WIDTH * 9 // 16}"
        tables: dict[str, dict[str, Any]] = {
            "listen": {"host": "127.0.0.1", "port": port},
            "tokens.cameras": {CAMERA: "env:CUTOFF_DEMO_TOKEN"},
            "decode": {"bundle": _absolute(self.bundle), "warm": [warm], **self._engine_keys()},
            "store": {"folder": str(folder / "store")},
        }
        if self.classifier is not None and self.labels is not None:
            tables["classifier"] = {"file": str(self.classifier.resolve()), "labels": str(self.labels.resolve())}
        return _toml({}, tables)

    def _edge_toml(self, folder: Path, port: int, source: Path) -> str:
        kind = "folder" if source.is_dir() else "file"
        tables: dict[str, dict[str, Any]] = {
            "server": {"url": f"ws://127.0.0.1:{port}"},
            "source": {"kind": kind, "path": str(source.resolve()), "fps": _FPS, "loop": True},
            "picture": {"width": _MOST_WIDTH, "height": _MOST_HEIGHT},
            "codec": {"bundle": _absolute(self.bundle), **self._engine_keys()},
            "sending": {"deadline_s": _DEADLINE_S},
            "status": {"port": 0},
            "log": {"level": "warning"},
        }
        return _toml({"camera": CAMERA, "state": str(folder / "edge")}, tables)


class Session:
    """A demonstration that runs: the server's address, and the programs, which must not end by themselves."""

    def __init__(self, address: str, programs: list[Program]) -> None:
        self.address, self.programs = address, programs

    def wait_until_ready(self) -> None:
        """Wait until the server takes frames.

        Raises:
            ProgramEnded: it ended, or is not ready in two minutes.
        """
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            self.check()
            with contextlib.suppress(OSError):
                self._get("/readyz")
                return
            time.sleep(0.1)
        raise ProgramEnded(f"the server was not ready in {_START_S:g} s")

    def wait(self, seconds: float | None) -> None:
        """Let it run; None: until it is interrupted.

        Raises:
            ProgramEnded: a program ended by itself.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while until is None or time.monotonic() < until:
            self.check()
            time.sleep(0.2)

    def check(self) -> None:
        """ProgramEnded if one of the programs ended."""
        for program in self.programs:
            program.check()

    def frames(self) -> list[Seen]:
        """Return the frames that were answered so far, in their order."""
        listed = self._get(f"/v1/cameras/{CAMERA}/frames?limit={_MOST_FRAMES}")["frames"]
        return [
            Seen(
                frame=one["sequence"],
                outcome=one["status"],
                bytes=one["bytes"],
                size=one["size"],
                steps=one["steps"],
                steps_total=one["steps_total"],
                margin_ms=one["margin_ms"],
                label=one["label"],
                confidence=one["confidence"],
            )
            for one in reversed(listed)
            if one["status"] is not None
        ]

    def end_camera(self) -> None:
        """Let the camera send what it has, and end."""
        self.programs.pop().end()

    def _get(self, path: str) -> Any:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to this machine
        with direct.open(self.address + path, timeout=10) as answer:
            return json.loads(answer.read())


class Program:
    """A verb of `cutoff` in a process of its own, whose stderr goes to a file."""

    def __init__(self, verb: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self._verb, self._process, self._log = verb, process, log

    def check(self) -> None:
        """ProgramEnded if it ended by itself."""
        if self._process.poll() is not None:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ProgramEnded(f"`cutoff {self._verb}` ended: {lines[-1] if lines else 'without a word'}")

    def end(self) -> None:
        """Ask it to end, wait until it has, and insist if it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@contextlib.contextmanager
def _program(folder: Path, verb: str, **environment: str) -> Iterator[Program]:
    config = folder / ("server.toml" if verb == "serve" else f"{verb}.toml")
    log = folder / f"{verb}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime", verb, "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "no_proxy": "127.0.0.1", **environment},
            start_new_session=True,  # Ctrl-C is for this process, which then ends them in order
        )
    program = Program(verb, process, log)
    try:
        yield program
    finally:
        program.end()


def summary(frames: Sequence[Seen]) -> str:
    """Return *frames* in a sentence."""
    timely = [one for one in frames if one.outcome in ("ok", "preview") and (one.margin_ms or 0) >= 0]
    used = sum(one.bytes for one in frames) / max(1, len(frames))
    whole = sum(one.size for one in frames) / max(1, len(frames))
    return (
        f"{len(timely)} of {len(frames)} frames answered within {1000 * _DEADLINE_S:.0f} ms of their picture, "
        f"on {used:.0f} of {whole:.0f} bytes in the mean, over a link of 64 to 512 kbit/s that stalls"
    )


def _write_views(folder: Path) -> Path:
    folder.mkdir()
    note("views of the photographs that come with scikit-image stand for a camera; --source takes a clip")
    for number, view in enumerate(camera_pictures(list(photographs().values()), _WIDTH, _HEIGHT, _VIEWS)):
        write_image(folder / f"{number:03d}.png", view)
    return folder


def _toml(top: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return TOML of strings, numbers, truth values and lists of them.

    Raises:
        UsageError: a string, such as a file's name, is not UTF-8, as TOML is.
    """
    lines = [f"{key} = {_toml_value(value)}" for key, value in top.items()]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    """Return *value* as in JSON, but for what TOML does not take: halves of a character, and DEL as it is."""
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise UsageError(f"{text}: the demo's settings cannot hold a name that is not UTF-8") from fault
    return text


def _absolute(bundle: str) -> str:
    """Return a path as one that holds in any folder, and a shipped bundle's name as it is."""
    return str(Path(bundle).resolve()) if os.path.exists(bundle) else bundle


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
