"""The conformance kit: `cutoff decode` passes it, and every kind of wrong decoder fails it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import conform
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
KIT = ROOT / "tests" / "golden" / "conform.py"
# A decoder that shows the stated picture, of which the tests below are variations: {change} is done to it.
DOUBLE = """
import json, sys
from pathlib import Path
from PIL import Image
stream, picture, symbols = map(Path, sys.argv[1:4])
golden = Path({golden!r})
expected = json.loads((golden / "pictures" / "expected.json").read_text())["cases"]
for stated in expected.values():
    if stated["every"] == 1 and (golden / stated["stream"]).read_bytes()[:stated["bytes"]] == stream.read_bytes():
        image = Image.open(golden / "pictures" / stated["pictures"][0])
        {change}
        image.save(picture)
        sys.exit(0)
sys.exit("not a stream")
"""


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    return {case.name: case for case in conform.read_cases()}


def kit(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(KIT), *words], capture_output=True, text=True, check=False)


def double(folder: Path, change: str = "pass") -> list[str]:
    """Return the command of a decoder that does as *change* says."""
    script = folder / "double.py"
    script.write_text(DOUBLE.format(golden=str(KIT.parent), change=change))
    return [sys.executable, str(script), "{stream}", "{picture}", "{bundle}"]


def test_cutoff_decode_conforms() -> None:
    """Every case passes, and the kit says so line by line."""
    command = [sys.executable, "-m", "runtime", "decode", "{stream}", "-o", "{picture}", "--bundle", "{bundle}"]
    done = kit("--", *command)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert all(line.startswith("pass  ") for line in lines[:-1])
    assert lines[-1] == f"{len(lines) - 1} cases: {len(lines) - 1} passed, 0 failed"
    assert {line.split()[1] for line in lines[:-1]} == {"valid", "cut", "damaged", "invalid"}


def test_wrong_decoder_fails(tmp_path: Path) -> None:
    """A decoder that is off by three levels fails where there is a picture; the exit status and the lines say it."""
    done = kit("--only", "one-pixel", "--", *double(tmp_path, "image = image.point(lambda level: level - 3)"))
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "FAIL  valid    one-pixel: a sample of the picture differs by 3; allowed: 1",
        "FAIL  cut      one-pixel-46: a sample of the picture differs by 3; allowed: 1",
        "2 cases: 0 passed, 2 failed",
    ]


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("rgb", "pass", None),
        ("rgb", "image = image.point(lambda level: level ^ 1)", None),
        ("rgb", "image = image.convert('L')", "the picture has shape (70, 150), not (70, 150, 3)"),
        ("example", "image = image.convert('RGB')", None),
        ("example", "image = image.crop((0, 0, 32, 20))", "the picture has shape (20, 32), not (20, 33)"),
        ("example", "sys.exit('cannot')", "was refused: exit status 1: cannot"),
        ("example", "sys.exit(0)", "exit status 0, but there is no picture"),
        ("example", "picture.write_text('no picture'); sys.exit(0)", "the picture cannot be read: "),
        ("example", "image.save(picture); sys.exit(3)", "exit status 3, but there is a picture"),
        ("example", "import os; os.abort()", "ended by signal 6"),
        ("example", "import time; time.sleep(60)", "took more than 2 s"),
        ("not-a-stream", "pass", None),
    ],
)
def test_verdicts(cases: dict[str, Any], tmp_path: Path, name: str, change: str, fault: str | None) -> None:
    """What may differ does not fail, what must not does, with a reason."""
    found = conform.run(cases[name], double(tmp_path, change), ".png", 2.0 if "sleep" in change else 60.0)
    assert found is None if fault is None else found is not None and found.startswith(fault)


def test_accepting_the_invalid_fails(cases: dict[str, Any], tmp_path: Path) -> None:
    """A picture of what is no stream is the worst answer; a refusal that leaves one is no better."""
    missing = tmp_path / "missing.png"
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((20, 33), np.uint8)).save(picture)
    accepted = conform.Outcome(0, "", picture, Path())
    for case in cases.values():
        if case.kind == "invalid":
            assert conform.fault_of(case, accepted) == "was not refused"
            assert conform.fault_of(case, replace(accepted, status=1)) == "exit status 1, but there is a picture"
            assert conform.fault_of(case, replace(accepted, picture=missing)) == "was not refused"
            assert conform.fault_of(case, conform.Outcome(1, "", missing, Path())) is None


def test_damaged_streams_may_be_refused(cases: dict[str, Any], tmp_path: Path) -> None:
    """As strict decoders do; what must not be is the picture of the damaged bytes."""
    refused = conform.Outcome(1, "damaged", tmp_path / "missing.png", Path())
    (tmp_path / "grey.png").write_bytes(b"")
    Image.fromarray(np.full((512, 768, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    for name in ("first-frame", "second-frame", "checksum-of-second-frame"):
        assert cases[name].kind == "damaged"
        assert conform.fault_of(cases[name], refused) is None
        shown = conform.Outcome(0, "", tmp_path / "grey.png", Path())
        assert "a sample of the picture differs by" in conform.fault_of(cases[name], shown)
    assert "was refused" in conform.fault_of(cases["frames"], refused)


def test_symbols_are_compared_where_the_command_offers_them(cases: dict[str, Any], tmp_path: Path) -> None:
    """The right ones pass; one that differs, or a file that is none, fails."""
    from runtime import Codec

    case = cases["example-54"]
    with Codec.open(KIT.parent / "tiny", threads=1) as codec:
        decoder = codec.decoder()
        decoder.feed(case.stream)
        image, latents = decoder.finish().image, decoder._latents
    Image.fromarray(image).save(tmp_path / "picture.png")
    right: dict[str, list[int]] = {"z": latents.z.known_symbols().tolist(), "y": latents.y.nodes.tolist()}  # type: ignore[union-attr]
    path = tmp_path / "symbols.json"
    outcome = conform.Outcome(0, "", tmp_path / "picture.png", path)
    for key, text, fault in (
        ("", json.dumps(right), None),
        ("z", json.dumps({**right, "z": [6, 3]}), "z has other symbols than stated"),
        ("y", json.dumps({**right, "y": right["y"][:-1]}), "y has other symbols than stated"),
        ("y", json.dumps({"z": right["z"]}), "the symbols cannot be read: KeyError('y')"),
        ("", "no JSON", "the symbols cannot be read: JSONDecodeError"),
    ):
        path.write_text(text)
        found = conform.fault_of(case, outcome)
        assert found is None if fault is None else found.startswith(fault), key
    path.unlink()
    assert "the symbols cannot be read: FileNotFoundError" in conform.fault_of(case, outcome)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--", "decode", "{picture}"], "the command lacks {stream}"),
        (["--", "decode", "{stream}"], "the command lacks {picture}"),
        (["--only", "nothing", "--", "decode", "{stream}", "{picture}"], "no case has 'nothing' in its name"),
        (["--", "/missing/decode", "{stream}", "{picture}"], "the command cannot be run: "),
    ],
)
def test_wrong_calls(words: list[str], fault: str) -> None:
    """Exit status 2 and a reason."""
    done = kit(*words)
    assert done.returncode == 2 and fault in done.stderr


def test_every_file_is_a_case_and_every_picture_belongs_to_one(cases: dict[str, Any]) -> None:
    """No stream, of any family, that the kit would pass over; no picture that nothing is compared with."""
    for kind, folders in {"valid": ("valid", "families"), "damaged": ("damaged",), "invalid": ("invalid",)}.items():
        names = {path.stem for folder in folders for path in (KIT.parent / folder).glob("*.cut")}
        assert names == {name for name, case in cases.items() if case.kind == kind}
    bundles = {case.bundle.name for case in cases.values()}
    assert bundles == {"tiny", "tiny-ctc", "tiny-progdtd", "tiny-deepfgs"}
    stated = {name for case in cases.values() if case.stated for name in case.stated["pictures"]}
    assert stated == {path.name for path in (KIT.parent / "pictures").glob("*.png")}
