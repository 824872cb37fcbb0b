"""Labels of pictures: the classes that a classifier tells apart, and the class of every picture of a folder.

A list of labels has a line "wnid name" for each class. A folder of pictures is laid out as ImageNet is, a folder named
by wnid for each class, or holds images.tsv with the columns `file` and `wnid`; files lie beside it or in images/.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import DataError, UsageError
from runtime.evaluate.pictures import are_pictures, no_pictures_in

TABLE = "images.tsv"
_IMAGES = "images"


@dataclass(frozen=True)
class Labels:
    """The classes in the order of the classifier's outputs: their wnids, and their names for people."""

    wnids: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Labels:
        """Read a list of labels.

        Raises:
            DataError: it cannot be read, is empty, or a line has no wnid or one that was there before.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as fault:
            raise DataError(f"{path}: not a list of labels: {fault}") from fault
        wnids, names = [], []
        for number, line in enumerate(lines, start=1):
            wnid, _, name = line.strip().partition(" ")
            if not wnid or wnid in wnids:
                raise DataError(f"{path}: line {number} is {line!r}; a line is 'wnid name', each wnid once")
            wnids.append(wnid)
            names.append(name or wnid)
        if not wnids:
            raise DataError(f"{path}: a list of labels has a line 'wnid name' for each class; this one is empty")
        return cls(tuple(wnids), tuple(names))


def labelled_pictures(folders: Sequence[Path], labels: Labels) -> dict[str, tuple[Path, int]]:
    """Return the pictures of *folders* with the place of their class in *labels*, by name.

    Names are paths below their folder, or whole paths where several folders are given.

    Raises:
        UsageError: a folder does not exist, is not laid out as described, or has no pictures.
        DataError: a picture has no label, or one that *labels* do not have.
    """
    place = {wnid: number for number, wnid in enumerate(labels.wnids)}
    found: dict[str, tuple[Path, int]] = {}
    for folder in folders:
        for path, wnid in _pictures_of(folder).items():
            if wnid not in place:
                raise DataError(f"{path}: its label {wnid!r} is not among the {len(place)} of --labels; give the list "
                                "that goes with the classifier and has this class")  # fmt: skip
            name = path.relative_to(folder).as_posix() if len(folders) == 1 else str(path)
            found[name] = (path, place[wnid])
    return found


def _pictures_of(folder: Path) -> Mapping[Path, str]:
    if not os.path.isdir(folder):
        raise UsageError(f"{folder}: no such folder; labelled pictures are given as folders")
    try:
        if (folder / TABLE).exists():
            return _pictures_of_table(folder)
        classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[:1] == "n")
        found = {path: of_class.name for of_class in classes for path in are_pictures(of_class.iterdir())}
        stray = are_pictures(folder.iterdir())
    except OSError as fault:
        raise UsageError(f"{folder}: cannot be read: {fault.strerror}") from fault
    if not found and stray:
        raise UsageError(
            f"{folder}: {stray[0].name} has no label; lay the folder out with a folder for each class, named by wnid, "
            f"or add {TABLE} with the columns file and wnid"
        )
    if not found:
        raise no_pictures_in(folder)
    return found


def _pictures_of_table(folder: Path) -> dict[Path, str]:
    table = folder / TABLE
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        wnids = {row["file"]: row["wnid"] for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as fault:
        raise DataError(f"{table}: not a table with the columns file and wnid: {fault!r}") from fault
    if not wnids:
        raise DataError(f"{table}: has no rows; a row names a file and its wnid")
    home = folder / _IMAGES if (folder / _IMAGES).is_dir() else folder
    unlabelled = [path for path in are_pictures(home.iterdir()) if path.name not in wnids]
    if unlabelled:
        raise DataError(f"{unlabelled[0]}: has no label: add a row for it to {table}, or take it away")
    missing = [name for name in wnids if not (home / name).is_file()]
    if missing:
        raise DataError(f"{table}: names {missing[0]}, which is not in {home}: add it, or take its row away")
    return {home / name: wnid or "" for name, wnid in wnids.items()}
