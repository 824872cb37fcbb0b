from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnx", reason="onnx is not installed (extra: export)")

import onnxruntime
from onnx import ModelProto, numpy_helper

from export.integers import ACCUMULATOR, CODE_LIMIT, MU, MU_LIMIT, SIGMA_CODE, Z_LIMIT, integer_graph, z_input
from export.networks.backbones import make_backbone
from runtime.errors import UsageError

Z_CHANNELS, Y_CHANNELS = 12, 20


@pytest.fixture(scope="module")
def h_s() -> torch.nn.Module:
    torch.manual_seed(0)
    network = make_backbone(
        "edge", {"y_channels": Y_CHANNELS, "z_channels": Z_CHANNELS, "hyper_width": 16, "width8": 16, "width16": 32}
    ).h_s()
    with torch.no_grad():
        network.layers[-1].weight.mul_(30)  # trained heads reach far
    return network.eval()


@pytest.fixture(scope="module")
def exported(h_s: torch.nn.Module) -> tuple[ModelProto, dict[str, float]]:
    torch.manual_seed(1)
    samples = [(torch.randn(1, Z_CHANNELS, 6, 5) * 4).round() for _ in range(4)]
    return integer_graph("h_s", h_s, z_input(Z_CHANNELS), (MU, SIGMA_CODE), samples)


def session(model: ModelProto, threads: int = 1, level: str = "ORT_ENABLE_BASIC") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_accumulators_stay_below_two_to_the_24(exported: tuple[ModelProto, dict[str, float]]) -> None:
    """Recomputed from the file alone, no channel's sum can leave the integers that float32 holds."""
    model, proof = exported
    constants = {i.name: numpy_helper.to_array(i).astype(np.float64) for i in model.graph.initializer}
    high = {"z_hat": float(Z_LIMIT)}
    found = {}
    for node in model.graph.node:
        if node.op_type == "DepthToSpace":
            high[node.output[0]] = high[node.input[0]]
        if node.op_type == "Clip":
            high[node.output[0]] = float(constants[node.input[2]])
        if node.op_type == "Conv":
            weight, bias = constants[node.input[1]], constants[node.input[2]]
            assert np.array_equal(weight, np.rint(weight)) and np.array_equal(bias, np.rint(bias))
            reach = np.abs(weight).sum(axis=(1, 2, 3)) * high[node.input[0]] + np.abs(bias)
            assert reach.max() < ACCUMULATOR
            found[node.output[0].removesuffix(".sum")] = np.log2(reach.max())
        if node.op_type == "Mul":
            exponents = np.log2(constants[node.input[1]])
            assert np.array_equal(exponents, np.rint(exponents))
    assert found.keys() == proof.keys()
    for name, bits in proof.items():
        assert bits == pytest.approx(found[name], abs=1e-9)


def test_same_bits_on_threads_and_optimisation_levels(exported: tuple[ModelProto, dict[str, float]]) -> None:
    """One thread or two, plain or optimised: not a bit differs."""
    z_hat = np.random.default_rng(2).integers(-40, 41, (1, Z_CHANNELS, 9, 7)).astype(np.float32)
    expected = session(exported[0]).run(None, {"z_hat": z_hat})
    for threads in (1, 2):
        for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
            for ours, theirs in zip(
                session(exported[0], threads, level).run(None, {"z_hat": z_hat}), expected, strict=True
            ):
                assert np.array_equal(ours, theirs)


def test_outputs_are_integers_in_range(exported: tuple[ModelProto, dict[str, float]]) -> None:
    """mu and sigma code are integers within their limits, even for the most extreme z."""
    z_hat = np.where(np.random.default_rng(3).random((1, Z_CHANNELS, 4, 4)) < 0.5, -Z_LIMIT, Z_LIMIT)
    mu, code = session(exported[0]).run(None, {"z_hat": z_hat.astype(np.float32)})
    assert mu.shape == code.shape == (1, Y_CHANNELS, 16, 16)
    assert np.array_equal(mu, np.rint(mu)) and np.array_equal(code, np.rint(code))
    assert np.abs(mu).max() <= MU_LIMIT and code.min() >= 0 and code.max() <= CODE_LIMIT


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(h_s: torch.nn.Module, value: float) -> None:
    """Weights, and what is measured of activations, by name: no scale fits them, however long one is looked for."""
    samples = [torch.zeros(1, Z_CHANNELS, 2, 2)]
    broken = copy.deepcopy(h_s)
    with torch.no_grad():
        broken.layers[3].weight[0] = value
    with pytest.raises(UsageError, match=r"weights of h_s: not all values are finite in layers\.3\.weight"):
        integer_graph("h_s", broken, z_input(Z_CHANNELS), (MU, SIGMA_CODE), samples)
    with pytest.raises(UsageError, match="activations of h_s: not all values are finite in layer 0"):
        integer_graph("h_s", h_s, z_input(Z_CHANNELS), (MU, SIGMA_CODE), [samples[0] + torch.nan])


def test_close_to_the_trained_network(h_s: torch.nn.Module, exported: tuple[ModelProto, dict[str, float]]) -> None:
    """Integers follow the float network to a small part of a symbol and of a level."""
    torch.manual_seed(4)
    z_hat = (torch.randn(1, Z_CHANNELS, 6, 5) * 4).round()
    with torch.no_grad():
        mu, level = h_s(z_hat)
    ours_mu, code = session(exported[0]).run(None, {"z_hat": z_hat.numpy()})
    assert np.abs(ours_mu / 64 - mu.numpy()).max() < 0.1
    assert np.abs(code / 16 - level.clamp(0, CODE_LIMIT / 16).numpy()).max() < 0.15
