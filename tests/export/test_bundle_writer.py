"""A bundle is written whole or not at all, and replaces nothing but a bundle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnx", reason="onnx is not installed (extra: export)")

from engines.bundle import Bundle
from export import bundle_writer
from export.bundle_writer import BundleContent, destination, write_bundle
from runtime.errors import BundleError, OutputError, UsageError


def write(out: Path, version: str = "1") -> Path:
    """Write a bundle of one file."""
    content = BundleContent(settings={}, files={"kat/g_a.npz": version.encode()})
    return write_bundle(out, "tiny", version, "dpict", content)


def test_an_interrupted_replacement_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever Ctrl-C comes between the two renames, the old bundle is back, and nothing lies beside it."""
    out = write(tmp_path / "out")
    rename = Path.rename
    for interrupted in (0, 1):
        renamed: list[Path] = []

        def rename_or_stop(path: Path, target: Path, renamed: list[Path] = renamed, at: int = interrupted) -> Path:
            renamed.append(path)
            if len(renamed) == at + 1:
                raise KeyboardInterrupt
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", rename_or_stop)
        with pytest.raises(KeyboardInterrupt):
            write(out, "2")
        monkeypatch.undo()
        assert Bundle.open(out).version == "1"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    write(out, "2")
    assert Bundle.open(out).version == "2" and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_old_bundle_that_cannot_be_put_back_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is all that there is."""
    out = write(tmp_path / "out")
    rename = Path.rename

    def only_away(path: Path, target: Path) -> Path:
        if target == out:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", only_away)
    with pytest.raises(OutputError, match="Input/output error"):
        write(out, "2")
    (kept,) = tmp_path.glob("*/old")
    assert Bundle.open(kept).version == "1"


@pytest.mark.parametrize("foreign", ["notes.txt", "kat/more.npz", "link"])
def test_a_bundle_with_something_else_in_it_is_left_alone(tmp_path: Path, foreign: str) -> None:
    """What the manifest does not list is somebody's own."""
    out = write(tmp_path / "out")
    if foreign == "link":
        (out / foreign).symlink_to(tmp_path, target_is_directory=True)
    else:
        (out / foreign).write_text("mine")
    with pytest.raises(OutputError, match=f"holds {foreign}, not of the bundle there; nothing was written"):
        write(out, "2")
    assert Bundle.open(out).version == "1" and os.path.lexists(out / foreign)


def test_links_and_dots_name_what_they_lead_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle behind a link is replaced, and the link stays; so does the current folder's name."""
    out = write(tmp_path / "out")
    (tmp_path / "link").symlink_to(out)
    assert write(tmp_path / "link", "2") == out
    assert (tmp_path / "link").is_symlink() and Bundle.open(out).version == "2"
    monkeypatch.chdir(out)
    assert write(Path(), "3") == out
    assert Bundle.open(out).version == "3"
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(OutputError, match="round"):
        write(tmp_path / "round")


def test_a_file_and_a_folder_replace_each_other(tmp_path: Path) -> None:
    """A bundle is a bundle in either form."""
    folder = write(tmp_path / "folder")
    folder.rename(tmp_path / "one.bundle")
    assert write(tmp_path / "one.bundle", "2").is_file()
    (tmp_path / "one.bundle").rename(tmp_path / "folder")
    assert write(folder, "3").is_dir()
    assert Bundle.open(folder).version == "3"


@pytest.mark.parametrize("out", ["file/x", "file/x/y", "x" * 256, "new/" + "x" * 256, "\u20ac" * 90])
def test_a_place_where_nothing_can_be_written_is_one_error(tmp_path: Path, out: str) -> None:
    """Before anything is done, and nothing is left."""
    (tmp_path / "file").write_text("mine")
    for attempt in (write, lambda path: destination(path, "tiny", "1", "dpict")):
        with pytest.raises(OutputError, match=r"is no folder|a name of more than 255 bytes"):
            attempt(tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest that is there, however deep the new one would be in it."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match=f"nothing may be written in {tmp_path}$"):
        destination(tmp_path / "a" / "b" / "c", "tiny", "1", "dpict")


@pytest.mark.parametrize(("name", "version", "fault"), [("my model", "1", "name 'my model'"), ("m", "", "version ''")])
def test_names_that_no_manifest_may_have_are_refused(tmp_path: Path, name: str, version: str, fault: str) -> None:
    """In the words of whoever reads manifests, and beforehand."""
    with pytest.raises(UsageError, match=f"^the bundle's {fault} must be letters"):
        destination(tmp_path / "out", name, version, "dpict")


def test_errors_do_not_name_files_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong with a bundle that was not put into place is said of the bundle."""

    def refuse(path: Path) -> None:
        raise BundleError(f"{path}/manifest.json: something")

    monkeypatch.setattr(bundle_writer, "verify_bundle", refuse)
    with pytest.raises(BundleError, match=r"^tiny/manifest\.json: something$"):
        write(tmp_path / "out")
    assert not list(tmp_path.iterdir())
