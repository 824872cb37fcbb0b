"""Plans: what a GPU library made of a graph for one machine and one range of sizes, kept in cutoff's cache folder.

    plans/<digest>.plan      one plan, or plans/<digest>/*, what a library keeps itself
    plans/<digest>.json      what it was made of and for, and SHA-256 of its files; written last
    plans/<digest>.lock      held while a plan is built
    plans/timing-*.cache     how fast kernels were, by GPU and library

The digest is SHA-256 over everything that decides whether a plan fits (`PlanKey`). A plan is code: it is loaded only
from this folder, only if folder and file belong to the user and nobody else may write to them, and only if its bytes
are those that were written.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.costs import cache_folder
from engines.cuda_driver import Device
from engines.errors import EngineError
from engines.manifest import GraphSpec

FORMAT = 1  # of what a plan means to the code here
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LARGEST_SIDE_CAR = 1 << 20

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]  # by input: smallest, the one to be fastest at, largest


@dataclass(frozen=True)
class PlanKey:
    """What a plan was made of and for.

    Attributes:
        engine: name of the back end.
        role: of the graph; for people.
        graph: SHA-256 of the ONNX file as it was given to the library.
        library: name and version.
        driver, gpu, capability, multiprocessors: of the machine.
        flags: how it was built.
        profile: sizes of the inputs.
    """

    engine: str
    role: str
    graph: str
    library: str
    driver: int
    gpu: str
    capability: tuple[int, int]
    multiprocessors: int
    flags: tuple[str, ...]
    profile: Profile = field(default_factory=dict)

    @classmethod
    def of(
        cls, engine: str, model: bytes, spec: GraphSpec, library: str, device: Device, flags: Sequence[str]
    ) -> PlanKey:
        """Return the key of a graph on a device, without sizes."""
        return cls(
            engine=engine,
            role=spec.role,
            graph=hashlib.sha256(model).hexdigest(),
            library=library,
            driver=device.driver,
            gpu=device.name,
            capability=device.capability,
            multiprocessors=device.multiprocessors,
            flags=tuple(flags),
        )

    def at(self, profile: Profile) -> PlanKey:
        """Return the key of the same for *profile*."""
        return dataclasses.replace(self, profile=dict(profile))

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 over all fields."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def timing_name(self) -> str:
        """Name of the timing cache that goes with it: one per GPU, library, driver and flags."""
        machine = (self.library, self.driver, self.gpu, self.capability, self.multiprocessors, self.flags)
        digest = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]
        return f"timing-{re.sub('[^A-Za-z0-9]+', '-', self.gpu)}-{digest}.cache"


@dataclass(frozen=True)
class PlanEntry:
    """A plan in the cache: its key as it was written, digest and size of its files in bytes."""

    digest: str
    key: Mapping[str, Any]
    facts: Mapping[str, Any]
    size: int


class PlanCache:
    """The folder of plans; it is made when the first plan is stored."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use *folder*; None takes cutoff's own."""
        self.folder = folder or cache_folder() / "plans"

    def load(self, key: PlanKey) -> bytes | None:
        """Return a plan, or None if there is none that is whole.

        Raises:
            EngineError: folder or file could have been written by someone else.
        """
        return self._files(key).get(f"{key.digest}.plan")

    def store(self, key: PlanKey, plan: bytes, facts: Mapping[str, Any]) -> None:
        """Keep *plan*, whole or not at all; *facts* are told about it later.

        Raises:
            EngineError: the folder cannot be written, or is not the user's alone.
        """
        self._make_folder()
        self._write(f"{key.digest}.plan", plan)
        self._write_side_car(key, [f"{key.digest}.plan"], facts)

    def library_folder(self, key: PlanKey) -> Path:
        """Return the folder in which a library keeps what belongs to *key*; emptied unless all of it is as completed.

        Raises:
            EngineError: see `load`.
        """
        self._make_folder()
        folder = self.folder / key.digest
        if not self._files(key):
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _check_own(folder.lstat(), folder)
        return folder

    def is_complete(self, key: PlanKey) -> bool:
        """True if the files of *key* are all there and as they were written.

        Raises:
            EngineError: see `load`.
        """
        return bool(self._files(key))

    def complete(self, key: PlanKey, facts: Mapping[str, Any]) -> None:
        """Note that a library has put into its folder what belongs to *key*."""
        files = sorted(path for path in (self.folder / key.digest).rglob("*") if path.is_file())
        for path in files:
            path.chmod(0o600)  # whatever the library and the user's umask made of it
        self._write_side_car(key, [str(path.relative_to(self.folder)) for path in files], facts)

    def load_timing(self, key: PlanKey) -> bytes | None:
        """Return the timing cache that goes with *key*, if there is one.

        Raises:
            EngineError: see `load`.
        """
        return self._read(key.timing_name) if self._exists() else None

    def store_timing(self, key: PlanKey, content: bytes) -> None:
        """Keep a timing cache."""
        self._make_folder()
        self._write(key.timing_name, content)

    @contextmanager
    def locked(self, key: PlanKey) -> Iterator[None]:
        """Hold the lock of *key*, so that no two processes build the same; waits for it."""
        self._make_folder()
        path = self.folder / f"{key.digest}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as fault:
            raise EngineError(f"{path}: {fault.strerror}") from fault
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def entries(self) -> list[PlanEntry]:
        """Return the plans that are there, by role and digest; what cannot be read is left out.

        Raises:
            EngineError: the folder could have been written by someone else.
        """
        found = []
        for path in sorted(self.folder.glob("*.json")) if self._exists() else []:
            content = self._side_car(path.stem)
            if content is not None:
                size = sum((self.folder / name).stat().st_size for name in content["files"] if self._there(name))
                found.append(PlanEntry(path.stem, content["key"], content["facts"], size))
        return sorted(found, key=lambda entry: (str(entry.key.get("role")), entry.digest))

    def clear(self) -> int:
        """Remove everything, and return how many bytes that were.

        Raises:
            EngineError: the folder is not the user's alone, or cannot be removed.
        """
        if not self._exists():
            return 0
        size = sum(path.lstat().st_size for path in self.folder.rglob("*") if not path.is_dir())
        try:
            shutil.rmtree(self.folder)
        except OSError as fault:
            raise EngineError(f"{self.folder}: {fault.strerror}") from fault
        return size

    def _files(self, key: PlanKey) -> dict[str, bytes]:
        """Return the files of *key* by name if all are as they were written, else nothing."""
        content = self._side_car(key.digest) if self._exists() else None
        if content is None:
            return {}
        files = {}
        for name, digest in content["files"].items():
            if name != f"{key.digest}.plan" and (not name.startswith(f"{key.digest}/") or ".." in name.split("/")):
                return {}
            file = self._read(name)
            if file is None or hashlib.sha256(file).hexdigest() != digest:
                return {}
            files[name] = file
        return files

    def _side_car(self, digest: str) -> dict[str, Any] | None:
        content = self._read(f"{digest}.json", _LARGEST_SIDE_CAR)
        try:
            fields = json.loads(content) if content is not None else None
        except (ValueError, RecursionError):
            return None
        kinds = {"key": dict, "files": dict, "facts": dict}
        if not isinstance(fields, dict) or not all(isinstance(fields.get(name), kind) for name, kind in kinds.items()):
            return None
        return fields

    def _write_side_car(self, key: PlanKey, files: Sequence[str], facts: Mapping[str, Any]) -> None:
        hashes = {name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in files}
        content = {"key": dataclasses.asdict(key), "files": hashes, "facts": dict(facts)}
        self._write(f"{key.digest}.json", json.dumps(content, indent=1).encode())

    def _there(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def _exists(self) -> bool:
        """True if the folder is there; it must be the user's alone then.

        Who may write to the folder above could put another one in its place, but none that belongs to the user.
        """
        try:
            status = self.folder.lstat()
        except FileNotFoundError:
            return False
        except OSError as fault:
            raise EngineError(f"{self.folder}: {fault.strerror}") from fault
        _check_own(status, self.folder)
        if not stat.S_ISDIR(status.st_mode):
            raise EngineError(f"{self.folder} is not a folder")
        return True

    def _make_folder(self) -> None:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as fault:
            raise EngineError(f"{self.folder}: {fault.strerror}") from fault
        self._exists()

    def _read(self, name: str, largest: int | None = None) -> bytes | None:
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # not there, or a link
            return None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _check_own(status, path)
            if not stat.S_ISREG(status.st_mode) or (largest is not None and status.st_size > largest):
                return None
            return file.read()

    def _write(self, name: str, content: bytes) -> None:
        partial = None
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".", delete=False) as file:
                partial = Path(file.name)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.folder / name)
        except OSError as fault:
            if partial is not None:
                partial.unlink(missing_ok=True)
            raise EngineError(f"{self.folder / name}: {fault.strerror}") from fault


def _check_own(status: os.stat_result, path: Path) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_MAY_WRITE:
        raise EngineError(
            f"{path} belongs to someone else, or others may write to it; plans are code and are not loaded from there"
        )


def described_shapes(shapes: Mapping[str, Shape]) -> str:
    """Return shapes as people write them."""
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
