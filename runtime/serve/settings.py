"""Settings of the server: one TOML file; whatever it leaves out has the default that stands here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engines.open import ENGINES, PRECISIONS
from runtime.errors import ConfigurationError
from runtime.protocol import MAX_NAME
from runtime.settings import load_settings

_NAME = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ListenSettings:
    """Where connections are taken, and how many.

    Attributes:
        host, port: address; port 0 takes a free one.
        certificate, key: PEM files for TLS, both or none.
        connections: at a time, all together; more are closed at once.
        connections_per_address: the same, from one address. Behind a proxy all come from the proxy's.
        request_s: until the headers of a request, or a login, must be there; and from an answer that did not wait for
            the request's body until that.
    """

    host: str = "127.0.0.1"
    port: int = 8800
    certificate: Path | None = None
    key: Path | None = None
    connections: int = 512
    connections_per_address: int = 128
    request_s: float = 10.0

    @property
    def on_loopback(self) -> bool:
        """Nobody but this machine can connect."""
        return self.host in LOOPBACK


@dataclass(frozen=True)
class TokenSettings:
    """Secrets: "env:NAME" takes one from the environment, "file:PATH" from a file, anything else is the secret itself.

    Attributes:
        cameras: by name of the camera.
        viewers: by name of who looks; without any, a server on loopback shows everything to everybody there.
    """

    cameras: dict[str, str] = field(default_factory=dict)
    viewers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DecodeSettings:
    """What decodes.

    Attributes:
        bundle: a shipped bundle's name, or a path.
        engine, precision, threads: as of `Codec.open`; threads count per worker.
        workers: threads that decode, each with engines of its own.
        warm: sizes of pictures, "768x512", whose costs are measured before the server is ready.
        pixels: largest picture accepted.
        seconds: longest work on one stream.
    """

    bundle: str = "dpict-edge"
    engine: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    workers: int = 1
    warm: tuple[str, ...] = ("768x512",)
    pixels: int = 8_388_608
    seconds: float = 20.0

    @property
    def warm_sizes(self) -> list[tuple[int, int]]:
        """`warm` as numbers: width, height."""
        return [_size(text) for text in self.warm]


@dataclass(frozen=True)
class LimitSettings:
    """What one camera, and all together, may ask for.

    Attributes:
        frames: open camera frames of one camera.
        frame_bytes: longest stream.
        memory_bytes: streams of all open camera frames together.
        open_pixels: of the pictures that are being decoded, all together; about 26 bytes of memory for each. Frames
            beyond wait for those before them.
        deadline_s: longest deadline.
        hello_s: until a connection must have said who it is.
        idle_s: longest silence of a connection.
        messages_per_s, bytes_per_s: of one connection, in the mean; bursts of two seconds' worth are fine.
        upload_s: longest upload over HTTP.
    """

    frames: int = 16
    frame_bytes: int = 4_194_304
    memory_bytes: int = 268_435_456
    open_pixels: int = 33_554_432
    deadline_s: float = 60.0
    hello_s: float = 10.0
    idle_s: float = 120.0
    messages_per_s: float = 2_000.0
    bytes_per_s: float = 16_000_000.0
    upload_s: float = 60.0


@dataclass(frozen=True)
class StoreSettings:
    """What is kept, and for how long.

    Attributes:
        folder: of the database and the streams; made if it is not there.
        bytes: of streams, all together. When they are more, the oldest are trimmed; when all are, deleted.
        days: until a stream is deleted.
        trim_days: until a stream is trimmed.
        trimmed_bytes: what is left of a stream that was trimmed.
        every_s: time between two looks at what is to be trimmed or deleted.
    """

    folder: Path = Path("cutoff-store")
    bytes: int = 10_737_418_240
    days: float = 30.0
    trim_days: float = 7.0
    trimmed_bytes: int = 8_192
    every_s: float = 60.0


@dataclass(frozen=True)
class ClassifierSettings:
    """A classifier of pictures; see `cutoff eval accuracy`.

    Attributes:
        file: ONNX, (N, 3, side, side) float32 in, a score for each class out.
        labels: a line "wnid name" for each class.
        side: of its input, in pixels.
        mean, deviation: of each channel, subtracted from and divided out of samples of 0..1.
        enough: confidence above which no more bytes are asked for; without it the deadline decides.
        threads: CPU threads of its run.
    """

    file: Path
    labels: Path
    side: int = 224
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    enough: float | None = None
    threads: int = 1


@dataclass(frozen=True)
class RaySettings:
    """How many servers run, under Ray Serve (`cutoff serve --ray`).

    Attributes:
        address: of a cluster; without it Ray finds one, or starts one on this machine.
        replicas, most_replicas: servers at least and at most; the same number by default.
        cameras_per_replica: connections and requests of one server above which another is started.
        cpus: that a server reserves.
    """

    address: str | None = None
    replicas: int = 2
    most_replicas: int | None = None
    cameras_per_replica: float = 8.0
    cpus: float = 1.0


@dataclass(frozen=True)
class ServerSettings:
    """All settings of a server."""

    listen: ListenSettings = ListenSettings()
    tokens: TokenSettings = field(default_factory=TokenSettings)
    decode: DecodeSettings = DecodeSettings()
    limits: LimitSettings = LimitSettings()
    store: StoreSettings = StoreSettings()
    classifier: ClassifierSettings | None = None
    ray: RaySettings = RaySettings()


def read_server_settings(path: Path) -> ServerSettings:
    """Read the TOML file at *path*.

    Raises:
        ConfigurationError: see `load_settings` and `check`.
    """
    settings = load_settings(ServerSettings, path)
    check(settings, str(path))
    return settings


def check(settings: ServerSettings, where: str) -> None:
    """ConfigurationError, with *where* in it, if values do not make sense or do not fit each other."""
    listen, decode, limits = settings.listen, settings.decode, settings.limits
    if settings.ray.most_replicas is not None and settings.ray.most_replicas < settings.ray.replicas:
        raise ConfigurationError(f"{where}: ray: most_replicas must be at least replicas, {settings.ray.replicas}")
    if (listen.certificate is None) != (listen.key is None):
        raise ConfigurationError(f"{where}: listen: certificate and key go together")
    if not 0 <= listen.port <= 65_535:
        raise ConfigurationError(f"{where}: listen: port must be 0 to 65535, not {listen.port}")
    for name in settings.tokens.cameras:
        check_camera_name(name, f"{where}: tokens.cameras")
    if decode.engine not in ENGINES:
        raise ConfigurationError(f"{where}: decode: engine must be one of {', '.join(ENGINES)}, not {decode.engine!r}")
    if decode.precision not in PRECISIONS:
        raise ConfigurationError(
            f"{where}: decode: precision must be one of {', '.join(PRECISIONS)}, not {decode.precision!r}"
        )
    if any(width * height > decode.pixels for width, height in decode.warm_sizes):
        raise ConfigurationError(f"{where}: decode: a size of warm has more than pixels, {decode.pixels}")
    if settings.classifier is not None:
        _check_classifier(settings.classifier, where)
    _check_numbers(settings, where)
    if limits.memory_bytes < limits.frame_bytes:
        raise ConfigurationError(f"{where}: limits: memory_bytes must hold one frame_bytes, {limits.frame_bytes}")


def _check_numbers(settings: ServerSettings, where: str) -> None:
    for table in ("listen", "decode", "limits", "store", "ray"):
        group = getattr(settings, table)
        for key, value in vars(group).items():
            if isinstance(value, (int, float)) and key != "port" and not value > 0:
                raise ConfigurationError(f"{where}: {table}: {key} must be above 0, not {value}")


def check_camera_name(name: str, where: str) -> None:
    """ConfigurationError if *name* is none that the protocol allows, or none that may be a folder."""
    if not 1 <= len(name) <= MAX_NAME or not set(name) <= _NAME or set(name) == {"."}:
        raise ConfigurationError(
            f"{where}: {name!r}: a camera's name is 1 to {MAX_NAME} letters, digits, '-', '_' and '.'"
        )


def _check_classifier(classifier: ClassifierSettings, where: str) -> None:
    if not 32 <= classifier.side <= 2048:
        raise ConfigurationError(f"{where}: classifier: side must be 32 to 2048, not {classifier.side}")
    for key, values in (("mean", classifier.mean), ("deviation", classifier.deviation)):
        if len(values) != 3 or (key == "deviation" and not all(values)):
            raise ConfigurationError(f"{where}: classifier: {key} is three numbers, not {list(values)}")
    if classifier.enough is not None and not 0 < classifier.enough <= 1:
        raise ConfigurationError(f"{where}: classifier: enough must be above 0 and at most 1, not {classifier.enough}")
    if classifier.threads < 1:
        raise ConfigurationError(f"{where}: classifier: threads must be above 0, not {classifier.threads}")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) < 65_536 and 0 < int(height) < 65_536):
        raise ConfigurationError(f"decode: warm: {text!r} is no size; sizes are written as 768x512")
    return int(width), int(height)
