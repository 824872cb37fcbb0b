"""The command line: every verb does its work, and prints what it documents."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import printed, refusal, run
from numpy.typing import NDArray

from engines.bundle import Bundle
from runtime import Codec, trim
from runtime.cli.main import VERBS, main
from runtime.cli.samples import synthetic_picture
from runtime.errors import UsageError
from runtime.evaluate.distortion import psnr
from runtime.image_files import read_image, write_image
from runtime.stream import HEADER_BYTES, Limits, StreamParser

Image = NDArray[np.uint8]
Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]
WHOLE_SIZE = 451, 300
DECODE_KEYS = {
    *("bytes_used", "bytes_verified", "bytes_total", "steps", "steps_total", "planes"),
    *("complete", "damaged", "skipped", "missed", "margin_ms", "ms"),
}


# encode


def test_encode_writes_what_the_codec_makes(
    capsys: Capture, codec: Codec, photographs: dict[str, Image], small: Path, tmp_path: Path
) -> None:
    result = printed(capsys, "encode", small, "-o", tmp_path / "a.cut", "--threads", "2")
    written = (tmp_path / "a.cut").read_bytes()
    assert written == codec.encode(photographs["chelsea"][100:200, 150:300]).stream
    assert set(result) == {"bytes", "bpp", "width", "height", "bundle", "ms"}
    assert (result["bytes"], result["width"], result["height"]) == (len(written), 150, 100)
    assert result["bundle"] == "dpict-edge"
    assert result["bpp"] == pytest.approx(8 * len(written) / 15_000, abs=1e-4)
    assert {"read", "open", "networks", "entropy", "total", "write"} <= set(result["ms"])
    assert all(isinstance(ms, float) for ms in result["ms"].values())


def test_encode_bytes_writes_a_plain_prefix(capsys: Capture, small: Path, tmp_path: Path) -> None:
    run(capsys, "encode", small, "-o", tmp_path / "whole.cut", "--threads", "2")
    whole = (tmp_path / "whole.cut").read_bytes()
    size = 2 * len(whole) // 3
    result = printed(capsys, "encode", small, "-o", tmp_path / "part.cut", "--bytes", str(size), "--threads", "2")
    assert result["bytes"] == size
    assert (tmp_path / "part.cut").read_bytes() == whole[:size]


def test_encode_bytes_beyond_the_stream_writes_all_of_it(capsys: Capture, small: Path, tmp_path: Path) -> None:
    result = printed(capsys, "encode", small, "-o", tmp_path / "a.cut", "--bytes", "1000000")
    assert result["bytes"] == len((tmp_path / "a.cut").read_bytes()) < 10_000


def test_encode_bytes_too_few_for_the_head_segment(capsys: Capture, small: Path, tmp_path: Path) -> None:
    status, line = refusal(capsys, "encode", small, "-o", tmp_path / "a.cut", "--bytes", "31")
    assert status == 1
    assert "31 bytes cannot hold header and head segment" in line
    assert not (tmp_path / "a.cut").exists()


def test_encode_without_json_prints_one_line(capsys: Capture, small: Path, tmp_path: Path) -> None:
    printed = run(capsys, "encode", small, "-o", tmp_path / "a.cut")
    assert len(printed.splitlines()) == 1
    assert "150x100" in printed


def test_encode_applies_exif_orientation(capsys: Capture, tmp_path: Path, photographs: dict[str, Image]) -> None:
    import PIL.Image

    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(photographs["chelsea"][:64, :96]).save(tmp_path / "a.png", exif=exif)
    result = printed(capsys, "encode", tmp_path / "a.png", "-o", tmp_path / "a.cut")
    assert (result["width"], result["height"]) == (64, 96)


def test_encode_never_overwrites_its_input(capsys: Capture, small: Path) -> None:
    before = small.read_bytes()
    status, line = refusal(capsys, "encode", small, "-o", small)
    assert status == 1
    assert "it is the input" in line
    assert small.read_bytes() == before


def test_names_that_are_not_utf_8_are_printed_all_the_same(capsys: Capture, small: Path, tmp_path: Path) -> None:
    """With what is no character escaped; the files have their true names."""
    source, target = (tmp_path / os.fsdecode(name) for name in (b"\xff.png", b"\xff.cut"))
    small.rename(source)
    for words in (
        ["encode", source, "-o", target],
        ["trim", target, "-o", target, "--bytes", "4000"],
        ["decode", target, "-o", source],
    ):
        assert "\\udcff" in run(capsys, *words)
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [b"\xff.cut", b"\xff.png"]


# decode


def test_decode_whole(capsys: Capture, codec: Codec, coded: Path, stream: bytes, tmp_path: Path) -> None:
    result = printed(capsys, "decode", coded, "-o", tmp_path / "a.png", "--threads", "2")
    assert np.array_equal(read_image(tmp_path / "a.png"), codec.decode(stream).image)
    assert set(result) == DECODE_KEYS
    assert result["bytes_used"] == result["bytes_verified"] == result["bytes_total"] == len(stream)
    assert result["steps"] == result["planes"] == result["steps_total"]
    assert (result["complete"], result["damaged"], result["missed"]) == (True, False, False)
    assert result["skipped"] == []
    assert result["margin_ms"] is None
    assert {"read", "open", "entropy", "total", "write"} <= set(result["ms"])


def test_decode_bytes_reads_a_prefix(capsys: Capture, codec: Codec, coded: Path, stream: bytes, tmp_path: Path) -> None:
    result = printed(capsys, "decode", coded, "-o", tmp_path / "a.png", "--bytes", "3000", "--threads", "2")
    assert np.array_equal(read_image(tmp_path / "a.png"), codec.decode(stream[:3000]).image)
    assert result["bytes_used"] == 3000 > result["bytes_verified"]
    assert result["bytes_total"] == len(stream)
    assert not result["complete"]
    assert not result["damaged"]


def test_decode_strict_uses_verified_bytes_only(capsys: Capture, coded: Path, tmp_path: Path) -> None:
    result = printed(capsys, "decode", coded, "-o", tmp_path / "a.png", "--bytes", "3000", "--strict")
    assert result["bytes_used"] == result["bytes_verified"] < 3000


def test_decode_with_a_generous_deadline(capsys: Capture, coded: Path, tmp_path: Path) -> None:
    result = printed(capsys, "decode", coded, "-o", tmp_path / "a.png", "--deadline-ms", "60000", "--threads", "2")
    assert result["complete"]
    assert not result["missed"]
    assert 0 < result["margin_ms"] < 60_000
    assert result["ms"]["warm"] > 0


def test_decode_missed_deadline_without_a_picture(capsys: Capture, coded: Path, tmp_path: Path) -> None:
    """The object says so, the exit status too, and there is no file."""
    words = ["decode", str(coded), "-o", str(tmp_path / "a.png"), "--deadline-ms", "0.001", "--json"]
    assert main(words) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["missed"]
    assert result["margin_ms"] < 0
    assert "g_s" in result["skipped"]
    assert printed.err.splitlines() == [f"cutoff: error: {coded}: no picture could be made within 0.001 ms"]
    assert not (tmp_path / "a.png").exists()


def test_decode_missed_deadline_with_a_late_picture(
    capsys: Capture, coded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that came too late is written, with a warning."""
    punctual = Codec.decode

    def late(codec: Codec, prefix: bytes, deadline: object = None, *, strict: bool = False) -> Any:
        return dataclasses.replace(punctual(codec, prefix, strict=strict), missed=True, margin_ms=-3.25)

    monkeypatch.setattr(Codec, "decode", late)
    assert main(["decode", str(coded), "-o", str(tmp_path / "a.png"), "--deadline-ms", "20", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["missed"]
    assert printed.err.splitlines() == [f"cutoff: warning: {coded}: the deadline of 20 ms was missed by 3.2 ms"]
    assert (tmp_path / "a.png").exists()


def test_decode_without_json_prints_one_line(capsys: Capture, coded: Path, tmp_path: Path) -> None:
    printed = run(capsys, "decode", coded, "-o", tmp_path / "a.jpg", "--bytes", "2000")
    assert len(printed.splitlines()) == 1
    assert f"2000 of {coded.stat().st_size} bytes" in printed


def test_decode_omits_planes_where_the_family_has_none(
    capsys: Capture, coded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_planes = Codec.decode
    monkeypatch.setattr(Codec, "decode", lambda *a, **k: dataclasses.replace(with_planes(*a, **k), planes=None))
    result = printed(capsys, "decode", coded, "-o", tmp_path / "a.png", "--bytes", "2000")
    assert set(result) == DECODE_KEYS - {"planes"}


def test_grey_decodes_to_grey(capsys: Capture, tmp_path: Path, photographs: dict[str, Image]) -> None:
    grey = photographs["chelsea"][:70, :90, 1]
    write_image(tmp_path / "grey.png", grey)
    run(capsys, "encode", tmp_path / "grey.png", "-o", tmp_path / "a.cut")
    run(capsys, "decode", tmp_path / "a.cut", "-o", tmp_path / "a.png")
    decoded = read_image(tmp_path / "a.png")
    assert decoded.shape == (70, 90)
    assert psnr(decoded, grey) > 20


@pytest.mark.parametrize("size", [(1, 1), (1, 65), (63, 1), (65, 63)])
def test_odd_sizes_come_back(size: tuple[int, int], capsys: Capture, tmp_path: Path) -> None:
    image = synthetic_picture(*size)
    write_image(tmp_path / "a.png", image)
    run(capsys, "encode", tmp_path / "a.png", "-o", tmp_path / "a.cut")
    run(capsys, "decode", tmp_path / "a.cut", "-o", tmp_path / "b.png")
    assert read_image(tmp_path / "b.png").shape == image.shape


def test_decode_unknown_suffix_is_wrong_usage(capsys: Capture, coded: Path, tmp_path: Path) -> None:
    status, line = refusal(capsys, "decode", coded, "-o", tmp_path / "a.gif")
    assert status == 2
    assert ".png" in line


# trim and inspect


def test_trim_is_the_functions_work(capsys: Capture, coded: Path, stream: bytes, tmp_path: Path) -> None:
    result = printed(capsys, "trim", coded, "-o", tmp_path / "a.cut", "--bytes", "5000")
    trimmed = (tmp_path / "a.cut").read_bytes()
    assert trimmed == trim(stream, 5000)
    assert result == {"bytes": len(trimmed), "bytes_before": len(stream), "complete": False}


def test_trim_in_place(capsys: Capture, coded: Path, stream: bytes) -> None:
    run(capsys, "trim", coded, "-o", coded, "--bytes", "4000")
    assert coded.read_bytes() == trim(stream, 4000)


def test_trim_below_the_head_segment(capsys: Capture, coded: Path, tmp_path: Path) -> None:
    status, line = refusal(capsys, "trim", coded, "-o", tmp_path / "a.cut", "--bytes", "31")
    assert status == 1
    assert "31 bytes cannot hold header and head segment" in line
    assert not (tmp_path / "a.cut").exists()


def test_inspect_needs_no_bundle(
    capsys: Capture, coded: Path, stream: bytes, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a bundle was opened")

    monkeypatch.setattr(Bundle, "open", never)
    result = printed(capsys, "inspect", coded)
    assert (result["width"], result["height"]) == WHOLE_SIZE
    assert result["exact_id"] == codec.bundle.exact_id.hex()
    assert result["bytes"] == result["bytes_total"] == result["bytes_verified"] == len(stream)
    assert (result["complete"], result["damaged"], result["trimmed"], result["grey"]) == (True, False, False, False)


def test_inspect_slices_cover_the_stream(capsys: Capture, coded: Path, stream: bytes) -> None:
    slices = printed(capsys, "inspect", coded)["slices"]
    assert [s["slice"] for s in slices][:3] == ["header", "head", "frame 0"]
    assert {s["state"] for s in slices} == {"verified"}
    ends = [s["offset"] + s["bytes"] for s in slices]
    assert [s["offset"] for s in slices] == [0, *ends[:-1]]
    assert ends[-1] == len(stream)


def test_inspect_tells_the_states_of_slices(capsys: Capture, stream: bytes, tmp_path: Path) -> None:
    parser = StreamParser()
    parser.feed(stream)
    assert parser.header is not None
    start = parser.header.body_start

    def states(content: bytes) -> list[str]:
        (tmp_path / "a.cut").write_bytes(content)
        return [s["state"] for s in printed(capsys, "inspect", tmp_path / "a.cut")["slices"]]

    assert states(stream[:HEADER_BYTES])[:3] == ["verified", "missing", "missing"]
    assert states(stream[: HEADER_BYTES + 1])[:3] == ["verified", "unfinished", "missing"]
    assert states(stream[: start + 2053])[:4] == ["verified", "verified", "verified", "unfinished"]
    damaged = bytearray(stream)
    damaged[start + 2052 + 7] ^= 4
    assert states(bytes(damaged))[:5] == ["verified", "verified", "verified", "damaged", "unused"]


def test_inspect_without_json_prints_a_table(capsys: Capture, coded: Path) -> None:
    printed = run(capsys, "inspect", coded)
    assert "451" in printed
    assert "frame 0" in printed


# the whole command


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([verb, "--help"])
    assert leaving.value.code == 0
    assert f"usage: cutoff {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["unknown"],
        ["encode"],
        ["encode", "a.png"],
        ["encode", "a.png", "-o", "a.cut", "--bytes", "-1"],
        ["encode", "a.png", "-o", "a.cut", "--bytes", "many"],
        ["encode", "a.png", "-o", "a.cut", "--threads", "0"],
        ["encode", "a.png", "-o", "a.cut", "--engine", "abacus"],
        ["encode", "a.png", "-o", "a.cut", "--unknown"],
        ["decode", "a.cut", "-o", "a.png", "--deadline-ms", "0"],
        ["decode", "a.cut", "-o", "a.png", "--deadline-ms", "nan"],
        ["trim", "a.cut", "-o", "b.cut"],
        ["demo", "--out", "a", "--points", "0.1,"],
        ["--json"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(words: list[str], capsys: Capture) -> None:
    status, line = refusal(capsys, *words)
    assert status == 2
    assert "--help" in line


def test_more_threads_than_make_sense_are_refused(capsys: Capture, coded: Path, tmp_path: Path) -> None:
    words = ("decode", coded, "-o", tmp_path / "a.png", "--threads", "99999999999")
    assert refusal(capsys, *words) == (2, "cutoff: error: threads must be at most 1024, not 99999999999")


def test_traceback_only_on_request(capsys: Capture, tmp_path: Path) -> None:
    for words in (["--traceback", "inspect", "missing.cut"], ["inspect", "missing.cut", "--traceback"]):
        assert main(words) == 1
        assert "Traceback" in capsys.readouterr().err
    pytest.importorskip("rich", reason="rich is not installed (extra: eval)")
    assert main(["eval", "rd", "--bundle", "dpict-edge", "--images", "missing", "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err
    refusal(capsys, "inspect", tmp_path / "missing.cut")


def test_errors_stay_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UsageError("first\nsecond")

    monkeypatch.setattr(Bundle, "open", fail)
    assert main(["bundles"]) == 2
    assert capsys.readouterr().err == "cutoff: error: first second\n"


def test_interrupt_is_no_traceback(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bundle, "open", interrupt)
    assert main(["bundles"]) == 130
    assert capsys.readouterr().err == "cutoff: interrupted\n"


def test_eval_without_its_extra_says_what_to_install(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    import runtime.evaluate

    monkeypatch.delattr(runtime.evaluate, "command", raising=False)
    monkeypatch.setitem(sys.modules, "runtime.evaluate.command", None)
    status, line = refusal(capsys, "eval", "rd")
    assert status == 2
    assert "pip install '.[eval]' in the checkout" in line


def _process(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_runs_as_a_module() -> None:
    finished = _process(sys.executable, "-m", "runtime", "--version")
    assert finished.returncode == 0
    assert finished.stdout.startswith("cutoff ")


def test_start_imports_nothing_optional() -> None:
    """The command line starts without torch, Pillow, plotting or photographs."""
    code = "import sys, runtime.cli.main; print([m for m in sys.argv[1:] if m in sys.modules])"
    finished = _process(sys.executable, "-c", code, "torch", "PIL", "matplotlib", "skimage", "imagecodecs", "rich")
    assert finished.stdout.strip() == "[]"


def test_a_reader_that_leaves_is_no_traceback(coded: Path) -> None:
    finished = _process("/bin/sh", "-c", f"'{sys.executable}' -m runtime inspect '{coded}' | true")
    assert finished.stderr == ""


@pytest.mark.parametrize(("target", "status"), [(">&-", 0), (">/dev/full", 1)], ids=["closed", "full"])
def test_a_stdout_that_takes_nothing_is_no_traceback(coded: Path, target: str, status: int) -> None:
    """What was asked for is done; that nothing can be said of it is one line."""
    finished = _process("/bin/sh", "-c", f"'{sys.executable}' -m runtime inspect '{coded}' {target}")
    assert finished.returncode == status and len(finished.stderr.splitlines()) == status
    assert ("No space left" in finished.stderr) == bool(status)


def test_a_stream_on_stdout_is_nothing_but_the_stream(coded: Path, tmp_path: Path) -> None:
    """The line about it goes to stderr."""
    command = f"'{sys.executable}' -m runtime trim '{coded}' -o /dev/stdout --bytes 3000 | cat > '{tmp_path / 'b.cut'}'"
    finished = _process("/bin/sh", "-c", command)
    assert finished.returncode == 0 and "/dev/stdout: " in finished.stderr
    assert (tmp_path / "b.cut").read_bytes() == trim(coded.read_bytes(), 3000)


def test_synthetic_picture_is_always_the_same_and_like_a_photograph(codec: Codec) -> None:
    image = synthetic_picture(192, 128)
    assert image.shape == (128, 192, 3)
    assert np.array_equal(image, synthetic_picture(192, 128))
    stream = codec.encode(image).stream
    assert 0.1 < 8 * len(stream) / (128 * 192) < 6
    assert Limits().pixels > image.size
