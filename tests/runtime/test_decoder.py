"""Decoding prefixes: every cut, every split, every kind of damage, odd sizes.

Most tests look at the symbols, which are cheap and exact; pictures are rendered where it is the pictures that count.
The tiny bundle of the golden files is fast and never changes; the shipped one stands for real networks.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from decoding import fed, header_of, nodes_of, y_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime import Codec
from runtime.entropy.plan import Field, trit_planes
from runtime.entropy.tables import MEAN_UNIT
from runtime.errors import BundleError, EngineError, Incomplete, LimitExceeded
from runtime.stream import FRAME_BYTES, HEADER_BYTES, prefix_bytes

Image = NDArray[np.uint8]


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
            children = tables.first_child[step.nodes] + trits
            self.index += step.indices.tolist()
            self.node += children.tolist()
            bits += (bits[-1] - np.cumsum(np.log2(tables.frequencies[step.rows, trits] / 2.0**24))).tolist()
            error += (error[-1] + np.cumsum(variance[children] - variance[step.nodes])).tolist()
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
@settings(max_examples=30)
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


@pytest.mark.parametrize("bundle", ["tiny", "tiny-ctc"])
def test_a_graph_that_failed_once_leaves_no_wrong_picture(
    make_golden: ModuleType, crop: Image, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the plan was: with the next bytes decoding begins anew, and what is complete is."""
    role = "crr" if bundle == "tiny-ctc" else "h_s"
    with Codec.open(make_golden.HERE / bundle, threads=1) as codec:
        stream = codec.encode(crop).stream
        whole = codec.decode(stream)

        def failing(*_: object, **__: object) -> None:
            raise EngineError("once")

        decoder = codec.decoder()
        with monkeypatch.context() as patch:
            patch.setattr(codec.model.engine(role), "run", failing)
            with pytest.raises(EngineError, match="once"):
                decoder.feed(stream[:-1])
        decoder.feed(stream[-1:])
        picture = decoder.finish()
        assert picture.complete and picture.steps == whole.steps
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


def test_a_preview_network_that_takes_what_there_is_not_is_an_error(crop: Image, crop_stream: bytes) -> None:
    """What the graph takes is named in the manifest; a name that the family does not have is the bundle's fault."""
    with Codec.open("dpict-edge", threads=1) as codec:
        bundle = codec.model.bundle
        strange = replace(bundle.graphs["preview"], inputs=("fused",))
        codec.model.bundle = replace(bundle, graphs={**bundle.graphs, "preview": strange})
        with pytest.raises(BundleError, match="'preview' takes fused, which its family does not have"):
            fed(codec, crop_stream).preview()


@pytest.mark.parametrize("shape", [(1, 3, 0, 64), (1, 3, 64, 32), (1, 3, 50, 50), (1, 3, 512, 512)])
def test_a_preview_of_a_strange_size_is_an_error(
    codec: Codec, crop: Image, crop_stream: bytes, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no whole part of the padded picture is the bundle's fault, not garbage on the screen."""
    monkeypatch.setattr(codec.model, "picture", lambda *_: np.zeros(shape, np.float32))
    with pytest.raises(BundleError, match=r"'preview' gives [0-9]+ x [0-9]+, no whole part of"):
        fed(codec, crop_stream).preview()


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
