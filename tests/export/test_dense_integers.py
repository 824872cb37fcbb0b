"""Exact graphs of dense h_s networks: proved, the same bits in two engines, and close to the trained network."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnx", reason="onnx is not installed (extra: export)")

from engines.exact_graph import read_exact_graph
from engines.manifest import GraphSpec
from engines.numpy_exact import NumpyExact
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.proof import prove
from export.dense_integers import dense_integer_graph
from export.exact_h_s import LINEAR
from export.integers import MU, Head, IntegerInput
from export.networks.dense import DenseHyperSynthesis, DenseLayer, convolution_of_transposed, joined
from export.networks.entropy import LOG_STEP, SIGMA_MIN
from export.tables import level_sigmas
from runtime.errors import UsageError

Z, Y, LIMIT = 6, 10, 13
SPEC = GraphSpec("h_s", "", True, ("z_hat",), ("mu", "sigma_code"), None)


def layer(inputs: int, outputs: int, kernel: int, slope: float | None, *, enlarges: bool = False) -> DenseLayer:
    weight = torch.randn(outputs * (4 if enlarges else 1), inputs, kernel, kernel) * (2 / (inputs * kernel**2)) ** 0.5
    return DenseLayer(weight, 0.3 * torch.randn(len(weight)), enlarges=enlarges, slope=slope)


def network(slope: float | None, wide: int = 12, *, mean: bool = True) -> DenseHyperSynthesis:
    torch.manual_seed(3)
    layers = [
        layer(Z, wide, 3, slope, enlarges=True),
        layer(wide, wide, 1, slope),
        layer(wide, wide, 3, slope, enlarges=True),
        layer(wide, Y * (2 if mean else 1), 3, None),
    ]
    with torch.no_grad():
        layers[-1].conv.bias[:Y] += 2.0
    return DenseHyperSynthesis(layers, torch.rand(Z) - 0.5, mean=mean).eval()


def exported(
    net: DenseHyperSynthesis, heads: tuple[Head, ...] = (MU, LINEAR.head)
) -> tuple[bytes, dict[str, float], np.ndarray]:
    samples = [(torch.randn(1, Z, 5, 6) * 3).round().clamp(-LIMIT, LIMIT) for _ in range(4)]
    given = IntegerInput("z_hat", np.zeros(Z, np.int64), np.full(Z, float(LIMIT)))
    model, proof = dense_integer_graph("h_s", net, given, heads, samples)
    return model.SerializeToString(deterministic=True), proof, samples[0].numpy()


@pytest.mark.parametrize("slope", [0.0, 0.01, None], ids=["relu", "leaky", "linear"])
def test_proved_exact_and_close(slope: float | None) -> None:
    """The proof from the file holds, 64-bit integers agree, and values follow the network to a small part of a unit."""
    net = network(slope)
    model, claims, z = exported(net)
    proof = prove(read_exact_graph(model), {"z_hat": np.full(Z, LIMIT)})
    assert proof.keys() == claims.keys() and all(proof[name] <= claims[name] + 1e-9 for name in proof)
    assert max(claims.values()) < 24
    mu, code = OnnxRuntimeCpu(model, SPEC, 1).run(z)
    for ours, theirs in zip((mu, code), NumpyExact(model, SPEC).run(z), strict=True):
        assert np.array_equal(ours, theirs)
    with torch.no_grad():
        expected_mu, level = net(torch.from_numpy(z))
    sigma = (level * LOG_STEP).exp().numpy() * SIGMA_MIN
    assert mu.shape == code.shape == (1, Y, 20, 24)
    assert np.sqrt(np.mean((mu / 64 - expected_mu.numpy()) ** 2)) < 0.02 * float(expected_mu.std())
    assert np.sqrt(np.mean((LINEAR.sigma(torch.from_numpy(code)).numpy() / sigma - 1) ** 2)) < 0.05


def test_extreme_symbols_stay_in_range() -> None:
    """Codes are what the format allows, however large z is, and the engines still agree."""
    model, _, _ = exported(network(0.01))
    z = np.where(np.random.default_rng(0).random((1, Z, 4, 4)) < 0.5, -LIMIT, LIMIT).astype(np.float32)
    mu, code = OnnxRuntimeCpu(model, SPEC, 1).run(z)
    assert np.abs(mu).max() <= 2**15 - 1 and code.min() >= 0 and code.max() <= 2**15 - 1
    assert np.array_equal(code, NumpyExact(model, SPEC).run(z)[1])


def test_wide_layers_get_two_digits_and_shorter_activations() -> None:
    """With thousands of terms, one digit could tell hardly more than a weight's sign; two still follow the network."""
    net = network(0.01, wide=200)
    model, claims, z = exported(net)
    layers = {step.layer: step for step in read_exact_graph(model).steps if hasattr(step, "layer")}
    assert len(layers["mu.digits"].weight) == 2 * Y
    assert claims["last.taps"] < 11
    with torch.no_grad():
        expected, _ = net(torch.from_numpy(z))
    mu, _ = OnnxRuntimeCpu(model, SPEC, 1).run(z)
    assert np.sqrt(np.mean((mu / 64 - expected.numpy()) ** 2)) < 0.03 * float(expected.std())


def test_without_a_mean_mu_is_zero_or_missing() -> None:
    """A scale hyperprior's graph gives zeros where the family needs mu, and nothing where it does not."""
    net = network(0.0, mean=False)
    model, _, z = exported(net)
    mu, _ = OnnxRuntimeCpu(model, SPEC, 1).run(z)
    assert not mu.any()
    alone = exported(net, (LINEAR.head,))[0]
    assert [name for name, _ in read_exact_graph(alone).outputs] == ["sigma_code"]


def test_linear_codes_and_levels_agree() -> None:
    """A level's own standard deviation has a code of that level; thresholds lie between, in the ratio's middle."""
    assert LINEAR.thresholds is not None
    codes = np.rint(256 * np.array(level_sigmas()))
    assert np.searchsorted(LINEAR.thresholds, codes, side="right").tolist() == list(range(64))


@pytest.mark.parametrize(("kernel", "stride"), [(5, 2), (3, 1)])
def test_a_transposed_convolution_is_a_convolution_and_subpixels(kernel: int, stride: int) -> None:
    """Borders included."""
    torch.manual_seed(0)
    theirs = torch.nn.ConvTranspose2d(4, 3, kernel, stride, padding=kernel // 2, output_padding=stride - 1)
    x = torch.randn(2, 4, 5, 6)
    weight = convolution_of_transposed(theirs.weight.detach(), stride)
    ours = DenseLayer(weight, theirs.bias.detach().repeat_interleave(stride**2), enlarges=stride > 1)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)


def test_two_layers_without_activation_are_one() -> None:
    """A 3x3 convolution and a 1x1 one behind it."""
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(4, 5, 3, padding=1), torch.nn.Conv2d(5, 6, 1)
    pairs = [(one.weight.detach(), one.bias.detach()) for one in (first, second)]
    x = torch.randn(1, 4, 6, 5)
    torch.testing.assert_close(DenseLayer(*joined(*pairs))(x), second(first(x)), atol=1e-5, rtol=0)


def test_terms_that_all_but_cancel_get_the_finest_unit_that_fits() -> None:
    """Results far below the sums that they are made of: coarser than wished for, proved nevertheless."""
    net = network(0.01)
    first, second = net.layers[0].conv, net.layers[1].conv
    with torch.no_grad():
        first.weight[4:8] = first.weight[:4] * (1 + 1e-5)  # the second channel after enlarging is nearly the first
        first.bias[4:8] = first.bias[:4]
        second.weight.zero_()
        second.weight[:, 0], second.weight[:, 1] = 1.0, -1.0
        second.bias.zero_()
    model, claims, _ = exported(net)
    assert prove(read_exact_graph(model), {"z_hat": np.full(Z, LIMIT)}).keys() == claims.keys()


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_channel_that_is_all_but_dead_gives_0(place: int) -> None:
    """Weights of 1e-10 of the others', without a bias that would count: sums as fine as that need no integer."""
    net = network(0.01)
    conv = net.layers[place].conv
    rows = slice(4, 8) if place == 0 else slice(1, 2)
    with torch.no_grad():
        conv.weight[rows] *= 1e-10
        conv.bias[rows] *= 1e-10
    model, claims, z = exported(net)
    assert prove(read_exact_graph(model), {"z_hat": np.full(Z, LIMIT)}).keys() == claims.keys()
    mu, code = OnnxRuntimeCpu(model, SPEC, 1).run(z)
    with torch.no_grad():
        expected, _ = net(torch.from_numpy(z))
    assert np.sqrt(np.mean((mu / 64 - expected.numpy()) ** 2)) < 0.02 * float(expected.std())
    if place == 3:
        assert not code[:, 1].any()


def test_a_bias_without_weights_is_kept() -> None:
    """What such a channel gives is its bias."""
    net = network(0.01)
    with torch.no_grad():
        net.layers[3].conv.weight[1] *= 1e-10
        net.layers[3].conv.bias[1] = 1.5
    model, _, z = exported(net)
    code = OnnxRuntimeCpu(model, SPEC, 1).run(z)[1]
    assert (code[:, 1] == round(1.5 * LINEAR.head.unit)).all()


def test_weights_that_are_not_finite_are_refused() -> None:
    """Layers that are joined may overflow where each of them did not."""
    net = network(0.01)
    with torch.no_grad():
        net.layers[1].conv.weight[0] = torch.inf
    with pytest.raises(UsageError, match=r"weights of h_s: not all values are finite in layers\.1\.conv\.weight"):
        exported(net)


def test_heads_that_no_sum_can_give_are_refused() -> None:
    """mu has one unit everywhere: a last layer whose sums are too coarse for it is one clear error."""
    net = network(0.01)
    with torch.no_grad():
        net.layers[-1].conv.weight.mul_(1e4)
    with pytest.raises(UsageError, match="cannot be made exact"):
        exported(net)
