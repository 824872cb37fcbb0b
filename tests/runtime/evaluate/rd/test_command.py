from __future__ import annotations

import argparse
import csv
import errno
import json
import sys
from pathlib import Path
from typing import NoReturn

import PIL.Image
import pytest

from runtime.cli.main import main
from runtime.errors import CutoffError, DataError, MissingExtra, OutputError, UsageError
from runtime.evaluate import command
from runtime.evaluate.rd.cuts import Cut
from runtime.evaluate.rd.overview import summarise_run
from runtime.evaluate.report.drawing import lines_for
from runtime.evaluate.runs.folder import RunFolder, load_run


def evaluate(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(["rd", *map(str, words)]))


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_bundle_is_measured_beside_peers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The main job: rows, and one object with means and deltas."""
    out = tmp_path / "rd"
    words = ["--bundle", "dpict-edge", "--images", folder, "--points", "0.01,0.5,0.2,1", "--out", out]
    assert evaluate(*words, "--peers", "jpeg-progressive,jpeg2000,webp", "--threads", "1", "--json") == 0
    rows = rows_of(out)
    assert list(rows[0])[:7] == ["codec", "image", "target_bpp", "bytes", "bpp", "psnr_db", "ms_ssim"]
    assert len(rows) == 2 * (5 * 5 + 4)  # pictures, codecs, cuts; a codec without prefixes has no whole stream
    assert {row["image"] for row in rows} == {"colour.png", "grey.png"}

    report = json.loads(capsys.readouterr().out)
    assert (report["pictures"], report["skipped"]) == (2, {})
    points = {(point["codec"], point["target_bpp"]): point for point in report["points"]}
    lowest, full = points["dpict-edge", 0.01], points["dpict-edge", None]
    assert (lowest["n"], lowest["nothing_to_show"], lowest["psnr_db"]) == (0, 2, None)
    assert (full["n"], full["nothing_to_show"]) == (2, 0)
    assert full["psnr_db"] > points["dpict-edge", 0.2]["psnr_db"] > 20
    assert full["encode_ms"] > 0 and full["decode_ms"] > 0
    assert points["webp", 1.0]["psnr_db"] > 20 and points["webp", 1.0]["bpp"] <= 1.0
    assert [delta["reference"] for delta in report["bd_rate"]] == [
        "jpeg-progressive-q75", "jpeg-progressive-q90", "jpeg-progressive-q95", "jpeg2000", "webp",
    ]  # fmt: skip
    assert all(delta["fixed_bpp"] for delta in report["bd_rate"])


def test_rows_hold_the_real_bytes(folder: Path, tmp_path: Path) -> None:
    words = ["--images", folder / "colour.png", "--points", "0.5,50", "--peers", "jpeg-progressive"]
    evaluate(*words, "--out", tmp_path / "rd")
    first, beyond, full = rows_of(tmp_path / "rd")[:3]
    pixels = 176 * 190
    assert int(first["bytes"]) == int(0.5 * pixels / 8)
    assert beyond["bytes"] == full["bytes"]
    assert float(beyond["bpp"]) == pytest.approx(8 * int(full["bytes"]) / pixels, abs=1e-6)
    assert (first["target_bpp"], beyond["target_bpp"], full["target_bpp"]) == ("0.5", "50", "full")


def test_tables_are_printed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Means, then deltas against peers and published curves, with the ranges and how they were averaged."""
    curves = tmp_path / "published.csv"
    curves.write_text("bpp,psnr_db\n0.1,20\n0.5,26\n1.0,30\n")
    words = ["--bundle", "dpict-edge", "--images", folder, "--points", "0.3,0.6", "--curves", curves]
    assert evaluate(*words, "--peers", "jpeg2000", "--out", tmp_path / "rd") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:7] == ["codec", "target_bpp", "bpp", "psnr_db", "ms_ssim", "n", "nothing"]
    assert [line.split()[:2] for line in lines[1:7]] == [
        [codec, target] for codec in ("dpict-edge", "jpeg2000") for target in ("0.3", "0.6", "full")
    ]
    assert "BD-rate and BD-PSNR of dpict-edge, 0.1 to 1.0 bpp as far as both curves reach:" in lines
    assert any(line.startswith("jpeg2000") and line.endswith("at fixed bpp") for line in lines)
    assert any(line.startswith("published") and line.endswith("otherwise") for line in lines)
    assert (tmp_path / "rd" / "curves" / "published.csv").read_text() == curves.read_text()


def test_twice_the_same_and_whoever_measures(many: Path, tmp_path: Path, tiny: str) -> None:
    """Two runs agree but for times, and so do one process and two."""
    without_times = []
    for name, workers in (("one", "1"), ("two", "1"), ("three", "2")):
        words = ["--images", many, "--points", "0.3,2", "--bundle", tiny, "--threads", "1", "--workers", workers]
        evaluate(*words, "--out", tmp_path / name)
        rows = sorted(rows_of(tmp_path / name), key=lambda row: (row["image"], row["target_bpp"]))
        without_times.append([{key: row[key] for key in row if not key.endswith("_ms")} for row in rows])
    assert without_times[0] == without_times[1] == without_times[2]


def test_a_rerun_goes_on_where_one_ended(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is there is not measured again, what is not there is."""
    words = ["--images", folder, "--points", "0.3", "--peers", "jpeg2000", "--out", tmp_path / "rd"]
    evaluate(*words)
    first = rows_of(tmp_path / "rd")
    units = (tmp_path / "rd" / "units.csv").read_text().splitlines(keepends=True)
    (tmp_path / "rd" / "units.csv").write_text("".join(units[:-1]))  # as if stopped before the last picture was done
    capsys.readouterr()
    evaluate(*words)
    assert "1 of 2 were there already" in capsys.readouterr().err
    again = rows_of(tmp_path / "rd")
    assert [row["image"] for row in again] == [row["image"] for row in first]
    assert again[:2] == first[:2]  # the same digits, times included: not measured anew
    evaluate(*words)
    assert rows_of(tmp_path / "rd") == again
    commands = json.loads((tmp_path / "rd" / "run.json").read_text())["commands"]
    assert len(commands) == 3


def test_a_folder_of_other_settings_is_refused(folder: Path, tmp_path: Path) -> None:
    words = ["--images", folder, "--peers", "jpeg2000", "--out", tmp_path / "rd"]
    evaluate(*words, "--points", "0.3")
    with pytest.raises(UsageError, match=r"holds another run \(settings.points_bpp: \[0.3\] there, \[0.4\] now\)"):
        evaluate(*words, "--points", "0.4")
    PIL.Image.new("RGB", (40, 40)).save(folder / "colour.png")
    with pytest.raises(UsageError, match=r"holds another run \(pictures.colour.png"):
        evaluate(*words, "--points", "0.3")


def test_nothing_to_measure(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        evaluate("--images", folder, "--out", tmp_path / "rd")


def test_a_codec_named_twice(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two codecs have the name 'jpeg2000'"):
        evaluate("--images", folder, "--peers", "jpeg2000,jpeg2000", "--out", tmp_path / "rd")


def test_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no pictures"):
        evaluate("--images", tmp_path, "--peers", "jpeg2000", "--out", tmp_path / "rd")


def test_a_broken_picture_is_skipped_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is reported with its name and kept as such; the others are measured; a rerun does not try again."""
    whole = (folder / "grey.png").read_bytes()
    (folder / "grey.png").write_bytes(whole[: len(whole) // 2])
    words = ["--images", folder, "--peers", "jpeg2000", "--points", "0.5", "--out", tmp_path / "rd"]
    for _ in range(2):
        assert evaluate(*words, "--json") == 0
        printed = capsys.readouterr()
        report = json.loads(printed.out)
        assert report["pictures"] == 1
        assert list(report["skipped"]) == ["grey.png"]
        assert "1 of 2 pictures were skipped" in printed.err
    assert {row["image"] for row in rows_of(tmp_path / "rd")} == {"colour.png"}


def test_nothing_but_broken_pictures(folder: Path, tmp_path: Path) -> None:
    (folder / "colour.png").unlink()
    (folder / "grey.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"none of 1 pictures could be measured; the first: .*grey\.png"):
        evaluate("--images", folder, "--peers", "jpeg2000", "--out", tmp_path / "rd")


def test_unwritable_results(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        evaluate("--images", folder, "--peers", "jpeg2000", "--out", tmp_path / "file" / "rd")


def test_unknown_bundle(folder: Path, tmp_path: Path) -> None:
    for name in ("no-such-bundle", "a" * 300):
        with pytest.raises(CutoffError, match=f"no bundle '{name}'"):
            evaluate("--bundle", name, "--images", folder, "--out", tmp_path / "rd")
    assert not (tmp_path / "rd").exists()


def test_bad_curves(folder: Path, tmp_path: Path) -> None:
    words = ["--images", folder, "--peers", "jpeg2000", "--out", tmp_path / "rd"]
    with pytest.raises(DataError, match="not a file of curves"):
        evaluate(*words, "--curves", tmp_path / "none.csv")


def test_ray_that_is_not_installed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[ray\]' in the checkout"):
        evaluate("--images", folder, "--peers", "jpeg2000", "--out", tmp_path / "rd", "--ray")
    assert not (tmp_path / "rd").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points", "0.1,much"], "must be a number above 0, not 'much'"),
        (["--points", "0"], "must be a number above 0, not '0'"),
        (["--points", "-1"], "--points"),
        (["--points", "0.1,,0.2"], "must be a number above 0, not ''"),
        (["--peers", "jpeg,jpeg2000"], "'jpeg' is unknown; there are jpeg-progressive, jpeg2000, webp, avif"),
        (["--threads", "0"], "at least 1"),
        (["--workers", "0"], "at least 1"),
        (["--most", "none"], "at least 1"),
    ],
)
def test_bad_usage_is_one_line(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "rd", "--images", str(folder), "--bundle", "dpict-edge", "--out", "rd", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_passing_fault_of_reading_is_made_good_by_the_next_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clear error ends the run; nothing is skipped for good."""
    words = ["--images", folder, "--peers", "jpeg2000", "--points", "0.5", "--out", tmp_path / "rd"]
    read_bytes = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "grey.png":
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(DataError, match=r"grey\.png: cannot be read any more: Input/output error"):
            evaluate(*words)
    assert {row["image"] for row in rows_of(tmp_path / "rd")} == {"colour.png"}
    assert evaluate(*words) == 0
    assert {row["image"] for row in rows_of(tmp_path / "rd")} == {"colour.png", "grey.png"}


def test_a_picture_that_a_codec_cannot_hold_is_skipped(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """WebP has 14 bits for a side."""
    PIL.Image.new("L", (16_384, 1)).save(folder / "long.png")
    words = ["--images", folder / "long.png", folder / "grey.png", "--peers", "webp", "--points", "0.5"]
    assert evaluate(*words, "--out", tmp_path / "rd", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 1 and "not 16384x1" in report["skipped"]["long.png"]


def test_published_curves_are_kept_from_the_beginning(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of a run that was stopped has them, too."""
    curves = tmp_path / "published.csv"
    curves.write_text("bpp,psnr_db\n0.1,20\n1.0,30\n")
    words = ["--images", folder, "--peers", "jpeg2000", "--points", "0.5", "--curves", curves]

    def stopped(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(*words, "--out", tmp_path / "rd")
    (curve,) = summarise_run(load_run(tmp_path / "rd", Cut)).published
    assert curve.label == "published"


def test_published_curves_that_bear_a_codecs_name_are_told_apart(
    folder: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And those of two files that bear one name; deltas say against which, and every one has a line of its own."""
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("codec,bpp,psnr_db\ntiny,0.1,10\ntiny,8,30\nother,0.1,10\nother,8,30\n")
    words = ["--bundle", tiny, "--images", folder, "--points", "0.5,4", "--out", tmp_path / "rd"]
    assert evaluate(*words, "--curves", tmp_path / "one.csv", tmp_path / "two.csv", "--json") == 0
    summary = summarise_run(load_run(tmp_path / "rd", Cut))
    labels = [curve.label for curve in summary.published]
    assert labels == ["tiny (one.csv)", "other", "tiny (two.csv)", "other (two.csv)"]
    assert [delta["reference"] for delta in json.loads(capsys.readouterr().out)["bd_rate"]] == labels
    lines = lines_for(["tiny"], [], labels)
    assert len(lines) == 5 and lines["tiny"].dashes == "-" and all(lines[label].dashes != "-" for label in labels)
