"""Try claims that would cost memory, in a process that may take no more than ROOM beyond what it has.

Prints one line per claim: what it is, and the kind of exception. See test_memory.py, which runs it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import resource
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_writer as writer

from engines.arrays import LARGEST_TOTAL, read_arrays
from engines.bundle import Bundle, BundleLimits
from engines.exact_graph import read_exact_graph
from engines.manifest import MANIFEST, parse_manifest
from engines.onnx_file import read_graph
from runtime import Codec
from runtime.entropy.tables import MOST_MODELS, Tables
from runtime.stream import HEADER_BYTES, Header, Limits, trim

GOLDEN = Path(__file__).parent / "golden"
ROOM = 100_000_000

Claim = tuple[str, Callable[[], object]]


def streams(codec: Codec) -> Iterator[Claim]:
    """Yield headers with right checksums that claim all they can, and all they may."""
    example = (GOLDEN / "valid" / "example.cut").read_bytes()
    header = Header.from_bytes(example, Limits())
    for name, changes in {
        "65,535 x 65,535 pixels": {"width": 65_535, "height": 65_535},
        "a head segment of 4 GB": {"head_bytes": 0xFFFF_FFFC},
        "a body of 4 GB": {"body_bytes": 0xFFFF_FFFC},
        "as many pixels as allowed, nothing behind": {"width": 8192, "height": 8192},
        "the longest head segment, nothing behind": {"head_bytes": 1 << 22, "width": 8192, "height": 8192},
        "the longest body, nothing behind": {"body_bytes": 1 << 28, "head_bytes": 1 << 22},
    }.items():
        data = dataclasses.replace(header, **changes).to_bytes()
        yield f"stream: {name}", lambda data=data: codec.decode(data)
        yield f"trimming: {name}", lambda data=data: trim(data, 1 << 40)
    large = dataclasses.replace(header, body_bytes=1 << 28).to_bytes() + example[HEADER_BYTES:]
    yield "stream: strict, the longest body, damaged", lambda: codec.decode(large + bytes(4000), strict=True)


def archives() -> Iterator[Claim]:
    """Yield .npz files that claim, or unfold to, more than they are."""

    def npy(shape: str, kind: str = "<f8") -> bytes:
        text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text

    def archive(content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as file:
            file.writestr("trits.npy", content)
        return buffer.getvalue()

    def packed(size: int) -> bytes:
        """Return a member of *size* zeros, packed without ever holding them."""
        buffer = io.BytesIO()
        with (
            zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file,
            file.open("trits.npy", "w", force_zip64=True) as member,
        ):
            for _ in range(size // (1 << 20)):
                member.write(bytes(1 << 20))
        return buffer.getvalue()

    yield "array of 2^50 elements", lambda: read_arrays(archive(npy("(1125899906842624,)")))
    yield "array of 2^80 elements", lambda: read_arrays(archive(npy("(1099511627776, 1099511627776)")))
    yield "array of a type of 2 GB", lambda: read_arrays(archive(npy("(1,)", "<V2000000000")))
    yield "array of a text of 2 GB", lambda: read_arrays(archive(npy("(1,)", "<U500000000")))
    yield "header of 2 GB", lambda: read_arrays(archive(b"\x93NUMPY\x02\x00\x00\x00\x00\x80{}"))
    bomb = packed(LARGEST_TOTAL + (1 << 20))
    yield "zeros that unfold to more than allowed", lambda: read_arrays(bomb)
    claim = (200 << 20).to_bytes(4, "little")
    small = archive(bytes(1000))
    sizes = small.replace((1000).to_bytes(4, "little"), claim)
    yield "stored member that claims 200 MB", lambda: read_arrays(sizes)
    directory = (b"PK\x01\x02".ljust(28, b"\0") + struct.pack("<H", 1)).ljust(46, b"\0") + b"a"
    entries = 1_000_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, entries * len(directory), 0, 0)
    yield "a directory of a million arrays", lambda: read_arrays(entries * directory + end)


def tables() -> Iterator[Claim]:
    """Yield table files that would make much of little."""
    tiny = Tables.from_bytes((GOLDEN / "tiny" / "tables" / "entropy.npz").read_bytes())
    arrays = {name: getattr(tiny, name) for name in Tables.__dataclass_fields__}
    many = MOST_MODELS + 1
    deep = {"trits": np.full(many, 6, np.uint8), "root": np.full(many, tiny.root[0])}
    yield "more models than allowed", lambda: Tables.from_arrays({**arrays, **deep})
    yield "models deeper than allowed", lambda: Tables.from_arrays({**arrays, "trits": tiny.trits + np.uint8(250)})


def graphs() -> Iterator[Claim]:
    """Yield ONNX files of huge tensors, and of many small values."""
    port = [writer.port("x", 1)], [writer.port("y", 1)]
    tensor = writer.field(1, 1 << 35) + writer.field(2, 1) + writer.field(8, "c")
    huge = writer.model([], [tensor], *port)
    yield "constant of 2^35 floats", lambda: read_graph(huge)
    weight = writer.field(1, 1 << 14) * 2 + writer.field(1, 3) * 2 + writer.field(2, 1) + writer.field(8, "w")
    node = writer.node("Conv", ["x", "w", "w"], ["y"])
    conv = writer.model([node], [weight], *port)
    yield "weights that are not there", lambda: read_exact_graph(conv)
    many = writer.field(1, 0) * 300_000
    yield "constant of 300,000 dimensions", lambda: read_graph(writer.model([], [many], *port))
    depth = writer.node("DepthToSpace", ["x"], ["y"], {"blocksize": 1 << 40, "mode": b"CRD"})
    yield "blocks of 2^40 pixels", lambda: read_exact_graph(writer.model([depth], [], *port))


def bundles(folder: Path) -> Iterator[Claim]:
    """Yield bundles whose files are, or are said to be, huge; they are sparse on disk."""

    def write(size: int, claimed: int) -> None:
        manifest = json.loads((GOLDEN / "tiny" / MANIFEST).read_text())
        entry = {"path": "huge", "size": claimed, "sha256": hashlib.sha256(b"").hexdigest()}
        manifest["files"] = [entry]
        manifest["exact_files"], manifest["graphs"] = [], {}
        (folder / MANIFEST).write_text(json.dumps(manifest))
        with (folder / "huge").open("wb") as file:
            os.truncate(file.fileno(), size)

    def opened(size: int, claimed: int) -> None:
        write(size, claimed)
        Bundle.open(folder)

    yield "file of 2 TB", lambda: opened(1 << 41, 1 << 41)
    yield "file of 2 TB that claims to be empty", lambda: opened(1 << 41, 0)
    yield "empty file that claims 1 GB", lambda: opened(0, 1 << 30)

    def long_manifest() -> None:
        with (folder / MANIFEST).open("wb") as file:
            os.truncate(file.fileno(), 1 << 40)
        Bundle.open(folder)

    yield "manifest of 1 TB", long_manifest
    yield "manifest of brackets", lambda: parse_manifest(b"[" * (1 << 20), BundleLimits())
    yield "manifest with a number of 1 MB", lambda: parse_manifest(b'{"a":' + b"9" * (1 << 20) + b"}", BundleLimits())


def main() -> None:
    """Warm up, close the door, and try."""
    with tempfile.TemporaryDirectory() as folder, Codec.open(GOLDEN / "tiny", threads=1) as codec:
        assert codec.decode((GOLDEN / "valid" / "rgb.cut").read_bytes()).complete
        claims = [*streams(codec), *archives(), *tables(), *graphs(), *bundles(Path(folder))]
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
        for name, attempt in claims:
            print(f"{name}: {_kind(attempt)}")
        print(f"control: {_kind(lambda: np.ones(2 * ROOM, np.uint8))}")


def _kind(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except Exception as fault:
        return type(fault).__name__
    return "accepted"


if __name__ == "__main__":
    main()
