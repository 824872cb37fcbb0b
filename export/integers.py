"""Exact integer graphs: integers carried in float32, the same bits on every machine.

Each convolution becomes

    Conv (integer weights) -> Round -> Mul by a power of two per channel -> Floor -> Clip

All accumulators stay below 2^24, where float32 holds every integer, so the order of additions does not matter, nor do
engine and number of threads. Round is a no-op then; it heals engines whose convolution is not a plain sum.

Scales are powers of two per channel, folded into the next layer's weights: see `_quantise`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from export.finite import require_finite
from export.networks.blocks import DepthToSpace
from export.networks.edge import HIDDEN_LIMIT
from export.tables import CODE_UNIT
from runtime.entropy.tables import MEAN_UNIT

OPSET = 18
ACCUMULATOR = 2**24
ACTIVATION_BITS = 12
LARGEST_WEIGHT = 2**11 - 1  # exact in the multipliers of FP16 and TF32, which hold 2^11; not in those of bfloat16: 2^8
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


@dataclass(frozen=True)
class Head:
    """One output of an exact graph: a slice of the last layer's channels, in integers of 1 / *unit*, clipped."""

    name: str
    unit: int
    low: int
    high: int


MU = Head("mu", MEAN_UNIT, -MU_LIMIT, MU_LIMIT)
SIGMA_CODE = Head("sigma_code", CODE_UNIT, 0, CODE_LIMIT)


@dataclass(frozen=True)
class IntegerInput:
    """What comes into an exact graph, per channel: integers x * 2^exponent of magnitude at most limit."""

    name: str
    exponent: NDArray[np.int64]
    limit: NDArray[np.float64]


def z_input(channels: int) -> IntegerInput:
    """Return the input of an h_s: z itself, as far as tables can express it."""
    return IntegerInput("z_hat", np.zeros(channels, np.int64), np.full(channels, float(Z_LIMIT)))


def integer_graph(
    role: str, network: nn.Module, given: IntegerInput, heads: Sequence[Head], samples: list[Tensor]
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """Return a network that is a chain of layers as an exact ONNX graph, and its proof.

    Args:
        network: has `layers`, as `edge.HyperSynthesis`: 1x1 and depthwise convolutions, each but the last followed by
            a clamp to 0..HIDDEN_LIMIT, and DepthToSpace.
        heads: how the last layer's channels divide, in equal parts.
        samples: float32 (1, C, h, w) each, as the trained layers take them: what activation ranges are measured on.

    Returns:
        The graph from *given* (1, C, h, w) to the heads, and log2 of every layer's largest accumulator by name.

    Raises:
        UsageError: weights, or activations that were measured, are not finite.
    """
    require_finite(f"weights of {role}", network.state_dict())
    chain: list[Any] = list(cast(nn.ModuleList, network.layers))
    largest = _measured_ranges(chain, samples)
    require_finite(f"activations of {role}", {f"layer {index}": values for index, values in largest.items()})
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, NDArray[np.float32]] = {}
    proof = {}
    exponent, limit, name = given.exponent, given.limit, given.name
    for index, layer in enumerate(chain):
        if isinstance(layer, DepthToSpace):
            out = f"h{index}"
            nodes.append(helper.make_node("DepthToSpace", [name], [out], blocksize=layer.size, mode="CRD"))
            exponent, limit = exponent[:: layer.size**2], limit[:: layer.size**2]
            name = out
            continue
        weight = layer.weight.detach().double().numpy()
        bias = layer.bias.detach().double().numpy()
        if index + 1 < len(chain):
            shared = chain[index + 1].size ** 2 if isinstance(chain[index + 1], DepthToSpace) else 1
            target = _activation_exponents(largest[index], shared)
            integer = _quantise(weight, bias, layer.groups, exponent, limit, target, 0, 2**ACTIVATION_BITS - 1)
            name = append_layer(nodes, constants, integer, name, f"h{index}")
            exponent, limit = target, np.full(len(target), float(integer.high))
            proof[f"h{index}"] = math.log2(integer.accumulator)
        else:
            size = len(weight) // len(heads)
            for part, head in enumerate(heads):
                rows = slice(part * size, (part + 1) * size)
                target = np.full(size, round(math.log2(head.unit)))
                integer = _quantise(weight[rows], bias[rows], 1, exponent, limit, target, head.low, head.high)
                append_layer(nodes, constants, integer, name, head.name)
                proof[head.name] = math.log2(integer.accumulator)
    enlarged = math.prod(layer.size for layer in chain if isinstance(layer, DepthToSpace))
    return exact_model(role, nodes, constants, given, [head.name for head in heads], size, enlarged), proof


def _measured_ranges(layers: list[Any], samples: list[Tensor]) -> dict[int, NDArray[np.float64]]:
    """Return the largest activation of every hidden convolution, per channel."""
    largest: dict[int, NDArray[np.float64]] = {}
    with torch.no_grad():
        for sample in samples:
            h = sample
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


def append_layer(
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


def exact_model(
    role: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.float32]],
    given: IntegerInput,
    outputs: list[str],
    channels: int,
    enlarged: int,
) -> onnx.ModelProto:
    """Return the graph of *nodes*: from *given* to *outputs* of *channels* each, *enlarged* times as high and wide."""

    def tensor(name: str, channels: int, scale: int) -> onnx.ValueInfoProto:
        size = "" if enlarged == 1 else str(64 // scale)  # of the picture, where a graph enlarges
        shape: list[str | int | None] = [1, channels, f"height{size}", f"width{size}"]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        role,
        [tensor(given.name, len(given.limit), 1)],
        [tensor(name, channels, enlarged) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model
