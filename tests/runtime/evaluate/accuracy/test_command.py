from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from runtime.cli.main import main
from runtime.evaluate.accuracy.guesses import ORIGINAL

Capture = pytest.CaptureFixture[str]


def accuracy(home: Path, out: Path, *more: str, labels: str = "labels.txt") -> int:
    words = ["eval", "accuracy", "--images", home / "train", "--classifier", home / "colours.onnx", "--side", "64"]
    return main([*map(str, words), "--labels", str(home / labels), "--out", str(out), "--threads", "1", *more])


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_codecs_are_classified_at_every_cut(colours: Path, tmp_path: Path, tiny: str, capsys: Capture) -> None:
    """The main job: bundles and peers at the same bytes, the originals beside them, and all that is made of it."""
    words = ["--bundle", tiny, "--peers", "jpeg-progressive,jpeg2000", "--cuts", "40,300,900", "--json"]
    assert accuracy(colours, tmp_path / "run", *words, "--deadlines-ms", "50,5000", "--link-kbps", "64") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 6
    points = {(point["codec"], point["cut_bytes"]): point for point in report["points"]}
    assert points[ORIGINAL, None]["top1"]["value"] == 1.0 and points[ORIGINAL, None]["bytes"] == 64 * 64 * 3
    whole = points["jpeg-progressive-q90", None]
    assert whole["top1"]["value"] == whole["agreement"]["value"] == 1.0
    assert points["jpeg2000", 40]["shown"] == 0 and points["jpeg2000", 40]["top1"]["value"] == 0.0
    assert {point["deadline_ms"] for point in report["deadlines"]} == {50.0, 5000.0}
    assert report["stops"] and report["first_correct"] and report["calibration"]
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 6 * (1 + 5 * 4)
    assert all(int(row["bytes"]) <= int(row["cut_bytes"]) for row in rows if row["cut_bytes"] != "full")
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(recorded["files"]) == {"classifier", "labels"} and len(recorded["pictures"]) == 6
    assert recorded["codecs"]["jpeg2000"]["layers"] == "at the run's cuts, and above"


def test_tables_are_printed(colours: Path, tmp_path: Path, capsys: Capture) -> None:
    assert accuracy(colours, tmp_path / "run", "--peers", "jpeg2000", "--cuts", "900", "--most", "2") == 0
    text = capsys.readouterr().out
    for heading in ("Accuracy in percent", "Top-1 in percent by a deadline", "Stopping at", "First correct answer:"):
        assert heading in text
    assert "100.0 [34.2, 100.0]" in text


def test_pictures_that_are_broken_are_skipped(colours: Path, tmp_path: Path, capsys: Capture) -> None:
    (colours / "train" / "n02" / "n02_1.png").write_bytes(b"no picture")
    assert accuracy(colours, tmp_path / "run", "--peers", "jpeg2000", "--json") == 0
    printed = capsys.readouterr()
    assert list(json.loads(printed.out)["skipped"]) == ["n02/n02_1.png"]
    assert "1 of 6 pictures were skipped" in printed.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mean", "0,0"], "must be three numbers"),
        (["--stops", "0.5,2"], "at most 1, not 2"),
        (["--cuts", "0"], "at least 1"),
        (["--side", "8"], "--side must be 32 to 2048"),
        ([], "nothing to measure"),
        (["--peers", "jpeg2000", "--side", "100", "--classifier", "none.onnx"], "no such file"),
    ],
)
def test_wrong_calls(words: list[str], message: str, colours: Path, tmp_path: Path, capsys: Capture) -> None:
    assert accuracy(colours, tmp_path / "run", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_labels_of_another_classifier(colours: Path, tmp_path: Path, capsys: Capture) -> None:
    """Before anything is measured."""
    (colours / "four.txt").write_text("n01 a\nn02 b\nn03 c\nn04 d\n")
    assert accuracy(colours, tmp_path / "run", "--peers", "jpeg2000", labels="four.txt") == 1
    assert "not (1, 4)" in capsys.readouterr().err
