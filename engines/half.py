"""FP16 graphs: a free graph rewritten so that it computes in FP16, by casts in the graph itself.

Inputs and outputs stay float32. Constants become float16, once and for all; weights that a file holds as float16 are
used as they are. Tensors that the exporter names stay float32, with casts around them (see `export.half`, which finds
them). A back end is then told nothing about precision: one that obeys a graph's types computes what was checked.

No second file is needed for this: the rewriting takes a millisecond and always gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np

from engines.errors import BundleError
from engines.onnx_file import FLOAT, Constant, Graph, Node, read_graph
from engines.onnx_write import write_graph

HALF = 10  # TensorProto.DataType
LARGEST_HALF = 65504.0
_INT64, _BOOL = 7, 9
_ALWAYS_INT64 = ("Shape", "Size", "NonZero", "ArgMax", "ArgMin")
_ALWAYS_BOOL = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "IsNaN", "IsInf")
_FLOAT32_ONLY = ("Resize",)  # some of its inputs may be nothing else
_INPUTS = {"Cast": 1, "Where": 3}  # of operators whose inputs are looked at by their places


def half_graph(content: bytes, float32: Collection[str]) -> bytes:
    """Return the ONNX file *content* rewritten to compute in FP16.

    Args:
        float32: names of tensors whose nodes keep computing in float32.

    Raises:
        BundleError: the file cannot be read, has no such tensors, or a constant is too large for float16.
    """
    graph = read_graph(content)
    missing = set(float32) - {output for node in graph.nodes for output in node.outputs}
    if missing:
        raise BundleError(f"no node gives {', '.join(sorted(missing))}, which is to stay float32")
    return write_graph(_Rewriting(graph, frozenset(float32)).run())


@dataclass
class _Rewriting:
    """A graph under way; `full` and `half` give the names under which a float tensor is there in either precision."""

    graph: Graph
    float32: frozenset[str]
    kinds: dict[str, int] = field(default_factory=dict)
    full: dict[str, str] = field(default_factory=dict)
    half: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)

    def run(self) -> Graph:
        graph = self.graph
        for constant in graph.constants.values():
            self.kinds[constant.name] = constant.data_type
        for port in graph.inputs:
            self.kinds[port.name] = port.data_type
            self.full[port.name] = port.name
        for node in graph.nodes:
            self._rewrite(node)
        for port in graph.outputs:
            if port.name in graph.constants:
                self._as_is(port.name)
            elif self.kinds.get(port.name) == FLOAT:
                self._output(port.name)
        return replace(graph, nodes=tuple(self.nodes), constants=self.constants)

    def _rewrite(self, node: Node) -> None:
        if len(node.inputs) != _INPUTS.get(node.operator, len(node.inputs)) or not node.outputs:
            raise BundleError(
                f"{node.operator} {node.name!r} has {len(node.inputs)} inputs and {len(node.outputs)} outputs"
            )
        kind = self._kind(node)
        self.kinds.update((name, kind) for name in node.outputs)
        if node.operator == "Cast" and kind == FLOAT and self.kinds.get(node.inputs[0]) == HALF:
            self.half[node.outputs[0]] = self._as_is(node.inputs[0])  # a weight: no cast is needed now
        elif kind != FLOAT or node.operator in ("Cast", "Constant"):  # floats come in only to be looked at
            self._emit(replace(node, inputs=tuple(self._as_is(name) for name in node.inputs)), self.full)
        elif node.operator in _FLOAT32_ONLY or not self.float32.isdisjoint(node.outputs):
            self._emit(replace(node, inputs=tuple(self._in_full(name) for name in node.inputs)), self.full)
        else:
            self._emit(replace(node, inputs=tuple(self._in_half(name) for name in node.inputs)), self.half)

    def _emit(self, node: Node, versions: dict[str, str]) -> None:
        # A float32 output of the graph keeps its name for the cast at the end.
        outputs = {port.name for port in self.graph.outputs}
        made = [
            self._fresh(f"{name}.fp16") if versions is self.half and name in outputs else name for name in node.outputs
        ]
        versions.update(zip(node.outputs, made, strict=True))
        self.nodes.append(replace(node, outputs=tuple(made)))

    def _kind(self, node: Node) -> int:
        if node.operator in _ALWAYS_INT64:
            return _INT64
        if node.operator in _ALWAYS_BOOL:
            return _BOOL
        if node.operator == "Cast":
            to = node.attributes.get("to")
            return to if isinstance(to, int) else FLOAT
        if node.operator in ("Constant", "ConstantOfShape"):
            value = node.attributes.get("value")
            return value.data_type if isinstance(value, Constant) else FLOAT
        source = node.inputs[1 if node.operator == "Where" else 0] if node.inputs else ""
        if source not in self.kinds:
            raise BundleError(f"{node.operator} uses {source!r} before anything gives it")
        return self.kinds[source]

    def _as_is(self, name: str) -> str:
        """Return *name* in whichever form it is there, with the constant that it may be."""
        if name in self.graph.constants:
            self.constants[name] = self.graph.constants[name]
            return name
        return self.full.get(name, self.half.get(name, name))

    def _in_full(self, name: str) -> str:
        if self.kinds.get(name) != FLOAT or name in self.graph.constants:
            return self._as_is(name)
        if name not in self.full:
            self.full[name] = self._cast(self.half[name], f"{name}.fp32", FLOAT)
        return self.full[name]

    def _in_half(self, name: str) -> str:
        if self.kinds.get(name) != FLOAT:
            return self._as_is(name)
        if name not in self.half and name in self.graph.constants:
            self.half[name] = self._halved(self.graph.constants[name])
        elif name not in self.half:
            self.half[name] = self._cast(self.full[name], f"{name}.fp16", HALF)
        return self.half[name]

    def _halved(self, constant: Constant) -> str:
        values = constant.float32()
        if values.size and not np.abs(values).max() <= LARGEST_HALF:
            raise BundleError(f"constant {constant.name!r} has values that float16 cannot hold")
        name = self._fresh(f"{constant.name}.fp16")
        content = values.astype("<f2").tobytes()
        self.constants[name] = Constant(name, HALF, constant.shape, (memoryview(content),))
        return name

    def _cast(self, source: str, wanted: str, kind: int) -> str:
        name = self._fresh(wanted)
        self.nodes.append(Node(name, "Cast", (source,), (name,), {"to": kind}))
        return name

    def _output(self, name: str) -> None:
        if name not in self.full:
            self.nodes.append(Node(name, "Cast", (self.half[name],), (name,), {"to": FLOAT}))

    def _fresh(self, wanted: str) -> str:
        taken = {*self.kinds, *self.constants, *(name for node in self.nodes for name in node.outputs)}
        while wanted in taken:
            wanted += "_"
        return wanted
