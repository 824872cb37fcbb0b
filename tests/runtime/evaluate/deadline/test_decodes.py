from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.codec import Codec
from runtime.evaluate.deadline.decodes import (
    DEADLINES,
    IDLE,
    NOT_ARRIVED,
    NOTHING,
    PREVIEW,
    SYNTHESIS,
    DeadlineJob,
    DeadlineWorker,
    Decode,
    Place,
    calibrate,
    receive,
    unit_name,
)
from runtime.evaluate.deadline.load import busy
from runtime.evaluate.deadline.promptness import goals, punctuality
from runtime.evaluate.deadline.traces import TRACES, Trace
from runtime.evaluate.pictures import find_pictures, units_of
from runtime.evaluate.runs.work import Unit

Image = NDArray[np.uint8]


@pytest.fixture
def decodes(many: Path, tiny: str) -> list[Decode]:
    """All decodes of one picture by the tiny bundle, two of each kind."""
    (file, *_) = units_of(find_pictures([many]))
    name = unit_name(IDLE, "tiny", file.name)
    job = DeadlineJob(
        {name: Place(tiny, "tiny", IDLE, file.name)}, "auto", 1, "auto", 1, repeats=2, calibration=5, seed=1
    )
    worker = job.open()
    rows = worker.measure(Unit(name, file.path, file.sha256), file.path.read_bytes()).rows
    worker.close()
    assert {row.unit for row in rows} == {name}
    return [row for row in rows if isinstance(row, Decode)]


def test_every_deadline_meets_every_link(decodes: list[Decode]) -> None:
    """In the order of deadlines, whatever order they were made in; the figures fit together."""
    kinds = [(one.factor, one.relative_to, one.trace, one.repeat) for one in decodes]
    assert kinds == [(*deadline, trace, repeat) for deadline in DEADLINES for trace in TRACES for repeat in range(2)]
    for one in decodes:
        base = one.minimum_ms if one.relative_to == "minimum" else one.synthesis_ms
        assert one.deadline_ms == pytest.approx(one.factor * base)
        assert one.answer in (SYNTHESIS, PREVIEW, NOTHING, NOT_ARRIVED)
        assert (one.psnr_db is not None) == (one.answer in (SYNTHESIS, PREVIEW))
        assert one.finished_ms > 0


def test_a_stream_is_fed_as_it_arrives(codec: Codec, stream: bytes) -> None:
    """With time to spare the answer rests on all that arrives, and comes once the last byte is there."""
    half = len(stream) // 2
    picture, finished_s = receive(codec, stream, Trace((0.05, 0.3), (half, len(stream))), 30.0)
    assert picture is not None and picture.complete
    assert 0.3 <= finished_s < 30


def test_what_never_arrives_is_waited_for_until_the_deadline(codec: Codec, stream: bytes) -> None:
    half = len(stream) // 2
    picture, finished_s = receive(codec, stream, Trace((0.0,), (half,)), 2.0)
    assert picture is not None and picture.bytes_used <= half
    assert finished_s > 0.5


def test_a_head_segment_that_is_not_there_is_no_picture(codec: Codec, stream: bytes) -> None:
    picture, finished_s = receive(codec, stream, Trace((0.0, 5.0), (40, len(stream))), 0.1)
    assert picture is None and finished_s < 5


def test_costs_hold_what_they_name(codec: Codec, stream: bytes) -> None:
    costs = calibrate(codec, stream, 3)
    assert 0 < costs.path_s < costs.synthesis_s
    assert costs.minimum_s > 0


def test_load_begins_and_ends() -> None:
    """Other processes compute while the block runs, and are gone behind it."""
    import multiprocessing

    with busy(2):
        assert len(multiprocessing.active_children()) == 2
        time.sleep(0.01)
    assert not multiprocessing.active_children()
    assert threading.active_count() < 20


def test_a_head_segment_that_is_there_but_not_fed_in_time_is_nothing_and_late(many: Path, tiny: str) -> None:
    """On a machine that stands still past every deadline as soon as it waits: no fault of the link, and it counts."""
    now = [0.0]

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    def stand_still(_: float) -> None:
        now[0] += 1000.0

    class Job(DeadlineJob):
        def codec_of(self, bundle: str) -> Codec:
            return Codec.open(bundle, "cpu", 1, clock=clock)

    (file, *_) = units_of(find_pictures([many]))
    name = unit_name(IDLE, "tiny", file.name)
    job = Job({name: Place(tiny, "tiny", IDLE, file.name)}, "cpu", 1, "auto", 1, repeats=2, calibration=3, seed=1)
    worker = DeadlineWorker(job, stand_still)
    rows = [row for row in worker.measure(Unit(name, file.path, ""), file.path.read_bytes()).rows]
    worker.close()
    decodes = [row for row in rows if isinstance(row, Decode)]
    for one in decodes:
        assert (one.answer == NOT_ARRIVED) == (one.head_ms > one.deadline_ms)
    late = [one for one in decodes if one.answer == NOTHING and one.finished_ms > one.deadline_ms + 1e5]
    assert late
    assert max(line.overshoot_max_ms for line in punctuality(decodes)) > 1e5
    assert not any(goal.reached for goal in goals(decodes) if goal.figure.startswith(("in time", "overshoot")))
