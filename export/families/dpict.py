"""dpict: tables, exact h_s and free graphs from trained networks, and what integers cost in rate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engines.onnxruntime_cpu import OnnxRuntimeCpu
from export.bundle_writer import BundleContent
from export.exact_h_s import SigmaCode, exact_h_s, sigma_code_of, tables_for
from export.families.content import add_exact_graph, add_free_graph
from export.families.measure import RateCosts, measured_errors, pixels_of, tables_percent
from export.graphs import FreeGraph
from export.integers import MU
from export.training.config import TrainingSettings
from export.training.dpict import Dpict, Latents, PlaneNetworks
from export.training.pictures import cropped
from runtime.entropy.tables import MEAN_UNIT, Tables
from runtime.errors import UsageError
from runtime.families.hyperprior import Z_STRIDE
from runtime.model import TABLES

POST_RANGES = ((2.9, "post_low"), (1.8, "post_high"))  # planes missing at least; DPICT, section 4.1
# Which g_s a bundle has, and the roles that it is made of.
SYNTHESES = {"cuts": {"g_s_cuts"}, "paper": {"g_s", *(role for _, role in POST_RANGES)}, "plain": {"g_s"}}


def export_dpict(networks: Dpict, settings: TrainingSettings, pictures: list[Tensor], synthesis: str) -> BundleContent:
    """Return the content of a bundle.

    Args:
        pictures: uint8 (3, H, W); activation ranges and the cost of integers are measured on them.
        synthesis: "cuts" ships the g_s trained on random cuts, "paper" the plain one with both postprocessing networks,
            "plain" that one alone.

    Raises:
        UsageError: the weights lack what *synthesis* needs.
    """
    if lacking := shipped_roles(networks, synthesis) & networks.absent:
        stages = "rd and post" if synthesis == "paper" else "rd"
        raise UsageError(f"these weights are without {', '.join(sorted(lacking))}: train {stages} first")
    inputs = [cropped(p, Z_STRIDE) for p in pictures]
    with torch.no_grad():
        latents = [networks.analyse(x) for x in inputs]
    tables = tables_for(networks.h_s, networks.prior)
    y_channels, z_channels = latents[0].y.shape[1], latents[0].z_hat.shape[1]
    cuts = synthesis == "cuts"
    content = BundleContent(
        settings={
            "y_channels": y_channels,
            "z_channels": z_channels,
            "deviation_input": cuts,
            "post": [list(entry) for entry in POST_RANGES] if synthesis == "paper" else [],
            "value_gain": 1.0,
            "preview_share": 1.0,
        },
        files={TABLES: tables.to_bytes()},
        exact_files=[TABLES],
    )
    # One picture in two is not calibrated on: those measure.
    engine = add_h_s(content, networks, tables, latents[::2])
    for graph in _free_graphs(networks, y_channels, synthesis):
        add_free_graph(content, graph)
    content.measured = rate_costs(engine, tables, sigma_code_of(networks.h_s), latents[1::2], inputs[1::2])
    content.settings |= measured_errors(content, settings, pictures[1::4])
    return content


def shipped_roles(_: Dpict, synthesis: str) -> set[str]:
    """Return the roles whose weights are in a bundle."""
    return {"g_a", "h_a", "h_s", "prior", "preview"} | SYNTHESES[synthesis]


def add_h_s(
    content: BundleContent, networks: PlaneNetworks, tables: Tables, calibration: list[Latents]
) -> OnnxRuntimeCpu:
    """Add h_s as an exact graph with both heads; return its engine."""
    real = [one.z_hat for one in calibration]
    h_s, proof, given = exact_h_s(networks.h_s, tables, (MU,), real)
    return add_exact_graph(content, "h_s", h_s, proof, given, real[0])


def _free_graphs(networks: Dpict, y_channels: int, synthesis: str) -> list[FreeGraph]:
    y, deviation = torch.randn(2, y_channels, 12, 8), torch.rand(2, y_channels, 12, 8)
    x = torch.rand(2, 3, 192, 128)
    latents = {"y_hat": y, "deviation": deviation}
    graphs = [
        FreeGraph("g_a", networks.g_a, {"x": x}, "y", Z_STRIDE),
        FreeGraph("h_a", networks.h_a, {"y": y}, "z", 4),
        FreeGraph("preview", networks.preview, {"y_hat": y}, "x_hat", 4),
    ]
    if synthesis == "cuts":
        graphs.append(FreeGraph("g_s", networks.g_s_cuts, latents, "x_hat", 4))
    else:
        graphs.append(FreeGraph("g_s", networks.g_s, {"y_hat": y}, "x_hat", 4))
    if synthesis == "paper":
        graphs += [FreeGraph(role, getattr(networks, role), {"x": x}, "x_hat", Z_STRIDE) for _, role in POST_RANGES]
    return graphs


def rate_costs(
    engine: OnnxRuntimeCpu, tables: Tables, code: SigmaCode, latents: list[Latents], inputs: list[Tensor]
) -> dict[str, float]:
    """Measure what integers cost: the exact h_s against the trained one, the tables against the Gaussian."""
    costs = RateCosts(tables, code)
    for one in latents:
        costs.add_trained((one.y - one.mu).round(), one.level)
        mu, codes = (torch.from_numpy(np.asarray(t)) for t in engine.run(one.z_hat.numpy()))
        costs.add_exact((one.y - mu / MEAN_UNIT).round(), codes)
    return {
        "y_bpp": costs.tables / pixels_of(inputs),
        "exact_h_s_cost_percent": costs.exact_percent,
        "tables_cost_percent": tables_percent(costs),
    }
