from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.cli.main import main
from runtime.evaluate.deadline.decodes import DEADLINES
from runtime.evaluate.deadline.traces import TRACES

Capture = pytest.CaptureFixture[str]


def test_bundles_are_measured_idle_and_loaded(many: Path, tiny: str, tmp_path: Path, capsys: Capture) -> None:
    """Every load, picture, deadline and link; a rerun has nothing left to do."""
    words = ["eval", "deadline", "--bundle", tiny, "--images", str(many), "--most", "2", "--out", str(tmp_path / "run")]
    few = ["--repeats", "1", "--calibration", "3", "--threads", "1"]
    assert main([*words, *few, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["decodes"] == 2 * 2 * len(DEADLINES) * len(TRACES)
    assert {(line["load"], line["factor"], line["relative_to"]) for line in report["deadlines"]} == {
        (load, *deadline) for load in ("idle", "loaded") for deadline in DEADLINES
    }
    assert {goal["load"] for goal in report["goals"]} == {"idle", "loaded"}
    rows = (tmp_path / "run" / "rows.csv").read_bytes()
    assert main([*words, *few]) == 0
    assert (tmp_path / "run" / "rows.csv").read_bytes() == rows
    assert "4 of 4 were there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--loads", "idle,busy"], "'busy' is unknown"), (["--workers", "2"], "--workers"), ([], "give --bundle")],
)
def test_wrong_calls(words: list[str], message: str, many: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["eval", "deadline", "--images", str(many), "--out", str(tmp_path / "run"), *words]) == 2
    assert message in capsys.readouterr().err


def test_pictures_that_were_skipped_do_not_count(many: Path, tiny: str, tmp_path: Path, capsys: Capture) -> None:
    """A unit is a picture under a load, and the words for it say so."""
    (many / "00.png").write_bytes(b"no picture")
    words = ["eval", "deadline", "--bundle", tiny, "--images", str(many / "00.png"), str(many / "01.png")]
    few = ["--threads", "1", "--loads", "idle", "--repeats", "1", "--calibration", "3", "--json"]
    assert main([*words, *few, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["pictures"] == 1 and list(report["skipped"]) == ["idle / tiny / 00.png"]
    assert "1 of 2 units (a picture under a load) were skipped" in printed.err
