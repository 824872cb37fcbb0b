from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import UsageError
from runtime.evaluate.pictures import find_pictures


def test_pictures_of_a_folder_are_found_by_suffix_and_sorted(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "README.md", "SHA256SUMS"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert list(find_pictures([tmp_path])) == ["a.JPG", "b.png"]


def test_a_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "picture").touch()
    assert find_pictures([tmp_path / "picture"]) == {"picture": tmp_path / "picture"}


def test_repeated_names_become_paths(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").touch()
    found = find_pictures([tmp_path / "one", tmp_path / "two", tmp_path / "one" / "a.png"])
    assert list(found) == [str(tmp_path / "one" / "a.png"), str(tmp_path / "two" / "a.png")]


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="no pictures in this folder"):
        find_pictures([tmp_path])


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        find_pictures([tmp_path / "none"])
