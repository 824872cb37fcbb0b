"""Every backbone makes the networks of every role, with the shapes that families rely on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.networks.backbones import Backbone, make_backbone
from export.networks.blocks import DepthToSpace, block_dct
from export.networks.cost import macs_per_pixel
from runtime.errors import ConfigurationError

TINY: dict[str, dict[str, Any]] = {
    "edge": {"y_channels": 16, "z_channels": 8, "width8": 16, "width16": 32, "hyper_width": 8},
    "balle": {"n": 16, "m": 24},
    "paper": {"n": 16, "post_width": 16},  # narrower, all ReLUs of an attention unit may start dead
}
ROLES = ("g_a", "g_s", "g_s_cuts", "h_a", "h_s", "post", "preview")
HEIGHT, WIDTH = 64, 128
BUDGET_MACS = 30_000


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    yield
    torch.set_num_threads(threads)


def _network(backbone: Backbone, role: str) -> nn.Module:
    if role in ("g_s", "g_s_cuts"):
        return backbone.g_s(deviation_input=role == "g_s_cuts")
    network: nn.Module = getattr(backbone, role)()
    return network


def _inputs(backbone: Backbone, role: str, batch: int = 2) -> tuple[Tensor, ...]:
    """Return random inputs of a role for pictures of HEIGHT x WIDTH."""
    x = torch.rand(batch, 3, HEIGHT, WIDTH)
    y = 3 * torch.randn(batch, backbone.y_channels, HEIGHT // 16, WIDTH // 16)
    z = 3 * torch.randn(batch, backbone.z_channels, HEIGHT // 64, WIDTH // 64)
    inputs = {"g_a": (x,), "post": (x,), "h_a": (y,), "h_s": (z,), "g_s": (y,), "preview": (y,)}
    return inputs.get(role, (y, torch.rand_like(y)))


def _outputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    result = network(*inputs)
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("role", ROLES)
def test_output_shapes(name: str, role: str) -> None:
    """Latents are at 1/16 and 1/64 of the picture."""
    backbone = make_backbone(name, TINY[name])
    y = (2, backbone.y_channels, HEIGHT // 16, WIDTH // 16)
    z = (2, backbone.z_channels, HEIGHT // 64, WIDTH // 64)
    x = (2, 3, HEIGHT, WIDTH)
    expected = {"g_a": [y], "g_s": [x], "g_s_cuts": [x], "h_a": [z], "h_s": [y, y], "post": [x], "preview": [x]}
    outputs = _outputs(_network(backbone, role), _inputs(backbone, role))
    assert [tuple(o.shape) for o in outputs] == expected[role]
    assert all(o.dtype == torch.float32 and bool(o.isfinite().all()) for o in outputs)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("role", ROLES)
def test_gradient_reaches_every_parameter(name: str, role: str) -> None:
    """No parameter is unused or cut off."""
    backbone = make_backbone(name, TINY[name])
    network = _network(backbone, role)
    with torch.no_grad():
        for parameter in network.parameters():
            if not bool(parameter.any()):  # a last layer that starts at zero hides what is before it
                parameter.normal_(std=0.1)
    loss = sum((o * torch.randn_like(o)).sum() for o in _outputs(network, _inputs(backbone, role)))
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    dead = [key for key, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert dead == []


@pytest.mark.parametrize("name", TINY)
def test_h_s_starts_at_sigma_below_one(name: str) -> None:
    """Levels start around 20 of 0..63, means around 0."""
    backbone = make_backbone(name, TINY[name])
    with torch.no_grad():
        mu, level = backbone.h_s()(*_inputs(backbone, "h_s"))
    assert float((level - 20).abs().max()) < 5
    assert float(mu.abs().max()) < 5


@pytest.mark.parametrize("name", TINY)
def test_post_starts_as_the_identity(name: str) -> None:
    """An untrained postprocessing network leaves the picture as it is."""
    backbone = make_backbone(name, TINY[name])
    (x,) = _inputs(backbone, "post")
    difference = (backbone.post()(x) - x).abs().max()
    assert float(difference.detach()) < 0.05


@pytest.mark.parametrize("name", TINY)
def test_deviation_starts_without_effect(name: str) -> None:
    """A synthesis network that is given deviations starts as one that is not: its weights can be copied."""
    backbone = make_backbone(name, TINY[name])
    plain, cuts = _network(backbone, "g_s"), _network(backbone, "g_s_cuts")
    left_out = cuts.load_state_dict(plain.state_dict(), strict=False)
    assert left_out.missing_keys == ["deviation.weight"] and left_out.unexpected_keys == []
    y_hat, deviation = _inputs(backbone, "g_s_cuts")
    assert torch.equal(plain(y_hat), cuts(y_hat, deviation))


@pytest.mark.parametrize("name", TINY)
def test_y_suits_rounding(name: str) -> None:
    """With default widths y starts with a deviation of a few units."""
    y = make_backbone(name, {}).g_a()(_smooth_picture()).detach()
    centred = y - y.mean(dim=(0, 2, 3), keepdim=True)
    assert 0.5 < float(centred.std()) < 10


def test_macs_of_known_layers() -> None:
    """A convolution costs outputs x inputs x kernel / groups at each position of its output."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    macs = macs_per_pixel(layers, torch.zeros(2, 3, 16, 32), pixels=2 * 16 * 32)
    assert macs == (8 * 3 * 9 + 8 * 9) / 4


@pytest.mark.parametrize("roles", [("g_a", "h_a", "h_s"), ("h_s", "g_s", "post")], ids=["encoder", "decoder"])
def test_edge_stays_in_its_budget(roles: tuple[str, ...]) -> None:
    """Either side of the default edge shape costs at most 30,000 multiply-accumulates per pixel."""
    backbone = make_backbone("edge", {})
    pixels = HEIGHT * WIDTH
    macs = {r: macs_per_pixel(_network(backbone, r), *_inputs(backbone, r, 1), pixels=pixels) for r in roles}
    assert sum(macs.values()) <= BUDGET_MACS, macs


@pytest.mark.parametrize("name", TINY)
def test_preview_costs_a_tenth_of_synthesis(name: str) -> None:
    """A preview is for when there is no time for g_s."""
    backbone = make_backbone(name, {})
    with torch.device("meta"):
        preview, g_s = (
            macs_per_pixel(_network(backbone, r), *_inputs(backbone, r, 1), pixels=HEIGHT * WIDTH)
            for r in ("preview", "g_s")
        )
    assert preview <= 0.1 * g_s


@pytest.mark.parametrize("size", [2, 8])
def test_depth_to_space_is_pixel_shuffle(size: int) -> None:
    """Bit by bit, whatever lies where in memory: exact graphs write the same step as ONNX DepthToSpace."""
    x = torch.randn(2, 3 * size**2, 5, 4)
    for one in (x, x.to(memory_format=torch.channels_last)):
        assert torch.equal(DepthToSpace(size)(one), F.pixel_shuffle(x, size))


def test_block_dct_rows_are_orthonormal() -> None:
    """Kept frequencies are an orthonormal system; all of them are a basis."""
    for luma, chroma in ((64, 32), (8, 4), (64, 64)):
        rows = block_dct(luma, chroma)
        torch.testing.assert_close(rows @ rows.T, torch.eye(luma + 2 * chroma), atol=1e-5, rtol=0)


def test_edge_starts_as_a_transform_codec() -> None:
    """Untrained g_s after untrained g_a returns a smooth picture above 25 dB, without rounding."""
    backbone = make_backbone("edge", {})
    x = _smooth_picture()
    mse = F.mse_loss(backbone.g_s(deviation_input=False)(backbone.g_a()(x)), x)
    assert -10 * math.log10(float(mse.detach())) > 25


def _smooth_picture() -> Tensor:
    """Return float32 (1, 3, HEIGHT, WIDTH) in 0..1: waves of a few periods, other phases in each colour."""
    row = torch.arange(HEIGHT, dtype=torch.float32)[:, None] / HEIGHT
    column = torch.arange(WIDTH, dtype=torch.float32)[None, :] / WIDTH
    phases = torch.tensor([0.0, 0.7, 1.9])[:, None, None]
    waves = torch.sin(9 * row + 5 * column + phases) * torch.cos(11 * column - 4 * row - phases)
    return (0.5 + 0.4 * waves)[None]


def test_unknown_backbone() -> None:
    """The message names the backbones that exist."""
    with pytest.raises(ConfigurationError, match="'huge' is unknown; there are balle, edge, paper"):
        make_backbone("huge", {})


@pytest.mark.parametrize(
    ("name", "shape", "fault"),
    [
        ("edge", {"width8": 192}, "width8 must be a multiple of 4 from 4 to 128, not 192"),
        ("edge", {"width8": 130}, "width8 must be a multiple of 4 from 4 to 128, not 130"),
        ("edge", {"width8": 126}, "width8 must be a multiple of 4 from 4 to 128, not 126"),
        ("edge", {"width8": 0}, "width8 must be a multiple of 4 from 4 to 128, not 0"),
        ("edge", {"width8": "128"}, "network: width8 must be int, not '128'"),
        ("edge", {"y_channels": -1}, "y_channels must be 1 to 16384, not -1"),
        ("edge", {"width16": 10**12}, "width16 must be 1 to 16384"),
        ("edge", {"synthesis_blocks16": -1}, "synthesis_blocks16 must be 0 to"),
        ("edge", {"direct_channels": -8}, "direct_channels must be 0 to"),
        ("edge", {"initial_step": 0.0}, "initial_step must be a positive number, not 0"),
        ("edge", {"initial_step": math.nan}, "initial_step must be a positive number, not nan"),
        ("paper", {"n": 0}, "n must be 2 to 16384, not 0"),
        ("paper", {"post_width": 1}, "post_width must be 2 to"),
        ("paper", {"y_channels": -1}, "y_channels must be 0 to"),
        ("paper", {"latent_gain": math.inf}, "latent_gain must be a positive number, not inf"),
        ("balle", {"n": 1}, "n must be 2 to"),
        ("balle", {"m": 0}, "m must be 1 to"),
        ("balle", {"absolute": 1}, "network: absolute must be bool, not 1"),
    ],
)
def test_dimensions_that_no_network_has(name: str, shape: dict[str, Any], fault: str) -> None:
    """Types and ranges are checked before torch sees them."""
    with pytest.raises(ConfigurationError, match=f"^backbone {name}: {fault}"):
        make_backbone(name, shape)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("edge", {"width8": 4, "width16": 1, "y_channels": 1}), ("edge", {"width8": 128}), ("paper", {"n": 2})],
)
def test_dimensions_at_their_limits(name: str, shape: dict[str, Any]) -> None:
    """What is not refused can be made."""
    backbone = make_backbone(name, shape)
    for role in ROLES:
        _network(backbone, role)


@pytest.mark.parametrize("name", TINY)
def test_unknown_dimension(name: str) -> None:
    """A misspelt width is not ignored."""
    with pytest.raises(ConfigurationError, match=f"backbone {name}: .*depth"):
        make_backbone(name, {"depth": 3})
