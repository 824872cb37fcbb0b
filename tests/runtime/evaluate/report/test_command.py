from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from runtime.cli.main import main
from runtime.evaluate.report.page import find_runs, names_of

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: eval)")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(
    two_pictures: Path,
    twelve_pictures: Path,
    labelled_colours: Path,
    tiny: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder of one small run of each kind; one picture of the first was broken."""
    home = tmp_path_factory.mktemp("runs")
    pictures = shutil.copytree(two_pictures, tmp_path_factory.mktemp("pictures") / "three")
    (pictures / "broken <b>.png").write_bytes(b"no picture")
    published = pictures / "published.csv"
    published.write_text("bpp,psnr_db\n0.1,20\n0.5,26\n1.0,30\n")
    peers = ["--peers", "jpeg2000,jpeg-progressive,webp"]
    evaluate("rd", tiny, pictures, home, "--points", "0.5,1,2", *peers, "--curves", published)
    classifier = ["--classifier", labelled_colours / "colours.onnx", "--labels", labelled_colours / "labels.txt"]
    cuts = ["--peers", "jpeg2000", "--cuts", "200,900", "--side", "64"]
    evaluate("accuracy", tiny, labelled_colours / "train", home, *classifier, *cuts)
    few = ["--most", "1", "--loads", "idle", "--repeats", "1", "--calibration", "3"]
    evaluate("deadline", tiny, twelve_pictures, home, *few)
    return home


def evaluate(report: str, bundle: str, images: Path, home: Path, *more: str | Path) -> None:
    words = ["--bundle", bundle, "--threads", "1", "--images", images, "--out", home / report, *more]
    assert main(["eval", report, *map(str, words)]) == 0


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy of what was made once."""
    return shutil.copytree(made, tmp_path / "runs")


def test_one_page_of_all_runs_with_nothing_outside_it(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    """Style, curves and pictures stand inside; names are escaped; what was skipped and how to repeat it is there."""
    words = ["eval", "report", str(runs), "--title", "three & more", "--figures", str(tmp_path / "figures")]
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == str(runs / "report.html")
    page = (runs / "report.html").read_text(encoding="utf-8")
    assert [title for title in re.findall("<h2>(.*?)</h2>", page)] == [
        "Rate and distortion", "Accuracy of a classifier", "Deadlines",
    ]  # fmt: skip
    assert "<title>three &amp; more</title>" in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith(("data:image/webp;base64,", "#")) for source in sources)
    assert "<script" not in page and "@import" not in page and "url(http" not in page
    assert page.count("<svg") == 5
    assert "1 of 3 units were skipped" in page and "broken &lt;b&gt;.png" in page
    assert page.count("How this was measured") == 3 and "SHA-256" in page
    for name in ("tiny", "jpeg2000", "jpeg-progressive-q95", "webp", "published"):
        assert name in page
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert written == {"rd.png", "accuracy.png", "accuracy-deadlines.png", "accuracy-stops.png", "deadline.png"}


def test_twice_the_same(runs: Path, tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        assert main(["eval", "report", str(runs / "rd"), "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_inner_names_of_drawings_differ(runs: Path) -> None:
    """Two drawings on a page must not clip with each other's shapes."""
    assert main(["eval", "report", str(runs)]) == 0
    page = (runs / "report.html").read_text(encoding="utf-8")
    clips = re.findall(r'<clipPath id="([^"]*)"', page)
    assert clips and len(clips) == len(set(clips))


def test_a_run_that_is_not_finished_says_so(runs: Path, capsys: Capture) -> None:
    units = runs / "rd" / "units.csv"
    units.write_text("".join(units.read_text().splitlines(keepends=True)[:3]))
    assert main(["eval", "report", str(runs / "rd")]) == 0
    page = (runs / "rd" / "report.html").read_text(encoding="utf-8")
    assert "This run is not finished: 1 of 3 units are missing." in page


def test_runs_come_in_their_order(runs: Path) -> None:
    assert [path.name for path in find_runs([runs / "deadline", runs / "rd"])] == ["rd", "deadline"]


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: Capture) -> None:
    assert main(["eval", "report", str(tmp_path)]) == 1
    assert "neither the folder of a run nor a folder of such" in capsys.readouterr().err
    assert main(["eval", "report", "a" * 300]) == 1
    assert "cannot be read: File name too long" in capsys.readouterr().err


def test_a_page_that_cannot_be_written(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["eval", "report", str(runs / "rd"), "-o", str(tmp_path / "none" / "report.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_two_runs_of_a_kind_are_told_apart(runs: Path, tmp_path: Path) -> None:
    """By folder, and by as much above it as it takes: no figure overwrites another, no inner name occurs twice."""
    again = shutil.copytree(runs / "rd", tmp_path / "again" / "rd")
    figures = tmp_path / "figures"
    words = [str(runs / "rd"), str(again), str(runs / "deadline"), str(runs / "rd")]
    page = tmp_path / "page.html"
    assert main(["eval", "report", *words, "-o", str(page), "--figures", str(figures)]) == 0
    assert {path.name for path in figures.iterdir()} == {"rd-runs-rd.png", "rd-again-rd.png", "deadline.png"}
    names = re.findall(r'<svg[^>]* id="([^"]*)"', page.read_text(encoding="utf-8"))
    assert names == ["rd-runs-rd", "rd-again-rd", "deadline-deadline"]


def test_names_of_runs_differ(tmp_path: Path) -> None:
    names = names_of([tmp_path / "a" / "x" / "rd", tmp_path / "b" / "x" / "rd", tmp_path / "c" / "acc"])
    assert names == ["a-x-rd", "b-x-rd", "acc"]


def test_a_panel_that_is_missing(runs: Path, capsys: Capture) -> None:
    """One line names it."""
    missing = sorted((runs / "rd" / "panels").iterdir())[0]
    missing.unlink()
    assert main(["eval", "report", str(runs / "rd")]) == 1
    assert f"{missing}: cannot be read: No such file or directory" in capsys.readouterr().err


def test_a_cut_at_which_nothing_was_delivered(labelled_colours: Path, tmp_path: Path) -> None:
    """No file fits into ten bytes, of any codec: the column is there all the same."""
    words = ["--images", labelled_colours / "train", "--classifier", labelled_colours / "colours.onnx", "--side", "64",
             "--labels", labelled_colours / "labels.txt", "--peers", "webp", "--cuts", "10"]  # fmt: skip
    assert main(["eval", "accuracy", *map(str, words), "--out", str(tmp_path / "run"), "--strips", "0"]) == 0
    assert main(["eval", "report", str(tmp_path / "run")]) == 0
    assert "10 B, 0.02 bpp" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
