"""Graphs as parts of a bundle: the file, its manifest entry and its known answers."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.bundle import GraphSpec
from engines.exact_graph import read_exact_graph, surroundings
from engines.manifest import Tiling
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.tiles import everywhere
from export.bundle_writer import BundleContent
from export.graphs import PICTURE_STRIDE, FreeGraph, export_graph, known_answers
from export.integers import IntegerInput
from export.reach import reach_of
from runtime.families.hyperprior import Y_STRIDE

_PICTURE_CHANNELS = 3


def add_free_graph(content: BundleContent, graph: FreeGraph) -> None:
    """Export *graph*, with what torch makes of one small random input as its known answer."""
    file, answers = f"graphs/{graph.role}.onnx", f"kat/{graph.role}.npz"
    content.files[file] = export_graph(graph)
    generator = np.random.default_rng(0)
    # Integers keep the file small and exact.
    case: dict[str, NDArray[np.float32]] = {}
    for name, example in graph.inputs.items():
        channels = example.shape[1]
        side = 1 if everywhere(example.shape) else graph.stride if channels == _PICTURE_CHANNELS else 4
        low, high = (0, 2) if channels == _PICTURE_CHANNELS else (-3, 4)
        case[name] = generator.integers(low, high, (1, channels, side, side)).astype(np.float32)
    names = list(graph.inputs)
    ends = None
    if graph.ends is not None:
        lower, upper = graph.ends
        ends = names.index(lower), names.index(upper)
        # As they come, the one is below the other.
        case[lower], case[upper] = np.minimum(case[lower], case[upper]) - 1, np.maximum(case[lower], case[upper]) + 1
    with torch.no_grad():
        case[graph.output] = graph.network(*(torch.from_numpy(case[name]) for name in graph.inputs)).numpy()
    content.files[answers] = known_answers([case])
    widths = [example.shape[1] for example in graph.inputs.values()]
    fixed = [index for index, example in enumerate(graph.inputs.values()) if everywhere(example.shape)]
    pixels = PICTURE_STRIDE // graph.stride
    reach = reach_of(graph.network, widths, graph.stride, pixels, fixed, ends)
    tiling = None if reach is None else Tiling(pixels, graph.stride, reach)
    _enter(content, GraphSpec(graph.role, file, False, tuple(graph.inputs), (graph.output,), answers, tiling=tiling))


def add_exact_graph(
    content: BundleContent,
    role: str,
    model: onnx.ModelProto,
    proof: dict[str, float],
    given: IntegerInput,
    real: Tensor,
) -> OnnxRuntimeCpu:
    """Add an exact graph, with known answers on real, random and extreme inputs of several sizes; return its engine.

    Args:
        model: a graph that ends at the resolution of y.
        proof: log2 of every layer's largest accumulator.
        real: float32 (1, C, h, w), integers; an input as it comes, of which the proof may not cover all.
    """
    file, answers = f"graphs/{role}.onnx", f"kat/{role}.npz"
    outputs = tuple(output.name for output in model.graph.output)
    content.files[file] = model.SerializeToString(deterministic=True)
    scale, reach = surroundings(read_exact_graph(content.files[file]))
    tiling = Tiling(Y_STRIDE * scale, 1, reach)
    spec = GraphSpec(role, file, True, (given.name,), outputs, answers, proof, tiling)
    content.exact_files.append(file)
    engine = OnnxRuntimeCpu(content.files[file], spec, 1)
    generator = np.random.default_rng(0)
    bound = given.limit[None, :, None, None]
    channels = len(given.limit)
    # As it comes, too, where the proof ends: a latent may go beyond what tables can express.
    inputs = [np.clip(real[:, :, :2, :3].numpy(), -bound, bound)]
    shapes = ((1, 1), (2, 3), (3, 1))
    inputs += [np.rint(np.clip(generator.normal(0, 3, (1, channels, *s)), -bound, bound)) for s in shapes]
    inputs += [np.where(generator.random((1, channels, 2, 2)) < 0.5, -bound, bound)]
    cases = []
    for one in (values.astype(np.float32) for values in inputs):
        cases.append({given.name: one, **dict(zip(outputs, engine.run(one), strict=True))})
    content.files[answers] = known_answers(cases)
    _enter(content, spec)
    return engine


def _enter(content: BundleContent, spec: GraphSpec) -> None:
    entry = asdict(spec)
    role = entry.pop("role")
    content.graphs[role] = {k: list(v) if isinstance(v, tuple) else v for k, v in entry.items() if v is not None}
