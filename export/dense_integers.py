"""Exact graphs of h_s networks with dense layers, from the operations that every exact graph is made of.

A dense 3x3 layer has too many terms for its weights to be integers of any precision while every sum stays below 2^24.
So a layer becomes

    taps       depthwise 3x3: the nine neighbours of each channel as channels, so that what follows is 1x1
    digits     1x1: weights as a high and a low digit, each with a sum of its own, requantised where a sum is too fine
    blocks     DepthToSpace where the layer enlarges
    values     1x1 of each channel's digits: their sum, requantised to activations of 12 bits, clamped

A leaky ReLU is two clamps: `values` gives each channel and its negative, both clamped to 0 and above, and the next
layer's weights of the negative are -slope times those of the channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from export.finite import require_finite
from export.integers import (
    ACCUMULATOR,
    ACTIVATION_BITS,
    LARGEST_WEIGHT,
    Head,
    IntegerInput,
    IntegerLayer,
    append_layer,
    exact_model,
)
from export.networks.dense import BLOCK, DenseHyperSynthesis, DenseLayer
from runtime.errors import UsageError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_WHOLE = ACCUMULATOR - 1
_FINE_ENOUGH = 200  # largest weight of a channel that needs no second digit
_MOST_DIGIT_BITS = 11
_AVERAGE_WEIGHT = 20.0  # in two digits, of a layer with as many terms as its activations are made for
_SUM_BITS = 22  # of a channel's digits together: room for rounding below the 24 of float32
_ROOM = 1.25  # above the largest activation that was seen


@dataclass
class _Values:
    """A tensor of the graph: channel c holds integers of 2^-exponent[c], of magnitude at most limit[c].

    Where *slope* is given, channels come in pairs: a channel clamped to 0 and above, and its negative clamped alike.
    """

    name: str
    exponent: Integers
    limit: Floats
    slope: float = 0.0
    paired: bool = False


@dataclass
class _Digits:
    """A layer's integer weights: the sum over d of `weight[d] 2^(bits d)` stands for the weights times 2^scale.

    Attributes:
        weight: float64 (digits, channels, places, in + 1): *places* of a block share all scales; the last is the bias.
        scale, bits: int64 (channels,).
        sums: float64 (digits, channels); largest magnitude of each digit's sums.
    """

    weight: Floats
    scale: Integers
    bits: Integers
    sums: Floats


@dataclass
class _Chain:
    """Nodes of the graph so far, and log2 of every layer's largest sum."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    proof: dict[str, float] = field(default_factory=dict)

    def add(self, layer: IntegerLayer, source: str, name: str) -> None:
        append_layer(self.nodes, self.constants, layer, source, name)
        self.proof[name] = math.log2(max(1.0, layer.accumulator))


def dense_integer_graph(
    role: str, network: DenseHyperSynthesis, given: IntegerInput, heads: Sequence[Head], samples: list[Tensor]
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """Return *network* as an exact ONNX graph, and its proof; see `export.integers.integer_graph`.

    Args:
        given: symbols of z; their exponents are 0.
        heads: in the order of the graph's outputs: mu, if the graph is to have one, and the sigma code, linear in the
            standard deviation.
        samples: float32 (1, C, h, w) each, symbols of z: what activation ranges are measured on.

    Raises:
        UsageError: weights or activations are not finite, or results are too small a part of their sums.
    """
    require_finite(f"weights of {role}", network.state_dict())
    layers: list[DenseLayer] = list(network.layers)  # type: ignore[arg-type]
    largest = _measured_ranges(network, layers, samples)
    require_finite(f"activations of {role}", {f"layer {index}": values for index, values in enumerate(largest)})
    chain = _Chain()
    values = _with_median(chain, network, given, _activation_bits(layers[0]))
    enlarged = 1
    for index, layer in enumerate(layers[:-1]):
        values = _add_hidden(chain, f"h{index}", layer, values, largest[index], _activation_bits(layers[index + 1]))
        enlarged *= BLOCK if layer.enlarges else 1
    last = layers[-1]
    weight, bias = _arrays(last)
    channels = len(weight) // (2 if network.mean else 1)
    source = _add_taps(chain, "last", values, last.conv.kernel_size[0])
    for head in heads:
        if head.name == "mu" and not network.mean:
            rows, zero = slice(0, channels), 0.0
        else:
            rows, zero = slice(channels, None) if head.name == "mu" else slice(0, channels), 1.0
        _add_head(chain, head, zero * weight[rows], zero * bias[rows], source)
    model = exact_model(role, chain.nodes, chain.constants, given, [head.name for head in heads], channels, enlarged)
    return model, chain.proof


def _measured_ranges(
    network: DenseHyperSynthesis, layers: list[DenseLayer], samples: list[Tensor]
) -> list[NDArray[np.float64]]:
    """Return for each hidden layer float64 (channels, 2): the largest value of every channel, and of its negative."""
    largest: list[Floats] = [np.zeros((0, 2))] * (len(layers) - 1)
    assert isinstance(network.median, Tensor)
    with torch.no_grad():
        for sample in samples:
            h = sample + network.median
            for index, layer in enumerate(layers[:-1]):
                before = layer.before_activation(h)
                found = torch.stack([before.amax(dim=(0, 2, 3)), -before.amin(dim=(0, 2, 3))], dim=1).double().numpy()
                largest[index] = np.maximum(largest[index], found) if len(largest[index]) else found
                h = layer(h)
    return largest


def _arrays(layer: DenseLayer) -> tuple[Floats, Floats]:
    assert layer.conv.bias is not None
    return layer.conv.weight.detach().double().numpy(), layer.conv.bias.detach().double().numpy()


def _with_median(chain: _Chain, network: DenseHyperSynthesis, given: IntegerInput, bits: int) -> _Values:
    """Add what symbol 0 stands for, as finely as activations can tell; padding then brings the zeros of training."""
    assert isinstance(network.median, Tensor)
    median = network.median.double().numpy().reshape(-1)
    exponent = np.floor(np.log2(2.0**bits / (given.limit + np.abs(median) + 0.5))).astype(np.int64).clip(0, 10)
    bias = np.rint(median * 2.0**exponent)
    limit = given.limit * 2.0**exponent + np.abs(bias)
    weight = (2.0**exponent).reshape(-1, 1, 1, 1)
    largest = int(limit.max())
    layer = IntegerLayer(weight, bias, np.zeros_like(exponent), len(bias), -largest, largest, float(largest))
    chain.add(layer, given.name, "symbols")
    return _Values("symbols", exponent, limit)


def _activation_bits(layer: DenseLayer) -> int:
    """Return how many bits the activations before *layer* may have, so that there is room for its weights.

    Each of n terms may have the magnitude 2^bits times the average of a digit; the average weight is that of the high
    digit times the low one's base, which is four times its average.
    """
    terms = int(np.count_nonzero(_arrays(layer)[0].reshape(len(layer.conv.weight), -1), axis=1).max(initial=1))
    room = ACCUMULATOR / 2 / math.sqrt(_AVERAGE_WEIGHT / 4)
    return min(ACTIVATION_BITS, math.floor(math.log2(room / max(1, terms))))


def _add_hidden(chain: _Chain, name: str, layer: DenseLayer, source: _Values, largest: Floats, bits: int) -> _Values:
    """Add a layer with its activation of *bits*; return its values, in pairs if the activation keeps negative ones."""
    highest = 2**bits - 1
    weight, bias = _arrays(layer)
    places = BLOCK**2 if layer.enlarges else 1
    source = _add_taps(chain, name, source, layer.conv.kernel_size[0])
    digits = _digits(_folded(weight, bias, source).reshape(len(weight) // places, places, -1), source.limit)
    slope = 1.0 if layer.slope is None else layer.slope
    paired = slope != 0
    room = np.maximum(largest if paired else largest[:, :1], largest.max() / 64 + 1e-9) * _ROOM
    target = np.floor(np.log2(highest / room)).astype(np.int64)
    sums = _add_sums(chain, f"{name}.digits", digits, source.name)
    if layer.enlarges:
        blocks = f"{name}.blocks"
        chain.nodes.append(helper.make_node("DepthToSpace", [sums.name], [blocks], blocksize=BLOCK, mode="CRD"))
        sums.name = blocks
    # A channel whose terms all but cancel has no finer unit than its sums allow.
    target = np.minimum(target, _finest(sums)[:, None])
    signs = np.array([1.0, -1.0] if paired else [1.0])
    integer = _value_layer(sums, signs, target, 0, highest)
    chain.add(integer, sums.name, name)
    return _Values(name, target.reshape(-1), np.full(target.size, float(highest)), slope, paired)


def _add_head(chain: _Chain, head: Head, weight: Floats, bias: Floats, source: _Values) -> None:
    digits = _digits(_folded(weight, bias, source)[:, None, :], source.limit)
    sums = _add_sums(chain, f"{head.name}.digits", digits, source.name)
    target = np.full((len(weight), 1), round(math.log2(head.unit)), np.int64)
    chain.add(_value_layer(sums, np.ones(1), target, head.low, head.high), sums.name, head.name)


def _add_taps(chain: _Chain, name: str, source: _Values, kernel: int) -> _Values:
    """Add the neighbours of each channel as channels, row by row; nothing for a 1x1 layer."""
    if kernel == 1:
        return source
    channels, taps = len(source.limit), kernel**2
    weight = np.tile(np.eye(taps).reshape(taps, 1, kernel, kernel), (channels, 1, 1, 1))
    largest = int(source.limit.max())
    none = np.zeros(channels * taps, np.int64)
    layer = IntegerLayer(weight, none.astype(np.float64), none, channels, -largest, largest, float(largest))
    chain.add(layer, source.name, f"{name}.taps")
    repeated = np.repeat(source.exponent, taps), np.repeat(source.limit, taps)
    return _Values(f"{name}.taps", *repeated, source.slope, source.paired)


def _folded(weight: Floats, bias: Floats, source: _Values) -> Floats:
    """Return float64 (out, in + 1): the weights of the source's integers, those of negatives included, and the bias."""
    if source.paired:
        weight = np.stack([weight, -source.slope * weight], axis=2).reshape(len(weight), -1, *weight.shape[2:])
    return np.concatenate([weight.reshape(len(weight), -1) * 2.0**-source.exponent, bias[:, None]], axis=1)


def _digits(weight: Floats, limit: Floats) -> _Digits:
    """Return the weights, (channels, places, in + 1), as integers: one digit if that is fine enough for all, else two.

    Args:
        limit: float64 (in,); largest magnitudes of the inputs.
    """
    limit = np.append(limit, 1.0)
    one = [_one_digit(channel, limit) for channel in weight]
    if all(np.abs(whole[:, :-1]).max() >= _FINE_ENOUGH or not whole.any() for whole, _ in one):
        whole = np.stack([digit for digit, _ in one])[None]
        scale = np.array([s for _, s in one], np.int64)
        return _Digits(whole, scale, np.zeros_like(scale), _reach(whole, limit))
    two = [_two_digits(channel, limit) for channel in weight]
    digits = np.stack([entry[0] for entry in two], axis=1)
    scale, bits = (np.array([entry[i] for entry in two], np.int64) for i in (1, 2))
    return _Digits(digits, scale, bits, _reach(digits, limit))


def _one_digit(weight: Floats, limit: Floats) -> tuple[Floats, int]:
    """Return a channel's weights as integers, (places, in + 1), and their scale."""
    scale = _hardly_fits(weight, limit)
    while True:
        whole = np.rint(weight * 2.0**scale)
        if _fits(whole, limit):
            return whole, scale
        scale -= 1


def _two_digits(weight: Floats, limit: Floats) -> tuple[Floats, int, int]:
    """Return a channel's weights as two digits, (2, places, in + 1), their scale, and the low digit's bits."""
    # A digit of b bits is 2^b / 4 on average.
    most = max(1, min(_MOST_DIGIT_BITS, math.floor(math.log2(4 * ACCUMULATOR / limit.sum())) + 1))
    scale = _hardly_fits(weight, limit) + most
    while True:
        whole = np.rint(weight * 2.0**scale)
        for bits in range(most, 0, -1):
            base = 2.0**bits
            low = whole - base * np.floor(whole / base + 0.5)
            if _fits(low, limit):
                high = (whole - low) / base
                if _fits(high, limit):
                    return np.stack([low, high]), scale, bits
                break  # with fewer bits below, more would be left above
        scale -= 1


def _hardly_fits(weight: Floats, limit: Floats) -> int:
    """Return a scale from which on one digit cannot fit."""
    reach = float((np.abs(weight) @ limit).max())
    return 0 if reach == 0 else math.floor(math.log2(ACCUMULATOR / reach)) + 1


def _fits(weight: Floats, limit: Floats) -> bool:
    # Half of the accumulator is left for what rounds.
    small = np.abs(weight[:, :-1]).max() <= LARGEST_WEIGHT
    return bool(small and (np.abs(weight) @ limit).max() < ACCUMULATOR / 2)


def _reach(weight: Floats, limit: Floats) -> Floats:
    """Return float64 (digits, channels): the largest sum of each, at any place."""
    reach: Floats = (np.abs(weight) @ limit).max(axis=2)
    return reach


@dataclass
class _Sums:
    """Digits' sums, requantised: `factor[d] values[d]`, added up over d, are units of 2^-exponent.

    Channels of the tensor are (channel, digit), digits next to each other.

    Attributes:
        factor: float64 (channels, digits), powers of two.
        limit: float64 (channels, digits).
        exponent: int64 (channels,).
    """

    name: str
    factor: Floats
    limit: Floats
    exponent: Integers


def _add_sums(chain: _Chain, name: str, digits: _Digits, source: str) -> _Sums:
    """Add the convolution of all digits."""
    count, channels, places, _ = digits.weight.shape
    place_value = digits.bits * np.arange(count)[:, None]  # of every digit, log2
    # One unit for all digits of a channel, so coarse that their sum can be added up far below 2^24.
    total = (digits.sums * 2.0**place_value).sum(axis=0)
    unit = np.maximum(0, np.floor(np.log2(np.maximum(total, 1.0))).astype(np.int64) + 1 - _SUM_BITS)
    shift = np.maximum(0, unit - place_value)
    half = np.floor(2.0 ** (shift - 1.0))
    reach = digits.sums + half
    # Rows in the order (channel, digit, place), which DepthToSpace turns into (channel, digit).
    rows = digits.weight.transpose(1, 0, 2, 3)
    bias = rows[..., -1] + half.T[:, :, None]
    layer = IntegerLayer(
        weight=rows[..., :-1].reshape(count * channels * places, -1, 1, 1),
        bias=bias.reshape(-1),
        shift=np.repeat(shift.T.reshape(-1), places),
        groups=1,
        low=-_WHOLE,
        high=_WHOLE,
        accumulator=float(reach.max()),
    )
    chain.add(layer, source, name)
    limit = np.floor(reach / 2.0**shift) + 1
    return _Sums(name, 2.0 ** (place_value + shift - unit).T, limit.T, digits.scale - unit)


def _finest(sums: _Sums) -> Integers:
    """Return the largest exponent that each channel's results may have: int64 (channels,)."""
    room = np.floor(np.log2(_WHOLE / np.maximum(1.0, (sums.factor * sums.limit).sum(axis=1))))
    finest: Integers = sums.exponent + room.astype(np.int64)
    return finest


def _value_layer(sums: _Sums, signs: Floats, target: Integers, low: int, high: int) -> IntegerLayer:
    """Return the layer that adds up each channel's digits, with every sign, to integers of 2^-target.

    Args:
        target: int64 (channels, signs).
    """
    channels, count = sums.factor.shape
    shift = sums.exponent[:, None] - target
    weight = signs[None, :, None] * sums.factor[:, None, :]
    # Where a result is finer than the sums, the weights take the difference.
    weight = weight * 2.0 ** np.maximum(0, -shift)[:, :, None]
    shift = np.maximum(shift, 0)
    half = np.floor(2.0 ** (shift - 1.0))
    total = (np.abs(weight) * sums.limit[:, None, :]).sum(axis=2)
    # A channel that is all but dead has sums so fine that no accumulator holds half a unit of its result. What never
    # reaches that half is 0.
    dead = (total + half >= ACCUMULATOR) & (total <= half)
    for values in (weight, shift, half, total):
        values[dead] = 0
    reach = total + half
    if not reach.max() < ACCUMULATOR:
        raise UsageError("h_s cannot be made exact: its results are too small a part of the sums they are made of")
    return IntegerLayer(
        weight.reshape(-1, count, 1, 1), half.reshape(-1), shift.reshape(-1), channels, low, high, float(reach.max())
    )
