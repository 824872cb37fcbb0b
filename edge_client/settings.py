"""Settings of the edge client: a TOML file, secrets from the environment, all checked before anything starts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from runtime.errors import ConfigurationError
from runtime.protocol import MAX_CHUNK, MAX_NAME
from runtime.settings import load_settings, written

TOKEN_VARIABLE = "CUTOFF_EDGE_TOKEN"
SOURCE_VARIABLE = "CUTOFF_EDGE_SOURCE_URL"
KINDS = ("file", "folder", "v4l2", "rtsp", "csi", "pattern")
KEEP = ("all", "unsent")
LEVELS = ("debug", "info", "warning", "error")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CAMERA = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_NAME}}}")


@dataclass(frozen=True)
class ServerSettings:
    """Where pictures go.

    Attributes:
        url: ws:// or wss://, host and port; the path of the protocol is added where there is none.
        token: the camera's secret; better given by the environment variable CUTOFF_EDGE_TOKEN or *token_file*.
        token_file: a file that holds the token, and nothing else.
        ca_file: certificates to trust instead of the system's.
        plain: send the token without TLS to another machine.
        connect_s: time for a connection to be made and welcomed.
        silence_s: a connection that answers nothing for so long is given up.
        backoff_s, backoff_most_s: before the second attempt to connect, and at most; both times a random share.
    """

    url: str
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    plain: bool = False
    connect_s: float = 10.0
    silence_s: float = 20.0
    backoff_s: float = 0.5
    backoff_most_s: float = 30.0


@dataclass(frozen=True)
class SourceSettings:
    """Where pictures come from.

    Attributes:
        kind: "file", a picture or a film; "folder" of pictures; "v4l2"; "rtsp"; "csi", a camera of a Jetson; "pattern".
        path: of file or folder.
        device: of V4L2.
        url: of RTSP; with a password, better given by the environment variable CUTOFF_EDGE_SOURCE_URL.
        sensor: number of the CSI camera.
        flip: nvvidconv's flip-method of the CSI camera, 0 to 7.
        width, height: asked of V4L2 and CSI cameras, made by the pattern; 0 leaves it to the camera.
        fps: pictures per second that are taken at most.
        loop: file and folder begin anew at their end; otherwise the client ends there.
    """

    kind: str
    path: Path | None = None
    device: str = "/dev/video0"
    url: str = field(default="", repr=False)
    sensor: int = 0
    flip: int = 0
    width: int = 0
    height: int = 0
    fps: float = 5.0
    loop: bool = True


@dataclass(frozen=True)
class PictureSettings:
    """What is sent of a picture: a part of it, made smaller.

    Attributes:
        crop: x, y, width, height in pixels of the source; empty for all.
        width, height: the largest that is sent; the proportions stay. 0 for no limit.
        grey: send one channel.
    """

    crop: tuple[int, ...] = ()
    width: int = 0
    height: int = 0
    grey: bool = False


@dataclass(frozen=True)
class CodecSettings:
    """How pictures are encoded; see `cutoff encode --help`.

    Attributes:
        budget_s: from the picture until its stream must be there; a picture that would be late is encoded smaller or
            skipped. 0 for no budget.
    """

    bundle: str = "dpict-edge"
    engine: str = "auto"
    precision: str = "auto"
    coder: str = "auto"
    threads: int = 0
    budget_s: float = 0.2


@dataclass(frozen=True)
class SendingSettings:
    """How streams are sent.

    Attributes:
        deadline_s: from the picture until the server's answer is due.
        answer_s: how long before that the last byte must arrive to count: the server's time for an answer, until that
            was learned from answers.
        frames: camera frames under way at a time.
        frame_bytes: most bytes of a stream that are sent before its deadline; 0 for no limit.
        chunk_bytes: largest piece of a stream in one message; slow links get smaller ones.
        queue_s: how long a chunk may wait in the link's queues.
        rate_kbps: what the link is taken to carry until that was measured.
        drain_s: how long the client waits at its end for frames that are under way.
    """

    deadline_s: float = 0.5
    answer_s: float = 0.06
    frames: int = 4
    frame_bytes: int = 0
    chunk_bytes: int = 1400
    queue_s: float = 0.1
    rate_kbps: float = 256.0
    drain_s: float = 10.0


@dataclass(frozen=True)
class SpoolSettings:
    """Frames that must not be lost.

    Attributes:
        file: of the spool, an SQLite database, for this camera alone; none for no spool.
        keep: "all" frames from the moment they are encoded until the server has stored them, or only the "unsent" ones
            whose deadline passed first.
        frame_bytes: how many bytes of a frame are to reach the server; 0 for whole streams.
        portion_bytes: so many bytes of a frame are resent at first; its rest waits until that gains most per byte.
        most_bytes, most_hours: caps; hours count while the client runs.
    """

    file: Path | None = None
    keep: str = "all"
    frame_bytes: int = 0
    portion_bytes: int = 8192
    most_bytes: int = 1_000_000_000
    most_hours: float = 168.0


@dataclass(frozen=True)
class StatusSettings:
    """The local port of /metrics, /healthz and /readyz; 0 for none."""

    host: str = "127.0.0.1"
    port: int = 9464


@dataclass(frozen=True)
class LogSettings:
    """What is logged, as JSON lines on stderr."""

    level: str = "info"


@dataclass(frozen=True)
class EdgeSettings:
    """All settings of one camera.

    Attributes:
        camera: its name, 1 to 64 of letters, digits, "-", "_" and ".".
        state: folder of what must outlive the process: the last sequence number.
    """

    camera: str
    server: ServerSettings
    source: SourceSettings
    state: Path
    picture: PictureSettings = PictureSettings()
    codec: CodecSettings = CodecSettings()
    sending: SendingSettings = SendingSettings()
    spool: SpoolSettings = SpoolSettings()
    status: StatusSettings = StatusSettings()
    log: LogSettings = LogSettings()


def load_edge_settings(path: Path, environment: Mapping[str, str] = os.environ) -> EdgeSettings:
    """Read and check the settings at *path*; secrets in *environment* take the place of those in the file.

    Raises:
        ConfigurationError: see `load_settings`; or a value is out of range, or values do not fit each other.
    """
    settings = load_settings(EdgeSettings, path)
    token = environment.get(TOKEN_VARIABLE) or settings.server.token or _token_of(settings.server.token_file)
    url = environment.get(SOURCE_VARIABLE) or settings.source.url
    settings = replace(settings, server=replace(settings.server, token=token), source=replace(settings.source, url=url))
    for fault in _faults(settings):
        raise ConfigurationError(f"{path}: {fault}")
    return settings


def _token_of(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as fault:
        raise ConfigurationError(f"server.token_file: {file} cannot be read: {fault}") from fault


def _faults(settings: EdgeSettings) -> list[str]:
    """Return what is wrong with *settings*, in words."""
    server, source, sending, spool = settings.server, settings.source, settings.sending, settings.spool
    picture, codec = settings.picture, settings.codec
    address = _parts(server.url)
    if address is None:
        return ["server.url must be ws://HOST or wss://HOST, and is no address that can be read"]
    limits: list[tuple[str, float, float, float]] = [
        ("server.connect_s", server.connect_s, 0.1, 600),
        ("server.silence_s", server.silence_s, 0.5, 3600),
        ("server.backoff_s", server.backoff_s, 0.01, 3600),
        ("server.backoff_most_s", server.backoff_most_s, server.backoff_s, 86_400),
        ("source.fps", source.fps, 0.001, 1000),
        ("source.sensor", source.sensor, 0, 15),
        ("source.flip", source.flip, 0, 7),
        ("source.width", source.width, 0, 65_535),
        ("source.height", source.height, 0, 65_535),
        ("picture.width", picture.width, 0, 65_535),
        ("picture.height", picture.height, 0, 65_535),
        ("codec.threads", codec.threads, 0, 1024),
        ("codec.budget_s", codec.budget_s, 0, 3600),
        ("sending.deadline_s", sending.deadline_s, 0.02, 3600),
        ("sending.answer_s", sending.answer_s, 0, sending.deadline_s),
        ("sending.frames", sending.frames, 1, 1000),
        ("sending.frame_bytes", sending.frame_bytes, 0, 2**31),
        ("sending.chunk_bytes", sending.chunk_bytes, 64, MAX_CHUNK),
        ("sending.queue_s", sending.queue_s, 0.005, 10),
        ("sending.rate_kbps", sending.rate_kbps, 1, 1e7),
        ("sending.drain_s", sending.drain_s, 0, 3600),
        ("spool.frame_bytes", spool.frame_bytes, 0, 2**31),
        ("spool.portion_bytes", spool.portion_bytes, 512, 2**31),
        ("spool.most_bytes", spool.most_bytes, 1, 2**53),
        ("spool.most_hours", spool.most_hours, 0.001, 1e6),
        ("status.port", settings.status.port, 0, 65_535),
    ]
    choices = [
        ("source.kind", source.kind, KINDS),
        ("spool.keep", spool.keep, KEEP),
        ("log.level", settings.log.level, LEVELS),
    ]
    faults = [
        f"{name} must be {low:g} to {high:g}, not {written(value)}"
        for name, value, low, high in limits
        if not low <= value <= high
    ]
    faults += [
        f"{name} must be one of {', '.join(known)}, not {value!r}"
        for name, value, known in choices
        if value not in known
    ]
    checks = [
        (
            _CAMERA.fullmatch(settings.camera),
            f"camera must be 1 to {MAX_NAME} of A-Z a-z 0-9 . _ -, not {settings.camera!r}",
        ),
        (not address.username and not address.password, "server.url must hold no password; the token is given apart"),
        (
            address.scheme in ("ws", "wss") and address.hostname,
            f"server.url must be ws://HOST or wss://HOST, not {server.url!r}",
        ),
        (
            address.scheme == "wss" or server.plain or address.hostname in _LOOPBACK,
            "server.url is ws://, which shows the token to everybody on the way; use wss://, or set server.plain",
        ),
        (server.token, f"no token: set {TOKEN_VARIABLE}, server.token_file or server.token"),
        (
            source.kind not in ("file", "folder") or source.path,
            f"source.path is missing, which kind {source.kind!r} needs",
        ),
        (
            source.kind != "rtsp" or _is_camera(source.url),
            f"source.url must be rtsp://HOST/…, in the file or in {SOURCE_VARIABLE}; "
            "/ ? # [ ] in user and password, and @ behind the host, are written %2F %3F %23 %5B %5D, and %40",
        ),
        (
            len(picture.crop) in (0, 4) and all(number >= 0 for number in picture.crop) and all(picture.crop[2:]),
            f"picture.crop must be x, y, width, height, not {list(picture.crop)}",
        ),
    ]
    return faults + [fault for sound, fault in checks if not sound]


def _parts(url: str) -> SplitResult | None:
    """Return the parts of *url*; None if it has none, or a host or port that cannot be.

    Why is not told: Python's words may quote a password.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
        (parts.hostname or "").encode("idna")  # as resolvers do
    except ValueError:  # UnicodeError is one
        return None
    return parts


def _is_camera(url: str) -> bool:
    """True if *url* is an RTSP camera's, whose user and password end where they seem to: what follows is logged."""
    parts = _parts(url)
    if parts is None or not url.startswith(("rtsp://", "rtsps://")) or not parts.hostname:
        return False
    return "@" not in parts._replace(netloc="").geturl()
