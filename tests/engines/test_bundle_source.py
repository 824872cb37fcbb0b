"""A bundle in one file is the bundle in a folder; whatever else is in the file is refused before it costs memory."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.bundle import MANIFEST, Bundle, BundleLimits
from engines.bundle_source import OneFile, write_one_file
from engines.errors import BundleError

TINY = Path(__file__).parents[1] / "golden" / "tiny"
FILES = {path.relative_to(TINY).as_posix(): path.read_bytes() for path in TINY.rglob("*") if path.is_file()}
METHODS = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]


@pytest.fixture
def one_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.bundle"
    write_one_file(file, FILES)
    return file


def rewritten(file: Path, change: Callable[[zipfile.ZipFile], None], without: str = "") -> Path:
    """Write the tiny bundle once more, without one of its members, and let *change* add to it."""
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in FILES.items():
            if path != without:
                archive.writestr(path, content)
        change(archive)
    return file


def test_one_file_is_the_folder(one_file: Path) -> None:
    """Names, hashes, settings and every byte are the same."""
    packed, folder = Bundle.open(one_file), Bundle.open(TINY)
    assert packed.where == one_file
    assert (packed.bundle_hash, packed.exact_id) == (folder.bundle_hash, folder.exact_id)
    assert packed.settings == folder.settings
    for path in FILES.keys() - {MANIFEST}:
        assert packed.read(path) == folder.read(path)


def test_the_same_files_give_the_same_bytes(one_file: Path, tmp_path: Path) -> None:
    """Whatever the order in which they come, and whenever."""
    write_one_file(tmp_path / "again.bundle", dict(reversed(FILES.items())))
    assert (tmp_path / "again.bundle").read_bytes() == one_file.read_bytes()


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """As in a folder."""
    file = rewritten(tmp_path / "x.bundle", lambda archive: None, without="graphs/g_a.onnx")
    with pytest.raises(BundleError, match=r"x\.bundle/graphs/g_a\.onnx: No such file"):
        Bundle.open(file)


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    """Readers would disagree on which of them counts."""

    def twice(archive: zipfile.ZipFile) -> None:
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(MANIFEST, b"{}")

    with pytest.raises(BundleError, match=r"'manifest\.json' occurs twice"):
        Bundle.open(rewritten(tmp_path / "x.bundle", twice))


def test_bundles_of_before_are_read(tmp_path: Path) -> None:
    """Members were compressed by bzip2; their hashes are of what is in them."""

    def packed(archive: zipfile.ZipFile) -> None:
        archive.writestr("graphs/g_a.onnx", FILES["graphs/g_a.onnx"], zipfile.ZIP_BZIP2)

    file = rewritten(tmp_path / "x.bundle", packed, without="graphs/g_a.onnx")
    assert Bundle.open(file).read("graphs/g_a.onnx") == FILES["graphs/g_a.onnx"]


@pytest.mark.parametrize("size", [0, 1, 2, 4095, 4096])
def test_weights_are_shuffled_where_that_is_shorter(tmp_path: Path, size: int) -> None:
    """High bytes that are much alike lie together in the archive, and come back in their places."""
    floats = np.random.default_rng(size).normal(0, 0.05, size).astype("<f2")
    rounded = floats.view("<u2") & 0xFFC0  # as weights are, that are shipped
    weights = rounded.tobytes() + b"odd" * (size % 2)
    files = {"noise": bytes(np.random.default_rng(1).integers(0, 256, 999, dtype=np.uint8)), "weights": weights}
    write_one_file(tmp_path / "x.bundle", files)
    with zipfile.ZipFile(tmp_path / "x.bundle") as archive:
        names = set(archive.namelist())
    assert names == {"noise", "weights.shuffled" if size > 4000 else "weights"}
    source = OneFile(tmp_path / "x.bundle", 1 << 20)
    for name, content in files.items():
        assert source.read(name, 1 << 20, len(content)) == content


def test_a_file_that_is_there_in_both_forms_is_refused(tmp_path: Path) -> None:
    """Readers would disagree on which of them counts."""

    def both(archive: zipfile.ZipFile) -> None:
        archive.writestr(f"{MANIFEST}.shuffled", b"{}")

    with pytest.raises(BundleError, match=r"'manifest\.json' occurs twice"):
        Bundle.open(rewritten(tmp_path / "x.bundle", both))


@pytest.mark.parametrize("method", METHODS)
def test_a_member_may_not_be_larger_than_it_says(tmp_path: Path, method: int) -> None:
    """A few bytes that decompress to far more than the manifest allows are not decompressed."""

    def bomb(archive: zipfile.ZipFile) -> None:
        archive.writestr("graphs/g_a.onnx", bytes(1 << 26), method)

    file = rewritten(tmp_path / "x.bundle", bomb, without="graphs/g_a.onnx")
    with pytest.raises(BundleError, match=f"{1 << 26} bytes, the manifest says"):
        Bundle.open(file)


@pytest.mark.parametrize("method", METHODS)
def test_a_member_whose_size_is_a_lie_is_refused(tmp_path: Path, method: int) -> None:
    """The directory claims the manifest's size; what would come out of the member is not unpacked."""
    claimed, content = len(FILES["graphs/g_a.onnx"]), bytes((1 << 26) + 12_345)

    def bomb(archive: zipfile.ZipFile) -> None:
        archive.writestr("graphs/g_a.onnx", content, method)

    file = rewritten(tmp_path / "x.bundle", bomb, without="graphs/g_a.onnx")
    data = file.read_bytes()
    truth = struct.pack("<I", len(content))
    assert data.count(truth) == 2
    file.write_bytes(data.replace(truth, struct.pack("<I", claimed)))
    tracemalloc.start()
    with pytest.raises(BundleError):
        Bundle.open(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_number_of_entries_is_limited(one_file: Path) -> None:
    """They are counted before an object is made of each, wherever in the file they seem to be."""
    one_file.write_bytes(b"PK\x01\x02" * 65_537 + one_file.read_bytes())
    with pytest.raises(BundleError, match="not a bundle in one file: more than 65536 entries"):
        Bundle.open(one_file)


def test_other_compression_is_refused(tmp_path: Path) -> None:
    """Two methods are enough, and each is code that a stranger's bytes reach."""

    def other(archive: zipfile.ZipFile) -> None:
        archive.writestr("graphs/g_a.onnx", FILES["graphs/g_a.onnx"], zipfile.ZIP_LZMA)

    file = rewritten(tmp_path / "x.bundle", other, without="graphs/g_a.onnx")
    with pytest.raises(BundleError, match="neither stored, deflated nor compressed by bzip2"):
        Bundle.open(file)


def test_a_file_larger_than_the_limits_is_not_read(one_file: Path) -> None:
    """Its size is looked at first."""
    with one_file.open("ab") as file:
        file.truncate(1 << 24)
    with pytest.raises(BundleError, match="16777216 bytes; at most 1130496 are allowed"):
        Bundle.open(one_file, BundleLimits(manifest_bytes=1 << 14, total_bytes=1 << 16))


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    """With its name and one line."""
    file = tmp_path / "x.bundle"
    file.write_bytes(b"no archive")
    with pytest.raises(BundleError, match=r"x\.bundle: not a bundle in one file"):
        Bundle.open(file)


def test_a_link_is_refused(one_file: Path) -> None:
    """As files of folders are."""
    link = one_file.with_name("link.bundle")
    link.symlink_to(one_file)
    with pytest.raises(BundleError, match="links are not allowed"):
        Bundle.open(link)


@settings(max_examples=150)
@given(st.data())
def test_damage_is_an_error_or_nothing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Bytes changed or cut anywhere: the bundle as it was, or a BundleError."""
    file = tmp_path_factory.getbasetemp() / "damaged.bundle"
    write_one_file(file, FILES)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        bundle = Bundle.open(file)
    except BundleError:
        return
    assert bundle.bundle_hash == Bundle.open(TINY).bundle_hash
