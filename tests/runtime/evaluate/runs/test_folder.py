from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import DataError, OutputError, UsageError
from runtime.evaluate.rd.cuts import Cut
from runtime.evaluate.runs.folder import RunFolder, first_difference, load_run
from runtime.evaluate.runs.work import Findings, Outcome, Panel

RUN: dict[str, Any] = {"report": "rd", "settings": {"points_bpp": [0.1]}, "units": ["a", "b", "c"], "files": {}}


def opened(path: Path, **changes: Any) -> RunFolder[Cut]:
    return RunFolder(path, Cut, {**RUN, **changes}, {"shown": 1}, {"command": "cutoff eval rd"})


def outcome(unit: str, psnr: float | None = 30.0, rows: int = 2) -> Outcome:
    cuts = [Cut("codec", unit, 0.1 * (i + 1), 10, 0.1, psnr, None, 1.0, 1.0) for i in range(rows)]
    return Outcome(unit, Findings(cuts, [Panel("codec", "0.1 bpp", "30 dB", b"RIFF")]), None, 0.5)


def test_what_was_added_is_found_in_the_order_of_units(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as folder:
        folder.add(outcome("c"))
        folder.add(outcome("a"))
        folder.add(Outcome("b", Findings(()), "b: damaged", 0.1))
        assert folder.done == {"a", "b", "c"}
    run = load_run(tmp_path / "run", Cut)
    assert [row.image for row in run.rows] == ["a", "a", "c", "c"]
    assert (run.skipped, run.left) == ({"b": "b: damaged"}, 0)
    assert [panel.unit for panel in run.panels] == ["a", "c"]
    assert {(run.path / panel.file).read_bytes() for panel in run.panels} == {b"RIFF"}
    assert run.about["view"] == {"shown": 1}


def test_a_run_in_the_making_can_be_read(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.add(outcome("a"))
        run = load_run(tmp_path, Cut)
    assert (len(run.rows), run.left) == (2, 2)


@pytest.mark.parametrize("name", ["units.csv", "rows.csv", "panels.csv"])
@pytest.mark.parametrize("lost", [1, 7, 10])
def test_units_that_are_not_all_there_are_dropped(tmp_path: Path, name: str, lost: int) -> None:
    """Wherever writing was stopped, what is left is whole units; nothing is there twice when they come again."""
    with opened(tmp_path) as folder:
        folder.add(outcome("a"))
        folder.add(outcome("b"))
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:-lost])
    with opened(tmp_path) as folder:
        assert folder.done == {"a"}
        folder.add(outcome("b", psnr=31.0))
    run = load_run(tmp_path, Cut)
    assert [(row.image, row.psnr_db) for row in run.rows] == [("a", 30.0), ("a", 30.0), ("b", 31.0), ("b", 31.0)]
    assert len(run.panels) == 2


def test_names_that_are_not_utf_8_stay_as_they_are(tmp_path: Path) -> None:
    """In every file, and when the run goes on."""
    name = os.fsdecode(b"\xff.png")
    for _ in range(2):
        with opened(tmp_path, units=[name]) as folder:
            if name not in folder.done:
                folder.add(outcome(name))
    run = load_run(tmp_path, Cut)
    assert ({row.image for row in run.rows}, run.left) == ({name}, 0)
    assert b"\xff.png" in (tmp_path / "units.csv").read_bytes()


def test_another_run_is_refused(tmp_path: Path) -> None:
    """The first difference is named; nothing in the folder changes."""
    with opened(tmp_path) as folder:
        folder.add(outcome("a"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"settings.points_bpp: \[0.1\] there, \[0.2\] now"):
        opened(tmp_path, settings={"points_bpp": [0.2]})
    with pytest.raises(UsageError, match="another run"):
        opened(tmp_path, units=["a", "b"])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_view_may_change(tmp_path: Path) -> None:
    opened(tmp_path).close()
    RunFolder(tmp_path, Cut, RUN, {"shown": 2}, {"command": "again"}).close()
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["view"] == {"shown": 2}
    assert [command["command"] for command in about["commands"]] == ["cutoff eval rd", "again"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UsageError, match="holds other files, but no run"):
        opened(tmp_path)


def test_two_processes_do_not_write_at_once(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(OutputError, match="another process is writing"):
        opened(tmp_path)
    opened(tmp_path).close()


def test_no_folder_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not the folder of a run: it has no run\.json"):
        load_run(tmp_path, Cut)
    for text in ("", "[]", "{}", "{"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(DataError, match="not the record of a run"):
            load_run(tmp_path, Cut)


def test_differences_are_said_in_words() -> None:
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b: 1 there, 2 now"
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == "b: null there, 2 now"
    assert first_difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) == "the run: another order"


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    """That of the first write, not what closing comes upon; what was there before stays, and the run goes on."""
    with opened(tmp_path) as folder:
        folder.add(outcome("a"))
    most, hardest = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large"), opened(tmp_path) as folder:
            full = (tmp_path / "rows.csv").stat().st_size + 20
            resource.setrlimit(resource.RLIMIT_FSIZE, (full, hardest))
            folder.add(outcome("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hardest))
    with opened(tmp_path) as folder:
        assert folder.done == {"a"}
        folder.add(outcome("b"))
    assert len(load_run(tmp_path, Cut).rows) == 4
