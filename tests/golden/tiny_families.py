"""Tiny bundles of the other families, of the networks and tables of `tiny_bundle`; 30 to 60 kB each.

What a family has of its own (context, groups of channels, a scalable part) is made up of a few integers, so that all
of a plan is met in a small picture.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tiny_bundle import (
    CHANNELS,
    STEP,
    Y_CHANNELS,
    Z_CHANNELS,
    Node,
    add_layer,
    make_graph,
    make_graphs,
    make_hyper_synthesis,
    make_patterns,
    make_tables,
    write_bundle,
)

from runtime.entropy.context import Context
from runtime.entropy.tables import TOTAL_BITS, Tables

if TYPE_CHECKING:
    import onnx

COARSER = 3.0  # the step of deepfgs' base, in steps of its scalable part
FEATURES = 2  # of deepfgs' z of the scalable part
POOL = {"kernel_shape": [4, 4], "strides": [4, 4]}


def write_families(folder: Path) -> None:
    """Write the bundles of the golden files below *folder*: `tiny-ctc`, `tiny-progdtd`, `tiny-deepfgs`."""
    write_tiny_ctc(folder / "tiny-ctc", [3, 2])
    write_tiny_progdtd(folder / "tiny-progdtd")
    write_tiny_deepfgs(folder / "tiny-deepfgs")


# ctc: context made up of a few integers.


def write_tiny_ctc(folder: Path, segments: list[int]) -> None:
    """Write a bundle of family ctc to *folder*: the tiny networks, and context made up of a few integers."""
    graphs = {role: graph for role, graph in make_graphs().items() if role != "post_low"}
    graphs |= {"crr": _context_rate(), "cdr": _context_refinement(), "g_s": _synthesis_that_ignores_deviation()}
    tables = replace(make_tables(), context=make_context(make_tables()))
    write_bundle(folder, "tiny-ctc", "ctc", tables, graphs, {**CHANNELS, "refined": 0.0}, plan={"segments": segments})


def make_context(tables: Tables) -> Context:
    """Return context tables of three features; the grid is coarse, so that its ends are met."""
    mean, deviation = tables.mean.astype(int), tables.deviation.astype(int)
    features = np.stack([mean // 16, deviation // 8 - 20, np.abs(mean) // 32], axis=1)
    logarithms = np.log(tables.frequencies.astype(np.float64))
    ends = np.exp(np.arange(-24, 25) / 8)
    weights = np.array([(first, 1.0, last) for first in ends for last in ends])
    grid = np.floor(weights / weights.sum(axis=1, keepdims=True) * ((1 << TOTAL_BITS) - 3)).astype(np.int64) + 1
    grid[:, 1] += (1 << TOTAL_BITS) - grid.sum(axis=1)
    return Context(
        features=np.clip(features, -127, 127).astype(np.int8),
        log_odds=np.rint(64 * (logarithms[:, ::2] - logarithms[:, 1:2])).astype(np.int16),
        grid=grid.astype(np.uint32),
    )


def _context_rate() -> onnx.ModelProto:
    """Return crr: mixes features of all channels, looks around, and gives changes of either sign."""
    width, inputs = 12, 3 * Y_CHANNELS
    enter = (np.arange(width)[:, None] * 5 + np.arange(inputs)[None] * 3) % 7 - 3
    around = (np.arange(width * 9).reshape(width, 1, 3, 3) * 5) % 4
    leave = (np.arange(2 * Y_CHANNELS)[:, None] * 3 + np.arange(width)[None] * 5) % 9 - 4
    nodes: list[Node] = []
    constants: dict[str, Any] = {}
    add_layer(nodes, constants, "known", "h0", enter.reshape(width, inputs, 1, 1), 8, 2, 0, 255)
    add_layer(nodes, constants, "h0", "h1", around, 0, 3, 0, 255)
    heads = leave.reshape(2, Y_CHANNELS, width, 1, 1)
    add_layer(nodes, constants, "h1", "shift", heads[0], 0, 1, -255, 255)
    add_layer(nodes, constants, "h1", "spread", heads[1], 0, 1, -255, 255)
    return make_graph(nodes, constants, {"known": inputs}, {"shift": Y_CHANNELS, "spread": Y_CHANNELS})


def _context_refinement() -> onnx.ModelProto:
    """Return cdr: an eighth of the deviation more, as far as that is possible."""
    nodes: list[Node] = [
        ("Mul", ["deviation", "eighth"], "more", {}),
        ("Add", ["y_hat", "more"], "moved", {}),
        ("Max", ["moved", "lower"], "raised", {}),
        ("Min", ["raised", "upper"], "refined", {}),
    ]
    inputs = dict.fromkeys(("y_hat", "deviation", "lower", "upper"), Y_CHANNELS)
    return make_graph(nodes, {"eighth": np.float32(0.125)}, inputs, {"refined": Y_CHANNELS})


def _synthesis_that_ignores_deviation() -> onnx.ModelProto:
    """Return the tiny g_s with the second input that ctc gives it, which changes nothing."""
    graph = make_graphs()["g_s"]
    first = graph.graph.input[0]
    second = graph.graph.input.add()
    second.CopyFrom(first)
    second.name = "deviation"
    return graph


# progdtd: two groups of unequal size, no mu.


def write_tiny_progdtd(folder: Path) -> None:
    """Write a bundle of family progdtd to *folder*: the tiny networks, their channels in two groups."""
    graphs = {role: graph for role, graph in make_graphs().items() if role != "post_low"}
    graphs |= {"h_s": make_hyper_synthesis(with_mu=False), "preview": _preview("y_hat", [1.0])}
    settings = {**CHANNELS, "y_variance": [2.0] * Y_CHANNELS}
    plan = {"y_ends": [3, Y_CHANNELS], "z_ends": [1, Z_CHANNELS]}
    write_bundle(folder, "tiny-progdtd", "progdtd", make_tables(), graphs, settings, plan)


# deepfgs: a base three times as coarse, and what the same transform says of a picture less its base.


def write_tiny_deepfgs(folder: Path) -> None:
    """Write a bundle of family deepfgs to *folder*; it has no networks for fusion and reduction, which are optional."""
    graphs = {
        "g_a": _base_analysis(),
        "h_a": _hyper_analysis("l_b", COARSER),
        "h_s": make_hyper_synthesis(1),
        "g_a_scalable": _scalable_analysis(),
        "h_a_scalable": _hyper_analysis("l_s", 1.0),
        "h_s_scalable": _scalable_hyper_synthesis(),
        "mutual": _mutual_entropy(),
        "g_s": _synthesis("latents", [COARSER, 1.0]),
        "preview": _preview("latents", [COARSER, 1.0]),
    }
    settings = {
        "base_channels": Y_CHANNELS,
        "scalable_channels": Y_CHANNELS,
        "base_z_channels": 1,
        "scalable_z_channels": 1,
        "features": FEATURES,
        "frr": False,
        "ffm": False,
        "base_worth": COARSER**2,
        "scalable_variance": 0.5,
    }
    write_bundle(folder, "tiny-deepfgs", "deepfgs", make_tables(), graphs, settings, {"mutual": True})


def _transform(source: str, output: str) -> list[Node]:
    return [
        ("AveragePool", [source], "means", POOL),
        ("Conv", ["means", "analysis", "half"], output, {"strides": [4, 4]}),
    ]


def _base_analysis() -> onnx.ModelProto:
    analysis = STEP * make_patterns() / np.float32(COARSER)
    half = np.float32(1 / 128) - np.float32(0.5) * analysis.sum(axis=(1, 2, 3))
    constants = {"analysis": analysis, "half": half}
    return make_graph(_transform("x", "l_b"), constants, {"x": 3}, {"l_b": Y_CHANNELS})


def _scalable_analysis() -> onnx.ModelProto:
    nodes: list[Node] = [("Sub", ["x", "x_base"], "rest", {}), *_transform("rest", "l_s")]
    constants = {"analysis": STEP * make_patterns(), "half": np.full(Y_CHANNELS, 1 / 128, np.float32)}
    return make_graph(nodes, constants, {"x": 3, "x_base": 3}, {"l_s": Y_CHANNELS})


def _hyper_analysis(latent: str, factor: float) -> onnx.ModelProto:
    """Return h_a with one channel: how large the latent is around."""
    nodes: list[Node] = [
        ("Abs", [latent], "size", {}),
        ("AveragePool", ["size"], "mean", POOL),
        ("Conv", ["mean", "summary"], "z", {}),
    ]
    summary = np.full((1, Y_CHANNELS, 1, 1), 0.3 * factor, np.float32)
    return make_graph(nodes, {"summary": summary}, {latent: Y_CHANNELS}, {"z": 1})


def _scalable_hyper_synthesis() -> onnx.ModelProto:
    """Return h_s_scalable: features of either sign of z, unlike at each of the 4x4 places."""
    row = np.arange(16 * FEATURES)
    weight = np.where(row < 16, 40, -40) + row % 16
    nodes: list[Node] = []
    constants: dict[str, Any] = {}
    add_layer(nodes, constants, "z_hat", "h0", weight.reshape(-1, 1, 1, 1), 60, 0, 0, 2047)
    nodes.append(("DepthToSpace", ["h0"], "features", {"blocksize": 4, "mode": "CRD"}))
    return make_graph(nodes, constants, {"z_hat": 1}, {"features": FEATURES})


def _mutual_entropy() -> onnx.ModelProto:
    """Return mutual: mixes features and the base, looks around, and gives mu of either sign and sigma codes."""
    width, inputs = 12, FEATURES + Y_CHANNELS
    enter = (np.arange(width)[:, None] * 5 + np.arange(inputs)[None] * 3) % 7 - 3
    around = (np.arange(width * 9).reshape(width, 1, 3, 3) * 5) % 4
    mu = (np.arange(Y_CHANNELS)[:, None] * 3 + np.arange(width)[None] * 5) % 9 - 4
    sigma = (np.arange(Y_CHANNELS)[:, None] + np.arange(width)[None]) % 3
    nodes: list[Node] = []
    constants: dict[str, Any] = {}
    add_layer(nodes, constants, "side", "h0", enter.reshape(width, inputs, 1, 1), 40, 2, 0, 255)
    add_layer(nodes, constants, "h0", "h1", around, 0, 3, 0, 1023)
    add_layer(nodes, constants, "h1", "mu", mu.reshape(Y_CHANNELS, width, 1, 1), 0, 4, -32767, 32767)
    add_layer(nodes, constants, "h1", "sigma_code", sigma.reshape(Y_CHANNELS, width, 1, 1), 400, 3, 0, 1023)
    return make_graph(nodes, constants, {"side": inputs}, {"mu": Y_CHANNELS, "sigma_code": Y_CHANNELS})


def _preview(latents: str, factors: list[float]) -> onnx.ModelProto:
    """Return the picture of 4x4 means of *latents*, which are parts of Y_CHANNELS, each in steps of its factor."""
    nodes, constants = _cells(latents, factors, "x_hat")
    return make_graph(nodes, constants, {latents: Y_CHANNELS * len(factors)}, {"x_hat": 3})


def _synthesis(latents: str, factors: list[float]) -> onnx.ModelProto:
    """Return the same, at full size."""
    nodes, constants = _cells(latents, factors, "small")
    repeat = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}
    nodes.append(("Resize", ["small", "", "scales"], "x_hat", repeat))
    constants["scales"] = np.array([1, 1, 4, 4], np.float32)
    return make_graph(nodes, constants, {latents: Y_CHANNELS * len(factors)}, {"x_hat": 3})


def _cells(latents: str, factors: list[float], output: str) -> tuple[list[Node], dict[str, Any]]:
    inverse = make_patterns().reshape(Y_CHANNELS, 48).T / STEP
    synthesis = np.concatenate([np.float32(factor) * inverse for factor in factors], axis=1)[:, :, None, None]
    nodes: list[Node] = [
        ("Conv", [latents, "synthesis", "grey"], "cells", {}),
        ("DepthToSpace", ["cells"], output, {"blocksize": 4, "mode": "CRD"}),
    ]
    return nodes, {"synthesis": synthesis, "grey": np.full(48, 0.5, np.float32)}
