"""FP16 graphs: a rewriting of the file that engines accept, with float32 where it was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from bundles import unpacked

from engines.bundle import Bundle, GraphSpec
from engines.errors import BundleError
from engines.half import HALF, half_graph
from engines.manifest import BundleLimits, parse_manifest
from engines.onnx_file import FLOAT, Graph, read_graph
from engines.onnx_write import write_graph
from engines.onnxruntime_cpu import OnnxRuntimeCpu

ROLES = ("g_a", "h_a", "g_s", "preview")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open("dpict-edge")


def inputs_of(spec: GraphSpec) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    shape = (1, 3, 64, 64) if spec.inputs == ("x",) else (1, 192, 4, 4)
    return [generator.random(shape).astype(np.float32) for _ in spec.inputs]


def converted(graph: Graph) -> list[int]:
    """Return the types of casts between float16 and float32 that are not of constants."""
    return [int(n.attributes["to"]) for n in graph.nodes if n.operator == "Cast" and n.inputs[0] not in graph.constants]  # type: ignore[arg-type]


@pytest.mark.parametrize("role", [*ROLES, "h_s"])
def test_written_graph_is_the_one_that_was_read(bundle: Bundle, role: str) -> None:
    """Reading and writing loses nothing that an engine needs: the same results, and the same file again."""
    spec = bundle.graphs[role]
    content = bundle.read(spec.file)
    written = write_graph(read_graph(content))
    assert write_graph(read_graph(written)) == written
    if not spec.exact:
        one, other = OnnxRuntimeCpu(content, spec, 1), OnnxRuntimeCpu(written, spec, 1)
        for a, b in zip(one.run(*inputs_of(spec)), other.run(*inputs_of(spec)), strict=True):
            assert np.allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("role", ROLES)
def test_fp16_graph_computes_in_fp16_between_float32_ends(bundle: Bundle, role: str) -> None:
    """One cast per input and one at the end; weights are float16 constants; ONNX Runtime takes it."""
    spec = bundle.graphs[role]
    content = bundle.read(spec.file)
    rewritten = half_graph(content, ())
    graph = read_graph(rewritten)
    assert converted(graph) == [HALF] * len(spec.inputs) + [FLOAT]
    assert {port.data_type for port in (*graph.inputs, *graph.outputs)} == {FLOAT}
    assert FLOAT not in {constant.data_type for constant in graph.constants.values()}
    assert len(rewritten) <= len(content)
    found = OnnxRuntimeCpu(rewritten, spec, 1).run(*inputs_of(spec))[0]
    expected = OnnxRuntimeCpu(content, spec, 1).run(*inputs_of(spec))[0]
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_rewriting_gives_the_same_bytes_again(bundle: Bundle) -> None:
    """Plans are found in the cache by the hash of the rewritten graph."""
    content = bundle.read("graphs/g_s.onnx")
    assert half_graph(content, ()) == half_graph(content, ())


def test_named_tensors_stay_float32(bundle: Bundle) -> None:
    """Their nodes get casts around them and float32 weights."""
    spec = bundle.graphs["g_s"]
    content = bundle.read(spec.file)
    conv = next(n for n in read_graph(content).nodes if n.operator == "Conv" and n.inputs[0] not in spec.inputs)
    graph = read_graph(half_graph(content, conv.outputs))
    made = {output: node for node in graph.nodes for output in node.outputs}
    kept = made[conv.outputs[0]]
    assert all(made[name].operator == "Cast" and made[name].attributes["to"] == FLOAT for name in kept.inputs)
    OnnxRuntimeCpu(half_graph(content, conv.outputs), spec, 1).close()


def test_island_of_squares(writer: ModuleType) -> None:
    """Integers come through untouched, and an island of two nodes has one cast in and one out."""
    w = writer
    nodes = [
        w.node("Shape", ["x"], ["size"]),
        w.node("Mul", ["x", "gain"], ["scaled"]),
        w.node("Mul", ["scaled", "scaled"], ["square"]),
        w.node("Sqrt", ["square"], ["root"]),
        w.node("Mul", ["root", "gain"], ["flat"]),
        w.node("Reshape", ["flat", "size"], ["y"]),
    ]
    content = w.model(nodes, [w.tensor("gain", 100.0)], [w.port("x", 2)], [w.port("y", 2)])
    spec = GraphSpec("g_a", "", False, ("x",), ("y",), None)
    rewritten = half_graph(content, ["square", "root"])
    assert converted(read_graph(rewritten)) == [HALF, FLOAT, HALF, FLOAT]
    x = np.full((1, 2, 3, 3), 3.0, np.float32)
    assert np.allclose(OnnxRuntimeCpu(rewritten, spec, 1).run(x)[0], 100 * 300, rtol=1e-3)


def test_unknown_tensor_is_refused(bundle: Bundle) -> None:
    """A manifest that names none of the graph's tensors is wrong."""
    with pytest.raises(BundleError, match="no node gives nothing, which is to stay float32"):
        half_graph(bundle.read("graphs/g_s.onnx"), ["nothing"])


def test_constant_beyond_float16_is_refused(writer: ModuleType) -> None:
    """It would become infinite."""
    w = writer
    content = w.model(
        [w.node("Mul", ["x", "gain"], ["y"])], [w.tensor("gain", 1e6)], [w.port("x", 2)], [w.port("y", 2)]
    )
    with pytest.raises(BundleError, match="'gain' has values that float16 cannot hold"):
        half_graph(content, ())


def test_garbage_is_refused() -> None:
    """What is no graph is not rewritten."""
    with pytest.raises(BundleError):
        half_graph(b"nonsense", ())


@pytest.mark.parametrize(
    ("entry", "fault"),
    [({}, "must list"), ([], "must list"), ({"float32": "y"}, "must list"), ({"float32": [1]}, "no tensor's name")],
)
def test_manifest_entry_is_checked(entry: object, fault: str, tmp_path: Path) -> None:
    """`fp16` holds a list of names."""
    content = json.loads((unpacked("dpict-edge", tmp_path) / "manifest.json").read_text())
    content["graphs"]["g_s"]["fp16"] = entry
    with pytest.raises(BundleError, match=fault):
        parse_manifest(json.dumps(content).encode(), BundleLimits())


def test_exact_graph_has_no_fp16_form(tmp_path: Path) -> None:
    """Its bits would change."""
    content = json.loads((unpacked("dpict-edge", tmp_path) / "manifest.json").read_text())
    content["graphs"]["h_s"]["fp16"] = {"float32": []}
    with pytest.raises(BundleError, match="an exact graph has no FP16 form"):
        parse_manifest(json.dumps(content).encode(), BundleLimits())


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs"),
    [("Cast", [], ["y"]), ("Where", ["x"], ["y"]), ("Cast", ["x"], [])],
)
def test_node_without_its_inputs_or_outputs_is_refused(
    writer: ModuleType, operator: str, inputs: list[str], outputs: list[str]
) -> None:
    """A file may say anything of a node."""
    node = writer.node(operator, inputs, outputs, {"to": FLOAT} if operator == "Cast" else None)
    content = writer.model([node], [], [writer.port("x", 2)], [writer.port("y", 2)])
    with pytest.raises(BundleError, match=f"{operator} '' has {len(inputs)} inputs and {len(outputs)} outputs"):
        half_graph(content, ())


def test_constant_may_be_an_output(writer: ModuleType) -> None:
    """It stays as it is, beside its float16 form where a node uses it."""
    w = writer
    gain = w.tensor("gain", np.full((1, 1, 1, 1), 0.1))
    content = w.model(
        [w.node("Mul", ["x", "gain"], ["y"])], [gain], [w.port("x", 2)], [w.port("y", 2), w.port("gain", 1)]
    )
    spec = GraphSpec("g_a", "", False, ("x",), ("y", "gain"), None)
    y, kept = OnnxRuntimeCpu(half_graph(content, ()), spec, 1).run(np.full((1, 2, 3, 3), 3.0, np.float32))
    assert np.allclose(y, 0.3, rtol=1e-3) and kept.item() == np.float32(0.1)
