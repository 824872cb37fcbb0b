"""Bundles of unknown origin: whatever a manifest claims or a file holds, there is one error, early, at little cost."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bundles import rehash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.bundle import Bundle, BundleLimits, GraphSpec, exact_id
from engines.errors import BundleError, EngineError
from engines.exact_graph import read_exact_graph
from engines.known_answers import check_known_answers
from engines.manifest import parse_manifest
from engines.numpy_exact import NumpyExact
from engines.open import open_engine
from runtime.codec import Codec
from runtime.entropy.tables import MOST_MODELS, Tables
from runtime.model import Model
from runtime.stream import Limits

Manifest = dict[str, Any]
Change = Callable[[Manifest], object]


def npz(arrays: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **options, **arrays)
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes], graphs: dict[str, Any], change: Change | None = None) -> Path:
    """Write a bundle whose hashes are right; *change* is what then happens to its manifest."""
    manifest: Manifest = {
        "schema": 1,
        "name": "made",
        "version": "1",
        "family": "dpict",
        "settings": {},
        "graphs": graphs,
        "exact_files": sorted(path for path in files if path.startswith("tables/") or path == "graphs/h_s.onnx"),
        "files": [{"path": path} for path in files],
    }
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    file = folder / "manifest.json"
    file.write_text(json.dumps(manifest))
    rehash(folder)
    if change is not None:
        manifest = json.loads(file.read_text())
        change(manifest)
        file.write_text(json.dumps(manifest))
    return folder


def graph_entry(role: str, inputs: list[str], outputs: list[str], *, exact: bool) -> dict[str, Any]:
    return {
        "file": f"graphs/{role}.onnx",
        "exact": exact,
        "inputs": inputs,
        "outputs": outputs,
        "known_answers": f"kat/{role}.npz",
    }


@pytest.fixture(scope="session")
def files(writer: ModuleType) -> dict[str, bytes]:
    """The files of a small bundle: an exact graph, a free one, known answers of both."""
    exact = writer.small_graph()
    free = writer.model([writer.node("Relu", ["x"], ["y"])], [], [writer.port("x", 1)], [writer.port("y", 1)])
    entry = graph_entry("h_s", ["z_hat"], ["mu", "sigma_code"], exact=True)
    z_hat = np.arange(-6, 6, dtype=np.float32).reshape(1, 2, 2, 3)
    spec = GraphSpec("h_s", entry["file"], True, tuple(entry["inputs"]), tuple(entry["outputs"]), None)
    mu, codes = NumpyExact(exact, spec).run(z_hat)
    x = np.ones((1, 1, 2, 2), np.float32)
    return {
        "graphs/h_s.onnx": exact,
        "graphs/g_a.onnx": free,
        "kat/h_s.npz": npz({"cases": np.int32(1), "0.z_hat": z_hat, "0.mu": mu, "0.sigma_code": codes}),
        "kat/g_a.npz": npz({"cases": np.int32(1), "0.x": x, "0.y": x}),
        "tables/entropy.npz": npz({"trits": np.zeros(3, np.uint8)}),
    }


@pytest.fixture(scope="session")
def graphs() -> dict[str, Any]:
    return {
        "h_s": graph_entry("h_s", ["z_hat"], ["mu", "sigma_code"], exact=True),
        "g_a": graph_entry("g_a", ["x"], ["y"], exact=False),
    }


@pytest.fixture
def made(tmp_path: Path, files: dict[str, bytes], graphs: dict[str, Any]) -> Callable[..., Path]:
    """Writes the small bundle with changes to its manifest, or other files."""

    def make(change: Change | None = None, **others: bytes) -> Path:
        named = {path: others.get(Path(path).stem, data) for path, data in files.items()}
        return write(tmp_path / "bundle", named, json.loads(json.dumps(graphs)), change)

    return make


def refused(folder: Path, fault: str, limits: BundleLimits | None = None) -> None:
    with pytest.raises(BundleError, match=fault):
        Bundle.open(folder, limits)


def test_the_small_bundle_is_sound(made: Callable[..., Path]) -> None:
    """What the other tests change is accepted without their changes; unknown keys are nothing to it."""

    def add(manifest: Manifest) -> None:
        manifest["later"] = {"deep": [1, 2.5, None, True]}
        manifest["files"][0]["media_type"] = "x"
        manifest["graphs"]["h_s"]["precision"] = "fp32"

    bundle = Bundle.open(made(add))
    for role in bundle.graphs:
        engine = open_engine(bundle, role, threads=1)
        assert check_known_answers(bundle, bundle.graphs[role], engine) == 0.0
    assert open_engine(bundle, "h_s", threads=1).reason == "chosen"


# The manifest.


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("schema", True, "schema must be 1"),
        ("schema", 1.0, "schema must be 1"),
        ("name", "", "name '' must be"),
        ("name", "../up", "name '../up' must be"),
        ("name", "a\nb", "name 'a.*b' must be"),
        ("name", "x" * 65, "name 'xxx.* must be"),
        ("version", "1 2", "version '1 2' must be"),
        ("family", "Dpict", "family 'Dpict' must be"),
        ("family", "é", "family .* must be"),
        ("exact_id", "0" * 15, "exact_id"),
        ("exact_id", "0" * 15 + "G", "exact_id"),
        ("bundle_hash", "0" * 63, "bundle_hash must be 64"),
        ("bundle_hash", "F" * 64, "bundle_hash must be 64"),
        ("settings", [], "'settings' is missing or not a dict"),
    ],
)
def test_values_of_the_manifest_are_checked(made: Callable[..., Path], key: str, value: object, fault: str) -> None:
    """Type, length and letters of every field."""
    refused(made(lambda manifest: manifest.update({key: value})), fault)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"path": "a//b"}, "leaves the bundle or is not plain"),
        ({"path": "./a"}, "leaves the bundle or is not plain"),
        ({"path": "a/"}, "leaves the bundle or is not plain"),
        ({"path": ".hidden"}, "leaves the bundle or is not plain"),
        ({"path": "a b"}, "leaves the bundle or is not plain"),
        ({"path": "-rf"}, "leaves the bundle or is not plain"),
        ({"path": "a\n"}, "leaves the bundle or is not plain"),
        ({"path": "a/b/c/d/e"}, "leaves the bundle or is not plain"),
        ({"path": "manifest.json"}, "leaves the bundle or is not plain"),
        ({"path": "graphs/h_s.onnx"}, "occurs twice"),
        ({"path": "Graphs/H_S.onnx"}, "occurs twice"),
        ({"size": -1}, "size -1 must be"),
        ({"size": True}, "size True must be"),
        ({"size": 1.0}, "lacks path, size or sha256"),
        ({"size": 1 << 62}, "at most 1073741824"),
        ({"sha256": "0"}, "sha256 must be 64"),
        ({"sha256": "Z" * 64}, "sha256 must be 64"),
    ],
)
def test_file_entries_are_checked(made: Callable[..., Path], change: dict[str, Any], fault: str) -> None:
    """Plain relative paths, once each; sizes and hashes that can be ones."""
    entry = {"path": "other", "size": 0, "sha256": hashlib.sha256(b"").hexdigest()} | change
    refused(made(lambda manifest: manifest["files"].append(entry)), fault)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"exact": 1}, "lacks 'exact'"),
        ({"exact": "yes"}, "lacks 'exact'"),
        ({"inputs": "z_hat"}, "lacks 'inputs'"),
        ({"inputs": []}, "inputs must be 1 to 16 names"),
        ({"inputs": ["x"] * 17}, "inputs must be 1 to 16 names"),
        ({"outputs": [1]}, "1 is no tensor's name"),
        ({"outputs": [""]}, "'' is no tensor's name"),
        ({"outputs": ["mu", "mu"]}, "outputs: a name occurs twice"),
        ({"known_answers": 7}, "7 is not among the bundle's files"),
        ({"file": None}, "None is not among the bundle's files"),
        ({"accumulator_log2": [1]}, "accumulator_log2 must give a number"),
        ({"accumulator_log2": {"mu": "24"}}, "accumulator_log2 must give a number"),
    ],
)
def test_graph_entries_are_checked(made: Callable[..., Path], change: dict[str, Any], fault: str) -> None:
    """Every field that is used later."""
    refused(made(lambda manifest: manifest["graphs"]["h_s"].update(change)), f"graph 'h_s'.*{fault}")


@pytest.mark.parametrize("role", ["", "G_a", "../g_a", "g a", "x" * 33, "1st"])
def test_roles_are_names(made: Callable[..., Path], role: str) -> None:
    """Known or not, a role is a lower-case name."""
    refused(made(lambda m: m["graphs"].update({role: m["graphs"]["g_a"]})), "a role must be a lower-case name")


def test_unknown_roles_are_no_fault(made: Callable[..., Path]) -> None:
    """A later family's bundle opens."""
    assert "later" in Bundle.open(made(lambda m: m["graphs"].update(later=m["graphs"]["g_a"]))).graphs


def test_exact_files_occur_once(made: Callable[..., Path]) -> None:
    """A set, written as a list."""
    refused(made(lambda manifest: manifest["exact_files"].append("graphs/h_s.onnx")), "an exact file occurs twice")


def test_tables_that_the_exact_id_does_not_cover_are_refused(made: Callable[..., Path]) -> None:
    """Otherwise a stream would decode with other tables."""

    folder = made()

    def change(manifest: Manifest) -> None:
        manifest["exact_files"] = ["graphs/h_s.onnx"]
        manifest["exact_id"] = exact_id({"graphs/h_s.onnx": (folder / "graphs/h_s.onnx").read_bytes()}).hex()

    made(change)
    assert Bundle.open(folder).exact_files == {"graphs/h_s.onnx"}
    with pytest.raises(BundleError, match=r"'tables/entropy\.npz' is not among the manifest's exact files"):
        Codec.open(folder)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"schema": 1, "schema": 1}', "a key occurs twice"),
        ('{"schema": NaN}', "NaN is no JSON number"),
        ('{"schema": Infinity}', "Infinity is no JSON number"),
        ('{"schema": 1e999}', "no finite number"),
        ('{"schema": ' + "1" * 5000 + "}", "a number of 5000 digits"),
        ("[" * 100_000, "recursion"),
        ('{"a":' * 100_000, "recursion"),
    ],
)
def test_json_that_readers_disagree_on_is_refused(made: Callable[..., Path], text: str, fault: str) -> None:
    """Double keys, numbers that are none, depth without end."""
    folder = made()
    (folder / "manifest.json").write_text(text)
    refused(folder, f"manifest.json: not JSON that a manifest may hold: .*{fault}")


def test_size_of_the_manifest_is_limited(made: Callable[..., Path]) -> None:
    """A megabyte is plenty."""
    refused(made(lambda manifest: manifest.update(padding="x" * (1 << 20))), "at most 1048576 are allowed")


def test_number_of_files_is_limited(made: Callable[..., Path]) -> None:
    """Before the first is opened."""

    def change(manifest: Manifest) -> None:
        entry = manifest["files"][0]
        manifest["files"] = [entry | {"path": f"missing/{index}"} for index in range(257)]

    refused(made(change), "257 files, more than 256")


def test_number_of_graphs_is_limited(made: Callable[..., Path]) -> None:
    """As many as a family could want."""
    refused(made(lambda m: m["graphs"].update({f"r{i}": m["graphs"]["g_a"] for i in range(65)})), "more than 64 graphs")


def test_bytes_in_all_are_limited(made: Callable[..., Path]) -> None:
    """By the sizes that the manifest claims, before anything is read; the caller may allow less."""
    folder = made()
    shutil.rmtree(folder / "graphs")
    refused(folder, "at most 1000 are allowed", BundleLimits(total_bytes=1000))


# Files.


def test_linked_manifest_is_refused(made: Callable[..., Path]) -> None:
    """The manifest is a file of the bundle like others."""
    folder = made()
    (folder / "manifest.json").rename(folder.parent / "elsewhere.json")
    (folder / "manifest.json").symlink_to(folder.parent / "elsewhere.json")
    refused(folder, "links are not allowed")


def test_link_that_appears_after_the_check_is_not_followed(
    made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the opening itself that refuses links, not only a look before it."""
    folder = made()
    (folder / "graphs").rename(folder.parent / "elsewhere")
    (folder / "graphs").symlink_to(folder.parent / "elsewhere")
    monkeypatch.setattr("engines.bundle_source._refuse_link", lambda *_: None)
    refused(folder, "h_s.onnx: (Not a directory|Too many levels of symbolic links)")


def test_file_that_grows_while_it_is_read_is_refused(
    made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte more than the manifest says is noticed, and no more than that is read."""
    folder, look = made(), os.fstat

    def grow(descriptor: int) -> os.stat_result:
        status = look(descriptor)
        if status.st_size == (folder / "kat" / "g_a.npz").stat().st_size:
            with (folder / "kat" / "g_a.npz").open("ab") as file:
                file.write(bytes(100))
        return status

    monkeypatch.setattr("os.fstat", grow)
    refused(folder, r"g_a\.npz: [0-9]+ bytes, the manifest says")


def test_no_descriptor_is_left_open(made: Callable[..., Path]) -> None:
    """Neither by success nor by failure."""
    folder = made()
    before = len(os.listdir("/proc/self/fd"))
    Bundle.open(folder)
    (folder / "kat" / "g_a.npz").unlink()
    refused(folder, "No such file")
    assert len(os.listdir("/proc/self/fd")) == before


# Graphs.


def test_external_data_never_reaches_an_engine(
    made: Callable[..., Path], writer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In exact graphs and free ones alike."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("an engine saw the graph")

    monkeypatch.setattr("engines.onnxruntime_cpu.OnnxRuntimeCpu.__init__", fail)
    outside = writer.field(13, writer.field(1, "location") + writer.field(2, "../secret"))
    content = writer.model([], [writer.tensor("c", 1.0, extra=outside)], [], [])
    for role in ("g_a", "h_s"):
        bundle = Bundle.open(made())
        bundle = replace(bundle, _files={**bundle._files, f"graphs/{role}.onnx": content})
        with pytest.raises(BundleError, match=f"graph '{role}' cannot be opened: .* lies outside the file"):
            open_engine(bundle, role)


def test_exact_graph_with_other_operators_fails_its_proof(made: Callable[..., Path], files: dict[str, bytes]) -> None:
    """A graph that is only called exact is found out, whatever its known answers say."""
    with pytest.raises(BundleError, match="operator 'Relu'"):
        read_exact_graph(files["graphs/g_a.onnx"])


def test_tables_of_too_many_models_are_refused() -> None:
    """A model is two numbers in the file, but a tree of 729 symbols to check."""
    tables = Tables.from_bytes(Bundle.open("dpict-edge").read("tables/entropy.npz"))
    many = MOST_MODELS + 1
    with pytest.raises(BundleError, match=f"more than {MOST_MODELS} models"):
        replace(tables, trits=np.full(many, tables.trits[0]), root=np.full(many, tables.root[0]))


# Known answers.


@pytest.mark.parametrize(
    ("arrays", "fault"),
    [
        ({}, "`cases` must be a number from 1 to 64"),
        ({"cases": np.int32(0)}, "`cases` must be"),
        ({"cases": np.int32(65)}, "`cases` must be"),
        ({"cases": np.arange(2)}, "`cases` must be"),
        ({"cases": np.float32(np.nan)}, "`cases` must be"),
        ({"cases": np.int32(1)}, "case 0 has no x of four dimensions"),
        ({"cases": np.int32(1), "0.x": np.zeros(3)}, "case 0 has no x of four dimensions"),
        ({"cases": np.int32(1), "0.x": np.zeros((1, 1, 0, 2))}, "case 0 has no x .* or it is empty"),
    ],
)
def test_known_answers_are_checked(made: Callable[..., Path], arrays: dict[str, Any], fault: str) -> None:
    """They are arrays of four dimensions, as many as they say."""
    folder = made()
    bundle = Bundle.open(folder)
    bundle = replace(bundle, _files={**bundle._files, "kat/g_a.npz": npz(arrays)})
    with pytest.raises(BundleError, match=fault):
        check_known_answers(bundle, bundle.graphs["g_a"], open_engine(bundle, "g_a", threads=1))


# Settings, and whole bundles.


@pytest.mark.parametrize(
    "change",
    [
        {"y_channels": 1 << 40},
        {"y_channels": 0},
        {"z_channels": "96"},
        {"value_gain": None},
        {"post": [[1]]},
        {"post": 7},
    ],
)
def test_settings_that_claim_memory_or_are_wrong_are_refused(change: dict[str, Any]) -> None:
    """Before anything is made of them."""
    bundle = Bundle.open("dpict-edge")
    with pytest.raises(BundleError, match="settings of family dpict"):
        Model(replace(bundle, settings={**bundle.settings, **change}), "auto", 1, Limits())


def test_networks_of_other_sizes_than_the_settings_say_are_refused() -> None:
    """The first run says so, not a crash behind it."""
    bundle = Bundle.open("dpict-edge")
    channels = bundle.settings["y_channels"]
    model = Model(replace(bundle, settings={**bundle.settings, "y_channels": channels + 1}), "auto", 1, Limits())
    with pytest.raises(BundleError, match=r"g_a and h_a give"):
        model.family.analyse(np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(BundleError, match=r"h_s gives"):
        next(model.family.begin(64, 64).body())


@given(data=st.data())
@settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_manifests_open_or_are_refused(
    files: dict[str, bytes], graphs: dict[str, Any], data: st.DataObject
) -> None:
    """Any value anywhere in a manifest replaced by any other: a manifest or one kind of error."""
    values = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
        st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    )  # fmt: skip
    digest = hashlib.sha256(b"").hexdigest()
    manifest: Any = {
        "schema": 1, "name": "made", "version": "1", "family": "dpict", "exact_id": "0" * 16, "bundle_hash": "0" * 64,
        "settings": {"a": 1}, "graphs": json.loads(json.dumps(graphs)), "exact_files": ["graphs/h_s.onnx"],
        "files": [{"path": path, "size": 0, "sha256": digest} for path in files],
    }  # fmt: skip
    place = manifest
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and data.draw(st.booleans()):
            place = inner
            continue
        place[key] = data.draw(values)
        break
    with suppress(BundleError):
        parse_manifest(json.dumps(manifest).encode(), BundleLimits())


def test_every_error_of_an_engine_is_ours(made: Callable[..., Path], files: dict[str, bytes]) -> None:
    """A graph whose tensors are not the manifest's is an error of the engine, for free and exact graphs."""
    bundle = Bundle.open(made())
    swapped = {"graphs/h_s.onnx": files["graphs/g_a.onnx"], "graphs/g_a.onnx": files["graphs/h_s.onnx"]}
    bundle = replace(bundle, _files={**bundle._files, **swapped})
    for role in ("h_s", "g_a"):
        with pytest.raises(EngineError, match=f"graph '{role}'"):
            open_engine(bundle, role, threads=1)
