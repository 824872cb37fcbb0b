from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from runtime.errors import DataError, UsageError
from runtime.evaluate.accuracy.labels import Labels, labelled_pictures

LABELS = Labels(("n01", "n02"), ("tench", "goldfish"))


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    return path


def test_labels_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("n02 gold fish\nn01\n", encoding="utf-8")
    assert Labels.read(tmp_path / "labels.txt") == Labels(("n02", "n01"), ("gold fish", "n01"))


@pytest.mark.parametrize(
    ("text", "message"), [("", "this one is empty"), ("n01 a\n\n", "line 2 is ''"), ("n01 a\nn01 b\n", "line 2")]
)
def test_not_a_list_of_labels(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        Labels.read(tmp_path / "labels.txt")


def test_a_list_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a list of labels"):
        Labels.read(tmp_path / "none.txt")


def test_folders_are_classes(tmp_path: Path) -> None:
    a, b = picture(tmp_path / "n01" / "b.JPEG"), picture(tmp_path / "n02" / "a.png")
    (tmp_path / "n02" / "notes.txt").touch()
    (tmp_path / "README.md").touch()
    assert labelled_pictures([tmp_path], LABELS) == {"n01/b.JPEG": (a, 0), "n02/a.png": (b, 1)}


@pytest.mark.parametrize("home", ["", "images"])
def test_a_table_names_classes(tmp_path: Path, home: str) -> None:
    path = picture(tmp_path / home / "a.webp")
    (tmp_path / "images.tsv").write_text("file\tclass_index\twnid\tname\na.webp\t1\tn02\tgoldfish\n", encoding="utf-8")
    assert labelled_pictures([tmp_path], LABELS) == {path.relative_to(tmp_path).as_posix(): (path, 1)}


def test_several_folders_keep_whole_paths(tmp_path: Path) -> None:
    for name in ("one", "two"):
        picture(tmp_path / name / "n01" / "a.png")
    found = labelled_pictures([tmp_path / "one", tmp_path / "two"], LABELS)
    assert list(found) == [str(tmp_path / name / "n01" / "a.png") for name in ("one", "two")]


def test_a_class_that_the_classifier_does_not_have(tmp_path: Path) -> None:
    picture(tmp_path / "n99" / "a.png")
    with pytest.raises(DataError, match=r"a\.png: its label 'n99' is not among the 2 of --labels; give the list"):
        labelled_pictures([tmp_path], LABELS)


def test_pictures_without_labels(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.png has no label; lay the folder out"):
        labelled_pictures([tmp_path], LABELS)


def test_a_picture_that_the_table_does_not_name(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "images" / name)
    (tmp_path / "images.tsv").write_text("file\twnid\na.png\tn01\n")
    with pytest.raises(DataError, match=r"b\.png: has no label: add a row"):
        labelled_pictures([tmp_path], LABELS)


def test_a_picture_that_only_the_table_has(tmp_path: Path) -> None:
    (tmp_path / "images.tsv").write_text("file\twnid\na.png\tn01\n")
    with pytest.raises(DataError, match=r"names a\.png, which is not in"):
        labelled_pictures([tmp_path], LABELS)


@pytest.mark.parametrize("text", ["", "file\twnid\n", "name\twnid\na\tb\n"])
def test_not_such_a_table(text: str, tmp_path: Path) -> None:
    (tmp_path / "images.tsv").write_text(text)
    with pytest.raises(DataError, match=r"images\.tsv"):
        labelled_pictures([tmp_path], LABELS)


def test_an_empty_folder_and_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no pictures in this folder"):
        labelled_pictures([tmp_path], LABELS)
    for name in ("none", "a" * 300):
        with pytest.raises(UsageError, match="no such folder"):
            labelled_pictures([tmp_path / name], LABELS)
