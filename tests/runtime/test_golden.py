"""The golden files: what decoders find in them, and that they follow from one another."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from decoding import fed, header_of, y_of

from runtime import Codec, trim
from runtime.entropy.plan import Field, trit_planes
from runtime.errors import CutoffError
from runtime.families.planes import PlaneLatents
from runtime.stream import StreamParser

VALID = Path(__file__).parents[1] / "golden" / "valid"
GOLDEN_NAMES = sorted(json.loads((VALID / "expected.json").read_text()))


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_stream_gives_the_expected_symbols(
    tiny_codec: Codec, golden: dict[str, bytes], make_golden: ModuleType, name: str
) -> None:
    """Header fields, symbols, nodes, and trits per prefix are those on file."""
    expected = json.loads((make_golden.HERE / "valid" / "expected.json").read_text())[name]
    assert make_golden.expected_of(tiny_codec, golden[name]) == expected


@pytest.mark.parametrize("family", ["ctc", "progdtd", "deepfgs"])
def test_golden_streams_of_other_families_give_the_expected_nodes(make_golden: ModuleType, family: str) -> None:
    """All that whole streams and prefixes say of every field is what is on file: no family may change unseen."""
    folder = make_golden.HERE / "families"
    expected = json.loads((folder / "expected.json").read_text())[family]
    stream = (folder / f"{family}.cut").read_bytes()
    with Codec.open(make_golden.HERE / f"tiny-{family}", threads=1) as codec:
        assert make_golden.family_expected(codec, stream) == expected
        assert codec.decode(stream).complete


@pytest.mark.parametrize("name", ["example", "rgb", "frames", "no-body", "one-pixel"])
def test_golden_symbols_give_the_golden_stream(
    tiny_codec: Codec, golden: dict[str, bytes], make_golden: ModuleType, name: str
) -> None:
    """Coding the decoded symbols again gives the same bytes."""
    from runtime.entropy.plan import in_array_order

    decoder = fed(tiny_codec, golden[name])
    assert isinstance(decoder._latents, PlaneLatents)
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


def test_every_valid_file_has_its_expectations(golden: dict[str, bytes]) -> None:
    """No stream without symbols to find, and none that is missing."""
    assert sorted(golden) == GOLDEN_NAMES


def test_golden_files_are_what_their_generator_makes(make_golden: ModuleType, tiny_codec: Codec) -> None:
    """Trimmed, damaged and invalid files follow from the whole streams on file."""
    valid = {path.stem: path.read_bytes() for path in (make_golden.HERE / "valid").glob("*.cut")}
    assert valid["trimmed"] == trim(valid["frames"], 2500)
    assert valid["trimmed-twice"] == trim(valid["trimmed"], 1999)
    head_only = valid["trimmed-to-head-segment"]
    assert head_only == trim(valid["rgb"], len(head_only)) and len(head_only) == header_of(head_only).body_start
    for folder, made in (
        ("invalid", make_golden.invalid_streams(valid["example"])),
        ("damaged", make_golden.damaged_streams(valid["frames"])),
    ):
        on_file = {path.stem: path.read_bytes() for path in (make_golden.HERE / folder).glob("*.cut")}
        assert on_file == {name: stream for name, (_, stream) in made.items()}
