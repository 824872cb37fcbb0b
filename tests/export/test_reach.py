from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnx", reason="onnx is not installed (extra: export)")

import numpy as np
from torch import Tensor, nn

from engines.bundle import GraphSpec
from engines.exact_graph import read_exact_graph, surroundings
from engines.manifest import Tiling
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.tiles import run_in_tiles
from export.integers import MU, SIGMA_CODE, integer_graph, z_input
from export.networks.backbones import make_backbone
from export.networks.separation import Fusion, RedundancyRemoval, pooled
from export.reach import reach_of

SHAPE = {"y_channels": 8, "z_channels": 4, "width8": 8, "width16": 16, "hyper_width": 8, "refine_width": 16}


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1.0 + x.mean(dim=(2, 3), keepdim=True))


@pytest.mark.parametrize(
    ("network", "reach"),
    [
        (nn.Conv2d(2, 3, 1), 0),
        (nn.Conv2d(2, 3, 3, padding=1), 1),
        (nn.Sequential(nn.Conv2d(2, 2, 5, padding=2), nn.LeakyReLU(0.1), nn.Conv2d(2, 2, 3, padding=1)), 3),
        (Pooled(), None),
    ],
)
def test_reach_of_plain_networks(network: nn.Module, reach: int | None) -> None:
    """Kernels add up; a pooled statistic sees everything."""
    assert reach_of(network, [2], 4, 16) == reach


class Alone(nn.Module):
    """Gates that find the means themselves."""

    def __init__(self, gates: nn.Module, source: int) -> None:
        super().__init__()
        self.gates, self.source = gates, source

    def forward(self, *latents: Tensor) -> Tensor:
        result: Tensor = self.gates(*latents, pooled(latents[self.source]))
        return result


def test_gates_see_everything() -> None:
    """Fusion and redundancy removal pool over the picture, and a sigmoid does not hide it."""
    assert reach_of(Alone(Fusion(6, 24), 1), [6, 24], 1, 16) is None
    assert reach_of(Alone(RedundancyRemoval(48, 6), 1), [6, 48], 1, 16) is None


@pytest.mark.parametrize("multiple", [1, 4])
def test_gates_that_are_given_the_means_see_what_is_near(multiple: int) -> None:
    """What is left are two 3x3 layers, which no sigmoid hides; the means have no reach."""
    assert reach_of(Fusion(6, 24), [6, 24, 24], multiple, 16, fixed=[2]) == 2
    assert reach_of(RedundancyRemoval(48, 6), [6, 48, 48], multiple, 16, fixed=[2]) == 2


@pytest.mark.parametrize("make", [Fusion, RedundancyRemoval])
def test_gates_in_tiles_are_the_gates(make: type[nn.Module]) -> None:
    """With the means of the whole latent, tiles give the values of one run; with means of their own they do not."""
    torch.manual_seed(0)
    network = make(5, 7).double().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    generator = np.random.default_rng(0)
    l_b, l_s = (generator.normal(0, 3, (1, c, 30, 22)).astype(np.float32) for c in (5, 7))
    latents = (l_b, l_s) if make is Fusion else (l_s, l_b)

    def run(*tensors: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [network(*(torch.from_numpy(t).double() for t in tensors)).float().numpy()]

    def means(tensor: np.ndarray) -> np.ndarray:
        return tensor.mean(axis=(2, 3), keepdims=True)

    whole = run(*latents, means(latents[1]))[0]
    tiling = Tiling(16, 4, 2)
    tiled = run_in_tiles(run, [*latents, means(latents[1])], tiling, side_pixels=128)
    alone = run_in_tiles(lambda one, other: run(one, other, means(other)), latents, tiling, side_pixels=128)
    assert np.allclose(tiled[0], whole, rtol=1e-6, atol=1e-6)
    assert np.abs(alone[0] - whole).max() > 0.01


def test_a_network_whose_ends_hide_what_it_sees_is_seen_through() -> None:
    """cdr keeps between both ends: far apart they let a change through, and unnamed they hide all of it."""
    cdr = make_backbone("edge", SHAPE).cdr()
    assert reach_of(cdr, [8] * 4, 4, 16, ends=(2, 3)) == 2
    assert reach_of(cdr, [8] * 4, 4, 16) is None


def test_a_network_that_shows_no_change_is_taken_to_see_everything() -> None:
    """Nothing was found of it, which is not a reach of 0."""
    assert reach_of(nn.Threshold(9.0, 0.0), [2], 4, 16) is None


@pytest.mark.parametrize("role", ["g_a", "g_s", "h_a", "preview", "post", "cdr"])
def test_networks_in_tiles_are_the_networks(role: str) -> None:
    """With the reach that was found, tiles of a backbone's network give the same values as one run."""
    torch.manual_seed(0)
    backbone = make_backbone("edge", SHAPE)
    network = backbone.g_s(deviation_input=True) if role == "g_s" else getattr(backbone, role)()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)  # what starts near zero would hide a seam
    network.double().eval()
    channels = {"g_s": [8, 8], "preview": [8], "h_a": [8], "cdr": [8] * 4}.get(role, [3])
    multiple, pixels = (64, 1) if channels == [3] else (4, 16)
    reach = reach_of(network, channels, multiple, pixels, ends=(2, 3) if role == "cdr" else None)
    assert reach is not None
    inputs = [np.random.default_rng(0).random((1, c, 6 * multiple, 5 * multiple), np.float32) for c in channels]
    if role == "cdr":
        inputs[2], inputs[3] = inputs[2] - 2, inputs[3] + 1  # some elements at an end, others between

    def run(*tensors: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [network(*(torch.from_numpy(t).double() for t in tensors)).float().numpy()]

    tiled = run_in_tiles(run, inputs, Tiling(pixels, multiple, reach), side_pixels=128)
    assert np.allclose(tiled[0], run(*inputs)[0], rtol=1e-6, atol=1e-6)
    assert reach < 6 * multiple, "the test would be no test if every tile saw everything"


def test_exact_graphs_give_the_same_bits_in_tiles() -> None:
    """The reach comes from the file; one less and bits differ."""
    torch.manual_seed(0)
    h_s = make_backbone("edge", SHAPE).h_s()
    with torch.no_grad():
        h_s.layers[-1].weight.mul_(30)
    samples = [(torch.randn(1, 4, 6, 5) * 4).round()]
    model, _ = integer_graph("h_s", h_s.eval(), z_input(4), (MU, SIGMA_CODE), samples)
    content = model.SerializeToString()
    scale, reach = surroundings(read_exact_graph(content))
    assert (scale, reach) == (4, 1)
    engine = OnnxRuntimeCpu(content, GraphSpec("h_s", "", True, ("z_hat",), ("mu", "sigma_code"), None), 1)
    z = np.rint(np.random.default_rng(0).normal(0, 4, (1, 4, 9, 7))).astype(np.float32)
    whole = engine.run(z)
    for tiling, same in ((Tiling(64, 1, reach), True), (Tiling(64, 1, reach - 1), False)):
        tiled = run_in_tiles(engine.run, [z], tiling, side_pixels=128)
        equal = all(np.array_equal(one, other) for one, other in zip(tiled, whole, strict=True))
        assert equal == same
