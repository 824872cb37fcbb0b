"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime.errors import OutputError
from runtime.whole_files import write_whole


def test_a_new_file_gets_usual_permissions(tmp_path: Path) -> None:
    earlier = os.umask(0o022)
    try:
        write_whole(tmp_path / "a", b"new")
    finally:
        os.umask(earlier)
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_the_mask_of_the_process_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads make files meanwhile."""

    def never(_: int) -> int:
        raise AssertionError("the mask was changed")

    monkeypatch.setattr(os, "umask", never)
    write_whole(tmp_path / "a", b"new")


def test_what_was_private_is_private_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file is nobody else's before it has the permissions of the earlier one."""
    seen, change = [], os.fchmod
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o640)

    def look(descriptor: int, mode: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        change(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", look)
    write_whole(tmp_path / "a", b"new")
    assert seen == [0o600] and stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_an_earlier_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old and longer")
    (tmp_path / "a").chmod(0o600)
    write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "link").symlink_to("a")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_device_stays_a_device() -> None:
    write_whole(Path("/dev/null"), b"anything")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd here")
def test_a_pipe_behind_links_is_written_to() -> None:
    """As /dev/stdout is one, and what shells make of >(command)."""
    reader, writer = os.pipe()
    write_whole(Path(f"/dev/fd/{writer}"), b"new")
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"new"


def test_a_failed_rename_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="a: cannot be written: Input/output error"):
        write_whole(tmp_path / "a", b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_unwritable_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path, tmp_path / "missing" / "a", tmp_path / "file" / "a", tmp_path / ("a" * 300), Path("a\0b")):
        with pytest.raises(OutputError, match="cannot be written"):
            write_whole(place, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_named() -> None:
    with pytest.raises(OutputError, match="No space left"):
        write_whole(Path("/dev/full"), b"new")
