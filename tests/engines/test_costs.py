"""Measured costs: what may be assumed of the next run, and what survives on disk."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from engines.costs import MOST, TAIL, Costs, cache_folder


def recorded(*seconds: float, stage: str = "g_s", pixels: int = 1000) -> Costs:
    costs = Costs()
    for one in seconds:
        costs.record(stage, pixels, one)
    return costs


def test_unknown_stage_costs_nothing() -> None:
    """Without experience there is no estimate, for no size."""
    assert Costs().estimate_s("g_s", 1000) == 0.0
    assert Costs().runs("g_s", 1000) == 0
    assert recorded(0.1).estimate_s("g_a", 1000) == 0.0


def test_estimate_of_few_runs_is_the_slowest() -> None:
    """Costs are what a run may take, not what it takes on average; the very first run counts for nothing."""
    costs = recorded(7.0, 0.2, 0.5, 0.1)
    assert costs.estimate_s("g_s", 1000) == 0.5
    assert costs.typical_s("g_s", 1000) == 0.2
    assert costs.runs("g_s", 1000) == 4 and costs.runs("g_s", 999) == 0


def test_one_stall_moves_no_estimate() -> None:
    """A run that stands alone says nothing of the next one, when it happens and ever after."""
    costs = recorded(*[0.1] * 30)
    for seconds in (9.0, *[0.1] * 300):
        costs.record("g_s", 1000, seconds)
        assert costs.estimate_s("g_s", 1000) == 0.1


def test_a_machine_that_becomes_busy_is_noticed_at_once() -> None:
    """Two slow runs among the last few are no stall; they count as long as there are some of them."""
    costs = recorded(*[0.1] * 300, 0.4, 0.1, 0.3)
    assert costs.estimate_s("g_s", 1000) == 0.3
    for _ in range(300):
        costs.record("g_s", 1000, 0.1)
    assert costs.estimate_s("g_s", 1000) == 0.1


def test_estimates_are_quantiles() -> None:
    """Most runs keep the 95th percentile; one in a thousand is as much rarer than one in a hundred as that is than one
    in ten, and takes as much longer.
    """
    costs = recorded(0.0, *np.random.default_rng(1).exponential(1.0, 200).tolist(), *[0.7] * 8)
    hundredth, tenth = (np.log(100), np.log(10))
    assert costs.estimate_s("g_s", 1000, MOST) == pytest.approx(np.log(20), rel=0.3)
    assert costs.estimate_s("g_s", 1000, TAIL) == pytest.approx(2 * hundredth - tenth, rel=0.3)
    assert costs.estimate_s("g_s", 1000) == costs.estimate_s("g_s", 1000, TAIL)


def test_what_is_left_out_is_doubted() -> None:
    """The estimate of most runs falls with each time; that of nearly all does not, as nothing insures it."""
    costs = recorded(*[0.1] * 50)
    for _ in range(138):
        costs.doubt("g_s", 1000, 0.06)
    assert costs.estimate_s("g_s", 1000, MOST) == pytest.approx(0.05, rel=0.01)
    assert costs.estimate_s("g_s", 1000, TAIL) == 0.1
    costs.doubt("g_s", 7, 1.0)
    costs.doubt("unknown", 7, 1.0)


@pytest.mark.parametrize(("seconds", "trusted"), [(0.02, True), (0.1, False), (0.3, False)])
def test_a_trial_ends_doubt_or_confirms_it(seconds: float, trusted: bool) -> None:
    """A stage that keeps the doubted estimate goes on being believed fast; one that does not costs what it did."""
    costs = recorded(*[0.1] * 50)
    for _ in range(100):
        costs.doubt("g_s", 1000, 0.06)
    before = costs.estimate_s("g_s", 1000, MOST)
    costs.record("g_s", 1000, seconds)
    assert costs.estimate_s("g_s", 1000, MOST) == (before if trusted else 0.1) and before < 0.09


def test_hopeless_cases_raise_no_doubt() -> None:
    """Where even the fastest run known would take twice the time that is left, leaving out says nothing."""
    costs = recorded(*[0.1] * 50, 0.08, 0.09)
    for _ in range(200):
        costs.doubt("g_s", 1000, 0.039)
    assert costs.estimate_s("g_s", 1000, MOST) == 0.1


def test_runs_that_were_ended_do_not_look_fast() -> None:
    """A run that was ended counts as the longer ones usually take; without any, as a little more than it was given."""
    costs = recorded(*np.linspace(0.1, 0.2, 101).tolist())
    for _ in range(90):
        costs.record_ended("g_s", 1000, 0.05)
    assert costs.typical_s("g_s", 1000) == pytest.approx(0.15, abs=0.002)
    costs = recorded(0.1, 0.1, 0.2)
    costs.record_ended("g_s", 1000, 0.3)
    assert costs.estimate_s("g_s", 1000) == pytest.approx(1.15 * 0.3)


def test_experience_is_recent() -> None:
    """What was two hundred runs ago is forgotten."""
    costs = recorded(*[0.5] * 50, *[0.1] * 200)
    assert costs.estimate_s("g_s", 1000) == 0.1 == costs.typical_s("g_s", 1000)


def test_sizes_are_forgotten_that_nobody_sends_any_more() -> None:
    """Senders choose sizes; what they may make a decoder remember is bounded."""
    costs = recorded(0.1, 0.1)
    for pixels in range(2000, 5000):
        costs.record("g_s", pixels, 0.2)
        costs.record("g_s", 1500, 0.3)
    assert [costs.runs("g_s", pixels) > 0 for pixels in (1000, 1500, 4999)] == [False, True, True]


def test_threads_share_costs() -> None:
    """One thread measures while another asks."""
    costs = recorded(0.1, 0.1)
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            assert costs.estimate_s("g_s", 1000) == 0.1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(5000):
            costs.record("g_s", 1000, 0.1)
    finally:
        done.set()
        asking.join()
    assert costs.runs("g_s", 1000) == 5002


def test_larger_picture_costs_more_in_proportion() -> None:
    """A size never seen is scaled up from the nearest; it is never assumed to be cheaper."""
    costs = recorded(0.1, 0.1)
    assert costs.estimate_s("g_s", 3000) == pytest.approx(0.3)
    assert costs.estimate_s("g_s", 10) == 0.1


def test_nearest_size_answers() -> None:
    """Of two known sizes the nearer one is taken, the smaller one when both are as near."""
    costs = recorded(0.1, 0.1)
    for _ in range(2):
        costs.record("g_s", 2000, 0.9)
    assert costs.estimate_s("g_s", 1200) == pytest.approx(0.12)
    assert costs.estimate_s("g_s", 1800) == 0.9
    assert costs.estimate_s("g_s", 1500) == pytest.approx(0.15)


def test_costs_survive_on_disk(tmp_path: Path) -> None:
    """What one process measured the next may assume, for all stages and sizes."""
    costs = recorded(0.25, 0.25, 0.5)
    costs.record("g_a", 50, 0.125)
    file = tmp_path / "deep" / "er" / "costs.json"
    costs.save(file)
    other = Costs()
    other.load(file)
    for stage, pixels in (("g_s", 1000), ("g_s", 4000), ("g_a", 50), ("h_a", 50)):
        assert other.estimate_s(stage, pixels) == costs.estimate_s(stage, pixels)
    assert [path.name for path in file.parent.iterdir()] == ["costs.json"]


def test_own_measurements_outweigh_saved_ones_in_the_end(tmp_path: Path) -> None:
    """A machine that became faster is believed after a while."""
    recorded(5.0, 5.0).save(tmp_path / "costs.json")
    costs = Costs()
    costs.load(tmp_path / "costs.json")
    assert costs.estimate_s("g_s", 1000) == 5.0
    for _ in range(20):
        costs.record("g_s", 1000, 0.1)
    assert costs.estimate_s("g_s", 1000) == 0.1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"7",
        b'{"g_s": 7}',
        b'{"g_s": {"x": 0.5}}',
        b'{"g_s": {"1000": "fast"}}',
        b'{"g_s": {"1000": null}}',
        b'{"g_s": {"0": 0.5}}',
        b'{"g_s": {"-5": 0.5}}',
        b'{"g_s": {"1000": -0.5}}',
        b'{"g_s": {"1000": NaN}}',
        b'{"g_s": {"1000": Infinity}}',
        b'{"g_s": {"1000": 1' + b"0" * 400 + b"}}",
    ],
)
def test_damaged_file_is_no_experience(tmp_path: Path, content: bytes) -> None:
    """A cache may hold anything; it never breaks a decoder."""
    (tmp_path / "costs.json").write_bytes(content)
    costs = Costs()
    costs.load(tmp_path / "costs.json")
    assert costs.estimate_s("g_s", 1000) == 0.0


def test_missing_file_is_no_experience(tmp_path: Path) -> None:
    """The first process on a machine knows nothing."""
    costs = Costs()
    costs.load(tmp_path / "absent.json")
    assert costs.estimate_s("g_s", 1000) == 0.0


def test_cache_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    """Saving is a courtesy: a folder that cannot be made is no error."""
    (tmp_path / "file").write_text("in the way")
    recorded(0.1).save(tmp_path / "file" / "costs.json")
    assert (tmp_path / "file").read_text() == "in the way"


def test_saving_replaces_the_file_as_a_whole(tmp_path: Path) -> None:
    """The file is JSON after every save."""
    for seconds in (0.1, 0.2):
        recorded(seconds, seconds).save(tmp_path / "costs.json")
        assert "g_s" in json.loads((tmp_path / "costs.json").read_text())
    assert len(list(tmp_path.iterdir())) == 1


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUTOFF_CACHE first, then the user's cache folder."""
    monkeypatch.setenv("CUTOFF_CACHE", "/somewhere/own")
    assert cache_folder() == Path("/somewhere/own")
    monkeypatch.delenv("CUTOFF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/cutoff")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/cutoff")

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)  # as in a container, for a user that it does not know
    assert cache_folder().is_absolute() and cache_folder().name == f"cutoff-{os.getuid()}"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was saved before stays; no part of a file is left beside it."""
    recorded(0.1, 0.1).save(tmp_path / "costs.json")
    before = (tmp_path / "costs.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engines.costs.json.dump", full)
    recorded(0.2, 0.2).save(tmp_path / "costs.json")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_saved_sizes_are_those_measured_last(tmp_path: Path) -> None:
    """Of one process after another, each of which sees other sizes: no more than one of them would keep."""
    file = tmp_path / "costs.json"
    for start in (5000, 1000, 3000):
        costs = Costs()
        costs.load(file)
        for pixels in range(start, start + 40):
            costs.record("g_s", pixels, 0.1)
        costs.save(file)
    saved = json.loads(file.read_text())["g_s"]
    assert [int(pixels) for pixels in saved] == [*range(1016, 1040), *range(3000, 3040)]
