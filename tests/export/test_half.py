"""Which graphs may run in FP16: what overflows stays float32, and what costs picture quality is not offered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: export)")

import onnx

from engines.bundle import Bundle, GraphSpec
from engines.half import half_graph
from engines.onnx_file import read_graph
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from export import half
from export.bundle_writer import write_bundle
from export.families import EXPORTERS
from export.graphs import FreeGraph, export_graph
from export.half import Interpreted, kept_in_float32, offer_half
from export.networks.paper import GDN
from export.training.config import TrainingSettings
from export.training.families import make_family
from export.training.pictures import load_pictures
from export.weights import networks_with

SPEC = GraphSpec("g_a", "", False, ("x",), ("y",), None)


@pytest.fixture(scope="module", params=[False, True], ids=["gdn", "igdn"])
def normalising(request: pytest.FixtureRequest) -> bytes:
    """A graph whose sum of squares leaves FP16: convolution, GDN or its inverse, convolution."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), GDN(16, inverse=request.param), torch.nn.Conv2d(16, 8, 1)
    )
    with torch.no_grad():
        network[0].weight.mul_(300.0)
        if request.param:
            network[2].weight.mul_(1e-3)
    graph = FreeGraph("g_a", network, {"x": torch.rand(2, 3, 16, 16)}, "y", 4)
    return export_graph(graph)


def x_of(height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(1).random((1, 3, height, width)).astype(np.float32)


def test_normalisation_overflows_in_fp16_and_not_in_its_island(normalising: bytes) -> None:
    """Without islands there are zeros or infinities; with them the result is that of float32 but for rounding."""
    expected = Interpreted(normalising, SPEC).run(x_of())[0]
    blind = Interpreted(half_graph(normalising, ()), SPEC).run(x_of())[0]
    largest = Interpreted(normalising, SPEC).largest(x_of())
    assert max(largest.values()) > half.LARGEST_HALF
    assert not np.isfinite(blind).all() or np.abs(blind - expected).max() > 0.05 * np.abs(expected).max()
    kept = kept_in_float32(read_graph(normalising), largest)
    found = Interpreted(half_graph(normalising, kept), SPEC).run(x_of())[0]
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()


def test_interpreter_gives_what_onnx_runtime_gives(normalising: bytes) -> None:
    """In float32 it is the same graph."""
    expected = OnnxRuntimeCpu(normalising, SPEC, 1).run(x_of())[0]
    assert np.abs(Interpreted(normalising, SPEC).run(x_of())[0] - expected).max() < 1e-4 * np.abs(expected).max()


def test_squares_and_roots_stay_float32_whatever_was_seen(normalising: bytes) -> None:
    """Between the squares and the product with the feature nothing is FP16; the convolutions around it are."""
    graph = read_graph(normalising)
    kept = set(kept_in_float32(graph, {}))
    operators = {node.operator for node in graph.nodes if kept & set(node.outputs)}
    assert "Sqrt" in operators and operators <= {"Mul", "Pow", "Conv", "Sqrt", "Reciprocal", "Div"}
    assert {node.outputs[0] for node in graph.nodes if node.operator == "Conv"} - kept


def test_what_comes_near_the_largest_number_stays_float32() -> None:
    """An eighth of the range is left; a tensor beyond it, and what takes it, is computed in float32."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 1))
    graph = read_graph(export_graph(FreeGraph("g_a", network, {"x": torch.rand(2, 3, 8, 8)}, "y", 4)))
    first, relu, _ = [node.outputs[0] for node in graph.nodes if node.operator in ("Conv", "Relu")]
    assert kept_in_float32(graph, {first: 8000.0, relu: 8000.0}) == []
    assert kept_in_float32(graph, {first: 8300.0, relu: 100.0}) == [first, relu]


@pytest.fixture(scope="module")
def content(tiny_settings: TrainingSettings, pictures_folder: Path) -> half.BundleContent:
    torch.manual_seed(0)
    networks = networks_with(tiny_settings, dict(make_family(tiny_settings).networks.state_dict()))
    return EXPORTERS["dpict"].content(networks, tiny_settings, load_pictures([pictures_folder], 64)[:4], "cuts")


def test_every_free_graph_is_measured_and_the_harmless_offered(
    content: half.BundleContent, tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path
) -> None:
    """Ranges and losses go into the manifest; a bundle with the entries opens, and says what stays float32."""
    offer_half(content, tiny_settings, load_pictures([pictures_folder], 64)[:2])
    report = content.measured["fp16"]
    assert set(report) == {"g_a", "h_a", "g_s", "preview"}
    for role, found in report.items():
        assert 0 < found["largest"] == pytest.approx(max(found["largest_by_layer"].values()), rel=1e-3)
        assert set(found["loss_db"]) == {"preview", "whole", "cuts"}
        assert ("fp16" in content.graphs[role]) == (max(found["loss_db"].values()) <= half.LARGEST_LOSS)
    bundle = Bundle.open(write_bundle(tmp_path / "tiny", "tiny", "0.1.0", "dpict", content))
    assert bundle.graphs["g_s"].float32_in_fp16 == ()
    assert bundle.graphs["h_s"].float32_in_fp16 is None
    onnx.checker.check_model(onnx.load_from_string(half_graph(bundle.read("graphs/g_s.onnx"), ())), full_check=True)


def test_a_graph_that_loses_too_much_is_not_offered(
    content: half.BundleContent,
    tiny_settings: TrainingSettings,
    pictures_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit decides."""
    monkeypatch.setattr(half, "LARGEST_LOSS", -1.0)
    for graph in content.graphs.values():
        graph.pop("fp16", None)
    offer_half(content, tiny_settings, load_pictures([pictures_folder], 64)[:1])
    assert not any("fp16" in graph for graph in content.graphs.values())
