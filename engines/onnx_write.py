"""Writes ONNX files without the onnx package: the counterpart of `engines.onnx_file`.

Source: onnx/onnx.proto of ONNX 1.23.
"""

from __future__ import annotations

import struct

from engines.errors import BundleError
from engines.onnx_file import Attribute, Constant, Graph, Node, Port

_IR_VERSION = 10
_MANY = "a list of tensors"


def write_graph(graph: Graph) -> bytes:
    """Return the file of *graph*; the same graph always gives the same bytes.

    Raises:
        BundleError: a constant is not held as raw data, or an attribute is a list of tensors.
    """
    body = b"".join(_bytes(1, _node(node)) for node in graph.nodes) + _text(2, "graph")
    body += b"".join(_bytes(5, _tensor(constant)) for constant in graph.constants.values())
    body += b"".join(_bytes(11, _port(port)) for port in graph.inputs)
    body += b"".join(_bytes(12, _port(port)) for port in graph.outputs)
    operator_set = _text(1, "") + _number(2, graph.operator_set)
    return _number(1, _IR_VERSION) + _bytes(7, body) + _bytes(8, operator_set)


def _node(node: Node) -> bytes:
    names = b"".join(_text(1, name) for name in node.inputs) + b"".join(_text(2, name) for name in node.outputs)
    attributes = b"".join(_bytes(5, _attribute(name, value)) for name, value in node.attributes.items())
    return names + _text(3, node.name) + _text(4, node.operator) + attributes


def _attribute(name: str, value: Attribute) -> bytes:
    start = _text(1, name)
    if isinstance(value, Constant):
        return start + _bytes(5, _tensor(value)) + _number(20, 4)
    if isinstance(value, float):
        return start + _float(2, value) + _number(20, 1)
    if isinstance(value, int):
        return start + _number(3, value) + _number(20, 2)
    if isinstance(value, bytes):
        return start + _bytes(4, value) + _number(20, 3)
    if value is None:
        raise BundleError(f"attribute {name!r} is {_MANY}, which is not kept")
    if all(isinstance(one, int) for one in value):
        return start + b"".join(_number(8, int(one)) for one in value) + _number(20, 7)
    if all(isinstance(one, float) for one in value):
        return start + b"".join(_float(7, float(one)) for one in value) + _number(20, 6)
    return start + b"".join(_bytes(9, one) for one in value if isinstance(one, bytes)) + _number(20, 8)


def _tensor(constant: Constant) -> bytes:
    dims = b"".join(_number(1, size) for size in constant.shape)
    return dims + _number(2, constant.data_type) + _text(8, constant.name) + _bytes(9, constant.raw())


def _port(port: Port) -> bytes:
    sizes = (_number(1, size) if isinstance(size, int) else _text(2, size) for size in port.shape)
    shape = b"".join(_bytes(1, size) for size in sizes)
    return _text(1, port.name) + _bytes(2, _bytes(1, _number(1, port.data_type) + _bytes(2, shape)))


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)
