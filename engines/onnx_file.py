"""Reads ONNX files without the onnx package, before an engine sees them, and for proofs.

Only what a bundle's graphs consist of is read: one flat graph of standard operators whose constants lie in the file.
External data, functions, subgraphs, sparse tensors, training information, operators of other domains and unknown fields
are refused. Constants stay views of the file until they are asked for, so that tens of megabytes take milliseconds.

Source: onnx/onnx.proto of ONNX 1.23, IR version 13 and older.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engines.errors import BundleError
from engines.protobuf import Field, Fields, Message, WireReader

MOST_VALUES = 200_000  # in all messages of a file; a network of a hundred layers has about 10,000
MOST_DIMENSIONS = 8
FLOAT = 1  # TensorProto.DataType
_DOMAINS = ("", "ai.onnx")
_BYTES_PER_ELEMENT = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}

Kind = Literal["varint", "fixed32", "fixed64", "bytes"]


def _fields(one: dict[int, tuple[str, Kind]], many: dict[int, tuple[str, Kind]] | None = None) -> Fields:
    fields = {number: Field(name, kind) for number, (name, kind) in one.items()}
    return fields | {number: Field(name, kind, repeated=True) for number, (name, kind) in (many or {}).items()}


_MODEL = _fields(
    {
        1: ("ir_version", "varint"),
        2: ("producer_name", "bytes"),
        3: ("producer_version", "bytes"),
        4: ("domain", "bytes"),
        5: ("model_version", "varint"),
        6: ("doc_string", "bytes"),
        7: ("graph", "bytes"),
    },
    {
        8: ("opset_import", "bytes"),
        14: ("metadata_props", "bytes"),
        20: ("training_info", "bytes"),
        25: ("functions", "bytes"),
        26: ("configuration", "bytes"),
    },
)
_OPERATOR_SET = _fields({1: ("domain", "bytes"), 2: ("version", "varint")})
_GRAPH = _fields(
    {2: ("name", "bytes"), 10: ("doc_string", "bytes")},
    {
        1: ("node", "bytes"),
        5: ("initializer", "bytes"),
        11: ("input", "bytes"),
        12: ("output", "bytes"),
        13: ("value_info", "bytes"),
        14: ("quantization_annotation", "bytes"),
        15: ("sparse_initializer", "bytes"),
        16: ("metadata_props", "bytes"),
    },
)
_NODE = _fields(
    {
        3: ("name", "bytes"),
        4: ("op_type", "bytes"),
        6: ("doc_string", "bytes"),
        7: ("domain", "bytes"),
        8: ("overload", "bytes"),
    },
    {
        1: ("input", "bytes"),
        2: ("output", "bytes"),
        5: ("attribute", "bytes"),
        9: ("metadata_props", "bytes"),
        10: ("device_configurations", "bytes"),
    },
)
_ATTRIBUTE = _fields(
    {
        1: ("name", "bytes"),
        2: ("f", "fixed32"),
        3: ("i", "varint"),
        4: ("s", "bytes"),
        5: ("t", "bytes"),
        6: ("g", "bytes"),
        13: ("doc_string", "bytes"),
        14: ("tp", "bytes"),
        20: ("type", "varint"),
        21: ("ref_attr_name", "bytes"),
        22: ("sparse_tensor", "bytes"),
    },
    {
        7: ("floats", "fixed32"),
        8: ("ints", "varint"),
        9: ("strings", "bytes"),
        10: ("tensors", "bytes"),
        11: ("graphs", "bytes"),
        15: ("type_protos", "bytes"),
        23: ("sparse_tensors", "bytes"),
    },
)
_ATTRIBUTE_TYPES = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings", 9: "tensors"}
_TENSOR = _fields(
    {
        2: ("data_type", "varint"),
        3: ("segment", "bytes"),
        8: ("name", "bytes"),
        9: ("raw_data", "bytes"),
        12: ("doc_string", "bytes"),
        14: ("data_location", "varint"),
    },
    {
        1: ("dims", "varint"),
        4: ("float_data", "fixed32"),
        5: ("int32_data", "varint"),
        6: ("string_data", "bytes"),
        7: ("int64_data", "varint"),
        10: ("double_data", "fixed64"),
        11: ("uint64_data", "varint"),
        13: ("external_data", "bytes"),
        16: ("metadata_props", "bytes"),
    },
)
_MOST_PER_BYTE = 8  # elements; some types take less than a byte, none less than a bit
_DATA = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_VALUE = _fields({1: ("name", "bytes"), 2: ("type", "bytes"), 3: ("doc_string", "bytes")}, {4: ("props", "bytes")})
_TYPE = _fields({1: ("tensor_type", "bytes"), 6: ("denotation", "bytes")})
_TENSOR_TYPE = _fields({1: ("elem_type", "varint"), 2: ("shape", "bytes")})
_SHAPE = _fields({}, {1: ("dim", "bytes")})
_DIMENSION = _fields({1: ("dim_value", "varint"), 2: ("dim_param", "bytes"), 3: ("denotation", "bytes")})


@dataclass(frozen=True)
class Constant:
    """A tensor in the file.

    Attributes:
        data_type: TensorProto.DataType; 1 is float32.
        shape: sizes, each at least 0.
    """

    name: str
    data_type: int
    shape: tuple[int, ...]
    _content: tuple[memoryview, ...]

    def raw(self) -> bytes:
        """Return its values as they would stand in `raw_data`: little-endian, in order.

        Raises:
            BundleError: the file holds them in another form, or not as many as its shape says.
        """
        content = b"".join(self._content)
        if len(content) != _BYTES_PER_ELEMENT.get(self.data_type, 0) * math.prod(self.shape):
            raise BundleError(f"constant {self.name!r} of type {self.data_type} is not held as raw data")
        return content

    def float32(self) -> NDArray[np.float32]:
        """Return its values as a new array.

        Raises:
            BundleError: it is of another type, or its values are not as many as its shape says.
        """
        content = b"".join(self._content)
        if self.data_type != FLOAT or len(content) != 4 * math.prod(self.shape):
            raise BundleError(f"constant {self.name!r} of type {self.data_type} is not float32 of shape {self.shape}")
        return np.frombuffer(content, "<f4").astype(np.float32).reshape(self.shape)


Attribute = int | float | bytes | Constant | tuple[int, ...] | tuple[float, ...] | tuple[bytes, ...] | None


@dataclass(frozen=True)
class Node:
    """One operation; an optional input that is left out has an empty name.

    Attributes:
        attributes: by name; None stands for a list of tensors, which is checked but not kept.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True)
class Port:
    """An input or output of the graph; a size is a number, or the name of a variable, or unknown (empty)."""

    name: str
    data_type: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """What a file holds; nodes in the file's order, constants by name, and the version of the standard operators."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Constant]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operator_set: int = 0


def read_graph(content: bytes, most_values: int = MOST_VALUES) -> Graph:
    """Read an ONNX file.

    Raises:
        BundleError: it is malformed, too complex, or uses what bundles may not use; see the module text.
    """
    try:
        return _Reader(most_values).model(memoryview(content))
    except BundleError as fault:
        raise BundleError(f"not an ONNX file that bundles may hold: {fault}") from fault


class _Reader:
    def __init__(self, most_values: int) -> None:
        self._wire = WireReader(most_values)

    def model(self, content: memoryview) -> Graph:
        model = self._wire.read(content, _MODEL)
        _refuse(model, "training_info", "functions", "configuration")
        operator_set = 0
        for block in model.blocks.get("opset_import", ()):
            entry = self._wire.read(block, _OPERATOR_SET)
            _check_domain(entry.text("domain"))
            operator_set = entry.number("version")
        graph = model.block("graph")
        if graph is None:
            raise BundleError("there is no graph")
        return self._graph(graph, operator_set)

    def _graph(self, content: memoryview, operator_set: int) -> Graph:
        graph = self._wire.read(content, _GRAPH)
        _refuse(graph, "sparse_initializer", "quantization_annotation")
        constants: dict[str, Constant] = {}
        for block in graph.blocks.get("initializer", ()):
            constant = self._tensor(block)
            if constant.name in constants:
                raise BundleError(f"constant {constant.name!r} occurs twice")
            constants[constant.name] = constant
        for block in graph.blocks.get("value_info", ()):
            self._port(block)
        return Graph(
            nodes=tuple(self._node(block) for block in graph.blocks.get("node", ())),
            constants=constants,
            inputs=tuple(self._port(block) for block in graph.blocks.get("input", ())),
            outputs=tuple(self._port(block) for block in graph.blocks.get("output", ())),
            operator_set=operator_set,
        )

    def _node(self, content: memoryview) -> Node:
        node = self._wire.read(content, _NODE)
        _refuse(node, "overload", "device_configurations")
        _check_domain(node.text("domain"))
        attributes: dict[str, Attribute] = {}
        for block in node.blocks.get("attribute", ()):
            attribute = self._wire.read(block, _ATTRIBUTE)
            name = attribute.text("name")
            if name in attributes:
                raise BundleError(f"attribute {name!r} occurs twice")
            attributes[name] = self._value(name, attribute)
        return Node(node.text("name"), node.text("op_type"), node.texts("input"), node.texts("output"), attributes)

    def _value(self, name: str, attribute: Message) -> Attribute:
        """Return the value of *attribute*: that of the field which its type names; no other may be there."""
        _refuse(attribute, "g", "graphs", "tp", "type_protos", "sparse_tensor", "sparse_tensors", "ref_attr_name")
        kind = _ATTRIBUTE_TYPES.get(attribute.number("type"))
        if kind is None or any(other in attribute for other in _ATTRIBUTE_TYPES.values() if other != kind):
            raise BundleError(f"attribute {name!r} has not one value of its type {attribute.number('type')}")
        blocks = attribute.blocks.get(kind, [])
        if kind == "i":
            return attribute.number("i")
        if kind == "ints":
            return tuple(attribute.numbers.get("ints", ()))
        if kind == "f":
            return _floats(blocks)[0] if blocks else 0.0
        if kind == "floats":
            return _floats(blocks)
        if kind == "s":
            return bytes(blocks[0]) if blocks else b""
        if kind == "strings":
            return tuple(bytes(block) for block in blocks)
        tensors = [self._tensor(block) for block in blocks]
        return tensors[0] if kind == "t" and tensors else None

    def _tensor(self, content: memoryview) -> Constant:
        tensor = self._wire.read(content, _TENSOR)
        name = tensor.text("name")
        if "external_data" in tensor or tensor.number("data_location") != 0:
            raise BundleError(f"constant {name!r} lies outside the file")
        _refuse(tensor, "segment")
        shape = tuple(tensor.numbers.get("dims", ()))
        if len(shape) > MOST_DIMENSIONS or min(shape, default=0) < 0 or math.prod(shape) >> 40:
            raise BundleError(f"constant {name!r} has shape {shape[: MOST_DIMENSIONS + 1]}")
        data = [field for field in _DATA if field in tensor]
        if len(data) > 1:
            raise BundleError(f"constant {name!r} has its values in {' and '.join(data)}")
        data_type = tensor.number("data_type")
        raw = tensor.block("raw_data")
        width = _BYTES_PER_ELEMENT.get(data_type)
        if raw is not None and width is not None and len(raw) != width * math.prod(shape):
            raise BundleError(f"constant {name!r} has {len(raw)} bytes, not those of shape {shape}")
        if math.prod(shape) > _MOST_PER_BYTE * sum(map(tensor.size, data)):
            raise BundleError(f"constant {name!r} of shape {shape} has not as many values")
        floats = tensor.blocks.get("float_data", []) if data_type == FLOAT else []
        return Constant(name, data_type, shape, tuple([raw] if raw is not None else floats))

    def _port(self, content: memoryview) -> Port:
        port = self._wire.read(content, _VALUE)
        kind = self._wire.read(port.block("type") or memoryview(b""), _TYPE)
        tensor = self._wire.read(kind.block("tensor_type") or memoryview(b""), _TENSOR_TYPE)
        shape = self._wire.read(tensor.block("shape") or memoryview(b""), _SHAPE)
        sizes: list[int | str] = []
        for block in shape.blocks.get("dim", ()):
            size = self._wire.read(block, _DIMENSION)
            sizes.append(size.number("dim_value") if "dim_value" in size else size.text("dim_param"))
        if len(sizes) > MOST_DIMENSIONS:
            raise BundleError(f"{port.text('name')!r} has {len(sizes)} dimensions")
        return Port(port.text("name"), tensor.number("elem_type"), tuple(sizes))


def _floats(blocks: list[memoryview]) -> tuple[float, ...]:
    return tuple(np.frombuffer(b"".join(blocks), "<f4").tolist())


def _refuse(message: Message, *names: str) -> None:
    for name in names:
        if name in message:
            raise BundleError(f"{name!r} is not allowed")


def _check_domain(domain: str) -> None:
    if domain not in _DOMAINS:
        raise BundleError(f"operators of domain {domain!r} are not allowed")


__all__ = ["FLOAT", "Attribute", "Constant", "Graph", "Node", "Port", "read_graph"]
