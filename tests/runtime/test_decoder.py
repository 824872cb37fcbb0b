"""Decoding prefixes: every cut, every split, every kind of damage, odd sizes.

Most tests look at the symbols, which are cheap and exact; pictures are rendered where it is the pictures that count.
The tiny bundle of the golden files is fast and never changes; the shipped one stands for real networks.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime import Codec, Decoder
from runtime.entropy.plan import Field, trit_planes
from runtime.entropy.tables import MEAN_UNIT
from runtime.errors import CutoffError, Incomplete, LimitExceeded, ModelMismatch, StreamError
from runtime.families.dpict import DpictLatents
from runtime.stream import FRAME_BYTES, HEADER_BYTES, Header, Limits, StreamParser, framed_bytes, prefix_bytes

Image = NDArray[np.uint8]
GOLDEN_NAMES = (
    "example",
    "frames",
    "no-body",
    "one-pixel",
    "rgb",
    "trimmed",
    "trimmed-inside-word",
    "trimmed-to-head-segment",
    "trimmed-twice",
)


@pytest.fixture(scope="module")
def golden(make_golden: ModuleType) -> dict[str, bytes]:
    """The golden streams that must decode, by name."""
    streams = {path.stem: path.read_bytes() for path in (make_golden.HERE / "valid").glob("*.cut")}
    assert sorted(streams) == sorted(GOLDEN_NAMES)
    return streams


@pytest.fixture(scope="module")
def crop(photographs: dict[str, Image]) -> Image:
    """A detailed part of a photograph, uint8 (80, 96, 3)."""
    return np.ascontiguousarray(photographs["coffee"][120:200, 220:316])


@pytest.fixture(scope="module")
def crop_stream(codec: Codec, crop: Image) -> bytes:
    """The crop, encoded with the shipped bundle."""
    return codec.encode(crop).stream


def fed(codec: Codec, *portions: bytes, strict: bool = False) -> Decoder:
    decoder = codec.decoder(strict=strict)
    for portion in portions:
        decoder.feed(portion)
    return decoder


def header_of(stream: bytes) -> Header:
    return Header.from_bytes(stream, Limits())


def y_of(decoder: Decoder) -> Field:
    assert isinstance(decoder._latents, DpictLatents) and decoder._latents.y is not None
    return decoder._latents.y


def nodes_of(decoder: Decoder) -> list[int]:
    """Return all that the decoder knows of y."""
    return y_of(decoder).nodes.tolist()


def with_body(stream: bytes, body: bytes) -> bytes:
    """Return *stream* with another body of the same length and right checksums."""
    start = header_of(stream).body_start
    frames = [body[i : i + FRAME_BYTES] for i in range(0, len(body), FRAME_BYTES)]
    return stream[:start] + b"".join(frame + struct.pack(">I", zlib.crc32(frame)) for frame in frames)


class Truth:
    """What a stream holds: after k trits the nodes, the information, and the squared error that is left."""

    def __init__(self, codec: Codec, stream: bytes) -> None:
        decoder = fed(codec, stream)
        assert decoder.finish().complete
        known = y_of(decoder)
        tables = known.tables
        field = Field(known.models, tables, known.known_symbols())
        variance = (tables.deviation / MEAN_UNIT) ** 2
        self.root = field.nodes.copy()
        self.index: list[int] = []
        self.node: list[int] = []
        bits, error = [0.0], [float(variance[field.nodes].sum())]
        for step in trit_planes(field):
            trits = step.trits()
            children = tables.first_child[step.rows] + trits
            self.index += step.indices.tolist()
            self.node += children.tolist()
            bits += (bits[-1] - np.cumsum(np.log2(tables.frequencies[step.rows, trits] / 2.0**24))).tolist()
            error += (error[-1] + np.cumsum(variance[children] - variance[step.rows])).tolist()
            step.receive(trits)
        self.bits, self.error = bits, error

    def nodes(self, trits: int) -> list[int]:
        """Return the nodes when the first *trits* trits are known."""
        nodes = self.root.copy()
        for index, node in zip(self.index[:trits], self.node[:trits], strict=True):
            nodes[index] = node
        return nodes.tolist()


# Cuts.


def check_cuts(codec: Codec, stream: bytes, cuts: range | list[int], depth: NDArray[np.int64]) -> None:
    """Check that every cut gives the first trits of the truth, as many as arrived but for 64 bits."""
    truth, header = Truth(codec, stream), header_of(stream)
    earlier = 0
    for cut in cuts:
        decoder = fed(codec, stream[:cut])
        if cut < header.body_start:
            with pytest.raises(Incomplete):
                decoder.finish()
            continue
        nodes = nodes_of(decoder)
        trits = int(depth[nodes].sum())
        assert nodes == truth.nodes(trits)
        assert trits >= earlier and truth.error[trits] <= truth.error[earlier] + 1e-9
        body_bytes = sum(1 for i in range(cut - header.body_start) if i % (FRAME_BYTES + 4) < FRAME_BYTES)
        if trits < len(truth.index):
            assert 8 * body_bytes - truth.bits[trits] <= 64
        used = decoder._bytes_used(header)
        assert used <= cut and cut - used <= 3
        earlier = trits
    assert earlier == len(truth.index)


def test_every_byte_cut_of_a_photograph_decodes_or_is_incomplete(
    codec: Codec, crop_stream: bytes, make_golden: ModuleType
) -> None:
    """No cut gives a wrong symbol, wastes over 8 bytes, or worsens the expected error; early ones are incomplete."""
    check_cuts(codec, crop_stream, range(len(crop_stream) + 1), make_golden.node_depths(codec.model.tables))


def test_cuts_around_frames_decode(tiny_codec: Codec, golden: dict[str, bytes], make_golden: ModuleType) -> None:
    """The same where one frame ends and the next begins."""
    stream = golden["frames"]
    start = header_of(stream).body_start
    ends = [start, start + 2052, start + 4104, start + 6156]
    cuts = sorted({end + i for end in ends for i in range(-8, 12)} | {len(stream) - i for i in range(9)})
    check_cuts(tiny_codec, stream, cuts, make_golden.node_depths(tiny_codec.model.tables))


@pytest.mark.parametrize("name", ["rgb", "example", "one-pixel", "no-body"])
def test_every_byte_cut_of_small_streams(
    tiny_codec: Codec, golden: dict[str, bytes], make_golden: ModuleType, name: str
) -> None:
    """The same for small pictures of another bundle."""
    stream = golden[name]
    check_cuts(tiny_codec, stream, range(len(stream) + 1), make_golden.node_depths(tiny_codec.model.tables))


def test_pictures_get_better_with_the_bytes(codec: Codec, crop: Image, crop_stream: bytes) -> None:
    """From the shortest prefix to the whole stream the picture gains, and every picture has the right shape."""
    start = header_of(crop_stream).body_start
    errors = []
    for cut in np.linspace(start, len(crop_stream), 6).astype(int):
        picture = codec.decode(crop_stream[:cut])
        assert picture.image is not None and picture.image.shape == crop.shape and picture.image.dtype == np.uint8
        assert picture.bytes_total == len(crop_stream) and not picture.damaged and not picture.missed
        assert picture.complete == (cut == len(crop_stream))
        assert 0 <= picture.steps <= picture.steps_total and picture.planes == picture.steps
        errors.append(float(np.square(picture.image.astype(float) - crop).mean()))
    assert errors[0] > errors[2] > errors[-1]


def test_picture_of_a_complete_stream_says_so(codec: Codec, crop_stream: bytes) -> None:
    """All bytes used and verified, all steps done, nothing skipped, no deadline, times by stage."""
    picture = codec.decode(crop_stream)
    assert picture.complete and picture.steps == picture.steps_total > 0
    assert picture.bytes_used == picture.bytes_verified == picture.bytes_total == len(crop_stream)
    assert picture.skipped == () and picture.margin_ms is None
    assert picture.timings["total"] >= picture.timings["g_s"] > 0


def test_prefix_reports_what_is_verified(tiny_codec: Codec, golden: dict[str, bytes]) -> None:
    """Bytes of an unfinished frame are used, but not verified."""
    stream = golden["frames"]
    start = header_of(stream).body_start
    picture = tiny_codec.decode(stream[: start + 2052 + 100])
    assert (picture.bytes_verified, picture.bytes_used) == (start + 2052, start + 2152)


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 5])
def test_prefix_without_head_segment_is_incomplete(codec: Codec, crop_stream: bytes, length: int) -> None:
    """The error says how many bytes there are, and how many it takes."""
    with pytest.raises(Incomplete, match=f"incomplete stream: {length} bytes; .* take"):
        codec.decode(crop_stream[:length])
    assert fed(codec, crop_stream[:length]).preview() is None


# Splits.


@given(st.lists(st.integers(0, 7100), max_size=10), st.booleans())
@settings(deadline=None, max_examples=30)
def test_any_split_gives_the_same_symbols(
    tiny_codec: Codec, golden: dict[str, bytes], cuts: list[int], strict: bool
) -> None:
    """After every portion nodes, progress and bytes used are those of all bytes so far at once."""
    stream = golden["frames"]
    decoder = tiny_codec.decoder(strict=strict)
    start = header_of(stream).body_start
    for begin, end in pairwise([0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]):
        decoder.feed(stream[begin:end])
        if end < start:
            continue
        at_once = fed(tiny_codec, stream[:end], strict=strict)
        assert nodes_of(decoder) == nodes_of(at_once)
        assert decoder._latents is not None and at_once._latents is not None
        assert decoder._latents.steps == at_once._latents.steps
        assert decoder._bytes_used(header_of(stream)) == at_once._bytes_used(header_of(stream))


@pytest.mark.parametrize("size", [1, 7, 61])
def test_portions_give_the_same_picture(codec: Codec, crop_stream: bytes, size: int) -> None:
    """Byte by byte or in larger portions, with previews in between: the picture is that of the whole."""
    whole = codec.decode(crop_stream)
    decoder = codec.decoder()
    for i, begin in enumerate(range(0, len(crop_stream), size)):
        decoder.feed(crop_stream[begin : begin + size])
        if i % 97 == 0:
            decoder.preview()
    picture = decoder.finish()
    assert picture.image is not None and whole.image is not None and (picture.image == whole.image).all()
    assert nodes_of(decoder) == nodes_of(fed(codec, crop_stream))
    assert (picture.bytes_used, picture.steps, picture.complete) == (whole.bytes_used, whole.steps, True)


def test_same_prefix_twice_gives_the_same_picture(codec: Codec, crop_stream: bytes) -> None:
    """Decoding has no memory, and `finish` may be called again."""
    prefix = crop_stream[:700]
    one, other = codec.decode(prefix), fed(codec, prefix)
    assert one.image is not None
    for picture in (other.finish(), other.finish()):
        assert picture.image is not None and (picture.image == one.image).all()


def test_finished_prefix_can_go_on(codec: Codec, crop_stream: bytes) -> None:
    """After a picture of a prefix more bytes make the picture of the longer one."""
    decoder = fed(codec, crop_stream[:500])
    decoder.finish()
    decoder.feed(crop_stream[500:])
    picture, whole = decoder.finish(), codec.decode(crop_stream)
    assert picture.image is not None and whole.image is not None and (picture.image == whole.image).all()


def test_bytes_behind_the_stream_are_ignored(codec: Codec, crop_stream: bytes) -> None:
    """What follows a stream does not belong to it."""
    decoder = fed(codec, crop_stream + b"trailing", b"more")
    picture = decoder.finish()
    assert picture.complete and picture.bytes_used == picture.bytes_total == len(crop_stream)


# Previews.


def test_preview_has_full_size_and_changes_nothing(codec: Codec, crop: Image, crop_stream: bytes) -> None:
    """A preview is a picture of the same size and costs no symbol."""
    decoder = fed(codec, crop_stream[:900])
    before = nodes_of(decoder)
    preview = decoder.preview()
    assert preview is not None and preview.shape == crop.shape and preview.dtype == np.uint8
    assert nodes_of(decoder) == before


@pytest.mark.parametrize("size", [600, 2000, 8000])
def test_preview_looks_like_the_picture(tiny_codec: Codec, golden: dict[str, bytes], size: int) -> None:
    """A preview shows what the picture of the same bytes shows, coarsely."""
    decoder = fed(tiny_codec, golden["frames"][:size])
    preview, picture = decoder.preview(), decoder.finish()
    assert preview is not None and picture.image is not None
    difference = np.square(preview.astype(float) - picture.image).mean()
    assert difference < 0.3 * picture.image.astype(float).var()


def test_picture_without_body_has_preview_and_picture(tiny_codec: Codec, golden: dict[str, bytes]) -> None:
    """A picture whose latents are all certain has no steps; it is complete as soon as its head segment is there."""
    decoder = fed(tiny_codec, golden["no-body"])
    preview, picture = decoder.preview(), decoder.finish()
    assert preview is not None and picture.image is not None
    assert preview.shape == picture.image.shape == (5, 7, 3)
    assert np.abs(picture.image.astype(int) - 128).max() <= 1
    assert picture.complete and (picture.steps, picture.steps_total) == (0.0, 0)


# Damage.


@given(st.integers(0, 8 * 6932 - 1), st.lists(st.integers(0, 7100), max_size=4))
@settings(deadline=None, max_examples=40)
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
@settings(deadline=None, max_examples=25)
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
@settings(deadline=None)
def test_any_bytes_raise_only_errors_of_cutoff(tiny_codec: Codec, data: bytes) -> None:
    """Bytes that are no stream are refused by name."""
    with pytest.raises(CutoffError):
        tiny_codec.decode(data)


@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 300), st.integers(0, 40))
@settings(deadline=None, max_examples=40)
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


# Time.


@dataclass
class Clock:
    """A clock that a decoder reads: every look at it takes *tick_s*."""

    tick_s: float = 0.0
    now: float = 0.0

    def perf_counter(self) -> float:
        self.now += self.tick_s
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("runtime.decoder.time", made)
    return made


@pytest.fixture
def hasty_codec(make_golden: ModuleType) -> Iterator[Codec]:
    """The tiny bundle, with a second for each stream."""
    with Codec.open(make_golden.HERE / "tiny", threads=1, limits=Limits(seconds=1.0)) as opened:
        yield opened


def test_work_beyond_the_time_limit_is_refused(hasty_codec: Codec, golden: dict[str, bytes], clock: Clock) -> None:
    """Wherever the second is over, inside one call or over several, the error is one and says so; and again later."""
    stream, message = golden["frames"], r"^decoding has taken [\d.]+ s; allowed: 1$"
    for ticks in (3, 7, 12, 30):
        clock.tick_s = 1.0 / ticks
        with pytest.raises(LimitExceeded, match=message):
            hasty_codec.decode(stream)
    clock.tick_s = 0.01
    decoder = hasty_codec.decoder()
    with pytest.raises(LimitExceeded, match=message):
        for position in range(0, len(stream), 50):
            decoder.feed(stream[position : position + 50])
    for call in (decoder.finish, decoder.preview, lambda: decoder.feed(b"more")):
        with pytest.raises(LimitExceeded, match=r"allowed: 1$"):
            call()


def test_previews_count_as_work(hasty_codec: Codec, golden: dict[str, bytes], clock: Clock) -> None:
    """A sender who makes a server draw previews without end is stopped like any other."""
    decoder = fed(hasty_codec, golden["rgb"])
    clock.tick_s = 0.001
    with pytest.raises(LimitExceeded):
        for _ in range(1000):
            decoder.preview()


def test_waiting_is_not_work(hasty_codec: Codec, golden: dict[str, bytes], clock: Clock) -> None:
    """A slow link costs the decoder nothing; and without a limit nothing is ever too long."""
    stream = golden["rgb"]
    decoder = hasty_codec.decoder()
    for position in range(0, len(stream), 20):
        decoder.feed(stream[position : position + 20])
        clock.now += 100.0
    assert decoder.finish().complete
    clock.tick_s = 1e6
    with Codec.open(hasty_codec.bundle.where, threads=1, limits=Limits(seconds=math.inf)) as patient:
        assert patient.decode(stream).complete


# Golden files.


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_stream_gives_the_expected_symbols(
    tiny_codec: Codec, golden: dict[str, bytes], make_golden: ModuleType, name: str
) -> None:
    """Header fields, symbols, nodes, and trits per prefix are those on file."""
    expected = json.loads((make_golden.HERE / "valid" / "expected.json").read_text())[name]
    assert make_golden.expected_of(tiny_codec, golden[name]) == expected


@pytest.mark.parametrize("name", ["example", "rgb", "frames", "no-body", "one-pixel"])
def test_golden_symbols_give_the_golden_stream(
    tiny_codec: Codec, golden: dict[str, bytes], make_golden: ModuleType, name: str
) -> None:
    """Coding the decoded symbols again gives the same bytes."""
    from runtime.entropy.plan import in_array_order

    decoder = fed(tiny_codec, golden[name])
    assert isinstance(decoder._latents, DpictLatents)
    parser = StreamParser()
    parser.feed(golden[name])
    for known, plan, code in (
        (decoder._latents.z, in_array_order, parser.head),
        (y_of(decoder), trit_planes, bytes(parser.body)),
    ):
        field = Field(known.models, known.tables, known.known_symbols())
        encoder = tiny_codec.model.coder.encoder()
        for step in plan(field):
            encoder.encode(step.trits(), step.rows)
            step.receive(step.trits())
        assert encoder.finish() == code


def test_golden_invalid_streams_are_refused_by_the_expected_error(tiny_codec: Codec, make_golden: ModuleType) -> None:
    """Every invalid file is refused by the error on file, whole and byte by byte."""
    folder = make_golden.HERE / "invalid"
    expected = {name: entry["error"] for name, entry in json.loads((folder / "expected.json").read_text()).items()}
    assert sorted(expected) == sorted(path.stem for path in folder.glob("*.cut"))
    for name, error in expected.items():
        data = (folder / f"{name}.cut").read_bytes()
        for portions in ([data], [data[i : i + 1] for i in range(len(data))]):
            with pytest.raises(CutoffError) as caught:
                fed(tiny_codec, *portions).finish()
            assert type(caught.value).__name__ == error, name


def test_golden_files_are_what_their_generator_makes(make_golden: ModuleType, tiny_codec: Codec) -> None:
    """Trimmed, damaged and invalid files follow from the whole streams on file."""
    valid = {path.stem: path.read_bytes() for path in (make_golden.HERE / "valid").glob("*.cut")}
    for folder, made in (
        ("invalid", make_golden.invalid_streams(valid["example"])),
        ("damaged", make_golden.damaged_streams(valid["frames"])),
    ):
        on_file = {path.stem: path.read_bytes() for path in (make_golden.HERE / folder).glob("*.cut")}
        assert on_file == {name: stream for name, (_, stream) in made.items()}


# Sizes.


@pytest.mark.parametrize("size", [(1, 1), (1, 130), (130, 1), (63, 65), (65, 63), (257, 64), (64, 64)])
@pytest.mark.parametrize("grey", [False, True])
def test_odd_sizes_decode_to_their_size(
    codec: Codec, photographs: dict[str, Image], size: tuple[int, int], grey: bool
) -> None:
    """Any size from 1x1 comes back in its shape and looks like itself, from the whole stream and from half its body."""
    image = photographs["coffee"][60 : 60 + size[0], 300 : 300 + size[1]]
    image = np.ascontiguousarray(image[:, :, 1] if grey else image)
    stream = codec.encode(image).stream
    picture = codec.decode(stream)
    assert picture.image is not None and picture.image.shape == image.shape and picture.complete
    error = float(np.square(picture.image.astype(float) - image).mean())
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 22
    start = header_of(stream).body_start
    half = codec.decode(stream[: start + (len(stream) - start) // 2])
    assert half.image is not None and half.image.shape == image.shape


def test_size_claim_is_refused_before_anything_is_allocated(tiny_codec: Codec, make_golden: ModuleType) -> None:
    """A header may claim 65,535 x 65,535; the decoder answers with the limit."""
    stream = (make_golden.HERE / "invalid" / "too-many-pixels.cut").read_bytes()
    decoder = tiny_codec.decoder()
    with pytest.raises(LimitExceeded, match="65535x65535"):
        decoder.feed(stream)
    assert decoder._latents is None


def test_bytes_used_of_a_prefix_is_a_prefix_with_the_same_symbols(tiny_codec: Codec, golden: dict[str, bytes]) -> None:
    """What the picture rests on is enough to make it again."""
    stream = golden["frames"]
    start = header_of(stream).body_start
    for size in (1, 2048, 2049, 2051, 2052, 2053, 5000):
        used = tiny_codec.decode(stream[: start + size]).bytes_used
        assert used >= start + prefix_bytes(min(size, 2048)) - 4
        assert nodes_of(fed(tiny_codec, stream[:used])) == nodes_of(fed(tiny_codec, stream[: start + size]))
