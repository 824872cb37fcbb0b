"""What the targets that take streams share: golden files, and checksums made right."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from pathlib import Path

from runtime.stream import FRAME_BYTES, HEADER_BYTES, MAGIC, VERSION

GOLDEN = Path(__file__).parents[2] / "golden"
_FLAGS, _EXACT_ID, _SIZES = 5, slice(6, 14), slice(14, 26)
_CRC_BYTES = 4


def golden_streams() -> dict[str, bytes]:
    """Return all golden streams, good and bad, by name."""
    files = [path for part in ("valid", "damaged", "invalid") for path in sorted((GOLDEN / part).glob("*.cut"))]
    return {path.stem: path.read_bytes() for path in files}


def repaired(data: bytes, exact_id: bytes, longest_side: int, spared_frame: int) -> bytes:
    """Return *data* as a stream whose fixed fields and checksums are right, so that a parser gets to its contents.

    Args:
        longest_side: widths and heights are taken modulo one more than this.
        spared_frame: the frame that keeps whatever checksum it has.
    """
    if len(data) < HEADER_BYTES:
        return data
    stream = bytearray(data)
    stream[:_FLAGS] = MAGIC + bytes([VERSION])
    stream[_FLAGS] &= 3
    stream[_EXACT_ID] = exact_id
    width, height, head_bytes, body_bytes = struct.unpack(">HHII", stream[_SIZES])
    head_bytes = head_bytes % (len(data) + 8) & ~3
    body_bytes %= 2 * len(data)
    if not stream[_FLAGS] & 2:
        body_bytes &= ~3
    side = longest_side + 1
    stream[_SIZES] = struct.pack(">HHII", width % side, height % side, head_bytes, body_bytes)
    _checksum(stream, 0, HEADER_BYTES - _CRC_BYTES)
    start = HEADER_BYTES + head_bytes + _CRC_BYTES
    _checksum(stream, HEADER_BYTES, start - _CRC_BYTES)
    for number, begin in enumerate(range(0, body_bytes, FRAME_BYTES)):
        offset = start + begin + _CRC_BYTES * number
        if number != spared_frame:
            _checksum(stream, offset, offset + min(FRAME_BYTES, body_bytes - begin))
    return bytes(stream)


def portions(stream: bytes, splits: bytes) -> list[bytes]:
    """Return *stream* in portions that end at so many 256ths of it, and at its end."""
    bounds = [0, *sorted(len(stream) * split // 256 for split in splits), len(stream)]
    return [stream[begin:end] for begin, end in pairwise(bounds)]


def _checksum(stream: bytearray, begin: int, end: int) -> None:
    """Put the checksum of *begin* to *end* behind it, if both are there."""
    if begin <= end <= len(stream) - _CRC_BYTES:
        stream[end : end + _CRC_BYTES] = struct.pack(">I", zlib.crc32(stream[begin:end]))
