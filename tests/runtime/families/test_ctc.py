"""ctc: the rows of the last planes follow from what is known on both sides, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoding import fed, nodes_of
from numpy.typing import NDArray
from tiny_ctc import structured_image, write_tiny_ctc

from runtime import Codec
from runtime.entropy.choose import CODERS
from runtime.entropy.plan import Field, Step
from runtime.errors import BundleError, StreamError
from runtime.families.ctc import Ctc
from runtime.families.planes import PlaneLatents
from runtime.picture import tensor_from_image
from runtime.stream import FRAME_BYTES, HEADER_BYTES

SEGMENTS = [3, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_ctc(tmp_path_factory.mktemp("ctc"), SEGMENTS)


@pytest.fixture(scope="module")
def codec(folder: Path) -> Iterator[Codec]:
    with Codec.open(folder, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return structured_image()


def truth(codec: Codec, image: NDArray[np.uint8]) -> PlaneLatents:
    latents = codec.model.family.analyse(tensor_from_image(image, 64))
    assert isinstance(latents, PlaneLatents)
    return latents


def walked(latents: PlaneLatents) -> Iterator[Step]:
    for step in latents.head():
        step.receive(step.trits())
    for step in latents.body():
        yield step
        step.receive(step.trits())


def test_every_coder_makes_the_same_stream_and_reads_it(folder: Path, image: NDArray[np.uint8]) -> None:
    """Whole streams give every symbol back, whichever coder wrote or reads them."""
    streams = set()
    for coder in CODERS:
        with Codec.open(folder, threads=1, coder=coder) as codec:
            stream = codec.encode(image).stream
            streams.add(stream)
            decoder = fed(codec, stream)
            picture = decoder.finish()
            assert picture.complete and picture.steps == picture.steps_total == picture.planes
            latents = truth(codec, image)
            assert latents.y is not None and latents.y.symbols is not None
            known = codec.model.tables.mean[nodes_of(decoder)] // 64
            assert (known == latents.y.symbols).all()
    assert len(streams) == 1


def test_every_cut_decodes(codec: Codec, image: NDArray[np.uint8]) -> None:
    """At every byte the decoder knows more than before, and what it knows are trits of the true symbols."""
    encoding = codec.encode(image)
    latents = truth(codec, image)
    assert latents.y is not None and latents.y.symbols is not None
    middle, reach = codec.model.tables.intervals()
    symbols, before = latents.y.symbols, -1.0
    for size in range(int(encoding.value.offsets[0]), len(encoding.stream) + 1):
        decoder = fed(codec, encoding.stream[:size])
        picture, nodes = decoder.finish(), nodes_of(decoder)
        assert picture.image is not None and picture.steps >= before
        assert (np.abs(symbols - middle[nodes]) <= reach[nodes]).all()
        before = picture.steps
    assert before == picture.steps_total


def test_bytes_in_any_portions_give_the_same(codec: Codec, image: NDArray[np.uint8]) -> None:
    """Fed byte by byte the decoder runs crr at the same places, and knows the same at every one."""
    stream = codec.encode(image).stream
    for cut in (len(stream), len(stream) - 40, len(stream) // 2):
        one, many = fed(codec, stream[:cut]), fed(codec, *(stream[i : i + 1] for i in range(cut)))
        assert nodes_of(one) == nodes_of(many)


def test_a_damaged_stream_goes_back(codec: Codec, image: NDArray[np.uint8]) -> None:
    """What rests on a damaged frame is forgotten, with what crr made of it; strict decoding refuses."""
    encoding = codec.encode(np.tile(image, (4, 5, 1)))
    start = int(encoding.value.offsets[0]) + FRAME_BYTES + 4
    assert len(encoding.stream) > start + 200
    broken = bytearray(encoding.stream)
    broken[start + 100] ^= 1
    decoder = fed(codec, bytes(broken))
    picture = decoder.finish()
    assert picture.damaged and nodes_of(decoder) == nodes_of(fed(codec, encoding.stream[:start]))
    with pytest.raises(StreamError, match="damaged body"):
        fed(codec, bytes(broken), strict=True).finish()


def test_planes_are_walked_in_the_order_of_dpict_and_segments_add_up(codec: Codec, image: NDArray[np.uint8]) -> None:
    """The segments of a plane, one after the other, are its elements by falling priority of their nodes."""
    latents = truth(codec, image)
    inner = len(codec.model.tables.first_child)
    planes: dict[int, list[Step]] = {}
    expected: dict[int, list[int]] = {}
    for step in walked(latents):
        if step.place not in planes:
            assert latents.y is not None
            expected[step.place] = codec.model.plane(latents.y, step.place)[0].tolist()
        planes.setdefault(step.place, []).append(replace(step))  # a step gives its arrays back as the next is made
    assert sorted(planes, reverse=True) == list(range(latents.steps_total, 0, -1))
    for place, steps in planes.items():
        assert np.concatenate([step.indices for step in steps]).tolist() == expected[place]
        context = place <= len(SEGMENTS)
        assert len(steps) == (SEGMENTS[place - 1] if context else 1)
        assert max(map(len, steps)) - min(map(len, steps)) <= 1
        for step in steps:
            assert ((step.rows >= inner) == context).all() and (context or (step.rows == step.nodes).all())
    names = [step.then for steps in planes.values() for step in steps]
    assert names == [()] * (latents.steps_total - 3) + [("crr",)] * 5 + [()]


def test_rows_follow_from_context(codec: Codec, image: NDArray[np.uint8]) -> None:
    """Elements at the same node have different rows where their neighbours differ."""
    for step in walked(truth(codec, image)):
        if step.place == 1:
            node = np.bincount(step.nodes).argmax()
            assert len(set(step.rows[step.nodes == node].tolist())) > 3


def test_progress_counts_planes(codec: Codec, image: NDArray[np.uint8]) -> None:
    """A plane in segments counts as one, by the share of its trits."""
    latents = truth(codec, image)
    assert latents.y is not None
    found = []
    for step in walked(latents):
        found.append(latents.steps)
        assert latents.steps_total - step.place <= latents.steps < latents.steps_total - step.place + 1
    assert found == sorted(found) and latents.steps == latents.steps_total
    size = int((latents.y.trits >= 1).sum())
    assert found[-1] == pytest.approx(latents.steps_total - 1 + (size * 2 // 3) / size)


def test_refinement_stays_inside_the_interval(codec: Codec, image: NDArray[np.uint8]) -> None:
    """cdr is given the interval that each node allows; of complete latents it is a point."""
    encoding = codec.encode(image)
    decoder = fed(codec, encoding.stream[: int(encoding.value.offsets[0]) + 60])
    latents = decoder._latents
    assert isinstance(latents, PlaneLatents)
    known = latents.reconstruct()
    assert [one.role for one in known.passes] == ["cdr", "g_s"] and known.passes[0].optional
    tensors = known.tensors
    assert (tensors["lower"] <= tensors["upper"]).all() and (tensors["lower"] < tensors["upper"]).any()
    point = tensors["lower"] == tensors["upper"]
    assert (tensors["deviation"][point] == 0).all() and (tensors["y_hat"][point] == tensors["lower"][point]).all()
    whole = fed(codec, encoding.stream)
    assert isinstance(whole._latents, PlaneLatents)
    assert [one.role for one in whole._latents.reconstruct().passes] == ["g_s"]


def test_crr_is_proved_for_all_that_tables_can_show_it(codec: Codec) -> None:
    """Sums of both exact graphs stay exact, by the largest features and symbols of the tables."""
    for role in ("h_s", "crr"):
        assert max(codec.model.prove(role).values()) < 24
    limits = codec.model.family.input_limits("crr")["known"]
    context = codec.model.tables.context
    assert context is not None
    assert limits.tolist() == np.repeat(np.abs(context.features.astype(int)).max(axis=0), 8).tolist()
    with pytest.raises(BundleError, match="no exact graph 'cdr'"):
        codec.model.family.input_limits("cdr")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"segments": 3}, "segments must be"),
        ({"segments": [0]}, "segments must be"),
        ({"segments": [True]}, "segments must be"),
        ({"segments": [17]}, "segments must be"),
        ({"segments": [1] * 7}, "segments must be"),
        ({"refined": "late"}, "ValueError"),
        ({"y_channels": 0}, "y_channels must be"),
    ],
)
def test_wrong_settings_are_refused(codec: Codec, change: dict[str, Any], fault: str) -> None:
    """Each ends in one error that names the setting and what it may be."""
    settings = dict(codec.model.bundle.settings)
    with pytest.raises(BundleError, match=fault):
        Ctc(settings | change, codec.model.tables, codec.model.run)


def test_segments_need_context_tables(codec: Codec, tiny_codec: Codec) -> None:
    """Without context tables a plane cannot have segments; without segments they are not needed."""
    settings = dict(codec.model.bundle.settings)
    with pytest.raises(BundleError, match="need tables with context"):
        Ctc(settings, tiny_codec.model.tables, codec.model.run)
    Ctc(settings | {"segments": []}, tiny_codec.model.tables, codec.model.run)


@pytest.mark.parametrize("fault", ["shape", "count", "range"])
def test_a_graph_that_does_not_do_its_work_is_refused(codec: Codec, fault: str) -> None:
    """Outputs of another shape, another number or beyond the limit end in one error, not inside the coder."""

    def run(role: str, *inputs: Any) -> Any:
        shift, spread = codec.model.run(role, *inputs)
        return {"shape": [shift[:, 1:], spread[:, 1:]], "count": [shift], "range": [shift, spread + 300]}[fault]

    family = Ctc(codec.model.bundle.settings, codec.model.tables, run)
    levels = np.full(8 * 4 * 4, 3)
    field = Field(levels, codec.model.tables, np.zeros(len(levels), np.int32))
    with pytest.raises(BundleError, match="crr gives"):
        for step in family.steps(field, (8, 4, 4)):
            step.receive(step.trits())


def test_a_stream_names_its_segments(folder: Path, tmp_path: Path, image: NDArray[np.uint8]) -> None:
    """Bundles that differ in segments alone have other exact_ids."""
    other = write_tiny_ctc(tmp_path, [1, 1])
    ids = []
    for bundle in (folder, other):
        with Codec.open(bundle, threads=1) as codec:
            ids.append(codec.encode(image).stream[6 : HEADER_BYTES - 16])
    assert ids[0] != ids[1]
