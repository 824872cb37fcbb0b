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
    "dpict-authors": ("g_a.conv8", "h_a.conv5", "entropy_parameters.conv3"),
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


class Named(nn.Module):
    """Layers that run one after another, under names of their own."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        self.order = list(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = getattr(self, name)(x)
        return x


class Summed(nn.Module):
    """The sum of a branch of layers, by their names, and a shortcut by its name."""

    def __init__(self, shortcut: str | None, branch: dict[str, nn.Module], **layers: nn.Module) -> None:
        super().__init__()
        self.shortcut, self.order = shortcut, list(branch)
        for name, layer in (branch | layers).items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for name in self.order:
            y = getattr(self, name)(y)
        return y + (x if self.shortcut is None else getattr(self, self.shortcut)(x))


class AttentionOfDpict(nn.Module):
    """The attention block under the names of DPICT's authors."""

    def __init__(self, n: int) -> None:
        super().__init__()

        def unit() -> nn.Module:
            branch = {"conv1": nn.Conv2d(n, n // 2, 1), "relu1": nn.ReLU()}
            branch |= {"conv2": nn.Conv2d(n // 2, n // 2, 3, padding=1), "relu2": nn.ReLU()}
            return Summed(None, branch | {"conv3": nn.Conv2d(n // 2, n, 1)})

        for side in "ab":
            for place in (1, 2, 3):
                self.add_module(f"res_{side}{place}", unit())
        self.conv_b4 = nn.Conv2d(n, n, 1)

    def forward(self, x: Tensor) -> Tensor:
        sides = {}
        for side in "ab":
            y = x
            for place in (1, 2, 3):
                y = torch.relu(getattr(self, f"res_{side}{place}")(y))
            sides[side] = y
        return x + sides["a"] * torch.sigmoid(self.conv_b4(sides["b"]))


def dpict_authors(n: int, _: int) -> nn.Module:
    """DPICT's networks under its authors' names, with the context model that their base class brings along."""
    gdn, net = compressai("layers").GDN, mean_scale_hyperprior(n, n)

    def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)

    def one_of(**layers: nn.Module) -> nn.Module:
        """One of several normalisations, of which there is one."""
        return Named(gdn=nn.Sequential(*layers.values()))

    def subpel(inputs: int, outputs: int) -> nn.Module:
        return Named(conv=conv(inputs, 4 * outputs), shuffle=nn.PixelShuffle(2))

    def res(inputs: int = n, stride: int = 1) -> nn.Module:
        branch: dict[str, nn.Module] = {"conv1": conv(inputs, n, stride), "leaky_relu": nn.LeakyReLU()}
        branch |= {"conv2": conv(n, n), "last": nn.LeakyReLU()}
        if stride == 1:
            return Summed(None, branch)
        normalised = {name: layer for name, layer in branch.items() if name != "last"} | {"gdn": one_of(gdn=gdn(n))}
        return Summed("skip", normalised, skip=nn.Conv2d(inputs, n, 1, stride=stride))

    def up() -> nn.Module:
        branch = {"subpel_conv": subpel(n, n), "leaky_relu": nn.LeakyReLU(), "conv": conv(n, n)}
        return Summed("subpel", branch | {"igdn": one_of(gdn=gdn(n, inverse=True))}, subpel=subpel(n, n))

    def leaky(*layers: nn.Module) -> nn.Module:
        named: dict[str, nn.Module] = {}
        for place, layer in enumerate(layers, 1):
            named |= {f"conv{place}": layer, f"relu{place}": nn.LeakyReLU()}
        named.popitem()
        return Named(**named)

    wide, attention = 3 * n // 2, AttentionOfDpict
    net.g_a = Named(
        res1=res(3, 2),
        res2=res(),
        res3=res(n, 2),
        att4=attention(n),
        res5=res(),
        res6=res(n, 2),
        res7=res(),
        conv8=conv(n, n, 2),
        att9=attention(n),
    )
    net.g_s = Named(
        att1=attention(n),
        res2=res(),
        res3=up(),
        res4=res(),
        res5=up(),
        att6=attention(n),
        res7=res(),
        res8=up(),
        res9=res(),
        conv10=subpel(n, 3),
    )
    net.h_a = leaky(conv(n, n), conv(n, n), conv(n, n, 2), conv(n, n), conv(n, n, 2))
    net.h_s = leaky(conv(n, n), subpel(n, n), conv(n, wide), subpel(wide, wide), conv(wide, 2 * n))
    net.entropy_parameters = leaky(*(nn.Conv2d(2 * n, 2 * n, 1) for _ in range(3)))
    net.entropy_bottleneck = nn.Sequential(net.entropy_bottleneck)
    net.context_prediction = nn.Conv2d(n, 2 * n, 5, padding=2)
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
    if isinstance(bottleneck, nn.Sequential):  # of several that modes could have
        (bottleneck,) = bottleneck
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
