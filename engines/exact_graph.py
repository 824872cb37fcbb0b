"""Exact graphs read from their ONNX files: a few integer operations, and nothing that could round.

    Conv (integer weights and biases, 1x1 or 3x3, "same" padding) -> Round -> [Mul by powers of two -> Floor] -> [Clip]
    DepthToSpace (CRD)

Whatever else is in a file is refused, so a proof or another engine needs to know four kinds of step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from engines.errors import BundleError
from engines.onnx_file import FLOAT, Graph, Node, read_graph

MOST_CHANNELS = 1 << 14
LARGEST_CONSTANT = 1 << 24  # weights, biases and clips; float32 holds every integer up to it
LARGEST_SHIFT = 60
_KERNELS = (1, 3)
_CONV_INPUTS, _CLIP_INPUTS = 3, 3

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Convolution:
    """Integer sums, padded with zeros to the size of the input.

    Attributes:
        layer: what a proof calls it.
        weight: int64 (out, in / groups, k, k); k is 1 or 3.
        bias: int64 (out,).
    """

    source: str
    result: str
    layer: str
    weight: Integers
    bias: Integers
    groups: int

    @property
    def dense(self) -> bool:
        """True if it is neither 1x1 nor depthwise: engines may transform such a layer."""
        per_group: int = self.weight.shape[1]
        kernel: int = self.weight.shape[2]
        return kernel > 1 and per_group > 1


@dataclass(frozen=True)
class Shift:
    """floor(x / 2^right), per channel; *right* is int64 (channels,), a negative one multiplies."""

    source: str
    result: str
    right: Integers


@dataclass(frozen=True)
class Clip:
    """Values limited to low..high."""

    source: str
    result: str
    low: int
    high: int


@dataclass(frozen=True)
class Rearrangement:
    """DepthToSpace: channel (c * size + row) * size + column goes to place (row, column) of blocks of channel c."""

    source: str
    result: str
    size: int


Step = Convolution | Shift | Clip | Rearrangement


@dataclass(frozen=True)
class ExactGraph:
    """Steps in order; inputs as (name, channels), outputs as (name, name of the step's result that it is)."""

    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]


def read_exact_graph(content: bytes) -> ExactGraph:
    """Read an exact graph from an ONNX file.

    Raises:
        BundleError: the file cannot be read, or it has an operation that is not exact on every machine.
    """
    return _Builder(read_graph(content)).build()


def surroundings(graph: ExactGraph) -> tuple[int, int]:
    """Return by how much *graph* enlarges height and width, and how many input positions away an output still sees.

    Raises:
        BundleError: outputs are of different sizes.
    """
    seen = {name: (1, Fraction(0)) for name, _ in graph.inputs}
    for step in graph.steps:
        scale, reach = seen[step.source]
        if isinstance(step, Convolution):
            reach += Fraction(step.weight.shape[2] // 2, scale)
        elif isinstance(step, Rearrangement):
            scale *= step.size
        seen[step.result] = (scale, reach)
    found = [seen[step] for _, step in graph.outputs]
    scales = {scale for scale, _ in found}
    if len(scales) != 1:
        raise BundleError(f"outputs are {', '.join(map(str, sorted(scales)))} times as large as the input")
    return scales.pop(), math.ceil(max(reach for _, reach in found))


@dataclass
class _Tensor:
    """What is known of a named tensor: *state* says which operations may take it; its values are those of *name*."""

    name: str
    channels: int
    state: str  # "sum": of a Conv; "whole": integers; "scaled": integers of `name` to be shifted by `right`
    right: Integers | None = None


@dataclass
class _Builder:
    graph: Graph
    tensors: dict[str, _Tensor] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def build(self) -> ExactGraph:
        operators: Mapping[str, Callable[[Node], None]] = {
            "Conv": self._conv,
            "Round": self._round,
            "Mul": self._mul,
            "Floor": self._floor,
            "Clip": self._clip,
            "DepthToSpace": self._depth_to_space,
        }
        inputs = []
        for port in self.graph.inputs:
            channels = port.shape[1] if len(port.shape) == 4 else 0
            if port.data_type != FLOAT or not isinstance(channels, int) or not 0 < channels <= MOST_CHANNELS:
                raise BundleError(f"input {port.name!r} is not float32 (B, C, H, W) with a fixed number of channels")
            self._define(port.name, _Tensor(port.name, channels, "whole"))
            inputs.append((port.name, channels))
        for node in self.graph.nodes:
            if node.operator not in operators:
                raise BundleError(f"operator {node.operator!r} ({_label(node)}) is not allowed in an exact graph")
            if len(node.outputs) != 1:
                raise BundleError(f"{_label(node)} has {len(node.outputs)} outputs")
            operators[node.operator](node)
        outputs = []
        for port in self.graph.outputs:
            outputs.append((port.name, self._take(port.name, "whole", "the graph's output").name))
        return ExactGraph(tuple(inputs), tuple(outputs), tuple(self.steps))

    def _conv(self, node: Node) -> None:
        source = self._source(node, _CONV_INPUTS, "whole")
        weight = self._integers(node, 1)
        bias = self._integers(node, 2)
        groups = _attributes(node, "group", "kernel_shape", "pads", "strides", "dilations", "auto_pad").get("group", 1)
        if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.shape[2] not in _KERNELS:
            raise BundleError(f"{_label(node)} has weights {weight.shape}; kernels are 1x1 or 3x3")
        outputs, per_group, kernel = weight.shape[:3]
        if (
            not isinstance(groups, int)
            or groups < 1
            or per_group * groups != source.channels
            or not 0 < outputs <= MOST_CHANNELS
            or outputs % groups
            or bias.shape != (outputs,)
        ):
            raise BundleError(
                f"{_label(node)} has weights {weight.shape}, biases {bias.shape} and {groups} groups for "
                f"{source.channels} channels"
            )
        _check_same_size(node, kernel)
        name = node.outputs[0]
        self.steps.append(Convolution(source.name, name, name.removesuffix(".sum"), weight, bias, groups))
        self._define(name, _Tensor(name, outputs, "sum"))

    def _round(self, node: Node) -> None:
        _attributes(node)
        source = self._source(node, 1, "sum")
        self._define(node.outputs[0], _Tensor(source.name, source.channels, "whole"))

    def _mul(self, node: Node) -> None:
        _attributes(node)
        source = self._source(node, 2, "whole")
        scale = self._constant(node, 1)
        if scale.size != 1 and scale.shape not in ((1, source.channels, 1, 1), (source.channels, 1, 1)):
            raise BundleError(f"{_label(node)} has scales {scale.shape} for {source.channels} channels")
        with np.errstate(invalid="ignore"):  # some kinds of NaN raise a flag; no NaN is a power of two
            mantissa, exponent = np.frexp(scale.reshape(-1).astype(np.float64))
        if not (mantissa == 0.5).all() or np.abs(exponent - 1).max() > LARGEST_SHIFT:
            raise BundleError(f"{_label(node)} has a scale that is no power of two within 2^+-{LARGEST_SHIFT}")
        right = np.broadcast_to(1 - exponent.astype(np.int64), (source.channels,)).copy()
        self._define(node.outputs[0], _Tensor(source.name, source.channels, "scaled", right))

    def _floor(self, node: Node) -> None:
        _attributes(node)
        source = self._source(node, 1, "scaled")
        assert source.right is not None, "scaled tensors have it"
        self.steps.append(Shift(source.name, node.outputs[0], source.right))
        self._define(node.outputs[0], _Tensor(node.outputs[0], source.channels, "whole"))

    def _clip(self, node: Node) -> None:
        _attributes(node)
        source = self._source(node, _CLIP_INPUTS, "whole")
        low, high = self._integers(node, 1), self._integers(node, 2)
        if low.size != 1 or high.size != 1 or low.item() > high.item():
            raise BundleError(f"{_label(node)} has limits {low.tolist()} and {high.tolist()}")
        self.steps.append(Clip(source.name, node.outputs[0], int(low.item()), int(high.item())))
        self._define(node.outputs[0], _Tensor(node.outputs[0], source.channels, "whole"))

    def _depth_to_space(self, node: Node) -> None:
        source = self._source(node, 1, "whole")
        given = _attributes(node, "blocksize", "mode")
        size = given.get("blocksize")
        if given.get("mode") != b"CRD" or not isinstance(size, int) or size < 1 or source.channels % (size * size):
            raise BundleError(f"{_label(node)} has mode {given.get('mode')!r} and block size {size!r}")
        self.steps.append(Rearrangement(source.name, node.outputs[0], size))
        self._define(node.outputs[0], _Tensor(node.outputs[0], source.channels // size**2, "whole"))

    def _define(self, name: str, tensor: _Tensor) -> None:
        if not name or name in self.tensors or name in self.graph.constants:
            raise BundleError(f"tensor {name!r} has no name or a second origin")
        self.tensors[name] = tensor

    def _source(self, node: Node, inputs: int, state: str) -> _Tensor:
        if len(node.inputs) != inputs:
            raise BundleError(f"{_label(node)} has {len(node.inputs)} inputs, not {inputs}")
        return self._take(node.inputs[0], state, _label(node))

    def _take(self, name: str, state: str, user: str) -> _Tensor:
        if name not in self.tensors:
            raise BundleError(f"{user} uses {name!r} before anything gives it")
        tensor = self.tensors[name]
        if tensor.state != state:
            raise BundleError(
                f"{user} takes {name!r}, which is {tensor.state}, not {state}: "
                "the order is Conv, Round, Mul, Floor, Clip"
            )
        return tensor

    def _constant(self, node: Node, place: int) -> NDArray[np.float32]:
        name = node.inputs[place]
        if name not in self.graph.constants:
            raise BundleError(f"{_label(node)} takes {name!r}, which is no constant")
        return self.graph.constants[name].float32()

    def _integers(self, node: Node, place: int) -> Integers:
        values = self._constant(node, place)
        if not is_whole(values, LARGEST_CONSTANT):
            raise BundleError(f"{_label(node)}: {node.inputs[place]!r} has a value that is no integer within +-2^24")
        return values.astype(np.int64)


def is_whole(values: NDArray[np.float32], largest: int) -> bool:
    """True if all values are integers of magnitude at most *largest*; NaN is none."""
    with np.errstate(invalid="ignore"):  # some kinds of NaN raise a flag
        return bool(((np.rint(values) == values) & (np.abs(values) <= largest)).all())


def _label(node: Node) -> str:
    return f"{node.operator} {(node.outputs or (node.name,))[0]!r}"


def _attributes(node: Node, *allowed: str) -> Mapping[str, object]:
    """Return the attributes of *node*.

    Raises:
        BundleError: there is one that is not *allowed*.
    """
    for name in node.attributes:
        if name not in allowed:
            raise BundleError(f"{_label(node)} has attribute {name!r}")
    return node.attributes


def _check_same_size(node: Node, kernel: int) -> None:
    """Refuse a convolution whose result has another size than its input, or which skips elements."""
    expected = {
        "kernel_shape": (kernel, kernel),
        "pads": (kernel // 2,) * 4,
        "strides": (1, 1),
        "dilations": (1, 1),
        "auto_pad": b"NOTSET",
    }
    for name, value in expected.items():
        default = (0,) * 4 if name == "pads" else value  # without the attribute, nothing is padded
        if node.attributes.get(name, default) != value:
            raise BundleError(f"{_label(node)} has {name} {node.attributes.get(name, default)!r}, not {value!r}")
