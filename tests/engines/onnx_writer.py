"""Writes small ONNX files byte by byte, right or wrong, without the onnx package."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

FLOAT = 1
AttributeValue = int | float | bytes | Sequence[int]


def varint(value: int) -> bytes:
    """Return *value*, signed 64 bits, as a varint."""
    value &= (1 << 64) - 1
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def field(number: int, value: int | bytes | str) -> bytes:
    """Return a varint field, or one of bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, values: NDArray[np.generic] | float, *, as_floats: bool = False, extra: bytes = b"") -> bytes:
    """Return a TensorProto of float32."""
    array = np.asarray(values, np.float32)
    dims = b"".join(field(1, size) for size in array.shape)
    data = field(4 if as_floats else 9, array.astype("<f4").tobytes())
    return dims + field(2, FLOAT) + field(8, name) + data + extra


def attribute(name: str, value: AttributeValue) -> bytes:
    """Return an AttributeProto."""
    if isinstance(value, bytes):
        return field(1, name) + field(4, value) + field(20, 3)
    if isinstance(value, float):
        return field(1, name) + varint(2 << 3 | 5) + struct.pack("<f", value) + field(20, 1)
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    return field(1, name) + b"".join(field(8, one) for one in value) + field(20, 7)


def node(
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    extra: bytes = b"",
) -> bytes:
    """Return a NodeProto."""
    names = b"".join(field(1, name) for name in inputs) + b"".join(field(2, name) for name in outputs)
    values = b"".join(field(5, attribute(name, value)) for name, value in (attributes or {}).items())
    return names + field(4, operator) + values + extra


def port(name: str, channels: int) -> bytes:
    """Return a ValueInfoProto of float32 (B, channels, H, W)."""
    sizes: list[int | str] = ["B", channels, f"{name}_H", f"{name}_W"]
    dims = b"".join(field(1, field(1 if isinstance(size, int) else 2, size)) for size in sizes)
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, dims)))


def model(
    nodes: Sequence[bytes],
    constants: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    *,
    graph_extra: bytes = b"",
    extra: bytes = b"",
) -> bytes:
    """Return a ModelProto, operator set 18."""
    graph = b"".join(field(1, one) for one in nodes) + field(2, "made") + b"".join(field(5, one) for one in constants)
    graph += b"".join(field(11, one) for one in inputs) + b"".join(field(12, one) for one in outputs) + graph_extra
    return field(1, 10) + field(7, graph) + field(8, field(1, "") + field(2, 18)) + extra


def layer(
    source: str,
    name: str,
    weight: NDArray[np.generic],
    bias: NDArray[np.generic],
    scale: NDArray[np.generic] | float,
    limits: tuple[float, float],
    groups: int = 1,
) -> tuple[list[bytes], list[bytes]]:
    """Return nodes and constants of Conv, Round, Mul, Floor, Clip, as the exporter makes them."""
    kernel = weight.shape[2]
    attributes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "group": groups}
    nodes = [
        node("Conv", [source, f"{name}.weight", f"{name}.bias"], [f"{name}.sum"], attributes),
        node("Round", [f"{name}.sum"], [f"{name}.whole"]),
        node("Mul", [f"{name}.whole", f"{name}.scale"], [f"{name}.scaled"]),
        node("Floor", [f"{name}.scaled"], [f"{name}.floor"]),
        node("Clip", [f"{name}.floor", f"{name}.low", f"{name}.high"], [name]),
    ]
    constants = [
        tensor(f"{name}.weight", weight),
        tensor(f"{name}.bias", bias),
        tensor(f"{name}.scale", scale),
        tensor(f"{name}.low", limits[0]),
        tensor(f"{name}.high", limits[1]),
    ]
    return nodes, constants


def small_graph(seed: int = 0) -> bytes:
    """Return an exact graph from z_hat (2 channels) to mu and sigma_code (3 each), as h_s is built."""
    generator = np.random.default_rng(seed)

    def integers(low: int, high: int, *shape: int) -> NDArray[np.int64]:
        return generator.integers(low, high + 1, shape)

    parts = [
        layer("z_hat", "h0", integers(-9, 9, 16, 2, 1, 1), integers(-50, 50, 16), 0.5, (0, 4095)),
        ([node("DepthToSpace", ["h0"], ["h1"], {"blocksize": 2, "mode": b"CRD"})], []),
        layer(
            "h1", "h2", integers(-99, 99, 4, 1, 3, 3), integers(-999, 999, 4), 2.0 ** -integers(0, 5, 1, 4, 1, 1),
            (0, 4095), groups=4,
        ),
        layer("h2", "h3", integers(-3, 3, 4, 4, 3, 3), integers(-99, 99, 4), 0.25, (-500, 4095)),
        layer("h3", "mu", integers(-99, 99, 3, 4, 1, 1), integers(-999, 999, 3), 2.0, (-32767, 32767)),
        layer("h3", "sigma_code", integers(-99, 99, 3, 4, 1, 1), integers(-999, 999, 3), 2.0**-6, (0, 1023)),
    ]  # fmt: skip
    nodes = [one for part in parts for one in part[0]]
    constants = [one for part in parts for one in part[1]]
    return model(nodes, constants, [port("z_hat", 2)], [port("mu", 3), port("sigma_code", 3)])


# Changes inside a file that leave its outer structure whole: lengths of enclosing messages stay right.

_MESSAGES = {
    "model": {7: "graph", 8: "operator set"},
    "graph": {1: "node", 5: "tensor", 11: "port", 12: "port"},
    "node": {5: "attribute"},
    "port": {2: "type"},
    "type": {1: "tensor type"},
    "tensor type": {2: "shape"},
    "shape": {1: "dimension"},
}
_EDGES = (0, 1, 2, 3, 7, 127, 128, 255, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, -1, -2, -(1 << 63))
Entry = tuple[int, int, "int | bytes | list[Entry]"]


def changed_inside(content: bytes, seed: int, changes: int = 1) -> bytes:
    """Return an ONNX file with some of its fields changed, removed, repeated, renumbered or moved."""
    generator = random.Random(seed)
    tree = _tree(content, "model")
    for _ in range(changes):
        messages = [tree]
        for message in messages:
            messages += [value for _, _, value in message if isinstance(value, list)]
        message = generator.choice([one for one in messages if one])
        place = generator.randrange(len(message))
        number, wire_type, value = message[place]
        kind = generator.choice(["value", "value", "value", "remove", "repeat", "number", "move", "type"])
        if kind == "value" and isinstance(value, int):
            message[place] = (number, wire_type, generator.choice(_EDGES))
        elif kind == "value" and isinstance(value, bytes):
            message[place] = (number, wire_type, _changed_bytes(value, generator))
        elif kind == "remove":
            del message[place]
        elif kind == "repeat":
            message.insert(generator.randrange(len(message) + 1), message[place])
        elif kind == "number":
            message[place] = (generator.randrange(1, 27), wire_type, value)
        elif kind == "move":
            message.insert(generator.randrange(len(message)), message.pop(place))
        elif kind == "type":
            message[place] = (number, 0, generator.choice(_EDGES))
    return _written(tree)


def _changed_bytes(value: bytes, generator: random.Random) -> bytes:
    changed = bytearray(value)
    for _ in range(generator.randrange(1, 3)):
        place = generator.randrange(len(changed) + 1)
        kind = generator.choice(["set", "flip", "cut", "add"])
        if kind == "cut":
            del changed[place:]
        elif kind == "add":
            changed[place:place] = bytes(generator.randrange(256) for _ in range(generator.choice((1, 4))))
        elif place < len(changed):
            changed[place] = generator.randrange(256) if kind == "set" else changed[place] ^ 1 << generator.randrange(8)
    return bytes(changed)


def _tree(content: bytes, kind: str) -> list[Entry]:
    entries: list[Entry] = []
    position = 0
    while position < len(content):
        tag, position = _read_varint(content, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _read_varint(content, position)
            entries.append((number, 0, value))
            continue
        length = 4
        if wire_type == 2:
            length, position = _read_varint(content, position)
        inner, position = content[position : position + length], position + length
        below = _MESSAGES.get(kind, {}).get(number)
        entries.append((number, wire_type, _tree(inner, below) if below else inner))
    return entries


def _written(tree: list[Entry]) -> bytes:
    result = b""
    for number, wire_type, value in tree:
        content = _written(value) if isinstance(value, list) else value
        if isinstance(content, int):
            result += field(number, content)
        else:
            result += varint(number << 3 | 5) + content if wire_type == 5 else field(number, content)
    return result


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
