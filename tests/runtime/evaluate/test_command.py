from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from runtime.cli.main import main
from runtime.errors import CutoffError, DataError, OutputError, PictureError, UsageError
from runtime.evaluate import command

Image = NDArray[np.uint8]


@pytest.fixture
def folder(tmp_path: Path, chelsea: Image) -> Path:
    """A folder of two small pictures, one of them grey, and a file that is none."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    PIL.Image.fromarray(chelsea[50:226, 100:290]).save(pictures / "colour.png")
    PIL.Image.fromarray(chelsea[50:200, 100:290, 1]).save(pictures / "grey.png")
    (pictures / "README.md").touch()
    return pictures


def evaluate(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(["rd", *map(str, words)]))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_bundle_is_measured_beside_peers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The main job: results file, plot, and one object with means and delta rates."""
    pytest.importorskip("matplotlib")
    table, plot = tmp_path / "rd.csv", tmp_path / "rd.svg"
    words = ["--bundle", "dpict-edge", "--images", folder, "--points", "0.01,0.5,0.2,1", "--csv", table, "--plot", plot]
    assert evaluate(*words, "--peers", "jpeg-progressive,jpeg2000", "--threads", "1", "--json") == 0
    rows = rows_of(table)
    assert list(rows[0]) == ["codec", "image", "target_bpp", "bytes", "bpp", "psnr_db", "ms_ssim"]
    assert len(rows) == 2 * 5 * 5  # pictures, codecs, cuts
    assert {row["image"] for row in rows} == {"colour.png", "grey.png"}
    assert b"jpeg2000" in plot.read_bytes()

    report = json.loads(capsys.readouterr().out)
    assert report["pictures"] == 2
    points = {(point["codec"], point["target_bpp"]): point for point in report["points"]}
    lowest, full = points["dpict-edge", 0.01], points["dpict-edge", None]
    assert (lowest["n"], lowest["nothing_to_show"], lowest["psnr_db"]) == (0, 2, None)
    assert (full["n"], full["nothing_to_show"]) == (2, 0)
    assert full["psnr_db"] > points["dpict-edge", 0.2]["psnr_db"] > 20
    assert [delta["reference"] for delta in report["bd_rate"]] == [
        "jpeg-progressive-q75", "jpeg-progressive-q90", "jpeg-progressive-q95", "jpeg2000",
    ]  # fmt: skip
    assert all(delta["fixed_bpp"] for delta in report["bd_rate"])


def test_rows_hold_the_real_bytes(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "rd.csv"
    evaluate("--images", folder / "colour.png", "--points", "0.5,50", "--csv", table, "--peers", "jpeg-progressive")
    first, beyond, full = rows_of(table)[:3]
    pixels = 176 * 190
    assert int(first["bytes"]) == int(0.5 * pixels / 8)
    assert beyond["bytes"] == full["bytes"]
    assert float(beyond["bpp"]) == pytest.approx(8 * int(full["bytes"]) / pixels, abs=1e-6)
    assert (first["target_bpp"], beyond["target_bpp"], full["target_bpp"]) == ("0.5", "50", "full")


def test_tables_are_printed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Means, then delta rates against peers and published curves, with the ranges and how they were averaged."""
    curves = tmp_path / "published.csv"
    curves.write_text("bpp,psnr_db\n0.1,20\n0.5,26\n1.0,30\n")
    words = ["--bundle", "dpict-edge", "--images", folder, "--points", "0.3,0.6", "--curves", curves]
    assert evaluate(*words, "--peers", "jpeg2000") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["codec", "target_bpp", "bpp", "psnr_db", "ms_ssim", "n", "nothing"]
    assert [line.split()[:2] for line in lines[1:7]] == [
        [codec, target] for codec in ("dpict-edge", "jpeg2000") for target in ("0.3", "0.6", "full")
    ]
    assert "BD-rate of dpict-edge, PSNR, 0.1 to 1.0 bpp as far as both curves reach:" in lines
    assert any(line.startswith("jpeg2000") and line.endswith("at fixed bpp") for line in lines)
    assert any(line.startswith("published") and line.endswith("otherwise") for line in lines)


def test_twice_the_same(folder: Path, tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        evaluate("--images", folder, "--points", "0.3", "--csv", tmp_path / name, "--peers", "jpeg2000")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_nothing_to_measure(folder: Path) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        evaluate("--images", folder)


def test_a_codec_named_twice(folder: Path) -> None:
    with pytest.raises(UsageError, match="two codecs have the name 'jpeg2000'"):
        evaluate("--images", folder, "--peers", "jpeg2000,jpeg2000")


def test_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no pictures"):
        evaluate("--images", tmp_path, "--peers", "jpeg2000")


def test_unreadable_picture(folder: Path, tmp_path: Path) -> None:
    """One error that names the file; neither results nor a temporary file stay behind."""
    whole = (folder / "grey.png").read_bytes()
    (folder / "grey.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PictureError, match=r"grey\.png"):
        evaluate("--images", folder, "--peers", "jpeg2000", "--csv", tmp_path / "rd.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_unwritable_results(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        evaluate("--images", folder, "--peers", "jpeg2000", "--csv", tmp_path / "none" / "rd.csv")


def test_unknown_bundle(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CutoffError, match="no-such-bundle"):
        evaluate("--bundle", "no-such-bundle", "--images", folder, "--csv", tmp_path / "rd.csv")
    assert not (tmp_path / "rd.csv").exists()


def test_bad_curves(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a file of curves"):
        evaluate("--images", folder, "--peers", "jpeg2000", "--curves", tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points", "0.1,much"], "must be a number above 0, not 'much'"),
        (["--points", "0"], "must be a number above 0, not '0'"),
        (["--points", "-1"], "--points"),
        (["--points", "0.1,,0.2"], "must be a number above 0, not ''"),
        (["--peers", "jpeg,jpeg2000"], "'jpeg' is unknown; there are jpeg-progressive, jpeg2000"),
        (["--threads", "0"], "at least 1"),
    ],
)
def test_bad_usage_is_one_line(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "rd", "--images", str(folder), "--bundle", "dpict-edge", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
