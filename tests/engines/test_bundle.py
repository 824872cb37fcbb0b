"""Bundles: what fits its manifest opens; every kind of tampering is refused before any parser sees a byte."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import rehash

from engines.bundle import SHIPPED, Bundle, bundle_hash, exact_id, shipped_bundles, stated_exact_id, unpack
from engines.errors import BundleError, OutputError

TINY = Path(__file__).parents[1] / "golden" / "tiny"
Manifest = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny bundle that may be changed."""
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if opening a bundle parses anything but its manifest."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a parser was called while a bundle was opened")

    monkeypatch.setattr("numpy.load", refuse)
    monkeypatch.setattr("engines.onnxruntime_cpu.OnnxRuntimeCpu.__init__", refuse)


def edit(folder: Path, change: Callable[[Manifest], object]) -> None:
    """Change the manifest and nothing else."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def entry_of(manifest: Manifest, path: str) -> dict[str, Any]:
    entry: dict[str, Any] = next(one for one in manifest["files"] if one["path"] == path)
    return entry


def add_plan(folder: Path, content: bytes, *, exact: bool = True) -> None:
    """Give the bundle a plan.json, and a manifest that fits it."""
    (folder / "plan.json").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    exact_files = manifest["exact_files"] + ["plan.json"] * exact
    rehash(folder, files=[*manifest["files"], {"path": "plan.json"}], exact_files=exact_files)


# What is sound.


def test_bundle_opens_with_all_that_its_manifest_says() -> None:
    """Name, version, family, settings and graphs are the manifest's; files are read by their paths."""
    bundle = Bundle.open(TINY)
    manifest = json.loads((TINY / "manifest.json").read_text())
    assert (bundle.name, bundle.version, bundle.family) == ("tiny", "1", "dpict")
    assert bundle.exact_id.hex() == manifest["exact_id"] and len(bundle.exact_id) == 8
    assert bundle.settings == manifest["settings"] and bundle.where == TINY
    assert set(bundle.graphs) == {"g_a", "g_s", "h_a", "h_s", "preview", "post_low"}
    assert [role for role, graph in bundle.graphs.items() if graph.exact] == ["h_s"]
    assert bundle.graphs["h_s"].outputs == ("mu", "sigma_code")
    assert bundle.read("graphs/g_a.onnx") == (TINY / "graphs" / "g_a.onnx").read_bytes()


def test_every_shipped_bundle_opens_by_its_name() -> None:
    """What is installed is sound, and is what its file is called."""
    assert "dpict-edge" in shipped_bundles()
    for name in shipped_bundles():
        bundle = Bundle.open(name)
        assert bundle.name == name and bundle.where == SHIPPED / f"{name}.bundle"


def test_folder_named_like_a_shipped_bundle_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is a bundle is taken as a path."""
    folder.rename(folder.parent / "dpict-edge")
    monkeypatch.chdir(folder.parent)
    assert Bundle.open("dpict-edge").name == "tiny"


def test_other_files_in_the_folder_are_not_part_of_the_bundle(folder: Path) -> None:
    """What the manifest does not list is not read."""
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"has no file 'notes\.txt'"):
        Bundle.open(folder).read("notes.txt")


def test_bundle_keeps_what_it_verified(folder: Path) -> None:
    """A file that changes after opening does not reach a parser."""
    bundle = Bundle.open(folder)
    before = bundle.read("tables/entropy.npz")
    (folder / "tables" / "entropy.npz").write_bytes(b"other")
    assert bundle.read("tables/entropy.npz") == before


def test_exact_id_is_the_start_of_a_hash_over_paths_and_hashes() -> None:
    """FORMAT.md's definition, in three lines."""
    files = {"b/two": b"2", "a/one": b"1"}
    lines = "".join(f"{path} {hashlib.sha256(files[path]).hexdigest()}\n" for path in ("a/one", "b/two"))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert exact_id(files).hex() == digest[:16] and bundle_hash(files) == digest


def test_exact_id_depends_on_every_exact_file_and_its_path() -> None:
    """Two bundles have the same exact_id only if their exact files are the same."""
    files = {"h_s": b"graph", "tables": b"numbers"}
    others = [{"h_s": b"grapi", "tables": b"numbers"}, {"h_t": b"graph", "tables": b"numbers"}, {"h_s": b"graph"}]
    assert len({exact_id(one) for one in [files, *others]}) == 4


# Files that are not as the manifest says.


@pytest.mark.parametrize("path", ["graphs/g_a.onnx", "graphs/h_s.onnx", "tables/entropy.npz", "kat/h_s.npz"])
@pytest.mark.parametrize("position", [0, 100, -1])
def test_flipped_bit_in_a_file_is_refused(folder: Path, path: str, position: int) -> None:
    """One wrong bit in a graph, a table or a known answer is enough; the error names the file."""
    content = bytearray((folder / path).read_bytes())
    content[position] ^= 1
    (folder / path).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{path}: SHA-256 differs from the manifest's"):
        Bundle.open(folder)


@pytest.mark.parametrize("path", ["graphs/g_a.onnx", "tables/entropy.npz"])
def test_garbage_of_the_same_size_is_refused_before_it_is_parsed(folder: Path, path: str) -> None:
    """It is the hash that refuses, not ONNX or numpy."""
    (folder / path).write_bytes(os.urandom((folder / path).stat().st_size))
    with pytest.raises(BundleError, match="SHA-256 differs"):
        Bundle.open(folder)


@pytest.mark.parametrize("path", ["graphs/g_a.onnx", "tables/entropy.npz", "kat/h_s.npz"])
def test_missing_file_is_refused(folder: Path, path: str) -> None:
    """The error names the file."""
    (folder / path).unlink()
    with pytest.raises(BundleError, match=path):
        Bundle.open(folder)


@pytest.mark.parametrize("change", [lambda content: content + b"\0", lambda content: content[:-1], lambda content: b""])
def test_file_of_another_size_is_refused_without_being_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes]
) -> None:
    """The size is compared first, so that a file of gigabytes costs nothing."""
    file = folder / "graphs" / "g_a.onnx"  # the first of the files
    file.write_bytes(change(file.read_bytes()))
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail(f"{self} was read"))
    with pytest.raises(BundleError, match=r"g_a\.onnx: [0-9]+ bytes, the manifest says [0-9]+"):
        Bundle.open(folder)


def test_file_above_a_gigabyte_is_refused(folder: Path) -> None:
    """A manifest cannot ask for more memory than any bundle needs."""
    with (folder / "graphs" / "g_a.onnx").open("r+b") as file:
        file.truncate((1 << 30) + 1)  # sparse
    edit(folder, lambda manifest: entry_of(manifest, "graphs/g_a.onnx").update(size=(1 << 30) + 1))
    with pytest.raises(BundleError, match="at most 1073741824"):
        Bundle.open(folder)


def test_link_in_place_of_a_file_is_refused(folder: Path) -> None:
    """Even if it leads to the right content."""
    file = folder / "graphs" / "g_a.onnx"
    file.unlink()
    file.symlink_to(TINY / "graphs" / "g_a.onnx")
    with pytest.raises(BundleError, match="links are not allowed"):
        Bundle.open(folder)


def test_link_in_place_of_a_folder_is_refused(folder: Path) -> None:
    """A link does not become better by standing further up."""
    shutil.rmtree(folder / "graphs")
    (folder / "graphs").symlink_to(TINY / "graphs")
    with pytest.raises(BundleError, match="links are not allowed"):
        Bundle.open(folder)


def test_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    """A folder is no file of any size."""
    (folder / "graphs" / "g_a.onnx").unlink()
    (folder / "graphs" / "g_a.onnx").mkdir()
    with pytest.raises(BundleError, match=r"g_a\.onnx: not a file"):
        Bundle.open(folder)


def test_pipe_in_place_of_a_file_is_refused(folder: Path) -> None:
    """Opening a bundle never waits for a writer."""
    (folder / "graphs" / "g_a.onnx").unlink()
    os.mkfifo(folder / "graphs" / "g_a.onnx")
    edit(folder, lambda manifest: entry_of(manifest, "graphs/g_a.onnx").update(size=0))
    with pytest.raises(BundleError, match=r"g_a\.onnx: not a file"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/hostname", "graphs/../../outside", "..", "a\\..\\b", "C:\\file", "graphs/../g_a.onnx"]
)
def test_path_that_leaves_the_bundle_is_refused(folder: Path, path: str) -> None:
    """Paths are relative and go down only, be there a file or not."""
    (folder.parent / "outside").write_bytes(b"secret")
    content = {"path": path, "size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    edit(folder, lambda manifest: manifest["files"].append(content))
    with pytest.raises(BundleError, match="leaves the bundle"):
        Bundle.open(folder)


@pytest.mark.parametrize("path", ["", ".", "graphs", "a\0b", "x" * 5000])
def test_path_that_is_no_file_is_refused(folder: Path, path: str) -> None:
    """Whatever the file system says of a path, the error is the bundle's."""
    content = {"path": path, "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    edit(folder, lambda manifest: manifest["files"].append(content))
    with pytest.raises(BundleError):
        Bundle.open(folder)


# Manifests that are not sound.


def test_missing_manifest_is_refused(folder: Path) -> None:
    """A folder without manifest is no bundle, nor is what no file can be called."""
    (folder / "manifest.json").unlink()
    for name in (folder, "a" * 300):
        with pytest.raises(BundleError, match="no bundle"):
            Bundle.open(name)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"text"', b"{}"])
def test_manifest_that_is_no_manifest_is_refused(folder: Path, content: bytes) -> None:
    """The error names the manifest."""
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(folder)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_unknown_schema_is_refused(folder: Path, schema: object) -> None:
    """A manifest of another schema is not guessed at."""
    edit(folder, lambda manifest: manifest.update(schema=schema))
    with pytest.raises(BundleError, match="schema must be 1"):
        Bundle.open(folder)


KEYS = ("name", "version", "family", "exact_id", "bundle_hash", "settings", "graphs", "files", "exact_files")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [None, 7, "absent"])
def test_manifest_without_a_key_or_with_another_type_is_refused(folder: Path, key: str, value: object) -> None:
    """Every key is there, with its type."""

    def change(manifest: Manifest) -> None:
        if value == "absent":
            del manifest[key]
        else:
            manifest[key] = value

    edit(folder, change)
    with pytest.raises(BundleError, match=f"'{key}' is missing or not a"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "entry",
    [7, [], "graphs/g_a.onnx", {}, {"path": "a"}, {"path": 1, "size": 1, "sha256": ""}, {"size": 1, "sha256": ""}],
)
def test_file_entry_without_its_fields_is_refused(folder: Path, entry: object) -> None:
    """Every file has a path, a size and a hash."""
    edit(folder, lambda manifest: manifest["files"].append(entry))
    with pytest.raises(BundleError, match="a file entry lacks path, size or sha256"):
        Bundle.open(folder)


@pytest.mark.parametrize("key", ["file", "exact", "inputs", "outputs"])
def test_graph_without_a_field_is_refused(folder: Path, key: str) -> None:
    """The error names graph and field."""
    edit(folder, lambda manifest: manifest["graphs"]["g_s"].pop(key))
    with pytest.raises(BundleError, match=f"graph 'g_s': the manifest lacks '{key}'"):
        Bundle.open(folder)


@pytest.mark.parametrize("value", ["graphs/other.onnx", "../g_a.onnx", 7, ["graphs/g_a.onnx"]])
@pytest.mark.parametrize("key", ["file", "known_answers"])
def test_graph_of_a_file_that_is_not_the_bundles_is_refused(folder: Path, key: str, value: object) -> None:
    """Graphs and known answers are among the verified files."""
    edit(folder, lambda manifest: manifest["graphs"]["g_s"].update({key: value}))
    with pytest.raises(BundleError, match="is not among the bundle's files"):
        Bundle.open(folder)


@pytest.mark.parametrize("graph", [7, None, [], "graphs/g_s.onnx"])
def test_graph_that_is_no_entry_is_refused(folder: Path, graph: object) -> None:
    """A graph's entry is an object."""
    edit(folder, lambda manifest: manifest["graphs"].update(g_s=graph))
    with pytest.raises(BundleError, match="graph 'g_s'"):
        Bundle.open(folder)


@pytest.mark.parametrize("path", ["graphs/other.onnx", 7, ["tables/entropy.npz"]])
def test_exact_file_that_is_not_the_bundles_is_refused(folder: Path, path: object) -> None:
    """Exact files are among the verified files."""
    edit(folder, lambda manifest: manifest["exact_files"].append(path))
    with pytest.raises(BundleError, match="exact file"):
        Bundle.open(folder)


def test_exact_graph_outside_the_exact_files_is_refused(folder: Path) -> None:
    """What must be the same everywhere is in the exact_id."""
    edit(folder, lambda manifest: manifest["graphs"]["g_a"].update(exact=True))
    with pytest.raises(BundleError, match=r"exact file 'graphs/g_a\.onnx' is not among the manifest's exact files"):
        Bundle.open(folder)


@pytest.mark.parametrize("value", ["0123456789abcdef", "", "zz", "0123456789ABCDEF"])
def test_wrong_exact_id_is_refused(folder: Path, value: str) -> None:
    """The exact_id follows from the exact files."""
    edit(folder, lambda manifest: manifest.update(exact_id=value))
    with pytest.raises(BundleError, match="does not belong to its exact files"):
        Bundle.open(folder)


def test_wrong_bundle_hash_is_refused(folder: Path) -> None:
    """The bundle_hash follows from all files."""
    edit(folder, lambda manifest: manifest.update(bundle_hash="0" * 64))
    with pytest.raises(BundleError, match="bundle_hash does not belong to its files"):
        Bundle.open(folder)


def test_changed_exact_file_with_its_hash_made_right_changes_the_exact_id(folder: Path) -> None:
    """Whoever changes a table and its hash still meets the exact_id."""
    content = (folder / "tables" / "entropy.npz").read_bytes() + b"\0"
    (folder / "tables" / "entropy.npz").write_bytes(content)
    new = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(folder, lambda manifest: entry_of(manifest, "tables/entropy.npz").update(new))
    with pytest.raises(BundleError, match="does not belong to its exact files"):
        Bundle.open(folder)


# Settings that decide what a stream says.


def test_settings_of_the_plan_join_the_others_and_change_the_exact_id(folder: Path) -> None:
    """A family finds them among its settings; a bundle with another plan cannot be taken for this one."""
    before = Bundle.open(folder)
    add_plan(folder, b'{"groups": 3}')
    after = Bundle.open(folder)
    assert after.settings == {**before.settings, "groups": 3}
    assert after.exact_id != before.exact_id


@pytest.mark.parametrize(
    ("content", "exact", "fault"),
    [
        (b"[3]", True, "plan.json: not a JSON object"),
        (b"{groups: 3}", True, "plan.json: not JSON"),
        (b'{"groups": 3}', False, "not among the manifest's exact files"),
        (b'{"y_channels": 3}', True, "y_channels stands in manifest and plan.json"),
    ],
)
def test_a_plan_that_is_none_or_could_change_unseen_is_refused(
    folder: Path, content: bytes, exact: bool, fault: str
) -> None:
    """The plan is a JSON object, covered by the exact_id, and contradicts nothing."""
    add_plan(folder, content, exact=exact)
    with pytest.raises(BundleError, match=fault):
        Bundle.open(folder)


@pytest.mark.parametrize("name", [TINY, *shipped_bundles()])
def test_a_manifest_states_the_exact_id_that_opening_proves(name: str | Path) -> None:
    """So that the bundle a stream needs is found without unpacking the others."""
    assert stated_exact_id(name) == Bundle.open(name).exact_id


def test_an_exact_id_is_not_stated_by_a_broken_manifest(folder: Path) -> None:
    """As when the bundle is opened; other files are not looked at."""
    stated = stated_exact_id(folder)
    (folder / "graphs" / "h_s.onnx").write_bytes(b"other")
    assert stated_exact_id(folder) == stated
    edit(folder, lambda manifest: manifest.update(exact_id="none"))
    with pytest.raises(BundleError, match="exact_id 'none' does not belong"):
        stated_exact_id(folder)


@pytest.mark.parametrize("name", [TINY, shipped_bundles()[0]])
def test_an_unpacked_bundle_is_the_same(name: str | Path, tmp_path: Path) -> None:
    """A folder of plain files, such as other tools open, of the same hashes and settings."""
    unpack(name, tmp_path / "new" / "folder")
    before, after = Bundle.open(name), Bundle.open(tmp_path / "new" / "folder")
    assert (after.exact_id, after.bundle_hash, after.settings) == (before.exact_id, before.bundle_hash, before.settings)
    graph = after.graphs["g_s"].file
    assert (tmp_path / "new" / "folder" / graph).read_bytes() == before.read(graph)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"]


def test_unpacking_replaces_nothing(folder: Path, tmp_path: Path) -> None:
    """Neither a folder with something in it nor a file, and nothing is left beside them."""
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"mine")
    before = sorted(tmp_path.iterdir())
    for name in ("file", "full", "file/below"):
        with pytest.raises(OutputError, match=f"{name}: cannot be written"):
            unpack(folder, tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "full" / "mine").read_bytes() == b"mine"
