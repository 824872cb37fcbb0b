"""The command line: `demo`, its table and its strips."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import printed, run
from numpy.typing import NDArray

from runtime import Codec
from runtime.cli.demo import Row, csv_of
from runtime.cli.main import main
from runtime.cli.strip import Panel, strip_of
from runtime.evaluate.distortion import psnr
from runtime.image_files import read_image, write_image

Image = NDArray[np.uint8]
Capture = pytest.CaptureFixture[str]


def test_demo_writes_pictures_strips_and_a_table(capsys: Capture, codec: Codec, small: Path, tmp_path: Path) -> None:
    original = read_image(small)
    whole_bpp = 8 * len(codec.encode(original).stream) / 15_000
    low, high = f"{0.5 * whole_bpp:.3g}", f"{0.8 * whole_bpp:.3g}"
    out = tmp_path / "out"
    points, deadlines = f"0.001,{low},{high},99", "60000,0.001"
    words = ["demo", small, "--out", out, "--points", points, "--deadlines-ms", deadlines, "--threads", "2"]
    result = printed(capsys, *words)
    cuts = [row["cut"] for row in result["rows"]]
    assert cuts == [f"{low} bpp", f"{high} bpp", "whole", "60000 ms", "0.001 ms"]
    assert {p.name for p in out.iterdir()} == {
        "small.cut",
        f"small-{low}-bpp.png",
        f"small-{high}-bpp.png",
        "small-whole.png",
        "small-deadline-1.png",
        "small-strip.png",
        "table.csv",
    }
    for row, file in zip(result["rows"], [f"{low}-bpp", f"{high}-bpp", "whole", "deadline-1"], strict=False):
        assert row["psnr_db"] == pytest.approx(psnr(read_image(out / f"small-{file}.png"), original), abs=1e-3)
    assert result["rows"][0]["bytes"] == int(float(low) * 15_000 / 8)
    assert result["rows"][-1]["missed"]
    with (out / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["cut"] for row in table] == cuts
    assert {"picture", "bytes", "bpp", "psnr_db", "steps", "ms", "skipped"} <= set(table[0])


def test_demo_takes_folders_and_tells_equal_names_apart(
    capsys: Capture, tmp_path: Path, photographs: dict[str, Image]
) -> None:
    for name in ("a-2.png", "a.png", "a.bmp"):
        write_image(tmp_path / name, photographs["chelsea"][:64, :64])
    (tmp_path / "notes.txt").write_text("not a picture")
    printed = run(capsys, "demo", tmp_path, "--out", tmp_path / "out", "--points", "1", "--deadlines-ms", "1000")
    assert (tmp_path / "out" / "a-strip.png").exists()
    assert (tmp_path / "out" / "a-2-strip.png").exists() and (tmp_path / "out" / "a-3-strip.png").exists()
    assert "psnr_db" in printed


def test_demo_derives_deadlines(capsys: Capture, small: Path, tmp_path: Path) -> None:
    result = printed(capsys, "demo", small, "--out", tmp_path / "out", "--points", "0.5")
    assert sum(row["cut"].endswith(" ms") for row in result["rows"]) == 4


def test_demo_without_scikit_image_says_what_to_install(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    capsys.readouterr()
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    assert "pip install '.[demo]' in the checkout" in capsys.readouterr().err


def test_table_leaves_out_what_is_unknown() -> None:
    row = Row("a", "1 ms", 10, 0.5, None, 0.0, 6, 1.5, "g_s preview", True)
    assert csv_of([row]).splitlines()[1] == "a,1 ms,10,0.5000,,0.0000,6,1.5000,g_s preview,True"
    assert row.written()[4] == "-"


def test_strip_wraps_and_crops() -> None:
    panels = [Panel(str(i), np.full((10, 500, 3), 9, np.uint8)) for i in range(7)]
    strip = strip_of([*panels, Panel("grey", np.zeros((20, 5), np.uint8))])
    assert strip.shape == (2 * (18 + 20 + 4) - 4, 6 * 484 - 4, 3)
    assert (strip[18:28, :480] == 9).all()
