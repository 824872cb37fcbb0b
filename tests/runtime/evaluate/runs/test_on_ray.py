"""Tests with a real Ray on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import ModelMismatch
from runtime.evaluate.codecs import CodecChoice
from runtime.evaluate.pictures import find_pictures, units_of
from runtime.evaluate.rd.cuts import RdJob
from runtime.evaluate.runs.on_ray import LOCAL, connect, import_ray, run_on_ray
from runtime.evaluate.runs.processes import run_here

pytest.importorskip("ray", reason="ray is not installed (extra: ray)")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


def actors_of_this_test() -> list[int]:
    """Return the processes that are our actors: named so by Ray, and with the cache folder that only this test has."""
    mark = f"CUTOFF_CACHE={os.environ['CUTOFF_CACHE']}".encode()
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cmdline").read_bytes().startswith(b"ray::_Actor"):
                found += [int(process.name)] if mark in (process / "environ").read_bytes().split(b"\0") else []
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, with room for two actors; a busy machine takes its time to start it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_raylet_start_wait_time_s", "300")
        ray = import_ray()
        connect(ray, LOCAL, 2)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_nothing_is_lost_or_counted_twice_when_an_actor_is_killed(many: Path, tiny: str) -> None:
    """The outcomes are those of one process; a broken picture is one, too."""
    (many / "05.png").write_bytes(b"no picture")
    units = units_of(find_pictures([many]))
    job = RdJob(CodecChoice((tiny,), ("jpeg2000",), "auto", 1), (0.5, 2.0), frozenset())
    outcomes = []
    for outcome in run_on_ray(job, units, workers=2, cores=1):
        outcomes.append(outcome)
        if len(outcomes) == 3:
            os.kill(actors_of_this_test()[0], signal.SIGKILL)
    expected = {one.unit: one for one in run_here(job, units)}
    assert sorted(one.unit for one in outcomes) == sorted(expected)
    for one in outcomes:
        alone = expected[one.unit]
        assert one.fault == alone.fault
        assert [row.psnr_db for row in one.findings.rows] == [row.psnr_db for row in alone.findings.rows]
    assert sum(one.fault is not None for one in outcomes) == 1


@pytest.mark.usefixtures("cluster")
def test_a_node_with_another_bundle_of_the_same_name_ends_the_run(many: Path, tiny: str) -> None:
    """What an actor finds wrong arrives as it is."""
    job = RdJob(CodecChoice((tiny,), (), "auto", 1, hashes=("0" * 64,)), (0.5,), frozenset())
    with pytest.raises(ModelMismatch, match="where the run began"):
        list(run_on_ray(job, units_of(find_pictures([many]))[:2], workers=1, cores=1))
