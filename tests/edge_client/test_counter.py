"""Sequence numbers that are never given twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_client.counter import Counter
from runtime.errors import ConfigurationError, OutputError


def numbers(folder: Path, seconds: float, count: int) -> list[int]:
    """Give out *count* numbers while the clock reads *seconds*, and end without a word, as by a crash."""
    counter = Counter(folder, "gate", lambda: seconds)
    given = [counter.next() for _ in range(count)]
    counter.close()
    return given


def test_numbers_rise_over_crashes_and_clocks_that_go_back(tmp_path: Path) -> None:
    """Two thousand numbers, a crash, a clock of 1970, another crash: no number twice, each larger than all before."""
    given = numbers(tmp_path, 1e9, 2500) + numbers(tmp_path, 0.0, 10) + numbers(tmp_path, 5.0, 1500)
    assert given == sorted(set(given))


def test_lost_file_is_made_up_for_by_the_clock(tmp_path: Path) -> None:
    """A new disk: the milliseconds since 1970 lead past every number that was given."""
    before = numbers(tmp_path, 1e9, 2000)
    (tmp_path / "gate.sequence").unlink()
    assert numbers(tmp_path, 1e9 + 60, 1)[0] > before[-1]


@pytest.mark.parametrize("content", ["", "-5", "many", "9" * 30])
def test_damaged_file_is_made_up_for_by_the_clock(tmp_path: Path, content: str) -> None:
    """As if it were not there."""
    (tmp_path / "gate.sequence").write_text(content)
    assert numbers(tmp_path, 1e9, 1) == [10**12]


def test_disk_that_cannot_be_written_does_not_stop_the_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Numbers go on, and the log says what is wrong."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_client.counter.os.replace", refuse)
    assert numbers(tmp_path, 1e9, 3) == [10**12, 10**12 + 1, 10**12 + 2]
    assert "sequence file not written" in caplog.text


def test_second_process_for_a_camera_is_refused(tmp_path: Path) -> None:
    """Both would count; another camera is welcome."""
    first = Counter(tmp_path, "gate")
    with pytest.raises(ConfigurationError, match="another process"):
        Counter(tmp_path, "gate")
    Counter(tmp_path, "yard").close()
    first.close()
    Counter(tmp_path, "gate").close()


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """Before anything starts."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="state"):
        Counter(tmp_path / "file", "gate")
