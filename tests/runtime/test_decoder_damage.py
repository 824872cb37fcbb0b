"""Damage: what a decoder makes of flipped bits, of other bundles' streams, and of bytes that no encoder writes."""

from __future__ import annotations

import json
import struct
import zlib
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from decoding import fed, header_of, nodes_of
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import Codec
from runtime.errors import CutoffError, ModelMismatch, StreamError
from runtime.stream import FRAME_BYTES, HEADER_BYTES, Header, framed_bytes


def with_body(stream: bytes, body: bytes) -> bytes:
    """Return *stream* with another body of the same length and right checksums."""
    start = header_of(stream).body_start
    frames = [body[i : i + FRAME_BYTES] for i in range(0, len(body), FRAME_BYTES)]
    return stream[:start] + b"".join(frame + struct.pack(">I", zlib.crc32(frame)) for frame in frames)


@given(st.integers(0, 8 * 6932 - 1), st.lists(st.integers(0, 7100), max_size=4))
@settings(max_examples=40)
def test_flipped_bit_in_the_body_takes_the_decoder_back_to_the_frames_start(
    tiny_codec: Codec, golden: dict[str, bytes], make_golden: ModuleType, bit: int, cuts: list[int]
) -> None:
    """Wherever the bit is, and however the bytes come: the result is that of the prefix before its frame."""
    stream = golden["frames"]
    start = header_of(stream).body_start
    bit %= 8 * (len(stream) - start)
    damaged = make_golden.flipped(stream, start + bit // 8, bit % 8)
    good = start + bit // 8 // (FRAME_BYTES + 4) * (FRAME_BYTES + 4)
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = fed(tiny_codec, *(damaged[begin:end] for begin, end in pairwise(bounds)))
    assert nodes_of(decoder) == nodes_of(fed(tiny_codec, stream[:good]))
    assert decoder._parser.damaged and decoder._bytes_used(header_of(stream)) == good


def test_damaged_picture_is_that_of_the_last_good_frame(tiny_codec: Codec, make_golden: ModuleType) -> None:
    """The picture says `damaged`, is not complete, and equals the one of the prefix before the damage."""
    expected = json.loads((make_golden.HERE / "damaged" / "expected.json").read_text())
    frames = (make_golden.HERE / "valid" / "frames.cut").read_bytes()
    for name, entry in expected.items():
        picture = tiny_codec.decode((make_golden.HERE / "damaged" / f"{name}.cut").read_bytes())
        good = header_of(frames).body_start + framed_bytes(entry["body_bytes_before_damage"])
        prefix = tiny_codec.decode(frames[:good])
        assert picture.damaged and not picture.complete and not prefix.damaged
        assert picture.image is not None and prefix.image is not None and (picture.image == prefix.image).all()
        assert picture.bytes_used == picture.bytes_verified == good and picture.steps == prefix.steps


def test_truncation_inside_a_frame_is_not_damage(tiny_codec: Codec, golden: dict[str, bytes]) -> None:
    """A missing end is a state: not damaged, only not complete."""
    for missing in (1, 4, 5, 1000):
        picture = tiny_codec.decode(golden["frames"][:-missing])
        assert not picture.damaged and not picture.complete


def test_strict_decoding_refuses_a_damaged_body(tiny_codec: Codec, make_golden: ModuleType) -> None:
    """The error names the frame's place in the stream."""
    damaged = (make_golden.HERE / "damaged" / "second-frame.cut").read_bytes()
    place = header_of(damaged).body_start + 2052
    with pytest.raises(StreamError, match=f"damaged body: the checksum of the frame at byte {place} is wrong"):
        tiny_codec.decode(damaged, strict=True)


@pytest.mark.parametrize("extra", [0, 3, 2047, 2051, 2052, 4000])
def test_strict_decoding_withholds_what_is_not_verified(
    tiny_codec: Codec, golden: dict[str, bytes], extra: int
) -> None:
    """Strict decoding of a prefix is decoding of its finished frames."""
    stream = golden["frames"]
    start = header_of(stream).body_start
    strict = fed(tiny_codec, stream[: start + extra], strict=True)
    verified = start + extra // 2052 * 2052
    assert nodes_of(strict) == nodes_of(fed(tiny_codec, stream[:verified]))
    assert strict.finish().bytes_used == verified


def test_strict_decoding_of_a_sound_stream_is_complete(tiny_codec: Codec, golden: dict[str, bytes]) -> None:
    """Strictness costs nothing where nothing is wrong."""
    assert tiny_codec.decode(golden["frames"], strict=True).complete


def test_every_flipped_bit_of_header_and_head_segment_is_an_error(
    tiny_codec: Codec, golden: dict[str, bytes], make_golden: ModuleType
) -> None:
    """Without a sound head segment there is no picture, and the error is the stream's."""
    stream = golden["rgb"]
    for bit in range(8 * header_of(stream).body_start):
        with pytest.raises(StreamError):
            tiny_codec.decode(make_golden.flipped(stream, bit // 8, bit % 8))


def test_stream_of_another_bundle_is_refused(tiny_codec: Codec, codec: Codec, crop_stream: bytes) -> None:
    """The error names the bundle that the stream needs and the one at hand, as soon as the header is there."""
    ours, theirs = tiny_codec.bundle.exact_id.hex(), codec.bundle.exact_id.hex()
    with pytest.raises(ModelMismatch, match=f"needs a bundle with exact_id {theirs}; tiny 1 has {ours}"):
        fed(tiny_codec, crop_stream[:HEADER_BYTES])


def test_stream_of_another_bundle_is_refused_again_when_fed_further(tiny_codec: Codec, crop_stream: bytes) -> None:
    """A caller who goes on after the error gets the error, not a picture."""
    decoder = tiny_codec.decoder()
    for begin in (0, 600):
        with pytest.raises(ModelMismatch):
            decoder.feed(crop_stream[begin : begin + 600])
    with pytest.raises(CutoffError):
        decoder.finish()


def test_head_segment_that_no_encoder_writes_is_an_error(tiny_codec: Codec, make_golden: ModuleType) -> None:
    """A right checksum over a code without trits is a damaged head segment, not a crash."""
    stream = (make_golden.HERE / "invalid" / "head-segment-no-encoder-writes.cut").read_bytes()
    with pytest.raises(StreamError, match="no encoder writes such a code"):
        tiny_codec.decode(stream)


@given(st.integers(0, 2**32), st.integers(0, 6))
@settings(max_examples=25)
def test_body_that_no_encoder_writes_is_no_crash(
    tiny_codec: Codec, golden: dict[str, bytes], seed: int, ones: int
) -> None:
    """Right checksums over nonsense give some symbols and no exception, the same in any portions."""
    stream = golden["frames"]
    nonsense = np.random.default_rng(seed).bytes(header_of(stream).body_bytes - 4 * ones)
    made = with_body(stream, b"\xff" * (4 * ones) + nonsense)
    assert len(made) == len(stream)
    at_once, in_portions = fed(tiny_codec, made), fed(tiny_codec, made[:1500], made[1500:1503], made[1503:], b"")
    assert nodes_of(at_once) == nodes_of(in_portions)
    assert not at_once._parser.damaged


@given(st.binary(max_size=400))
def test_any_bytes_raise_only_errors_of_cutoff(tiny_codec: Codec, data: bytes) -> None:
    """Bytes that are no stream are refused by name."""
    with pytest.raises(CutoffError):
        tiny_codec.decode(data)


@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 300), st.integers(0, 40))
@settings(max_examples=40)
def test_well_formed_stream_of_any_content_decodes_or_is_refused(
    tiny_codec: Codec, make_golden: ModuleType, seed: int, width: int, height: int, words: int
) -> None:
    """Header and checksums may be right and all else made up: a picture of the claimed size, or an error by name."""
    generator = np.random.default_rng(seed)
    head, body = generator.bytes(4 * words), generator.bytes(4 * int(generator.integers(200)))
    header = Header(tiny_codec.bundle.exact_id, width, height, bool(seed % 2), False, len(head), len(body))
    from runtime.stream import write_stream

    try:
        picture = tiny_codec.decode(write_stream(header, head, body))
    except StreamError as fault:
        assert "no encoder writes" in str(fault)
        return
    assert picture.image is not None and picture.image.shape[:2] == (height, width)
