"""The tiny bundle of the golden files: family dpict with hand-made networks and tables, 40 kB in all.

The networks are a block transform: means of 4x4 pixels, and eight orthogonal patterns of 4x4 such means, so that
pictures look as they should, if coarse. Tables and the exact graph come from integer arithmetic and are the same on
every machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines.bundle import MANIFEST, SCHEMA, bundle_hash, exact_id
from runtime.entropy.tables import MEAN_UNIT, TOTAL_BITS, Tables

if TYPE_CHECKING:
    import onnx

Node = tuple[str, list[str], str, dict[str, Any]]  # operator, inputs, output, attributes

Y_CHANNELS, Z_CHANNELS = 8, 2
CHANNELS = {"y_channels": Y_CHANNELS, "z_channels": Z_CHANNELS}
Y_DECAYS = ((0, 1, 9), (1, 1, 9), (2, 1, 3), (2, 3, 5), (3, 4, 5), (4, 9, 10))  # trits; mass(k) = (a/b)^|k|
Z_DECAYS = ((3, 3, 4), (3, 2, 3))
THRESHOLDS = (100, 200, 320, 450, 600)
OPSET, IR_VERSION = 18, 10
EXACT_ROLES = ("h_s", "crr", "h_s_scalable", "mutual")


# Tables.


def make_tables() -> Tables:
    """Return the tiny bundle's tables: two-sided geometric distributions in exact arithmetic."""
    models = [(trits, _masses(trits, a, b)) for trits, a, b in (*Y_DECAYS, *Z_DECAYS)]
    inner_total = sum((3**trits - 1) // 2 for trits, _ in models)
    inner: list[tuple[int, list[int], int, int, int]] = []  # first child, frequencies, priority, mean, deviation
    leaf_means: list[int] = []
    roots = []
    for trits, masses in models:
        roots.append(len(inner) if trits else inner_total + len(leaf_means))
        for depth in range(trits):
            width = 3 ** (trits - depth)
            # Children of this depth's nodes: behind them if inner nodes, else among the leaves.
            base = len(inner) + 3**depth if depth + 1 < trits else inner_total + len(leaf_means)
            for node in range(3**depth):
                inside = masses[node * width : (node + 1) * width]
                inner.append((base + 3 * node, *_row(inside)))
        leaf_means += [MEAN_UNIT * symbol for symbol, _ in masses]
    columns = list(zip(*inner, strict=True))
    zeros = [0] * len(leaf_means)
    return Tables(
        trits=np.array([trits for trits, _ in models], np.uint8),
        root=np.array(roots, np.int32),
        first_child=np.array(columns[0], np.int32),
        frequencies=np.array(columns[1], np.uint32),
        priority=np.array(columns[2], np.int16),
        mean=np.array([*columns[3], *leaf_means], np.int16),
        deviation=np.array([*columns[4], *zeros], np.uint16),
        sigma_thresholds=np.array(THRESHOLDS, np.int32),
    )


def _masses(trits: int, a: int, b: int) -> list[tuple[int, int]]:
    """Return (symbol, mass) in order; masses are integers of at least 1."""
    largest = (3**trits - 1) // 2
    return [(k, max(1, (1 << 60) * a ** abs(k) // b ** abs(k))) for k in range(-largest, largest + 1)]


def _row(inside: list[tuple[int, int]]) -> tuple[list[int], int, int, int]:
    """Return frequencies, priority, mean and deviation of the node with the symbols *inside*."""
    third = len(inside) // 3
    parts = [inside[i * third : (i + 1) * third] for i in range(3)]
    mass, first, second = _moments(inside)
    shares = [Fraction(_moments(part)[0], mass) for part in parts]
    total = 1 << TOTAL_BITS
    frequencies = [math.floor(share * (total - 3)) + 1 for share in shares]
    frequencies[frequencies.index(max(frequencies))] += total - sum(frequencies)
    error = second - Fraction(first * first, mass)
    left = sum(s - Fraction(f * f, m) for m, f, s in map(_moments, parts))
    bits = -sum(float(share) * math.log2(share) for share in shares)
    fall = float((error - left) / mass)
    mean = math.floor(MEAN_UNIT * Fraction(first, mass) + Fraction(1, 2))
    deviation = (math.isqrt(math.floor(4 * MEAN_UNIT**2 * error / mass)) + 1) // 2
    return frequencies, round(64 * math.log2(fall / bits)), mean, deviation


def _moments(inside: list[tuple[int, int]]) -> tuple[int, int, int]:
    return sum(m for _, m in inside), sum(k * m for k, m in inside), sum(k * k * m for k, m in inside)


# Networks: 4x4 means in blocks of 16x16, eight patterns per block.


def make_patterns() -> NDArray[np.float32]:
    """float32 (8, 3, 4, 4): orthogonal patterns of a block's 4x4 means; six of luma, two of colour."""
    flat, ramp, bend = np.ones(4), np.array([-3, -1, 1, 3]) / 3, np.array([1, -1, -1, 1.0])
    luma, blue, red = np.array([1, 1, 1.0]), np.array([-1, -1, 2]), np.array([1, -1, 0.0])
    shapes = [(luma, flat, flat), (luma, flat, ramp), (luma, ramp, flat), (luma, ramp, ramp), (luma, flat, bend)]
    shapes += [(luma, bend, flat), (blue, flat, flat), (red, flat, flat)]
    patterns = np.stack([np.einsum("c,y,x->cyx", *shape) for shape in shapes])
    return (patterns / np.sqrt(np.square(patterns).sum(axis=(1, 2, 3), keepdims=True))).astype(np.float32)


STEP = np.float32(8.0)  # latents per unit of a pattern's amplitude


def make_graphs() -> dict[str, onnx.ModelProto]:
    """Return the tiny bundle's networks by role."""
    patterns = make_patterns()
    analysis, synthesis = STEP * patterns, patterns.reshape(Y_CHANNELS, 48).T.reshape(48, Y_CHANNELS, 1, 1) / STEP
    # An odd 128th keeps patterns that a picture does not have from rounding either way.
    half = np.float32(1 / 128) - np.float32(0.5) * analysis.sum(axis=(1, 2, 3))
    summary = np.zeros((Z_CHANNELS, Y_CHANNELS, 1, 1), np.float32)
    summary[0, 0], summary[1, 1:] = 0.6, 0.5
    small = [
        ("Conv", ["y_hat", "synthesis", "grey"], "cells", {}),
        ("DepthToSpace", ["cells"], "small", {"blocksize": 4, "mode": "CRD"}),
    ]
    large = [
        (
            "Resize",
            ["small", "", "scales"],
            "x_hat",
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
        )
    ]
    decoder = {"synthesis": synthesis, "grey": np.full(48, 0.5, np.float32)}
    pool = {"kernel_shape": [4, 4], "strides": [4, 4]}
    smooth = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 0}
    return {
        "g_a": make_graph(
            [
                ("AveragePool", ["x"], "means", pool),
                ("Conv", ["means", "analysis", "half"], "y", {"strides": [4, 4]}),
            ],
            {"analysis": analysis, "half": half},
            {"x": 3},
            {"y": Y_CHANNELS},
        ),
        "h_a": make_graph(
            [
                ("Abs", ["y"], "size", {}),
                ("AveragePool", ["size"], "mean", pool),
                ("Conv", ["mean", "summary"], "z", {}),
            ],
            {"summary": summary},
            {"y": Y_CHANNELS},
            {"z": Z_CHANNELS},
        ),
        "h_s": make_hyper_synthesis(),
        "g_s": make_graph(
            small + large,
            decoder | {"scales": np.array([1, 1, 4, 4], np.float32)},
            {"y_hat": Y_CHANNELS},
            {"x_hat": 3},
        ),
        "preview": make_graph(
            [(op, inputs, {"small": "x_hat"}.get(output, output), options) for op, inputs, output, options in small],
            decoder,
            {"y_hat": Y_CHANNELS, "deviation": Y_CHANNELS},
            {"x_hat": 3},
        ),
        "post_low": make_graph([("AveragePool", ["x"], "x_hat", smooth)], {}, {"x": 3}, {"x_hat": 3}),
    }


def make_hyper_synthesis(z_channels: int = Z_CHANNELS, *, with_mu: bool = True) -> onnx.ModelProto:
    """Return the exact graph: integers in float32, all sums far below 2^24."""
    row, column = np.arange(128)[:, None], np.arange(z_channels)[None]
    first = np.where(column == (row >= 16), 60, 5) + (row * 5 + column * 3) % 11  # the first channel follows z's first
    second = np.eye(Y_CHANNELS) * 7 + (np.arange(8)[:, None] + np.arange(8)[None]) % 8 // 7
    mu = (np.arange(8)[:, None] * 7 + np.arange(8)[None] * 3) % 9 - 4
    nodes: list[Node] = []
    constants: dict[str, Any] = {}

    def layer(source: str, output: str, weight: NDArray[Any], bias: int, shift: int, low: int, high: int) -> None:
        add_layer(nodes, constants, source, output, weight.reshape(*weight.shape, 1, 1), bias, shift, low, high)

    layer("z_hat", "h0", first, 0, 0, 0, 4095)
    nodes.append(("DepthToSpace", ["h0"], "h1", {"blocksize": 4, "mode": "CRD"}))
    if with_mu:
        layer("h1", "mu", mu, 0, 6, -32767, 32767)
    layer("h1", "sigma_code", second, 700, 3, 0, 1023)
    outputs = ("mu", "sigma_code") if with_mu else ("sigma_code",)
    return make_graph(nodes, constants, {"z_hat": z_channels}, dict.fromkeys(outputs, Y_CHANNELS))


def add_layer(
    nodes: list[Node],
    constants: dict[str, Any],
    source: str,
    output: str,
    weight: NDArray[Any],
    bias: int,
    shift: int,
    low: int,
    high: int,
) -> None:
    """Append an exact layer; *weight* (out, in / groups, k, k) is depthwise if its second size is 1 and k is 3."""
    kernel = weight.shape[2]
    constants[f"{output}.weight"] = weight.astype(np.float32)
    constants[f"{output}.bias"] = np.full(len(weight), bias + (1 << shift) // 2, np.float32)
    constants[f"{output}.scale"] = np.float32(2.0**-shift)
    constants[f"{output}.low"], constants[f"{output}.high"] = np.float32(low), np.float32(high)
    spatial = {"pads": [1] * 4, "group": len(weight)} if kernel == 3 else {}
    nodes.extend(
        [
            ("Conv", [source, f"{output}.weight", f"{output}.bias"], f"{output}.sum", spatial),
            ("Round", [f"{output}.sum"], f"{output}.whole", {}),
            ("Mul", [f"{output}.whole", f"{output}.scale"], f"{output}.scaled", {}),
            ("Floor", [f"{output}.scaled"], f"{output}.floor", {}),
            ("Clip", [f"{output}.floor", f"{output}.low", f"{output}.high"], output, {}),
        ]
    )


def make_graph(
    nodes: list[Node],
    constants: dict[str, Any],
    inputs: dict[str, int],
    outputs: dict[str, int],
) -> onnx.ModelProto:
    """Return a graph of float32 tensors; *inputs* and *outputs* say how many channels each has."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def tensors(channels: dict[str, int]) -> list[onnx.ValueInfoProto]:
        # Names of free sizes: unique for each tensor, as only the channels are fixed.
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", count, f"{name}_height", f"{name}_width"])
            for name, count in channels.items()
        ]

    graph = helper.make_graph(
        [helper.make_node(op, sources, [output], **options) for op, sources, output, options in nodes],
        "tiny",
        tensors(inputs),
        tensors(outputs),
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = ""
    onnx.checker.check_model(model, full_check=True)
    return model


# Bundle.


def write_tiny(folder: Path) -> None:
    """Write the tiny bundle to *folder*."""
    settings = {**CHANNELS, "deviation_input": False, "post": [[1.5, "post_low"]]}
    write_bundle(folder, "tiny", "dpict", make_tables(), make_graphs(), settings)


def write_bundle(
    folder: Path,
    name: str,
    family: str,
    tables: Tables,
    models: dict[str, onnx.ModelProto],
    settings: dict[str, Any],
    plan: dict[str, Any] | None = None,
) -> None:
    """Write a bundle of *models*, by role, to *folder*; *plan* is what its exact file plan.json says."""
    files = {"tables/entropy.npz": tables.to_bytes()}
    if plan is not None:
        files["plan.json"] = json.dumps(plan).encode()
    graphs: dict[str, dict[str, Any]] = {}
    for role, model in models.items():
        content = model.SerializeToString(deterministic=True)
        file, answers = f"graphs/{role}.onnx", f"kat/{role}.npz"
        files[file], files[answers] = content, _known_answers(model, content)
        graphs[role] = {
            "file": file,
            "exact": role in EXACT_ROLES,
            "inputs": [one.name for one in model.graph.input],
            "outputs": [one.name for one in model.graph.output],
            "known_answers": answers,
        }
    exact = [entry["file"] for entry in graphs.values() if entry["exact"]]
    exact += [path for path in files if path in ("plan.json", "tables/entropy.npz")]
    manifest = {
        "schema": SCHEMA,
        "name": name,
        "version": "1",
        "family": family,
        "exact_id": exact_id({path: files[path] for path in exact}).hex(),
        "bundle_hash": bundle_hash(files),
        "settings": {
            **settings,
            "preview_share": 0.1,
            "value_gain": (255 / float(STEP)) ** 2 * 16,  # a mean stands for 16 pixels
        },
        "graphs": graphs,
        "exact_files": sorted(exact),
        "files": [
            {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for path, content in sorted(files.items())
        ],
    }
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _known_answers(model: onnx.ModelProto, content: bytes) -> bytes:
    """Return one case of integer inputs and what ONNX Runtime makes of them."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    case: dict[str, NDArray[Any]] = {}
    for one in model.graph.input:
        channels = one.type.tensor_type.shape.dim[1].dim_value
        side = 64 if channels == 3 else 8
        values = np.arange(channels * side * side).reshape(1, channels, side, side) * 37 % 23
        case[one.name] = (values % 2 if channels == 3 else values - 11).astype(np.float32)
    outputs = [one.name for one in model.graph.output]
    case.update(zip(outputs, session.run(outputs, case), strict=True))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, cases=np.int32(1), **{f"0.{k}": v for k, v in case.items()})
    return buffer.getvalue()
