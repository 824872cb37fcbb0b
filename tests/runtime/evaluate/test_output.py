from __future__ import annotations

import io
from pathlib import Path

import pytest

from runtime.errors import OutputError
from runtime.evaluate.output import CutWriter, replacing
from runtime.evaluate.rd import Cut


def test_rows_have_the_columns_of_the_results_file() -> None:
    """Blank is what is not known, and rows are there as soon as they were written."""
    file = io.StringIO()
    writer = CutWriter(file)
    writer.write([Cut("dpict-edge", "a,b.png", 0.1, 4915, 0.0999959, 28.12346, 0.9123456)])
    writer.write([Cut("dpict-edge", "c.png", None, 7, 0.0001424, None, None)])
    assert file.getvalue() == (
        "codec,image,target_bpp,bytes,bpp,psnr_db,ms_ssim\n"
        'dpict-edge,"a,b.png",0.1,4915,0.099996,28.1235,0.912346\n'
        "dpict-edge,c.png,full,7,0.000142,,\n"
    )


def test_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "rd.csv"
    path.write_text("earlier")
    with replacing(path) as neighbour:
        neighbour.write_text("new")
        assert path.read_text() == "earlier"
        assert neighbour.suffix == ".csv"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_behind_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "rd.csv"
    path.write_text("earlier")
    with pytest.raises(RuntimeError), replacing(path) as neighbour:
        neighbour.write_text("half")
        raise RuntimeError
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["none/rd.csv", "folder"])
def test_unwritable_place_is_known_before_the_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"), replacing(tmp_path / name):
        pytest.fail("the work began")


def test_devices_are_not_replaced() -> None:
    with pytest.raises(OutputError, match="not a file"), replacing(Path("/dev/null")):
        pytest.fail("the work began")
