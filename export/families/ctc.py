"""ctc: tables with context, exact h_s and crr, free graphs; what context saves and what integers cost in rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.tiles import Source
from export.bundle_writer import BundleContent
from export.context import FEATURE_LIMITS, with_context
from export.exact_h_s import sigma_code_of
from export.families.content import add_exact_graph, add_free_graph
from export.families.dpict import add_h_s, rate_costs
from export.families.measure import measured_errors, step_bits
from export.graphs import FreeGraph
from export.integers import Head, IntegerInput, integer_graph
from export.tables import make_tables
from export.training.config import TrainingSettings
from export.training.ctc import ContextTables, Ctc
from export.training.dpict import Latents
from export.training.pictures import cropped
from runtime.entropy.context import CHANGE_LIMIT, CHANGE_UNIT, FEATURE_BITS
from runtime.entropy.plan import Field
from runtime.entropy.tables import MEAN_UNIT, MOST_TRITS, Tables
from runtime.errors import UsageError
from runtime.families import ctc
from runtime.families.base import RunGraph
from runtime.families.hyperprior import CODES, Z_STRIDE
from runtime.model import TABLES

_HEADS = tuple(Head(name, CHANGE_UNIT, -CHANGE_LIMIT, CHANGE_LIMIT) for name in ("shift", "spread"))


def export_ctc(networks: Ctc, settings: TrainingSettings, pictures: list[Tensor], _: str) -> BundleContent:
    """Return the content of a bundle.

    What the options leave out is not in it: crr without segments, cdr if it would never run.

    Args:
        pictures: uint8 (3, H, W); activation ranges and rates are measured on them.
    """
    if lacking := shipped_roles(networks, "cuts") & networks.absent:
        raise UsageError(f"these weights are without {', '.join(sorted(lacking))}: train its stage first")
    inputs = [cropped(p, Z_STRIDE) for p in pictures]
    with torch.no_grad():
        latents = [networks.analyse(x) for x in inputs]
    options = networks.options
    tables = make_tables(networks.prior)
    if options.segments:
        tables = with_context(tables)
    y_channels = latents[0].y.shape[1]
    content = BundleContent(
        settings={
            "y_channels": y_channels,
            "z_channels": latents[0].z_hat.shape[1],
            "refined": options.refined,
            "value_gain": 1.0,
            "preview_share": 1.0,
        },
        plan={"segments": list(options.segments)},
        files={TABLES: tables.to_bytes()},
        exact_files=[TABLES],
    )
    # One picture in two is not calibrated on: those measure.
    calibration, measuring = latents[::2], latents[1::2]
    h_s = add_h_s(content, networks, tables, calibration)
    y, deviation = torch.randn(2, y_channels, 12, 8), torch.rand(2, y_channels, 12, 8)
    x = torch.rand(2, 3, 192, 128)
    known = {"y_hat": y, "deviation": deviation}
    for graph in (
        FreeGraph("g_a", networks.g_a, {"x": x}, "y", Z_STRIDE),
        FreeGraph("h_a", networks.h_a, {"y": y}, "z", 4),
        FreeGraph("g_s", networks.g_s_cuts, known, "x_hat", 4),
        FreeGraph("preview", networks.preview, {"y_hat": y}, "x_hat", 4),
    ):
        add_free_graph(content, graph)
    if options.refined <= MOST_TRITS:
        between = {"lower": y - deviation, "upper": y + 2 * deviation}
        add_free_graph(content, FreeGraph("cdr", networks.cdr, known | between, "refined", 4, ("lower", "upper")))
    content.measured = rate_costs(h_s, tables, sigma_code_of(networks.h_s), measuring, inputs[1::2])
    if options.segments:
        crr = _add_crr(content, networks, tables, calibration)
        content.measured |= _context_savings(content, networks, tables, (h_s, crr), measuring)
    content.settings |= measured_errors(content, settings, pictures[1::4])
    return content


def shipped_roles(networks: Ctc, synthesis: str) -> set[str]:
    """Return the roles whose weights are in a bundle; there is one decoder."""
    options = networks.options
    always = {"g_a", "h_a", "h_s", "prior", "g_s_cuts", "preview"}
    return always | ({"crr"} if options.segments else set()) | ({"cdr"} if options.refined <= MOST_TRITS else set())


def _add_crr(content: BundleContent, networks: Ctc, tables: Tables, calibration: list[Latents]) -> OnnxRuntimeCpu:
    """Add crr as an exact graph, calibrated at the beginning of every plane with context; return its engine."""
    on_device = ContextTables(tables, torch.device("cpu"))
    samples = [
        on_device.seen(on_device.known(one.y, one.mu, one.level, float(place)))
        for one in calibration
        for place in range(1, len(networks.options.segments) + 1)
    ]
    channels = calibration[0].y.shape[1]
    limit = np.repeat(np.array(FEATURE_LIMITS, np.float64), channels)
    given = IntegerInput("known", np.full(len(limit), FEATURE_BITS, np.int64), limit)
    crr, proof = integer_graph("crr", networks.crr, given, _HEADS, samples)
    return add_exact_graph(content, "crr", crr, proof, given, samples[0] * 2**FEATURE_BITS)


def _context_savings(
    content: BundleContent,
    networks: Ctc,
    tables: Tables,
    engines: tuple[OnnxRuntimeCpu, OnnxRuntimeCpu],
    latents: list[Latents],
) -> dict[str, float]:
    """Measure what crr saves of each plane's bits, and what its integers cost against the trained network."""
    h_s, crr = engines

    def exact(_: str, known: Source) -> Sequence[np.ndarray]:
        return crr.run(np.asarray(known))

    def trained(_: str, known: Source) -> Sequence[np.ndarray]:
        with torch.no_grad():
            changes = networks.crr(torch.from_numpy(np.asarray(known)) / 2**FEATURE_BITS)
        return [(CHANGE_UNIT * t).round().clamp(-CHANGE_LIMIT, CHANGE_LIMIT).numpy() for t in changes]

    own, with_exact, with_trained = (
        np.sum([_bits_by_place(content, tables, run, h_s, one, rows=rows) for one in latents], axis=0)
        for run, rows in ((exact, False), (exact, True), (trained, True))
    )
    planes = {
        f"context_saves_percent_of_plane_{place}": 100 * (1 - float(with_exact[place] / own[place]))
        for place in range(1, len(networks.options.segments) + 1)
        if own[place]
    }
    return planes | {
        "context_saves_percent": 100 * (1 - float(with_exact.sum() / own.sum())),
        "exact_crr_cost_percent": 100 * (float(with_exact.sum() / with_trained.sum()) - 1),
    }


def _bits_by_place(
    content: BundleContent, tables: Tables, run: RunGraph, h_s: OnnxRuntimeCpu, one: Latents, *, rows: bool
) -> np.ndarray:
    """Return the bits of every place's trits, float64 (places,): with context, or by the rows of their nodes."""
    family = ctc.Ctc(content.settings | content.plan, tables, run)
    mu, codes = (np.asarray(t) for t in h_s.run(one.z_hat.numpy()))
    levels = tables.level_of_code(CODES)[codes.reshape(-1).astype(np.int32)]
    symbols = np.rint(one.y.numpy() - mu / MEAN_UNIT).astype(np.int32)
    bits = np.zeros(MOST_TRITS + 1)
    for step in family.steps(Field(levels, tables, symbols.reshape(-1)), symbols.shape[1:]):
        if not rows:
            step.rows = step.nodes
        bits[step.place] += step_bits(step, tables)
        step.receive(step.trits())
    return bits
