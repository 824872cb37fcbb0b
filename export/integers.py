"""h_s as an exact integer graph: integers carried in float32, the same bits on every machine.

Each convolution becomes

    Conv (integer weights) -> Round -> Mul by a power of two per channel -> Floor -> Clip

All accumulators stay below 2^24, where float32 holds every integer, so the order of additions does not matter, nor do
engine and number of threads. Round is a no-op then; it heals engines whose convolution is not a plain sum.

Scales are powers of two per channel, folded into the next layer's weights: see `_quantise`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export.networks.blocks import DepthToSpace
from export.networks.edge import HIDDEN_LIMIT
from export.tables import CODE_UNIT
from runtime.entropy.tables import MEAN_UNIT

OPSET = 18
ACCUMULATOR = 2**24
ACTIVATION_BITS = 12
LARGEST_WEIGHT = 2**11 - 1  # integers up to 2^11 are exact in every reduced-precision multiplier
MU_LIMIT = 2**15 - 1
CODE_LIMIT = 2**10 - 1
Z_LIMIT = 364  # what the z tables can express


@dataclass(frozen=True)
class IntegerLayer:
    """One convolution in integers: out = clip(floor(conv(x, weight, bias) * 2^-shift), low, high).

    Attributes:
        weight: float64 (out, in / groups, k, k), integers.
        bias: float64 (out,), integers; half a unit of the result is in it, so that the floor rounds.
        shift: int (out,).
        accumulator: largest magnitude that any channel's sum can reach, by weights and input range.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    shift: NDArray[np.int64]
    groups: int
    low: int
    high: int
    accumulator: float


def integer_graph(h_s: nn.Module, z_hat: list[Tensor]) -> tuple[onnx.ModelProto, dict[str, float]]:
    """Return h_s as an exact ONNX graph, and its proof.

    Args:
        h_s: a network with `layers` of 1x1 and depthwise convolutions and DepthToSpace, as `edge.HyperSynthesis`.
        z_hat: float32 (1, C, h, w) each, integers: what activation ranges are measured on.

    Returns:
        A graph from z_hat (1, C, h, w) to mu in units of 1/64 and sigma_code in units of 1/16 level, and log2 of every
        layer's largest accumulator by name.
    """
    layers: list[Any] = list(cast(nn.ModuleList, h_s.layers))
    largest = _measured_ranges(layers, z_hat)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, NDArray[np.float32]] = {}
    proof = {}
    first = layers[0]
    exponent = np.zeros(first.in_channels, np.int64)  # x_integer = x * 2^exponent, per channel
    limit = np.full(first.in_channels, float(Z_LIMIT))
    name = "z_hat"
    for index, layer in enumerate(layers):
        if isinstance(layer, DepthToSpace):
            out = f"h{index}"
            nodes.append(helper.make_node("DepthToSpace", [name], [out], blocksize=layer.size, mode="CRD"))
            exponent, limit = exponent[:: layer.size**2], limit[:: layer.size**2]
            name = out
            continue
        weight = layer.weight.detach().double().numpy()
        bias = layer.bias.detach().double().numpy()
        if index + 1 < len(layers):
            shared = layers[index + 1].size ** 2 if isinstance(layers[index + 1], DepthToSpace) else 1
            target = _activation_exponents(largest[index], shared)
            integer = _quantise(weight, bias, layer.groups, exponent, limit, target, 0, 2**ACTIVATION_BITS - 1)
            name = _append(nodes, constants, integer, name, f"h{index}")
            exponent, limit = target, np.full(len(target), float(integer.high))
            proof[f"h{index}"] = math.log2(integer.accumulator)
        else:
            half = len(weight) // 2
            for part, (output, unit, low, high) in enumerate(
                (("mu", MEAN_UNIT, -MU_LIMIT, MU_LIMIT), ("sigma_code", CODE_UNIT, 0, CODE_LIMIT))
            ):
                rows = slice(part * half, (part + 1) * half)
                target = np.full(half, round(math.log2(unit)))
                integer = _quantise(weight[rows], bias[rows], 1, exponent, limit, target, low, high)
                _append(nodes, constants, integer, name, output)
                proof[output] = math.log2(integer.accumulator)
    model = _model(nodes, constants, first.in_channels, half)
    return model, proof


def _measured_ranges(layers: list[Any], z_hat: list[Tensor]) -> dict[int, NDArray[np.float64]]:
    """Return the largest activation of every hidden convolution, per channel."""
    largest: dict[int, NDArray[np.float64]] = {}
    with torch.no_grad():
        for z in z_hat:
            h = z
            for index, layer in enumerate(layers[:-1]):
                h = layer(h)
                if isinstance(layer, nn.Conv2d):
                    h = h.clamp(0.0, HIDDEN_LIMIT)
                    found = h.amax(dim=(0, 2, 3)).double().numpy()
                    largest[index] = np.maximum(largest.get(index, np.zeros_like(found)), found)
    return largest


def _activation_exponents(largest: NDArray[np.float64], shared: int) -> NDArray[np.int64]:
    """Return the exponent per channel at which *largest* just fits; channels that DepthToSpace joins share one."""
    joined = np.repeat(largest.reshape(-1, shared).max(axis=1), shared)
    # A quarter above what was seen, but never above what the clamp lets through.
    room = np.minimum(np.maximum(joined * 1.25, HIDDEN_LIMIT / 64), HIDDEN_LIMIT)
    exponents: NDArray[np.int64] = np.floor(np.log2((2**ACTIVATION_BITS - 1) / room) + 1e-3).astype(np.int64)
    return exponents


def _quantise(
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    groups: int,
    exponent: NDArray[np.int64],
    limit: NDArray[np.float64],
    target: NDArray[np.int64],
    low: int,
    high: int,
) -> IntegerLayer:
    """Round a layer's weights to integers, each output channel as finely as its accumulator allows.

    Args:
        exponent, limit: per input channel; integers x * 2^exponent of magnitude at most *limit* come in.
        target: per output channel; the exponent of what goes out.
    """
    per_output = np.broadcast_to(exponent[None, :], (len(weight), len(exponent))) if groups == 1 else exponent[:, None]
    bounds = np.broadcast_to(limit[None, :], (len(weight), len(limit))) if groups == 1 else limit[:, None]
    folded = weight * 2.0 ** -per_output[:, :, None, None]
    fine = np.zeros(len(weight), np.int64)
    integer_weight, integer_bias = np.zeros_like(folded), np.zeros_like(bias)
    reach = np.zeros(len(weight))
    for channel in range(len(weight)):
        scale = 40  # bits below the point; lowered until weights and sums fit
        while True:
            w = np.rint(folded[channel] * 2.0**scale)
            b = np.rint(bias[channel] * 2.0**scale) + np.floor(2.0 ** (scale - target[channel] - 1))
            sums = (np.abs(w) * bounds[channel][:, None, None]).sum() + abs(b)
            if np.abs(w).max() <= LARGEST_WEIGHT and sums < ACCUMULATOR:
                break
            scale -= 1
        fine[channel], integer_weight[channel], integer_bias[channel], reach[channel] = scale, w, b, sums
    return IntegerLayer(integer_weight, integer_bias, fine - target, groups, low, high, float(reach.max()))


def _append(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.float32]],
    layer: IntegerLayer,
    source: str,
    name: str,
) -> str:
    """Append the nodes of *layer*; return the name of its output."""
    kernel = layer.weight.shape[2]
    constants[f"{name}.weight"] = layer.weight.astype(np.float32)
    constants[f"{name}.bias"] = layer.bias.astype(np.float32)
    constants[f"{name}.scale"] = (2.0 ** -layer.shift.astype(np.float64)).astype(np.float32).reshape(1, -1, 1, 1)
    constants[f"{name}.low"] = np.array(layer.low, np.float32)
    constants[f"{name}.high"] = np.array(layer.high, np.float32)
    pads = [kernel // 2] * 4
    nodes += [
        helper.make_node(
            "Conv",
            [source, f"{name}.weight", f"{name}.bias"],
            [f"{name}.sum"],
            kernel_shape=[kernel] * 2,
            pads=pads,
            group=layer.groups,
        ),
        helper.make_node("Round", [f"{name}.sum"], [f"{name}.whole"]),
        helper.make_node("Mul", [f"{name}.whole", f"{name}.scale"], [f"{name}.scaled"]),
        helper.make_node("Floor", [f"{name}.scaled"], [f"{name}.floor"]),
        helper.make_node("Clip", [f"{name}.floor", f"{name}.low", f"{name}.high"], [name]),
    ]
    return name


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.float32]], z_channels: int, y_channels: int
) -> onnx.ModelProto:
    def tensor(name: str, channels: int, scale: str) -> onnx.ValueInfoProto:
        shape: list[str | int | None] = [1, channels, f"height{scale}", f"width{scale}"]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "h_s",
        [tensor("z_hat", z_channels, "64")],
        [tensor("mu", y_channels, "16"), tensor("sigma_code", y_channels, "16")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model
