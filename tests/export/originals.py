"""The original networks that imports are held against: CompressAI's, and those that others built of its layers.

CompressAI's package imports data sets, point clouds and plots, with the packages these need; its models need none of
that. So the modules of models are loaded without their packages' `__init__`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

# The last convolution of g_a, h_a and h_s.
ROLES = {
    "bmshj2018-hyperprior": ("g_a.6", "h_a.4", "h_s.4"),
    "mbt2018-mean": ("g_a.6", "h_a.4", "h_s.4"),
    "dpict": ("g_a.7", "h_a.8", "entropy_parameters.4"),
    "progdtd": ("image_analysis.model.6", "hyper_analysis.model.5", "hyper_synthesis.model.4"),
}


def compressai(module: str) -> Any:
    """Return a module of CompressAI; skip the test where it is not installed."""
    import pytest

    pytest.importorskip("scipy", reason="scipy is not installed")
    if "compressai" not in sys.modules:
        spec = importlib.util.find_spec("compressai")
        if spec is None or not spec.submodule_search_locations:
            pytest.skip("compressai is not installed (see the Makefile)")
        root = Path(spec.submodule_search_locations[0])
        for name, folder in {"compressai": root, "compressai.models": root / "models"}.items():
            package: Any = ModuleType(name)
            package.__path__ = [str(folder)]
            sys.modules[name] = package
        sys.modules["compressai"].get_entropy_coder = lambda: "ans"  # type: ignore[attr-defined]
        sys.modules["compressai"].available_entropy_coders = lambda: ["ans"]  # type: ignore[attr-defined]
        registry: Any = ModuleType("compressai.registry")
        registry.register_model = registry.register_module = lambda _: lambda one: one
        sys.modules["compressai.registry"] = registry
    return importlib.import_module(f"compressai.{module}")


def scale_hyperprior(n: int, m: int) -> nn.Module:
    """bmshj2018-hyperprior."""
    return compressai("models.google").ScaleHyperprior(n, m)  # type: ignore[no-any-return]


def mean_scale_hyperprior(n: int, m: int) -> nn.Module:
    """mbt2018-mean."""
    return compressai("models.google").MeanScaleHyperprior(n, m)  # type: ignore[no-any-return]


def dpict(n: int, _: int) -> nn.Module:
    """DPICT's networks under the names of CTC's authors, with a few of CTC's own tensors."""
    layers = compressai("layers")
    net = mean_scale_hyperprior(n, n)

    def leaky(*modules: nn.Module) -> nn.Sequential:
        between = [one for module in modules for one in (module, nn.LeakyReLU())]
        return nn.Sequential(*between[:-1])

    conv, subpel, wide = layers.conv3x3, layers.subpel_conv3x3, 3 * n // 2
    block, attention = layers.ResidualBlock, layers.AttentionBlock
    down, up = layers.ResidualBlockWithStride, layers.ResidualBlockUpsample
    net.g_a = nn.Sequential(
        down(3, n, stride=2),
        block(n, n),
        down(n, n, stride=2),
        attention(n),
        block(n, n),
        down(n, n, stride=2),
        block(n, n),
        conv(n, n, stride=2),
        attention(n),
    )
    net.g_s = nn.Sequential(
        attention(n),
        block(n, n),
        up(n, n, 2),
        block(n, n),
        up(n, n, 2),
        attention(n),
        block(n, n),
        up(n, n, 2),
        block(n, n),
        subpel(n, 3, 2),
    )
    net.h_a = leaky(conv(n, n), conv(n, n), conv(n, n, stride=2), conv(n, n), conv(n, n, stride=2))
    net.h_s = leaky(conv(n, n), subpel(n, n, 2), conv(n, wide), subpel(wide, wide, 2), conv(wide, 2 * n))
    net.entropy_parameters = leaky(*(nn.Conv2d(2 * n, 2 * n, 1) for _ in range(3)))
    net.CRR1 = nn.Conv2d(3, 3, 1)
    net.CDR2 = nn.Conv2d(3, 3, 1)
    return net


class ProgDtdOriginal(nn.Module):
    """ProgDTD's networks under its authors' names."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        gdn = compressai("layers").GDN
        entropy = compressai("entropy_models")

        def down(inputs: int, outputs: int, kernel: int = 5, stride: int = 2) -> nn.Module:
            return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)

        def up(inputs: int, outputs: int, kernel: int = 5, stride: int = 2) -> nn.Module:
            return nn.ConvTranspose2d(
                inputs, outputs, kernel, stride=stride, padding=kernel // 2, output_padding=stride - 1
            )

        class Absolute(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.abs()

        def model(*layers: nn.Module) -> nn.Module:
            holder = nn.Module()
            holder.model = nn.Sequential(*layers)
            return holder

        self.image_analysis = model(down(3, n), gdn(n), down(n, n), gdn(n), down(n, n), gdn(n), down(n, m))
        inverse = [gdn(n, inverse=True) for _ in range(3)]
        self.image_synthesis = model(
            up(m, n), inverse[0], up(n, n), inverse[1], up(n, n), inverse[2], up(n, 3), nn.Sigmoid()
        )
        self.hyper_analysis = model(Absolute(), down(m, n, 3, 1), nn.ReLU(), down(n, n), nn.ReLU(), down(n, n))
        self.hyper_synthesis = model(up(n, n), nn.ReLU(), up(n, n), nn.ReLU(), up(n, m, 3, 1), nn.ReLU())
        self.hyper_bottleneck = entropy.EntropyBottleneck(channels=n)
        self.image_bottleneck = entropy.GaussianConditional(scale_table=None)


def progdtd(n: int, m: int) -> nn.Module:
    """ProgDTD's networks."""
    return ProgDtdOriginal(n, m)


def latents(net: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return y, z_hat, bits of z, mu and sigma as the original computes them."""
    if isinstance(net, ProgDtdOriginal):
        g_a, h_a, h_s = net.image_analysis.model, net.hyper_analysis.model, net.hyper_synthesis.model
        y = g_a(x)
        z = h_a(y)
        bottleneck = net.hyper_bottleneck
    else:
        y = net.g_a(x)
        z = net.h_a(y.abs() if type(net).__name__ == "ScaleHyperprior" else y)
        h_s, bottleneck = net.h_s, net.entropy_bottleneck
    z_hat, likelihood = bottleneck.eval()(z)
    given = h_s(z_hat)
    if hasattr(net, "entropy_parameters"):
        given = net.entropy_parameters(given)
    sigma, mu = given.chunk(2, 1) if given.shape[1] == 2 * y.shape[1] else (given, torch.zeros_like(given))
    return y, z_hat, -likelihood.log2(), mu, sigma.clamp_min(0.11)


def synthesis(net: Any, y_hat: Tensor) -> Tensor:
    """Return the original's picture."""
    x: Tensor = net.image_synthesis.model(y_hat) if isinstance(net, ProgDtdOriginal) else net.g_s(y_hat)
    return x
