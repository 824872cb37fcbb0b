"""deepfgs: tables, exact and free graphs from trained networks, and what was measured of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.onnxruntime_cpu import OnnxRuntimeCpu
from export.bundle_writer import BundleContent
from export.exact_h_s import LOGARITHMIC
from export.families.content import add_exact_graph, add_free_graph
from export.families.measure import RateCosts, measured_errors, pixels_of, tables_percent
from export.graphs import FreeGraph
from export.integers import MU, SIGMA_CODE, Head, IntegerInput, integer_graph, z_input
from export.networks.edge import HIDDEN_LIMIT
from export.networks.separation import BASE_LIMIT as BASE_RANGE
from export.networks.separation import pooled
from export.tables import make_tables
from export.training.config import TrainingSettings
from export.training.deepfgs import DeepFgs, Latents, Part
from export.training.pictures import cropped
from runtime.entropy.tables import MEAN_UNIT, Tables
from runtime.families.deepfgs import BASE_LIMIT, BASE_UNIT, FEATURE_LIMIT
from runtime.families.hyperprior import Z_STRIDE
from runtime.model import TABLES

_FEATURE_UNIT = round((FEATURE_LIMIT + 1) / HIDDEN_LIMIT)
FEATURES = Head("features", _FEATURE_UNIT, 0, FEATURE_LIMIT)
assert round(BASE_RANGE) * BASE_UNIT == BASE_LIMIT + 1, "training clips l_b where the runtime does"


def export_deepfgs(networks: DeepFgs, settings: TrainingSettings, pictures: list[Tensor], _: str) -> BundleContent:
    """Return the content of a bundle.

    Args:
        pictures: uint8 (3, H, W); activation ranges and the cost of integers are measured on them.
    """
    inputs = [cropped(p, Z_STRIDE) for p in pictures]
    with torch.no_grad():
        latents = [networks.analyse(x) for x in inputs]
    tables = make_tables(networks.prior, networks.prior_scalable)
    # One picture in two is not calibrated on: those measure.
    calibration, measuring = latents[::2], latents[1::2]
    content = BundleContent(
        settings={
            "base_channels": networks.base_channels,
            "scalable_channels": networks.scalable_channels,
            "base_z_channels": latents[0].base.z.shape[1],
            "scalable_z_channels": latents[0].scalable.z.shape[1],
            "features": networks.mutual.width,
            "frr": networks.frr is not None,
            "ffm": networks.ffm is not None,
            "base_worth": float(f"{_base_worth(networks, calibration):.4g}"),
            "scalable_variance": float(f"{_variance(tables, calibration):.4g}"),
            "value_gain": 1.0,
            "preview_share": 1.0,
        },
        plan={"mutual": networks.mutual.base > 0},
        files={TABLES: tables.to_bytes()},
        exact_files=[TABLES],
    )
    engines = _add_exact_graphs(content, networks, calibration)
    for graph in _free_graphs(networks):
        add_free_graph(content, graph)
    content.measured = _rate_costs(networks, engines, tables, measuring, inputs[1::2])
    content.settings |= measured_errors(content, settings, pictures[1::4])
    return content


@dataclass(frozen=True)
class _Exact:
    """The exact graphs, running."""

    h_s: OnnxRuntimeCpu
    h_s_scalable: OnnxRuntimeCpu
    mutual: OnnxRuntimeCpu


def _add_exact_graphs(content: BundleContent, networks: DeepFgs, latents: list[Latents]) -> _Exact:
    z_base, z_scalable = [one.base.z.round() for one in latents], [one.scalable.z.round() for one in latents]
    given = z_input(z_base[0].shape[1])
    h_s, proof = integer_graph("h_s", networks.h_s, given, (MU, SIGMA_CODE), z_base)
    engine = add_exact_graph(content, "h_s", h_s, proof, given, z_base[0])
    given = z_input(z_scalable[0].shape[1])
    h_s_scalable, proof = integer_graph("h_s_scalable", networks.h_s_scalable, given, (FEATURES,), z_scalable)
    engine_scalable = add_exact_graph(content, "h_s_scalable", h_s_scalable, proof, given, z_scalable[0])
    with torch.no_grad():
        sides = [
            networks.mutual.side(networks.h_s_scalable(z), one.base.decoded)
            for z, one in zip(z_scalable, latents, strict=True)
        ]
    units = np.array([_FEATURE_UNIT] * networks.mutual.width + [BASE_UNIT] * networks.mutual.base)
    limits = np.array([FEATURE_LIMIT] * networks.mutual.width + [BASE_LIMIT] * networks.mutual.base)
    given = IntegerInput("side", np.log2(units).round().astype(np.int64), limits.astype(np.float64))
    mutual, proof = integer_graph("mutual", networks.mutual, given, (MU, SIGMA_CODE), sides)
    real = (sides[0] * torch.from_numpy(units[None, :, None, None])).round().float()
    return _Exact(engine, engine_scalable, add_exact_graph(content, "mutual", mutual, proof, given, real))


def _free_graphs(networks: DeepFgs) -> list[FreeGraph]:
    l_b, l_s = torch.randn(2, networks.base_channels, 12, 8), torch.randn(2, networks.scalable_channels, 12, 8)
    x, x_base = torch.rand(2, 3, 192, 128), torch.rand(2, 3, 192, 128)
    both = torch.cat([l_b, l_s], dim=1)
    graphs = [
        FreeGraph("g_a", networks.g_a, {"x": x}, "l_b", Z_STRIDE),
        FreeGraph("h_a", networks.h_a, {"l_b": l_b}, "z", 4),
        FreeGraph("g_a_scalable", networks.g_a_scalable, {"x": x, "x_base": x_base}, "l_s", Z_STRIDE),
        FreeGraph("h_a_scalable", networks.h_a_scalable, {"l_s": l_s}, "z", 4),
        FreeGraph("g_s", networks.g_s, {"fused": both}, "x_hat", 4),
        FreeGraph("preview", networks.preview, {"latents": both}, "x_hat", 4),
    ]
    if networks.frr is not None:
        graphs.append(FreeGraph("frr", networks.frr, {"l_s": l_s, "l_b": l_b, "l_b_means": pooled(l_b)}, "reduced", 4))
    if networks.ffm is not None:
        graphs.append(FreeGraph("ffm", networks.ffm, {"l_b": l_b, "l_s": l_s, "l_s_means": pooled(l_s)}, "fused", 4))
    return graphs


def _base_worth(networks: DeepFgs, latents: list[Latents]) -> float:
    """Return what a small error of l_b does to the picture, as a multiple of what one of l_s does."""
    errors = {"base": 0.0, "scalable": 0.0}
    generator = torch.Generator().manual_seed(0)
    for one in latents:
        known = {"base": one.base.decoded, "scalable": one.scalable.decoded}
        with torch.no_grad():
            x = networks.synthesis(known["base"], known["scalable"])
            for name, latent in known.items():
                noise = torch.randn(latent.shape, generator=generator)
                changed = known | {name: latent + noise}
                noisy = networks.synthesis(changed["base"], changed["scalable"])
                errors[name] += float((noisy - x).square().sum() / noise.square().sum())
    return errors["base"] / errors["scalable"]


def _variance(tables: Tables, latents: list[Latents]) -> float:
    """Return the mean variance that elements of l_s have when their levels are known and nothing else."""
    levels = torch.cat([one.scalable.level.reshape(-1) for one in latents])
    roots = tables.root[levels.round().clamp(0, tables.y_levels - 1).int().numpy()]
    return float(np.square(tables.deviation[roots] / MEAN_UNIT).mean())


def _rate_costs(
    networks: DeepFgs, engines: _Exact, tables: Tables, latents: list[Latents], inputs: list[Tensor]
) -> dict[str, float]:
    """Measure what integers cost: the exact graphs against the trained ones, the tables against the Gaussian."""
    base, scalable = RateCosts(tables, LOGARITHMIC), RateCosts(tables, LOGARITHMIC)
    for one in latents:
        mu, codes = engines.h_s.run(one.base.z.round().numpy())
        symbols = _add(base, one.base, mu, codes)
        (side,) = engines.h_s_scalable.run(one.scalable.z.round().numpy())
        if networks.mutual.base:
            l_b = np.floor((symbols * MEAN_UNIT + mu) * (BASE_UNIT / MEAN_UNIT) + 0.5).clip(-BASE_LIMIT, BASE_LIMIT)
            side = np.concatenate([side, l_b.astype(np.float32)], axis=1)
        _add(scalable, one.scalable, *engines.mutual.run(side))
    pixels = pixels_of(inputs)
    return {
        "base_bpp": base.tables / pixels,
        "scalable_bpp": scalable.tables / pixels,
        "exact_h_s_cost_percent": base.exact_percent,
        "exact_mutual_cost_percent": scalable.exact_percent,
        "tables_cost_percent": tables_percent(base, scalable),
    }


def _add(costs: RateCosts, part: Part, mu: NDArray[np.float32], codes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Count one picture's latent, given what an exact graph says of it; return its symbols."""
    costs.add_trained((part.latent - part.mu).round(), part.level)
    symbols = (part.latent - torch.from_numpy(mu) / MEAN_UNIT).round()
    costs.add_exact(symbols, torch.from_numpy(codes))
    return symbols.numpy()


def shipped_roles(networks: DeepFgs, synthesis: str) -> set[str]:
    """Return the roles whose weights are in a bundle: all that there are; there is one decoder."""
    return set(networks.roles)
