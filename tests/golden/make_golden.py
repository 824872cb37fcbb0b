"""Make the golden files anew: a tiny bundle, streams, and what a decoder must find in them.

    PYTHONPATH=. python tests/golden/make_golden.py [FOLDER]

Symbols, and with them streams, follow from integer tables and an exact graph; fractions occur only in the encoder's
free graphs. The files are part of the format's definition: review every difference, and change FORMAT.md with them.

    tiny/       the bundle, see tiny_bundle.py; tiny-FAMILY/ those of the other families, see tiny_families.py
    families/   a stream of each of these, and expected.json: what is known of every field, of the whole and of prefixes
    valid/      streams, and expected.json: header fields, symbols by hash, and how many trits some prefixes determine
    damaged/    streams with a fault in the body, and expected.json: how many body bytes come before it
    invalid/    streams that must be refused, and expected.json: by which error
    pictures/   what some of the streams and of their prefixes decode to, and expected.json; conform.py checks decoders
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime import Codec, trim
from runtime.entropy.tables import Tables
from runtime.families.base import Latents
from runtime.families.deepfgs import DeepFgsLatents
from runtime.families.dpict import Dpict
from runtime.families.planes import PlaneLatents
from runtime.families.progdtd import ProgDtdLatents
from runtime.stream import HEADER_BYTES, StreamParser

HERE = Path(__file__).parent
# Prefixes whose pictures are stated, by length: the head segment alone, inside words, at the ends of frames.
CUTS = {
    "example": (38, 54, 85),
    "rgb": (46, 47, 96, 167, 334, 501),
    "one-pixel": (46,),
    "frames": (170, 2222, 4716),
}
FAMILIES = ("ctc", "progdtd", "deepfgs")  # of which there are bundles beside that of dpict
# Of their streams, as a share of the body: nothing of it, inside every kind of field that a family has, all but a byte.
FAMILY_CUTS = (0.0, 0.15, 0.4, 0.6, 0.8, 1.0)
TOLERANCE = 1  # levels of 0..255: what rounding can make of one picture on two machines
SPARSE = 1 << 16  # of pictures with more pixels, every eighth row and column is kept


def made_image(height: int, width: int, *, grey: bool, busy: int) -> NDArray[np.uint8]:
    """Return a picture of ramps and some *busy* texture; integers only."""
    row, column = np.mgrid[:height, :width]
    planes = [
        (3 * row + 2 * column + 40 * tone + busy * (row // 5 * 7 + column // 6 * 11 + row * column // 97)) % 256
        for tone in range(1 if grey else 3)
    ]
    return (planes[0] if grey else np.stack(planes, axis=2)).astype(np.uint8)


def symbols_hash(symbols: NDArray[np.integer]) -> str:
    """Return the SHA-256 of *symbols* as little-endian int16."""
    return hashlib.sha256(symbols.astype("<i2").tobytes()).hexdigest()


def valid_streams(codec: Codec) -> dict[str, bytes]:
    """Return streams by name."""
    rgb_encoding = codec.encode(made_image(70, 150, grey=False, busy=1))
    rgb, shortest = rgb_encoding.stream, int(rgb_encoding.value.offsets[0])
    frames = codec.encode(made_image(512, 768, grey=False, busy=1)).stream
    return {
        "example": codec.encode(made_image(20, 33, grey=True, busy=1)).stream,
        "rgb": rgb,
        "one-pixel": codec.encode(np.array([[200]], np.uint8)).stream,
        "no-body": codec.encode(np.full((5, 7, 3), 128, np.uint8)).stream,
        "frames": frames,
        "trimmed": trim(frames, 2500),
        "trimmed-twice": trim(trim(frames, 2500), 1999),
        "trimmed-inside-word": trim(rgb, shortest + 13),
        "trimmed-to-head-segment": trim(rgb, shortest),
    }


def expected_of(codec: Codec, stream: bytes) -> dict[str, Any]:
    """Return what a decoder finds in *stream*."""
    decoder = codec.decoder()
    decoder.feed(stream)
    picture = decoder.finish()
    header, latents = decoder._parser.header, decoder._latents
    assert header is not None and isinstance(latents, PlaneLatents) and latents.y is not None
    cuts = sorted({header.body_start + size for size in (0, 1, 7, 8, 9, 16, 50, 333, 2048, 2049, 2100)})
    return {
        "exact_id": header.exact_id.hex(),
        "width": header.width,
        "height": header.height,
        "grey": header.grey,
        "trimmed": header.trimmed,
        "head_bytes": header.head_bytes,
        "body_bytes": header.body_bytes,
        "complete": picture.complete,
        "z_symbols_sha256": symbols_hash(latents.z.known_symbols()),
        "y_nodes_sha256": symbols_hash(latents.y.nodes),
        "y_symbols_sha256": symbols_hash(latents.y.known_symbols()) if picture.complete else None,
        "trits_by_cut": {str(cut): trits_known(codec, stream[:cut]) for cut in cuts if cut <= len(stream)},
    }


def family_cuts(stream: bytes) -> list[int]:
    """Return the lengths of the stated prefixes of a family's stream, which has one frame."""
    parser = StreamParser()
    parser.feed(stream)
    assert parser.header is not None
    start, body = parser.header.body_start, parser.header.body_bytes
    return [start + min(round(share * body), body - 1) for share in FAMILY_CUTS] + [len(stream)]


def family_expected(codec: Codec, stream: bytes) -> dict[str, Any]:
    """Return what a decoder finds in *stream* of any family: of each field that has begun, hashes of its nodes."""
    parser = StreamParser()
    parser.feed(stream)
    assert parser.header is not None
    header = parser.header
    return {
        "exact_id": header.exact_id.hex(),
        "head_bytes": header.head_bytes,
        "body_bytes": header.body_bytes,
        "nodes_by_cut": {str(cut): fields_known(codec, stream[:cut]) for cut in family_cuts(stream)},
    }


def fields_known(codec: Codec, prefix: bytes) -> dict[str, str]:
    """Return the SHA-256 of the nodes of every field of which *prefix* tells the models, by the name in FORMAT.md."""
    decoder = codec.decoder()
    decoder.feed(prefix)
    assert decoder._latents is not None
    return {name: symbols_hash(nodes) for name, nodes in fields_of(decoder._latents).items()}


def fields_of(latents: Latents) -> dict[str, NDArray[np.integer]]:
    """Return the nodes of the fields that have begun; of progdtd's y, those of the groups that have begun."""
    if isinstance(latents, DeepFgsLatents):
        fields = {"zb": latents.base.z, "b": latents.base.field, "zs": latents.scalable.z, "s": latents.scalable.field}
        return {name: field.nodes for name, field in fields.items() if field is not None}
    if isinstance(latents, ProgDtdLatents):
        return {"z": latents._z.nodes, "y": np.concatenate([group.nodes for group in latents._groups])}
    assert isinstance(latents, PlaneLatents) and latents.y is not None
    return {"z": latents.z.nodes, "y": latents.y.nodes}


def trits_known(codec: Codec, prefix: bytes) -> int:
    """Return how many trits of the body *prefix* determines."""
    decoder = codec.decoder()
    decoder.feed(prefix)
    latents = decoder._latents
    assert isinstance(latents, PlaneLatents) and latents.y is not None
    y = latents.y
    depth = node_depths(y.tables)
    return int(depth[y.nodes].sum())


def node_depths(tables: Tables) -> NDArray[np.int64]:
    """int64 (N,): how many trits lead to each node."""
    depth = np.zeros(len(tables.mean), np.int64)
    for node, child in enumerate(tables.first_child):
        depth[child : child + 3] = depth[node] + 1
    return depth


def changed_header(stream: bytes, **fields: int | bytes) -> bytes:
    """Return *stream* with header *fields* changed and the checksum made right."""
    names = ("magic", "version", "flags", "exact_id", "width", "height", "head_bytes", "body_bytes")
    values = dict(zip(names, struct.unpack_from(">4sBB8sHHII", stream), strict=True)) | fields
    packed = struct.pack(">4sBB8sHHII", *values.values())
    return packed + struct.pack(">I", zlib.crc32(packed)) + stream[HEADER_BYTES:]


def flipped(stream: bytes, byte: int, bit: int = 0) -> bytes:
    """Return *stream* with one bit changed."""
    return stream[:byte] + bytes([stream[byte] ^ 1 << bit]) + stream[byte + 1 :]


def invalid_streams(example: bytes) -> dict[str, tuple[str, bytes]]:
    """Return (expected error, stream) by name."""
    head_bytes = struct.unpack_from(">I", example, 18)[0]
    head_end = HEADER_BYTES + head_bytes
    ones = b"\xff" * 8
    return {
        "empty": ("Incomplete", b""),
        "ends-in-header": ("Incomplete", example[: HEADER_BYTES - 1]),
        "ends-in-head-segment": ("Incomplete", example[: head_end + 3]),
        "not-a-stream": ("StreamError", b"\x89PNG\r\n\x1a\n" + bytes(40)),
        "unknown-version": ("StreamError", changed_header(example, version=2)),
        "flipped-bit-in-header": ("StreamError", flipped(example, 15)),
        "flipped-bit-in-header-checksum": ("StreamError", flipped(example, HEADER_BYTES - 1)),
        "reserved-flag": ("StreamError", changed_header(example, flags=example[5] | 0x04)),
        "no-width": ("StreamError", changed_header(example, width=0)),
        "no-height": ("StreamError", changed_header(example, height=0)),
        "head-segment-of-odd-length": ("StreamError", changed_header(example, head_bytes=head_bytes + 2)),
        "body-of-odd-length": ("StreamError", changed_header(example, body_bytes=21)),
        "too-many-pixels": ("LimitExceeded", changed_header(example, width=65535, height=65535)),
        "head-segment-too-long": ("LimitExceeded", changed_header(example, head_bytes=0xFFFFFFFC)),
        "body-too-long": ("LimitExceeded", changed_header(example, body_bytes=0xFFFFFFFC)),
        "other-bundle": ("ModelMismatch", changed_header(example, exact_id=bytes(range(8)))),
        "flipped-bit-in-head-segment": ("StreamError", flipped(example, HEADER_BYTES)),
        "flipped-bit-in-head-segment-checksum": ("StreamError", flipped(example, head_end + 3)),
        "head-segment-no-encoder-writes": (
            "StreamError",
            changed_header(example, head_bytes=8)[:HEADER_BYTES]
            + ones
            + struct.pack(">I", zlib.crc32(ones))
            + example[head_end + 4 :],
        ),
    }


def damaged_streams(frames: bytes) -> dict[str, tuple[int, bytes]]:
    """Return (body bytes before the damage, stream) by name."""
    parser = StreamParser()
    parser.feed(frames)
    assert parser.header is not None
    second = parser.header.body_start + 2052
    return {
        "first-frame": (0, flipped(frames, second - 1000, 3)),
        "second-frame": (2048, flipped(frames, second, 7)),
        "checksum-of-second-frame": (2048, flipped(frames, second + 2048 + 1, 5)),
    }


def stated_pictures(codec: Codec, valid: dict[str, bytes], damaged: dict[str, tuple[int, bytes]]) -> list[Stated]:
    """Return what decoders of family dpict must show."""
    stated = [stated_picture(codec, name, f"valid/{name}.cut", stream, None) for name, stream in valid.items()]
    for name, cuts in CUTS.items():
        for cut in cuts:
            stated.append(stated_picture(codec, f"{name}-{cut}", f"valid/{name}.cut", valid[name], cut))
    for name, (_, stream) in damaged.items():
        stated.append(stated_picture(codec, name, f"damaged/{name}.cut", stream, None))
    return stated


class Stated(NamedTuple):
    """A case of conform.py, and its pictures by file name."""

    name: str
    case: dict[str, Any]
    pictures: dict[str, NDArray[np.uint8]]


def family_pictures(codec: Codec, family: str, stream: bytes) -> list[Stated]:
    """Return what decoders of another family must show of its stream and of the same prefixes."""
    bundle, file = f"tiny-{family}", f"families/{family}.cut"
    cuts = [cut for cut in family_cuts(stream) if cut < len(stream)]
    return [
        stated_picture(codec, f"{family}-{cut}" if cut else family, file, stream, cut, bundle) for cut in (*cuts, None)
    ]


def stated_picture(codec: Codec, name: str, file: str, stream: bytes, cut: int | None, bundle: str = "tiny") -> Stated:
    """Return the pictures of a stream or a prefix: as its decoder makes it, and without postprocessing if it has some.

    Postprocessing is optional, so that either will do.
    """
    family = codec.model.family
    post = family.post if isinstance(family, Dpict) else ()
    pictures = {}
    for suffix, passes in (("", ()), ("-post", post)) if post else (("", ()),):
        if isinstance(family, Dpict):
            family.post = passes
        decoder = codec.decoder()
        decoder.feed(stream[:cut])
        pictures[f"{name}{suffix}.png"] = decoder.finish().image
    if isinstance(family, Dpict):
        family.post = post
    plain = pictures[f"{name}.png"]
    if post and (plain == pictures[f"{name}-post.png"]).all():
        del pictures[f"{name}-post.png"]
    every = 8 if plain.shape[0] * plain.shape[1] > SPARSE else 1
    case = {
        "bundle": bundle,
        "stream": file,
        "bytes": cut,
        "width": plain.shape[1],
        "height": plain.shape[0],
        "grey": plain.ndim == 2,
        "every": every,
        "pictures": list(pictures),
    }
    latents = decoder._latents
    if isinstance(latents, PlaneLatents):  # the other families have fields of other names
        assert latents.y is not None
        case["z_symbols_sha256"] = symbols_hash(latents.z.known_symbols())
        case["y_nodes_sha256"] = symbols_hash(latents.y.nodes)
    return Stated(
        name, case, {file: picture[every - 1 :: every, every - 1 :: every] for file, picture in pictures.items()}
    )


def write_golden(folder: Path) -> None:
    """Write all golden files below *folder*."""
    from tiny_bundle import write_tiny  # needs onnx
    from tiny_families import write_families

    write_tiny(folder / "tiny")
    write_families(folder)
    streams, expected, stated = {}, {}, []
    for family in FAMILIES:
        with Codec.open(folder / f"tiny-{family}", threads=1) as codec:
            stream = codec.encode(made_image(70, 150, grey=False, busy=1)).stream
            streams[family], expected[family] = stream, family_expected(codec, stream)
            stated += family_pictures(codec, family, stream)
    _write(folder / "families", streams, expected)
    with Codec.open(folder / "tiny", threads=1) as codec:
        valid = valid_streams(codec)
        _write(folder / "valid", valid, {name: expected_of(codec, stream) for name, stream in valid.items()})
        damaged = damaged_streams(valid["frames"])
        write_pictures(folder / "pictures", stated_pictures(codec, valid, damaged) + stated)
    _write(
        folder / "damaged",
        {name: stream for name, (_, stream) in damaged.items()},
        {name: {"body_bytes_before_damage": size} for name, (size, _) in damaged.items()},
    )
    invalid = invalid_streams(valid["example"])
    _write(
        folder / "invalid",
        {name: stream for name, (_, stream) in invalid.items()},
        {name: {"error": error} for name, (error, _) in invalid.items()},
    )


def write_pictures(folder: Path, stated: list[Stated]) -> None:
    """Write pictures, the same ones once, and expected.json to *folder*."""
    folder.mkdir(parents=True)
    written: dict[tuple[tuple[int, ...], bytes], str] = {}
    for _, case, pictures in stated:
        for name, picture in pictures.items():
            first = written.setdefault((picture.shape, picture.tobytes()), name)
            if first == name:
                Image.fromarray(picture).save(folder / name, optimize=True)
            case["pictures"] = [first if file == name else file for file in case["pictures"]]
    expected = {"tolerance": TOLERANCE, "cases": {name: case for name, case, _ in stated}}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def _write(folder: Path, streams: dict[str, bytes], expected: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, stream in streams.items():
        (folder / f"{name}.cut").write_bytes(stream)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Replace the golden files, or write them to the folder that the command line names."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    with tempfile.TemporaryDirectory() as made:
        write_golden(Path(made))
        for part in (path.name for path in Path(made).iterdir()):
            shutil.rmtree(target / part, ignore_errors=True)
            shutil.copytree(Path(made) / part, target / part)


if __name__ == "__main__":
    main()
