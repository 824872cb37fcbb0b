"""The pictures to measure with, found in folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import UsageError
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


def _pictures_at(path: Path) -> list[Path]:
    try:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        if not path.is_dir():
            return [path]
        pictures = sorted(p for p in path.iterdir() if p.suffix.lower() in FORMAT_OF_SUFFIX and p.is_file())
    except OSError as fault:
        raise UsageError(f"{path}: cannot be read: {fault.strerror}") from fault
    if not pictures:
        raise UsageError(f"{path}: no pictures in this folder; looked for *{', *'.join(FORMAT_OF_SUFFIX)}")
    return pictures
