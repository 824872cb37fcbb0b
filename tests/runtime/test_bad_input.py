"""Bad input: each case is one clear error that names the fault and leaves no file; a test is named after its case."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Codec
from runtime.cli.main import main
from runtime.errors import (
    CutoffError,
    Incomplete,
    LimitExceeded,
    ModelMismatch,
    OutputError,
    PictureError,
    StreamError,
)
from runtime.image_files import read_image, write_image
from runtime.stream import FRAME_BYTES, HEADER_BYTES, Header, Limits, trim

Image = NDArray[np.uint8]
Refused = Callable[..., str]
_MEMORY_ALLOWED = 4_000_000
FRAME = FRAME_BYTES + 4


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """A function that runs a command which must fail: with one line on stderr and no new file. It returns the line."""

    def run(*words: str | Path, status: int = 1) -> str:
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        capsys.readouterr()
        assert main([str(word) for word in words]) == status
        printed = capsys.readouterr()
        (line,) = printed.err.splitlines()
        assert line.startswith("cutoff: error: ")
        assert printed.out == ""
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        return line

    return run


def _header(stream: bytes) -> Header:
    return Header.from_bytes(stream[:HEADER_BYTES], Limits(pixels=1 << 32))


def _with_header(stream: bytes, **changes: object) -> bytes:
    """Return *stream* with another header, whose checksum is right."""
    return dataclasses.replace(_header(stream), **changes).to_bytes() + stream[HEADER_BYTES:]  # type: ignore[arg-type]


def _flipped(stream: bytes, position: int, bit: int = 0) -> bytes:
    damaged = bytearray(stream)
    damaged[position] ^= 1 << bit
    return bytes(damaged)


# Pictures


def test_not_a_picture(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("This is no picture.")
    with pytest.raises(PictureError, match=r"notes\.png: not a picture"):
        read_image(path)
    assert f"{path}: not a picture" in refused("encode", path, "-o", tmp_path / "a.cut")


def test_missing_picture(refused: Refused, tmp_path: Path) -> None:
    line = refused("encode", tmp_path / "missing.png", "-o", tmp_path / "a.cut")
    assert "missing.png: cannot be read: No such file or directory" in line


def test_truncated_png(refused: Refused, tmp_path: Path, photographs: dict[str, Image]) -> None:
    path = tmp_path / "a.png"
    write_image(path, photographs["chelsea"][:80, :80])
    intact = path.read_bytes()
    for length in (8, 20, 33, 60, len(intact) // 2, len(intact) - 20, len(intact) - 5):
        path.write_bytes(intact[:length])
        with pytest.raises(PictureError, match=r"a\.png: "):
            read_image(path)
    path.write_bytes(intact[: len(intact) // 2])
    assert "damaged or truncated picture" in refused("encode", path, "-o", tmp_path / "a.cut")


def test_picture_of_0_bytes(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    with pytest.raises(PictureError, match="the file is empty"):
        read_image(path)
    assert "the file is empty" in refused("encode", path, "-o", tmp_path / "a.cut")


def test_picture_that_claims_65535_x_65535(refused: Refused, tmp_path: Path) -> None:
    """A small PNG may unfold to 13 GB: the claim is checked first."""
    path = tmp_path / "a.png"
    claim = b"IHDR" + struct.pack(">IIBBBBB", 65_535, 65_535, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100_000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (claim, data, b"IEND")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    tracemalloc.start()
    with pytest.raises(LimitExceeded, match="4294836225"):
        read_image(path)
    line = refused("encode", path, "-o", tmp_path / "a.cut")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "4294836225" in line
    assert peak < _MEMORY_ALLOWED


# Streams


def test_missing_stream(refused: Refused, tmp_path: Path) -> None:
    for words in (
        ["decode", "-o", tmp_path / "a.png"],
        ["inspect"],
        ["trim", "-o", tmp_path / "a.cut", "--bytes", "9"],
    ):
        assert "No such file or directory" in refused(*words, tmp_path / "missing.cut")


def test_not_a_stream(refused: Refused, codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "a.cut").write_text("This is no stream, although it is longer than a header.")
    with pytest.raises(StreamError, match="not a cutoff stream"):
        codec.decode((tmp_path / "a.cut").read_bytes())
    for words in (
        ["decode", "-o", tmp_path / "a.png"],
        ["inspect"],
        ["trim", "-o", tmp_path / "b.cut", "--bytes", "9"],
    ):
        assert "a.cut: not a cutoff stream" in refused(*words, tmp_path / "a.cut")


def test_stream_of_0_bytes(refused: Refused, codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "a.cut").write_bytes(b"")
    with pytest.raises(Incomplete, match="incomplete stream: 0 bytes"):
        codec.decode(b"")
    for words in (
        ["decode", "-o", tmp_path / "a.png"],
        ["inspect"],
        ["trim", "-o", tmp_path / "b.cut", "--bytes", "9"],
    ):
        assert "a.cut: incomplete stream: 0 bytes" in refused(*words, tmp_path / "a.cut")


def test_stream_of_another_bundle(refused: Refused, codec: Codec, stream: bytes, tmp_path: Path) -> None:
    """The error names the bundle that is needed."""
    needed = bytes(byte ^ 0xFF for byte in codec.bundle.exact_id)
    other = _with_header(stream, exact_id=needed)
    with pytest.raises(ModelMismatch, match=needed.hex()):
        codec.decode(other)
    (tmp_path / "a.cut").write_bytes(other)
    assert needed.hex() in refused("decode", tmp_path / "a.cut", "-o", tmp_path / "a.png")
    line = refused("decode", tmp_path / "a.cut", "-o", tmp_path / "a.png", "--bundle", "dpict-edge")
    assert needed.hex() in line
    assert codec.bundle.exact_id.hex() in line


def test_flipped_bit_in_header(refused: Refused, codec: Codec, stream: bytes, tmp_path: Path) -> None:
    for position in range(HEADER_BYTES):
        for bit in range(8):
            with pytest.raises(StreamError):
                codec.decode(_flipped(stream, position, bit))
    (tmp_path / "a.cut").write_bytes(_flipped(stream, HEADER_BYTES - 6))
    for words in (
        ["decode", "-o", tmp_path / "a.png"],
        ["inspect"],
        ["trim", "-o", tmp_path / "b.cut", "--bytes", "999"],
    ):
        assert "a.cut: damaged header: checksum" in refused(*words, tmp_path / "a.cut")


def test_flipped_bit_in_head_segment(refused: Refused, codec: Codec, stream: bytes, tmp_path: Path) -> None:
    for position in range(HEADER_BYTES, _header(stream).body_start):
        with pytest.raises(StreamError, match="damaged head segment"):
            codec.decode(_flipped(stream, position, position % 8))
    (tmp_path / "a.cut").write_bytes(_flipped(stream, HEADER_BYTES + 5))
    for words in (
        ["decode", "-o", tmp_path / "a.png"],
        ["inspect"],
        ["trim", "-o", tmp_path / "b.cut", "--bytes", "999"],
    ):
        assert "a.cut: damaged head segment" in refused(*words, tmp_path / "a.cut")


def test_prefix_that_ends_before_the_head_segment_does(
    refused: Refused, codec: Codec, stream: bytes, tmp_path: Path
) -> None:
    start = _header(stream).body_start
    for length in range(start):
        with pytest.raises(Incomplete, match=f"incomplete stream: {length} bytes"):
            codec.decode(stream[:length])
    assert codec.decode(stream[:start]).image is not None
    (tmp_path / "a.cut").write_bytes(stream)
    for length in (0, HEADER_BYTES - 1, HEADER_BYTES, start - 1):
        line = refused("decode", tmp_path / "a.cut", "-o", tmp_path / "a.png", "--bytes", str(length))
        assert f"a.cut: incomplete stream: {length} bytes" in line
    (tmp_path / "a.cut").write_bytes(stream[: start - 1])
    refused("decode", tmp_path / "a.cut", "-o", tmp_path / "a.png")
    refused("trim", tmp_path / "a.cut", "-o", tmp_path / "b.cut", "--bytes", "9999")


def test_stream_that_claims_65535_x_65535(refused: Refused, codec: Codec, stream: bytes, tmp_path: Path) -> None:
    """With a right checksum: refused before anything is allocated."""
    claim = _with_header(stream, width=65_535, height=65_535)
    (tmp_path / "a.cut").write_bytes(claim)
    tracemalloc.start()
    with pytest.raises(LimitExceeded, match="65535x65535 = 4294836225 pixels; allowed: "):
        codec.decode(claim)
    for words in (
        ["decode", "-o", tmp_path / "a.png"],
        ["inspect"],
        ["trim", "-o", tmp_path / "b.cut", "--bytes", "999"],
    ):
        assert "a.cut: the picture is 65535x65535" in refused(*words, tmp_path / "a.cut")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < _MEMORY_ALLOWED


# Bodies


@pytest.mark.parametrize("frame", [0, 1, 3])
def test_flipped_bit_in_body(
    frame: int, codec: Codec, stream: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The picture is that of the last good frame, with one warning and status 0."""
    start = _header(stream).body_start + frame * FRAME
    damaged = _flipped(stream, start + 1000, 3)
    expected = codec.decode(stream[:start])
    found = codec.decode(damaged)
    assert found.image is not None and expected.image is not None
    assert np.array_equal(found.image, expected.image)
    assert (found.damaged, found.complete, expected.damaged) == (True, False, False)
    assert (found.bytes_used, found.bytes_verified, found.steps) == (start, start, expected.steps)

    (tmp_path / "a.cut").write_bytes(damaged)
    assert main(["decode", str(tmp_path / "a.cut"), "-o", str(tmp_path / "a.png"), "--threads", "2"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cutoff: warning: {tmp_path / 'a.cut'}: damaged body")
    assert np.array_equal(read_image(tmp_path / "a.png"), expected.image)


def test_flipped_bit_in_the_checksum_of_a_frame(codec: Codec, stream: bytes) -> None:
    start = _header(stream).body_start
    found = codec.decode(_flipped(stream, start + FRAME - 1))
    assert found.damaged
    assert found.bytes_used == start


def test_flipped_bit_in_an_unfinished_frame_is_not_known_yet(codec: Codec, stream: bytes) -> None:
    """Its symbols are used and reported as unverified; strict decoding withholds them."""
    start = _header(stream).body_start + FRAME
    damaged = _flipped(stream, start + 500)[: start + 1500]
    found = codec.decode(damaged)
    assert (found.damaged, found.bytes_verified, found.bytes_used) == (False, start, len(damaged))
    strict = codec.decode(damaged, strict=True)
    expected = codec.decode(stream[:start])
    assert strict.image is not None and expected.image is not None
    assert np.array_equal(strict.image, expected.image)


def test_flipped_bit_in_body_fed_in_portions(codec: Codec, stream: bytes) -> None:
    start = _header(stream).body_start + 2 * FRAME
    damaged = _flipped(stream, start + 700)
    decoder = codec.decoder()
    for position in range(0, len(damaged), 333):
        decoder.feed(damaged[position : position + 333])
    found, expected = decoder.finish(), codec.decode(damaged)
    assert found.image is not None and expected.image is not None
    assert np.array_equal(found.image, expected.image)
    assert (found.damaged, found.bytes_used) == (True, start)


def test_flipped_bit_in_body_when_strict(refused: Refused, codec: Codec, stream: bytes, tmp_path: Path) -> None:
    damaged = _flipped(stream, _header(stream).body_start + FRAME + 9)
    with pytest.raises(StreamError, match="damaged body"):
        codec.decode(damaged, strict=True)
    (tmp_path / "a.cut").write_bytes(damaged)
    assert "a.cut: damaged body" in refused("decode", tmp_path / "a.cut", "-o", tmp_path / "a.png", "--strict")


def test_flipped_bit_in_body_is_not_trimmed_over(refused: Refused, stream: bytes, tmp_path: Path) -> None:
    """A new checksum over damaged bytes would hide the damage."""
    damaged = _flipped(stream, _header(stream).body_start + FRAME + 9)
    with pytest.raises(StreamError, match="damaged body"):
        trim(damaged, len(damaged) - 100)
    (tmp_path / "a.cut").write_bytes(damaged)
    assert "damaged body" in refused("trim", tmp_path / "a.cut", "-o", tmp_path / "b.cut", "--bytes", "6000")


# Outputs


@pytest.fixture
def inputs(tmp_path: Path, stream: bytes, photographs: dict[str, Image]) -> dict[str, list[str | Path]]:
    """A command by verb that lacks only its output."""
    write_image(tmp_path / "in.png", photographs["chelsea"][:64, :64])
    (tmp_path / "in.cut").write_bytes(stream)
    return {
        "encode": ["encode", tmp_path / "in.png"],
        "decode": ["decode", tmp_path / "in.cut"],
        "trim": ["trim", tmp_path / "in.cut", "--bytes", "4000"],
    }


@pytest.mark.parametrize("verb", ["encode", "decode", "trim"])
def test_unwritable_output(verb: str, refused: Refused, inputs: dict[str, list[str | Path]], tmp_path: Path) -> None:
    folder = tmp_path / "folder.png"
    folder.mkdir()
    for output, fault in (
        (tmp_path / "missing" / "a.png", "No such file or directory"),
        (tmp_path / "in.cut" / "a.png", "Not a directory"),
        (folder, "it is a folder"),
    ):
        assert f"{output}: cannot be written: {fault}" in refused(*inputs[verb], "-o", output)


@pytest.mark.parametrize("verb", ["encode", "decode", "trim"])
def test_failed_write_leaves_the_earlier_output(
    verb: str, refused: Refused, inputs: dict[str, list[str | Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(b"earlier")
    monkeypatch.setattr("os.replace", fail)
    assert "No space left on device" in refused(*inputs[verb], "-o", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"earlier"


def test_failed_decode_leaves_the_earlier_output(refused: Refused, stream: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"earlier")
    (tmp_path / "a.cut").write_bytes(stream[:40])
    refused("decode", tmp_path / "a.cut", "-o", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"earlier"


def test_unwritable_folder_of_the_demo(refused: Refused, inputs: dict[str, list[str | Path]], tmp_path: Path) -> None:
    assert "cannot be made" in refused("demo", tmp_path / "in.png", "--out", tmp_path / "in.cut" / "out")


def test_exit_status_of_every_fault() -> None:
    """Bad data is 1, a wrong call 2."""
    for kind in (PictureError, StreamError, ModelMismatch, Incomplete, LimitExceeded, OutputError):
        assert issubclass(kind, CutoffError)
        assert kind.exit_status == 1
