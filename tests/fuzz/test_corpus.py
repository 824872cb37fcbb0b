"""The kept inputs of every fuzz target, replayed: none shows a fault, none takes long. No fuzzer is needed.

New ones come from `make fuzz` and `make fuzz-keep`; what once showed a fault stays for good and is called `fault-*`.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fuzzing import NAMES, load
from targets.source import Source
from targets.streams import GOLDEN, golden_streams, portions, repaired

from runtime.errors import CutoffError
from runtime.stream import HEADER_BYTES, StreamParser

CORPUS = Path(__file__).parent / "corpus"
LONGEST_S = 1.0  # of processor time for one input; runs take about a thousandth
LARGEST_CORPUS = 200_000


@pytest.mark.parametrize("name", NAMES)
def test_kept_inputs_show_no_fault(name: str) -> None:
    """Neither the seeds nor what fuzzing found raises anything but errors of cutoff."""
    target = load(name)
    inputs = {path.name: path.read_bytes() for path in sorted((CORPUS / name).glob("*"))}
    target.one_input(b"")  # what is opened and compiled once
    for where, data in {**target.seeds(), **inputs}.items():
        began = time.process_time()
        try:
            target.one_input(data)
        except Exception as fault:
            raise AssertionError(f"{name}, input {where}: {fault!r}") from fault
        assert time.process_time() - began < LONGEST_S, where


def test_corpus_is_small() -> None:
    """It is for replaying, not for searching."""
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < LARGEST_CORPUS
    assert {path.name for path in CORPUS.iterdir()} <= set(NAMES)


# What the targets stand on.


@pytest.mark.parametrize("name", [path.stem for path in sorted((GOLDEN / "invalid").glob("*.cut"))])
def test_repaired_streams_get_behind_the_checksums(name: str) -> None:
    """Whatever was wrong with a stream's fixed fields and checksums, a parser then looks at what it holds."""
    stream = repaired(golden_streams()[name], bytes(8), 0xFFFF, 7)
    parser = StreamParser()
    try:
        parser.feed(stream)
    except CutoffError as fault:
        assert "the picture is" in str(fault), fault
    else:
        assert not parser.damaged and (parser.header is not None) == (len(stream) >= HEADER_BYTES)


def test_spared_frame_stays_damaged() -> None:
    """Damage can be reached, too."""
    damaged = golden_streams()["second-frame"]
    for spared, expected in ((0, False), (1, True)):
        parser = StreamParser()
        parser.feed(repaired(damaged, bytes(8), 0xFFFF, spared))
        assert parser.damaged == expected


def test_portions_are_the_stream() -> None:
    """However it is split."""
    stream = bytes(range(200))
    for splits in (b"", b"\x00\x00", b"\xff\x01\x80"):
        assert b"".join(portions(stream, splits)) == stream
    assert len(portions(stream, b"\x40\x80\xc0")) == 4


def test_source_gives_zeros_at_its_end() -> None:
    """An input may be cut anywhere."""
    source = Source(b"\x01\x02\x03")
    assert (source.number(), source.number(2), bool(source)) == (1, 0x0203, False)
    assert (source.number(4), source.choice("ab"), source.rest()) == (0, "a", b"")


@pytest.mark.parametrize("name", NAMES)
def test_a_target_raises_what_is_no_error_of_cutoff(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the product is seen, not swallowed."""
    broken = {
        "stream": "runtime.stream.Header.from_bytes",
        "head": "runtime.entropy.plan.Field.known_symbols",
        "body": "runtime.entropy.plan.Step.next_window",
        "decoder": "runtime.decoder.Decoder.picture",
        "manifest": "targets.manifest.parse_manifest",
        "tables": "targets.tables.read_arrays",
        "onnx": "targets.onnx.read_graph",
    }

    def fail(*_: object, **__: object) -> None:
        raise IndexError("made for this test")

    target = load(name)
    monkeypatch.setattr(broken[name], fail)
    with pytest.raises(IndexError, match="made for this test"):
        for data in target.seeds().values():
            target.one_input(data)
