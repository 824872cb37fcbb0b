"""progdtd: tables, exact h_s and free graphs from trained networks, and what integers cost in rate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engines.onnxruntime_cpu import OnnxRuntimeCpu
from export.bundle_writer import BundleContent
from export.exact_h_s import exact_h_s, sigma_code_of, tables_for
from export.families.content import add_exact_graph, add_free_graph
from export.families.measure import RateCosts, measured_errors, pixels_of, tables_percent
from export.graphs import FreeGraph
from export.training.config import TrainingSettings
from export.training.pictures import cropped
from export.training.progdtd import Latents, ProgDtd, keep_channels
from runtime.entropy.tables import Tables
from runtime.families.hyperprior import Z_STRIDE
from runtime.model import TABLES


def export_progdtd(networks: ProgDtd, settings: TrainingSettings, pictures: list[Tensor], _: str) -> BundleContent:
    """Return the content of a bundle.

    Args:
        pictures: uint8 (3, H, W); activation ranges and the cost of integers are measured on them.
    """
    inputs = [cropped(p, Z_STRIDE) for p in pictures]
    with torch.no_grad():
        latents = [networks.analyse(x) for x in inputs]
    tables = tables_for(networks.h_s, networks.prior)
    y_channels, z_channels = latents[0].y.shape[1], latents[0].z_hat.shape[1]
    # One picture in two is not calibrated on: those measure.
    calibration, measuring = latents[::2], latents[1::2]
    content = BundleContent(
        settings={
            "y_channels": y_channels,
            "z_channels": z_channels,
            "y_variance": [float(f"{v:.4g}") for v in _variance(calibration)],
            "value_gain": 1.0,
            "preview_share": 1.0,
        },
        plan={"y_ends": networks.y_ends, "z_ends": networks.z_ends},
        files={TABLES: tables.to_bytes()},
        exact_files=[TABLES],
    )
    samples = [keep_channels(one.z_hat, end) for one in calibration for _, end in networks.groups()]
    h_s, proof, given = exact_h_s(networks.h_s, tables, (), samples)
    engine = add_exact_graph(content, "h_s", h_s, proof, given, latents[0].z_hat)
    y, x = torch.randn(2, y_channels, 12, 8), torch.rand(2, 3, 192, 128)
    for graph in (
        FreeGraph("g_a", networks.g_a, {"x": x}, "y", Z_STRIDE),
        FreeGraph("h_a", networks.h_a, {"y": y}, "z", 4),
        FreeGraph("g_s", networks.g_s, {"y_hat": y}, "x_hat", 4),
        FreeGraph("preview", networks.preview, {"y_hat": y}, "x_hat", 4),
    ):
        add_free_graph(content, graph)
    content.measured = _rate_costs(networks, engine, tables, measuring, inputs[1::2])
    content.settings |= measured_errors(content, settings, pictures[1::4])
    return content


def _variance(latents: list[Latents]) -> Tensor:
    """Return the mean square of every channel of y, (C,), over all pictures' elements."""
    squares = torch.stack([one.y.double().square().sum(dim=(0, 2, 3)) for one in latents]).sum(dim=0)
    elements = sum(one.y.shape[0] * one.y.shape[2] * one.y.shape[3] for one in latents)
    return squares / elements


def _rate_costs(
    networks: ProgDtd, engine: OnnxRuntimeCpu, tables: Tables, latents: list[Latents], inputs: list[Tensor]
) -> dict[str, float]:
    """Measure what integers cost: the exact h_s against the trained one, the tables against the Gaussian."""
    costs = RateCosts(tables, sigma_code_of(networks.h_s))
    for one in latents:
        symbols = one.y.round()
        with torch.no_grad():
            costs.add_trained(symbols, networks.grouped_level(one.z_hat))
        for channels, z_end in networks.groups():
            (codes,) = engine.run(keep_channels(one.z_hat, z_end).numpy())
            costs.add_exact(symbols[:, channels], torch.from_numpy(np.asarray(codes))[:, channels])
    return {
        "y_bpp": costs.tables / pixels_of(inputs),
        "exact_h_s_cost_percent": costs.exact_percent,
        "tables_cost_percent": tables_percent(costs),
    }


def shipped_roles(_: ProgDtd, synthesis: str) -> set[str]:
    """Return the roles whose weights are in a bundle; there is one decoder."""
    return {"g_a", "g_s", "h_a", "h_s", "prior", "preview"}
