"""Protocol buffers' wire format, as much as is needed to read ONNX files of unknown origin.

A message is a sequence of (field number, wire type, value). A reader is told which fields a message may have and
refuses all others, wire types that do not belong, and a second value of a field that has one: one file, one meaning.
Nothing is copied: values of bytes are views. Work is limited by the number of values in the whole file.

Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from engines.errors import BundleError

_WIRE_TYPES = {"varint": 0, "fixed64": 1, "bytes": 2, "fixed32": 5}
_PACKED = 2
_WIDTHS = {"fixed64": 8, "fixed32": 4}
_LONGEST_VARINT = 10


@dataclass(frozen=True)
class Field:
    """What a message may hold under one field number."""

    name: str
    kind: Literal["varint", "fixed32", "fixed64", "bytes"]
    repeated: bool = False


Fields = Mapping[int, Field]


@dataclass(frozen=True)
class Message:
    """Values by field name, in order.

    Attributes:
        numbers: of varint fields, as signed 64-bit integers.
        blocks: of all other fields; packed fixed-width values lie together in one block, little-endian.
    """

    numbers: dict[str, list[int]] = field(default_factory=dict)
    blocks: dict[str, list[memoryview]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.numbers or name in self.blocks

    def number(self, name: str, default: int = 0) -> int:
        """Return the value of a varint field, or *default*."""
        return self.numbers.get(name, [default])[0]

    def block(self, name: str) -> memoryview | None:
        """Return the value of a field of bytes, or None."""
        return self.blocks.get(name, [None])[0]

    def size(self, name: str) -> int:
        """Return how many bytes the values of a field take: at least 1 each, and 8 for a number."""
        return 8 * len(self.numbers.get(name, ())) + sum(len(block) or 1 for block in self.blocks.get(name, ()))

    def text(self, name: str) -> str:
        """Return the value of a field of text; empty if there is none.

        Raises:
            BundleError: it is not UTF-8.
        """
        return decoded(self.blocks.get(name, [memoryview(b"")])[0])

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the values of a repeated field of text.

        Raises:
            BundleError: one is not UTF-8.
        """
        return tuple(decoded(value) for value in self.blocks.get(name, ()))


def decoded(value: memoryview) -> str:
    """Return *value* as text.

    Raises:
        BundleError: it is not UTF-8.
    """
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as fault:
        raise BundleError("text that is not UTF-8") from fault


class WireReader:
    """Reads the messages of one file; *most_values* limits how many values they may have together."""

    def __init__(self, most_values: int) -> None:
        self._left = most_values

    def read(self, content: memoryview, fields: Fields) -> Message:
        """Read one message.

        Raises:
            BundleError: it is malformed, has a field that is not in *fields*, or there are too many values.
        """
        message = Message()
        position, end = 0, len(content)
        while position < end:
            tag, position = _varint(content, position)
            known = fields.get(tag >> 3)
            if known is None:
                raise BundleError(f"field {tag >> 3} is not one that is read")
            if known.name in message and not known.repeated:
                raise BundleError(f"field {known.name!r} occurs twice")
            wire_type = tag & 7
            packed = known.repeated and wire_type == _PACKED
            if wire_type != _WIRE_TYPES[known.kind] and not packed:
                raise BundleError(f"field {known.name!r} has wire type {wire_type}")
            if wire_type == _WIRE_TYPES["bytes"]:
                length, position = _varint(content, position)
            else:
                length = _WIDTHS.get(known.kind, 0)
            if length > end - position:
                raise BundleError(f"field {known.name!r} of {length} bytes leaves its message")
            if known.kind == "varint":
                values = message.numbers.setdefault(known.name, [])
                stop = position + length if packed else position + 1
                while position < stop:
                    value, position = _varint(content, position)
                    values.append(value - (1 << 64) if value >> 63 else value)
                    self._spend()
                if packed and position != stop:
                    raise BundleError(f"field {known.name!r} ends inside a number")
            else:
                if length % _WIDTHS.get(known.kind, 1):
                    raise BundleError(f"field {known.name!r} ends inside a number")
                message.blocks.setdefault(known.name, []).append(content[position : position + length])
                position += length
            self._spend()
        return message

    def _spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise BundleError("too many values")


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    """Return the unsigned number at *position* and the position behind it."""
    value = 0
    for index, byte in enumerate(content[position : position + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >> 64:
                raise BundleError("a number of more than 64 bits")
            return value, position + index + 1
    raise BundleError("a number that does not end")
