"""Exact graphs: what may be in them, the proof of their sums, and the same bits in 64-bit integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.bundle import Bundle, GraphSpec, shipped_bundles
from engines.errors import BundleError, EngineError
from engines.exact_graph import Convolution, read_exact_graph
from engines.numpy_exact import NumpyExact
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.proof import prove
from runtime.model import Model
from runtime.stream import Limits

TINY = Path(__file__).parents[1] / "golden" / "tiny"
SPEC = GraphSpec("h_s", "", True, ("z_hat",), ("mu", "sigma_code"), None)
ONE = GraphSpec("one", "", True, ("x",), ("y",), None)


def proof_of(content: bytes, limits: list[int]) -> dict[str, float]:
    return prove(read_exact_graph(content), {"z_hat": np.array(limits), "x": np.array(limits)})


@pytest.fixture(scope="session")
def single(writer: ModuleType) -> Callable[..., bytes]:
    """Makes graphs of one layer from x to y."""

    def make(weight: NDArray[np.generic], bias: NDArray[np.generic], groups: int = 1, **changes: Any) -> bytes:
        nodes, constants = writer.layer(
            "x", "y", weight, bias, changes.get("scale", 1.0), changes.get("limits", (-(2**24), 2**24)), groups
        )
        nodes = changes.get("nodes", nodes)
        channels = weight.shape[1] * groups
        content: bytes = writer.model(
            nodes, constants, [writer.port("x", channels)], [writer.port("y", weight.shape[0])]
        )
        return content

    return make


LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


@pytest.mark.parametrize("bundle", [*shipped_bundles(), TINY], ids=lambda bundle: Path(bundle).name)
def test_every_optimisation_level_gives_the_same_bits(bundle: str | Path) -> None:
    """However ONNX Runtime rewrites the graph, and on however many threads: what 64-bit integers give."""
    import onnxruntime

    model = Model(Bundle.open(bundle), "auto", 1, Limits())
    spec = model.bundle.graphs["h_s"]
    content, largest = model.bundle.read(spec.file), model.family.input_limits("h_s")["z_hat"]
    generator = np.random.default_rng(0)
    z_hat = generator.integers(-largest, largest + 1, (7, 9, len(largest))).astype(np.float32)
    z_hat = np.ascontiguousarray(z_hat.transpose(2, 0, 1))[None]
    expected = NumpyExact(content, spec).run(z_hat)
    for level in LEVELS:
        for threads in (1, 2):
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            for ours, theirs in zip(session.run(None, {"z_hat": z_hat}), expected, strict=True):
                assert np.array_equal(ours, theirs), (level, threads)


# The proof.


@pytest.mark.parametrize("name", shipped_bundles())
def test_every_shipped_exact_graph_is_proved(name: str) -> None:
    """From the file alone, below 2^24, and within what the exporter claims."""
    model = Model(Bundle.open(name), "auto", 1, Limits())
    exact = [spec for spec in model.bundle.graphs.values() if spec.exact]
    assert exact
    for spec in exact:
        proof = model.prove(spec.role)
        assert proof and max(proof.values()) < 24
        assert spec.accumulator_log2 is not None and spec.accumulator_log2.keys() == proof.keys()


def test_bound_is_the_sum_of_magnitudes(single: Callable[..., bytes]) -> None:
    """sum|w| * max|x| + |b| of the worst channel, with each input channel's own limit."""
    weight = np.array([[3, -4], [10, 1]]).reshape(2, 2, 1, 1)
    found = proof_of(single(weight, np.array([-5, 2])), [7, 100])
    assert found == {"y": math.log2(3 * 7 + 4 * 100 + 5)}


def test_bound_of_depthwise_and_grouped_layers(single: Callable[..., bytes]) -> None:
    """Every output channel sums the channels of its group only."""
    depthwise = np.stack([np.full((1, 3, 3), 2), np.full((1, 3, 3), -1)])
    assert proof_of(single(depthwise, np.zeros(2), groups=2), [5, 1000]) == {"y": math.log2(9 * 1000)}
    grouped = np.array([[1, 2], [3, 4], [5, 6], [7, 8]]).reshape(4, 2, 1, 1)
    assert proof_of(single(grouped, np.zeros(4), groups=2), [1, 1, 10, 0]) == {"y": math.log2(70)}


def test_limits_follow_through_the_graph(writer: ModuleType) -> None:
    """What a layer can reach counts, not what a later clip would allow; a clip counts where it is tighter."""
    first = writer.layer("x", "a", np.full((4, 1, 1, 1), 8), np.zeros(4), 0.25, (-3, 4095))
    second = writer.layer("b", "y", np.full((1, 1, 1, 1), 1), np.zeros(1), 1.0, (-4095, 4095))
    rearranged = writer.node("DepthToSpace", ["a"], ["b"], {"blocksize": 2, "mode": b"CRD"})
    content = writer.model(
        [*first[0], rearranged, *second[0]],
        [*first[1], *second[1]],
        [writer.port("x", 1)],
        [writer.port("y", 1)],
    )
    # |x| <= 10: 80 before the shift, -20..20 behind it, -3..20 behind the clip
    assert proof_of(content, [10]) == {"a": math.log2(80), "y": math.log2(20)}


@pytest.mark.parametrize("excess", [0, 1])
def test_sum_of_2_to_the_24_is_refused(single: Callable[..., bytes], excess: int) -> None:
    """One below passes; at the limit the message names layer and channel."""
    weight = np.array([1, 4095]).reshape(2, 1, 1, 1)
    bias = np.array([0, -(2**24 - 4095 * 4096 - 1 + excess)])
    content = single(weight, bias)
    if excess:
        with pytest.raises(BundleError, match=r"layer 'y', channel 1: sums can reach 16777216, .* 2\^24"):
            proof_of(content, [4096])
    else:
        assert proof_of(content, [4096])["y"] < 24


def test_dense_layers_have_a_tighter_limit(single: Callable[..., bytes]) -> None:
    """3x3 across channels stays below 2^20; depthwise 3x3 and 1x1 may go to 2^24."""
    dense = np.full((1, 2, 3, 3), 100)
    with pytest.raises(BundleError, match=r"layer 'y', channel 0: sums can reach 1800000, .* 2\^20"):
        proof_of(single(dense, np.zeros(1)), [1000, 1000])
    assert proof_of(single(dense, np.zeros(1)), [100, 100])["y"] < 20
    assert proof_of(single(np.full((2, 1, 3, 3), 100), np.zeros(2), groups=2), [2000, 2000])["y"] > 20


def test_output_of_2_to_the_24_is_refused(single: Callable[..., bytes]) -> None:
    """A sum that is shifted up may not leave float32's integers either."""
    with pytest.raises(BundleError, match=r"output 'y', channel 0: not below 2\^24"):
        proof_of(single(np.ones((1, 1, 1, 1)), np.zeros(1), scale=2.0**20), [1000])


@pytest.mark.parametrize("limits", [{}, {"z_hat": np.ones(1)}, {"z_hat": np.ones((2, 1))}])
def test_proof_without_limits_of_its_inputs_is_refused(
    writer: ModuleType, limits: dict[str, NDArray[np.float64]]
) -> None:
    """Nothing is assumed of an input."""
    with pytest.raises(BundleError, match="no limits of the 2 channels of input 'z_hat'"):
        prove(read_exact_graph(writer.small_graph()), limits)


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_sum_exceeds_its_bound(writer: ModuleType, seed: int) -> None:
    """Run with inputs at their limits, no layer's sum of magnitudes leaves the proof."""
    graph = read_exact_graph(writer.small_graph(seed))
    limits = np.array([13, 4])
    proof = prove(graph, {"z_hat": limits})
    generator = np.random.default_rng(seed)
    x = np.where(generator.random((1, 2, 4, 5)) < 0.5, -1, 1) * limits[:, None, None]
    for name, bound in sums_of(graph, x).items():
        assert bound <= 2 ** proof[name] + 1e-6


def sums_of(graph: Any, x: NDArray[np.int64]) -> dict[str, float]:
    """Return the largest sum of magnitudes that every layer really reaches."""
    from dataclasses import replace

    from engines.numpy_exact import _run_step

    values, found = {graph.inputs[0][0]: x}, {}
    for step in graph.steps:
        source = values[step.source]
        if isinstance(step, Convolution):
            magnitudes = replace(step, weight=np.abs(step.weight), bias=np.abs(step.bias))
            found[step.layer] = float(_run_step(magnitudes, np.abs(source)).max())
        values[step.result] = _run_step(step, source)
    return found


# What may be in an exact graph.


@pytest.mark.parametrize("operator", ["Relu", "Add", "Sigmoid", "Softplus", "LeakyRelu", "Cast", "QLinearConv", "Gemm"])
def test_other_operators_are_refused(writer: ModuleType, operator: str) -> None:
    """Only what is the same everywhere."""
    content = writer.model([writer.node(operator, ["x"], ["y"])], [], [writer.port("x", 1)], [writer.port("y", 1)])
    with pytest.raises(BundleError, match=f"operator '{operator}'"):
        read_exact_graph(content)


@pytest.mark.parametrize("weight", [0.5, np.nan, np.inf, 2.0**25])
def test_weights_that_are_no_integers_are_refused(single: Callable[..., bytes], weight: float) -> None:
    """Integers that float32 holds, nothing else."""
    with pytest.raises(BundleError, match=r"y\.weight' has a value that is no integer"):
        read_exact_graph(single(np.full((1, 1, 1, 1), weight), np.zeros(1)))
    with pytest.raises(BundleError, match=r"y\.bias' has a value that is no integer"):
        read_exact_graph(single(np.ones((1, 1, 1, 1)), np.full(1, weight)))


@pytest.mark.parametrize("scale", [0.3, 3.0, 0.0, -0.5, np.nan, np.inf, 2.0**-100])
def test_scales_that_are_no_powers_of_two_are_refused(single: Callable[..., bytes], scale: float) -> None:
    """Anything else could round."""
    with pytest.raises(BundleError, match="no power of two"):
        read_exact_graph(single(np.ones((1, 1, 1, 1)), np.zeros(1), scale=scale))


@pytest.mark.parametrize("limits", [(0.5, 3), (0, np.inf), (5, 4), (np.nan, 3)])
def test_clips_that_are_no_integers_in_order_are_refused(
    single: Callable[..., bytes], limits: tuple[float, float]
) -> None:
    """Values stay integers."""
    with pytest.raises(BundleError, match=r"Clip 'y'"):
        read_exact_graph(single(np.ones((1, 1, 1, 1)), np.zeros(1), limits=limits))


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 2]},
        {"dilations": [2, 2]},
        {"auto_pad": b"SAME_UPPER"},
        {"pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3]},
        {"group": 2},
        {"group": 0},
        {"other": 1},
    ],
)
def test_other_convolutions_are_refused(
    single: Callable[..., bytes], writer: ModuleType, attributes: dict[str, Any]
) -> None:
    """The size of the picture stays, and attributes say what weights say."""
    conv = writer.node("Conv", ["x", "y.weight", "y.bias"], ["y.sum"], attributes)
    with pytest.raises(BundleError, match=r"Conv 'y\.sum' has"):
        read_exact_graph(single(np.ones((1, 1, 1, 1)), np.zeros(1), nodes=[conv]))


@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (1, 1, 3, 1), (1, 1, 2, 2), (1, 1, 1), (0, 1, 1, 1)])
def test_other_kernels_are_refused(single: Callable[..., bytes], writer: ModuleType, shape: tuple[int, ...]) -> None:
    """1x1 and 3x3."""
    conv = writer.node("Conv", ["x", "y.weight", "y.bias"], ["y.sum"])
    with pytest.raises(BundleError, match=r"Conv 'y\.sum' has weights"):
        read_exact_graph(single(np.ones(shape), np.zeros(shape[0]), nodes=[conv]))


@pytest.mark.parametrize(
    ("order", "fault"),
    [
        (["Conv", "Mul"], "takes 'y.sum', which is sum, not whole"),
        (["Conv", "Floor"], "takes 'y.sum', which is sum, not scaled"),
        (["Conv", "Round", "Mul", "Clip"], "which is scaled, not whole"),
        (["Round"], "takes 'x', which is whole, not sum"),
        (["Conv"], "the graph's output takes 'y.sum'"),
        ([], "before anything gives it"),
    ],
)
def test_other_orders_are_refused(
    single: Callable[..., bytes], writer: ModuleType, order: list[str], fault: str
) -> None:
    """Round comes directly after a convolution, Floor after a scale."""
    names = {"Conv": "y.sum", "Round": "y.whole", "Mul": "y.scaled", "Floor": "y.floor", "Clip": "y"}
    others = {"Conv": ["y.weight", "y.bias"], "Mul": ["y.scale"], "Clip": ["y.low", "y.high"]}
    nodes, source = [], "x"
    for operator in order:
        nodes.append(writer.node(operator, [source, *others.get(operator, [])], [names[operator]]))
        source = names[operator]
    content = writer.model(
        nodes,
        writer.layer("x", "y", np.ones((1, 1, 1, 1)), np.zeros(1), 0.5, (0, 9))[1],
        [writer.port("x", 1)],
        [writer.port(source if order == ["Conv"] else "y", 1)],
    )
    with pytest.raises(BundleError, match=fault):
        read_exact_graph(content)


def test_other_rearrangements_are_refused(writer: ModuleType) -> None:
    """CRD, and a block size that divides the channels."""
    for attributes in ({"blocksize": 2}, {"blocksize": 2, "mode": b"DCR"}, {"blocksize": 3, "mode": b"CRD"}):
        one = writer.node("DepthToSpace", ["x"], ["y"], attributes)
        with pytest.raises(BundleError, match="DepthToSpace 'y' has mode"):
            read_exact_graph(writer.model([one], [], [writer.port("x", 4)], [writer.port("y", 1)]))


def test_a_tensor_with_two_origins_is_refused(writer: ModuleType) -> None:
    """Names mean one thing."""
    again = writer.node("DepthToSpace", ["x"], ["x"], {"blocksize": 1, "mode": b"CRD"})
    with pytest.raises(BundleError, match="'x' has no name or a second origin"):
        read_exact_graph(writer.model([again], [], [writer.port("x", 4)], [writer.port("x", 4)]))


# The reference in 64-bit integers.


def assert_same_bits(content: bytes, spec: GraphSpec, *inputs: NDArray[np.float32]) -> None:
    engine, reference = OnnxRuntimeCpu(content, spec, 1), NumpyExact(content, spec)
    for x in inputs:
        for ours, theirs in zip(reference.run(x), engine.run(x), strict=True):
            assert ours.dtype == theirs.dtype == np.float32
            assert np.array_equal(ours, theirs)


def inputs_within(limits: NDArray[np.generic], seed: int = 0) -> list[NDArray[np.float32]]:
    """Return random and extreme inputs in several sizes."""
    generator = np.random.default_rng(seed)
    bound = limits.astype(np.float64)[None, :, None, None]
    random = [
        np.rint(generator.uniform(-bound, bound, (1, len(limits), *size))) for size in ((1, 1), (1, 7), (4, 3), (9, 6))
    ]
    signs = np.where(generator.random((1, len(limits), 5, 4)) < 0.5, -bound, bound)
    extremes = [signs, np.broadcast_to(bound, signs.shape), np.broadcast_to(-bound, signs.shape), 0 * signs]
    return [x.astype(np.float32) for x in (*random, *extremes)]


def test_the_golden_bundles_exact_graph_is_proved() -> None:
    """It claims nothing; its sums are small."""
    model = Model(Bundle.open(TINY), "auto", 1, Limits())
    assert 0 < max(model.prove("h_s").values()) < 16
    with pytest.raises(BundleError, match="has no exact graph 'g_a'"):
        model.prove("g_a")


@pytest.mark.parametrize("name", [*shipped_bundles(), TINY])
def test_same_bits_as_onnx_runtime_on_shipped_graphs(name: str | Path) -> None:
    """Random z, and the most extreme z that the tables can express."""
    model = Model(Bundle.open(name), "auto", 1, Limits())
    for spec in model.bundle.graphs.values():
        if spec.exact:
            limits = model.family.input_limits(spec.role)
            assert_same_bits(model.bundle.read(spec.file), spec, *inputs_within(*limits.values()))


@pytest.mark.parametrize("seed", range(20))
def test_same_bits_as_onnx_runtime_on_small_graphs(writer: ModuleType, seed: int) -> None:
    """1x1, depthwise and dense layers, shifts both ways, clips below zero, rearrangement."""
    content = writer.small_graph(seed)
    limits = np.array([13, 364])
    prove(read_exact_graph(content), {"z_hat": limits})
    assert_same_bits(content, SPEC, *inputs_within(limits, seed))


@pytest.mark.parametrize("seed", range(3))
def test_same_bits_as_onnx_runtime_on_exported_graphs(seed: int) -> None:
    """The exporter's own graphs of random networks, heads that reach far, at the limit of z."""
    torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
    pytest.importorskip("onnx", reason="onnx is not installed (extra: export)")
    from export.integers import MU, SIGMA_CODE, Z_LIMIT, integer_graph, z_input
    from export.networks.backbones import make_backbone

    torch.manual_seed(seed)
    shape = {"y_channels": 10, "z_channels": 6, "hyper_width": 8, "width8": 16, "width16": 16}
    h_s = make_backbone("edge", shape).h_s()
    with torch.no_grad():
        h_s.layers[-1].weight.mul_(30)
    samples = [(torch.randn(1, 6, 5, 4) * 4).round()]
    model, claimed = integer_graph("h_s", h_s.eval(), z_input(6), (MU, SIGMA_CODE), samples)
    content = model.SerializeToString()
    limits = np.full(6, Z_LIMIT)
    found = prove(read_exact_graph(content), {"z_hat": limits})
    assert found.keys() == claimed.keys()
    for layer, bits in found.items():
        assert bits <= claimed[layer] + 1e-9
    assert found["h0"] == pytest.approx(claimed["h0"], abs=1e-9)  # the same limit stands before the first layer
    assert_same_bits(content, SPEC, *inputs_within(limits, seed))


def test_sums_just_below_the_limit_are_the_same_bits(single: Callable[..., bytes]) -> None:
    """2^24 - 1 and its negative, where float32 ends."""
    weight = np.array([[4095, 1], [-4095, -1]]).reshape(2, 2, 1, 1)
    content = single(weight, np.array([0, 0]))
    x = np.array([4096, 4095], np.float32).reshape(1, 2, 1, 1)
    mu = NumpyExact(content, ONE).run(x)[0]
    assert mu.reshape(-1).tolist() == [2**24 - 1, 1 - 2**24]
    assert_same_bits(content, ONE, x)


@pytest.mark.parametrize("left", [1, 20, 40, 60])
def test_large_shifts_end_at_the_clip(single: Callable[..., bytes], left: int) -> None:
    """However far a value is shifted up, what follows is the clip's limit, as in floats."""
    content = single(np.ones((1, 1, 1, 1)), np.zeros(1), scale=2.0**left, limits=(-1000, 4095))
    x = np.array([-(2.0**16), -7, -1, 0, 1, 7, 2.0**16], np.float32).reshape(1, 1, 1, -1)
    assert_same_bits(content, ONE, x)


def test_shifts_round_towards_minus_infinity(single: Callable[..., bytes]) -> None:
    """-1 / 4 is -1, not 0."""
    content = single(np.ones((1, 1, 1, 1)), np.zeros(1), scale=0.25)
    x = np.arange(-9, 10, dtype=np.float32).reshape(1, 1, 1, -1)
    assert NumpyExact(content, ONE).run(x)[0].reshape(-1).tolist() == [n // 4 for n in range(-9, 10)]


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((1, 1, 2, 2)),
        np.zeros((1, 2, 2, 2), np.float32),
        np.zeros((1, 2, 2), np.float32),
        np.full((1, 1, 2, 2), 0.5, np.float32),
        np.full((1, 1, 2, 2), np.nan, np.float32),
        np.full((1, 1, 2, 2), 2.0**17, np.float32),
    ],
)
def test_wrong_inputs_are_refused(single: Callable[..., bytes], value: NDArray[np.float32]) -> None:
    """Type, dimensions, channels, integers and their range."""
    engine = NumpyExact(single(np.ones((1, 1, 1, 1)), np.zeros(1)), ONE)
    with pytest.raises(EngineError, match="graph 'one': x must be"):
        engine.run(value)
    with pytest.raises(EngineError, match="takes 1 inputs, not 0"):
        engine.run()


def test_graphs_that_numpy_cannot_run_are_refused(single: Callable[..., bytes], writer: ModuleType) -> None:
    """Garbage, other operators, other tensors, and sums beyond 64 bits."""
    free = writer.model([writer.node("Relu", ["x"], ["y"])], [], [writer.port("x", 1)], [writer.port("y", 1)])
    first = writer.layer("x", "a", np.ones((1, 1, 1, 1)), np.zeros(1), 2.0**60, (0, 1))
    second = writer.layer("a.floor", "y", np.full((1, 1, 1, 1), 5), np.zeros(1), 1.0, (0, 1))
    ports = [writer.port("x", 1)], [writer.port("y", 1)]
    large = writer.model([*first[0], *second[0]], [*first[1], *second[1]], *ports)
    for content in (b"garbage", free, large, writer.small_graph()):
        with pytest.raises(EngineError, match="graph 'one'"):
            NumpyExact(content, ONE)


@given(seed=st.integers(0, 1 << 40), changes=st.integers(1, 3))
@settings(max_examples=300, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_graphs_are_proved_or_refused(writer: ModuleType, seed: int, changes: int) -> None:
    """A changed file is refused in one way, or still proves, and then ONNX Runtime, if it opens it, gives its bits."""
    content = writer.changed_inside(writer.small_graph(seed % 5), seed, changes)
    limits = np.array([13, 4])
    try:
        graph = read_exact_graph(content)
        prove(graph, dict.fromkeys((name for name, _ in graph.inputs), limits))
    except BundleError:
        return
    spec = GraphSpec("h_s", "", True, tuple(n for n, _ in graph.inputs), tuple(n for n, _ in graph.outputs), None)
    try:
        OnnxRuntimeCpu(content, spec, 1).close()
        NumpyExact(content, spec).close()
    except EngineError:  # inputs beyond those of the proof could leave 64 bits, or ONNX Runtime misses something
        return
    if len(spec.inputs) == 1:
        assert_same_bits(content, spec, *inputs_within(limits)[:6])
