"""`cutoff doctor`: one file about machine and back ends, and nothing in it about persons."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines import cuda_driver
from engines.bundle import Bundle
from runtime.cli import doctor
from runtime.cli.exercise import RecordingModel, exercise
from runtime.cli.main import main
from runtime.cli.samples import synthetic_picture
from runtime.codec import Codec

TINY = str(Path(__file__).parents[2] / "golden" / "tiny")
Install = Callable[..., Any]
QUICK = ("--bundle", TINY, "--size", "64x48", "--repeats", "1", "--threads", "1")


def examined(tmp_path: Path, *words: str) -> tuple[int, Any]:
    file = tmp_path / "report.json"
    status = main(["doctor", "-o", str(file), *QUICK, *words])
    return status, json.loads(file.read_text())


def engines_of(report: Any) -> dict[str, Any]:
    return {engine["engine"]: engine for engine in report["engines"]}


def test_machine_with_nothing_but_a_cpu(no_gpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that is here works; what is not is named; a table says the same."""
    status, report = examined(tmp_path)
    assert status == 0 and report["ok"]
    engines = engines_of(report)
    assert {graph["role"] for graph in engines["cpu"]["graphs"]} >= {"g_a", "h_a", "h_s", "g_s", "preview"}
    assert [graph["role"] for graph in engines["numpy-int64"]["graphs"]] == ["h_s"]
    assert all(graph["ok"] and graph["ms"] > 0 for graph in engines["cpu"]["graphs"])
    assert engines["cpu"]["same_stream"] and engines["cpu"]["encode_ms"] > 0
    assert "no NVIDIA driver" in engines["tensorrt"]["missing"] and engines["tensorrt"]["graphs"] == []
    assert "missing" in report["gpu"] and report["machine"]["cores"] >= 1 and "numpy" in report["packages"]
    assert all(check["ok"] for check in report["coder"])
    printed = capsys.readouterr().out
    assert "not here: there is no NVIDIA driver" in printed and "has it all" in printed


def test_machine_with_a_gpu(tensorrt: Install, onnxruntime: Install, tmp_path: Path) -> None:
    """Every back end opens, builds, is compared and timed."""
    tensorrt()
    onnxruntime()
    status, report = examined(tmp_path)
    assert status == 0 and report["ok"], report
    assert report["gpu"] == {
        "name": "Orin (made up)",
        "compute_capability": "8.7",
        "multiprocessors": 14,
        "memory_mb": 7168,
        "integrated": True,
        "cuda_of_driver": "12.6",
    }
    for name in ("cuda", "tensorrt"):
        engine = engines_of(report)[name]
        assert {graph["engine"] for graph in engine["graphs"]} == {name} and engine["same_stream"]
    provider = engines_of(report)["tensorrt-ep"]["graphs"]
    assert provider and not any(graph["exact"] for graph in provider)


def test_without_building_missing_plans_are_no_fault(tensorrt: Install, onnxruntime: Install, tmp_path: Path) -> None:
    """What was not asked for did not fail."""
    module = tensorrt()
    onnxruntime(["CPUExecutionProvider"])
    status, report = examined(tmp_path, "--no-build")
    assert status == 0 and module.record.of("build") == []
    details = [graph.get("detail", graph.get("reason")) for graph in engines_of(report)["tensorrt"]["graphs"]]
    assert details and all("cutoff engines build" in detail for detail in details)


def test_wrong_bits_are_found(tensorrt: Install, onnxruntime: Install, tmp_path: Path) -> None:
    """A back end that does not do what it should makes the exit status 1, and the rest is examined all the same."""
    tensorrt()
    onnxruntime(add=1.0)
    status, report = examined(tmp_path)
    assert status == 1 and not report["ok"]
    engines = engines_of(report)
    (exact,) = (graph for graph in engines["cuda"]["graphs"] if graph["exact"])
    assert not exact["ok"] and "gives other bits on cuda" in exact["reason"]
    assert all(graph["ok"] for name in ("cpu", "tensorrt") for graph in engines[name]["graphs"])


def test_no_person_is_in_the_report(
    no_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in names nor in paths, wherever they come from."""
    home = tmp_path / "home" / "ada-lovelace"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setenv("CUTOFF_CACHE", str(home / "cache"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(home / "lib"))
    monkeypatch.setattr(doctor.platform, "node", lambda: "analytical-engine")
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(home / "libcuda.so.1"))
    (home / "libcuda.so.1").write_text("no library")
    _, report = examined(tmp_path)
    text = json.dumps(report)
    assert "ada" not in text.replace("adapt", "") and "analytical" not in text and str(tmp_path) not in text
    assert "~/libcuda.so.1" in text
    assert report["environment"]["LD_LIBRARY_PATH"] == "set"


def test_names_are_replaced_as_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not inside other words, and root is nobody."""
    monkeypatch.setattr(doctor.getpass, "getuser", lambda: "max")
    monkeypatch.setattr(doctor.platform, "node", lambda: "box")
    given = {"a": ["max on box: maximum of boxes", 3, None], "b": "/x/max/y"}
    assert doctor.without_names(given) == {"a": ["<user> on <host>: maximum of boxes", 3, None], "b": "/x/<user>/y"}
    monkeypatch.setattr(doctor.getpass, "getuser", lambda: "root")
    assert doctor.without_names("root of all") == "root of all"


def test_json_holds_the_report(no_gpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object on one line, beside the file."""
    status, report = examined(tmp_path, "--json")
    (line,) = capsys.readouterr().out.splitlines()
    printed = json.loads(line)
    assert status == 0 and printed["report"] == str(tmp_path / "report.json")
    assert printed["machine"] == report["machine"]


def test_networks_that_run_in_tiles_are_not_left_out(tiny_in_tiles: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures larger than a tile give every network its inputs, the last ones included."""
    monkeypatch.setattr("runtime.model.TILE_SIDE", 64)
    model = RecordingModel(tiny_in_tiles, "cpu", 1)
    exercise(Codec(model), synthetic_picture(150, 100))
    assert model.seen.keys() == tiny_in_tiles.graphs.keys()
    assert model.seen["g_s"][0].shape == (1, 8, 8, 12)


def test_a_network_that_nothing_runs_is_a_fault(no_gpu: None, tmp_path: Path) -> None:
    """What was not examined is not said to be well."""
    folder = shutil.copytree(TINY, tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["graphs"]["later"] = manifest["graphs"]["g_a"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    status, report = examined(tmp_path, "--bundle", str(folder))
    assert status == 1 and not report["ok"]
    (failed,) = (graph for graph in engines_of(report)["cpu"]["graphs"] if not graph["ok"])
    assert failed["role"] == "later" and "nothing to run it on" in failed["detail"]
