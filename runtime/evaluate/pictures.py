"""The pictures to measure with, found in folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runtime.errors import UsageError
from runtime.evaluate.runs.provenance import sha256_of
from runtime.evaluate.runs.work import Unit
from runtime.image_files import FORMAT_OF_SUFFIX


def find_pictures(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the pictures among *paths*: files as they are, and those of folders (not their subfolders) by suffix.

    Returns:
        Paths by name, sorted inside a folder; where file names repeat, the path is the name.

    Raises:
        UsageError: a path does not exist, or a folder cannot be read or has no pictures.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(_pictures_at(path)))
    times = Counter(path.name for path in found)
    return {path.name if times[path.name] == 1 else str(path): path for path in found}


def units_of(pictures: Mapping[str, Path]) -> list[Unit]:
    """Return a unit of work for each of *pictures*; DataError if one cannot be read."""
    return [Unit(name, path.resolve(), sha256_of(path)) for name, path in pictures.items()]


def are_pictures(paths: Iterable[Path]) -> list[Path]:
    """Return those of *paths* that are files with the suffix of a picture, sorted."""
    return sorted(path for path in paths if path.suffix.lower() in FORMAT_OF_SUFFIX and path.is_file())


def no_pictures_in(path: Path) -> UsageError:
    """Return the error of a folder without pictures."""
    return UsageError(f"{path}: no pictures in this folder; looked for *{', *'.join(FORMAT_OF_SUFFIX)}")


def _pictures_at(path: Path) -> list[Path]:
    try:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        if not path.is_dir():
            return [path]
        pictures = are_pictures(path.iterdir())
    except OSError as fault:
        raise UsageError(f"{path}: cannot be read: {fault.strerror}") from fault
    if not pictures:
        raise no_pictures_in(path)
    return pictures
