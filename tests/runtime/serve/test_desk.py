"""The desk: what a worker does next, that answers come once, and that deadlines are kept for all.

The worker's decisions are tested without its thread, on a made-up clock; a few tests run the threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hearing import Heard
from serving import PATIENCE_S

from runtime import Codec
from runtime.serve.desk import Desk
from runtime.serve.labeller import Label, Labeller
from runtime.serve.schedule import Job
from runtime.serve.worker import Ticket, Worker

TINY_PIXELS = 128 * 128  # of the crop, padded


class Bench:
    """A worker without its thread, and a clock that stands still."""

    def __init__(self, codec: Codec, **options: Any) -> None:
        self.now = 1000.0
        self.labeller = Labeller(options.pop("classify", None), lambda: self.now)
        options = {"enough": None, "watched": lambda: False, "open_pixels": 1e9} | options
        self.worker = Worker(
            codec, self.labeller, options["enough"], options["watched"], options["open_pixels"], lambda: self.now
        )

    def open(self, due: float | None, data: bytes = b"", cost_s: float = 0.0, *, closed: bool = False) -> Ticket:
        ticket = Ticket(self.worker, Heard(), due, cost_s, self.now, late=due is not None and due <= self.now)
        self.worker.add(ticket)
        self.worker.feed(ticket, data)
        if closed:
            self.worker.close(ticket)
        return ticket

    def step(self) -> tuple[str, list[Ticket]] | None:
        """Do what is next; return what it was."""
        task = self.worker._next()
        if task is None:
            return None
        work, tickets = task
        work(tickets)
        return work.__name__, list(tickets)

    def sleep(self) -> None:
        """Let time pass until there is something to do."""
        left_s = self.worker._sleep_s()
        assert left_s is not None
        self.now += left_s

    def steps(self) -> list[tuple[str, list[Ticket]]]:
        """Take all steps there are, and return them, previews made in waits aside."""
        return [one for one in self.all_steps() if one[0] != "_prepare"]

    def all_steps(self) -> list[tuple[str, list[Ticket]]]:
        found = []
        while (one := self.step()) is not None:
            found.append(one)
        return found


@pytest.fixture
def bench(tiny_codec: Codec, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bench]:
    """Make a `Bench`; the codec's clock is its clock."""

    def make(**options: Any) -> Bench:
        one = Bench(tiny_codec, **options)
        run = type(tiny_codec.model).run
        monkeypatch.setattr(tiny_codec.model, "clock", lambda: one.now)
        # Networks take no time on this clock, so none is ended.
        monkeypatch.setattr(
            tiny_codec.model, "run", lambda role, *inputs, until=None: run(tiny_codec.model, role, *inputs)
        )
        monkeypatch.setattr(tiny_codec.model, "costs", type(tiny_codec.model.costs)())
        return one

    return make


def heard(ticket: Ticket) -> Heard:
    assert isinstance(ticket.listener, Heard)
    return ticket.listener


def test_bytes_are_fed_in_the_order_of_deadlines(bench, tiny_stream):
    one = bench()
    late, soon, none = one.open(1009.0, tiny_stream), one.open(1005.0, tiny_stream), one.open(None, tiny_stream)
    assert one.steps() == [("_feed", [soon]), ("_feed", [late]), ("_feed", [none])]


def test_a_frame_is_answered_at_its_latest_start_and_not_before(bench, tiny_stream):
    """Until then more could come."""
    one = bench()
    ticket = one.open(1005.0, tiny_stream[:250])
    assert one.steps() == [("_feed", [ticket])] and 4.9 < one.worker._sleep_s() < 5.0
    one.sleep()
    assert one.steps() == [("_finish", [ticket])]
    (outcome,) = heard(ticket).outcomes
    assert outcome.status == "ok" and outcome.picture.bytes_used == 250 and heard(ticket).calls == ["finishing"]
    assert one.worker._sleep_s() is None


def test_a_wait_is_used_for_a_preview(bench, tiny_stream):
    """A frame with a deadline gets one when there is nothing to feed, and another after a quarter more bytes."""
    one = bench()
    body = len(tiny_stream) // 2 - 60
    ticket, endless = one.open(1005.0, tiny_stream[:body]), one.open(None, tiny_stream[:body])
    assert sorted(one.all_steps()[-1:]) == [("_prepare", [ticket])]
    before = one.worker._sleep_s()
    assert before is not None and before > 0
    one.worker.feed(ticket, tiny_stream[body : body + 20])
    assert [name for name, _ in one.all_steps()] == ["_feed"]
    one.worker.feed(ticket, tiny_stream[body + 20 : -10])
    assert [name for name, _ in one.all_steps()] == ["_feed", "_prepare"]
    one.worker.close(endless)
    assert [name for name, _ in one.all_steps()] == ["_finish"]


def test_a_closed_frame_is_answered_at_once(bench, tiny_stream):
    """Whole, ended or enough: nothing is gained by waiting."""
    one = bench()
    with_deadline, without = one.open(1005.0, tiny_stream, closed=True), one.open(None, tiny_stream, closed=True)
    assert [step[0] for step in one.steps()][:2] == ["_feed", "_finish"]
    assert heard(with_deadline).outcomes[0].status == heard(without).outcomes[0].status == "ok"


def test_an_early_answer_waits_where_another_would_be_late_for_it(bench, tiny_stream):
    """An answer takes a second here: the frame due in half a second goes first."""
    one = bench()
    urgent = one.open(1000.5, tiny_stream[:250])
    patient = one.open(1005.0, tiny_stream, closed=True)
    for _ in range(3):
        one.worker._costs.record("answer", TINY_PIXELS, 1.0)
    assert {name for name, _ in one.steps()} == {"_feed"}
    one.sleep()
    assert one.steps() == [("_finish", [urgent]), ("_finish", [patient])]


def test_the_latest_start_leaves_time_for_those_behind(bench, tiny_stream):
    """Three frames due together, one second each: the first begins three seconds before."""
    one = bench()
    for _ in range(3):
        one.open(1010.0, tiny_stream[:250])
    one.steps()
    for _ in range(3):
        one.worker._costs.record("answer", TINY_PIXELS, 1.0)
    assert 7.9 < one.worker._sleep_s() < 8.0


def test_frames_that_would_begin_meanwhile_begin_together(bench, tiny_stream):
    """Those due at about the same time share a run; one that is due later goes on growing."""
    one = bench()
    first, second, later = (one.open(due, tiny_stream[:250]) for due in (1005.0, 1005.01, 1009.0))
    one.steps()
    for _ in range(3):
        one.worker._costs.record("answer", TINY_PIXELS, 0.2)
    one.sleep()
    assert one.step() == ("_finish", [first, second])
    assert one.step() is None and not heard(later).outcomes


def test_a_frame_that_was_not_begun_is_not_given_up_with_another(bench, tiny_stream):
    """An answer is thought to take half a second: whose bytes wait meanwhile is decoded after it, and in time."""
    one = bench()
    first = one.open(1005.0, tiny_stream[:250])
    one.steps()
    for _ in range(3):
        one.worker._costs.record("answer", TINY_PIXELS, 0.5)
    one.sleep()
    waiting, empty = one.open(1005.2, tiny_stream), one.open(1005.3)
    assert one.steps() == [("_finish", [first]), ("_feed", [waiting]), ("_finish", [waiting])]
    assert not heard(empty).outcomes  # something may still come of it
    one.worker.feed(empty, tiny_stream[:250])
    one.steps()
    one.sleep()
    one.steps()
    assert [heard(ticket).outcomes[0].status for ticket in (first, waiting, empty)] == ["ok", "ok", "ok"]


def test_a_frame_is_begun_however_long_that_took_of_late(bench, tiny_stream):
    """It would be missed otherwise; what was slow is measured anew, so that a slow start is not for ever."""
    one = bench()
    for _ in range(3):
        one.worker._costs.record("begin", TINY_PIXELS, 5.0)
    ticket = one.open(1001.0, tiny_stream[:250])
    assert one.steps() == [("_feed", [ticket])]
    assert one.worker._costs.runs("begin", TINY_PIXELS) == 4
    one.sleep()
    one.steps()
    assert heard(ticket).outcomes[0].status == "ok"


def test_a_deadline_that_has_passed_costs_nothing(bench, tiny_stream):
    one = bench()
    ticket = one.open(999.0, tiny_stream)
    assert one.steps() == [("_finish", [ticket])]
    assert heard(ticket).outcomes[0].status == "missed" and heard(ticket).outcomes[0].picture is None


def test_nothing_came(bench):
    one = bench()
    ticket = one.open(1005.0)
    one.now = 1005.0 - 0.002
    one.steps()
    assert heard(ticket).outcomes[0].status == "unusable"


def test_a_fault_is_answered_at_once(bench):
    """What is no stream will be none with more bytes."""
    one = bench()
    ticket = one.open(1005.0, b"no stream at all, but long enough for a header")
    assert one.steps() == [("_feed", [ticket]), ("_finish", [ticket])]
    (outcome,) = heard(ticket).outcomes
    assert outcome.status == "unusable" and "not a cutoff stream" in outcome.message


def test_what_fails_inside_is_answered_once_and_hurts_nobody_else(bench, tiny_stream, tiny_codec, monkeypatch):
    """A network that breaks for one frame is not the end of the worker."""
    one = bench()
    bad, good = one.open(1005.0, tiny_stream[:250]), one.open(1009.0, tiny_stream[:250])
    one.steps()

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(tiny_codec.model, "run", broken)
        one.sleep()
        one.steps()
    one.sleep()
    one.steps()
    assert [outcome.status for outcome in heard(bad).outcomes] == ["unusable"]
    assert "internal error" in heard(bad).outcomes[0].message
    assert [outcome.status for outcome in heard(good).outcomes] == ["ok"]


def test_previews_are_made_for_who_watches_as_bytes_come(bench, tiny_stream):
    """At first and when there is a quarter more, not more often than makes sense; never if nobody looks."""
    for watched in (True, False):
        one = bench(watched=lambda watched=watched: watched)
        ticket = one.open(1009.0, tiny_stream[:200])
        one.steps()
        one.worker.feed(ticket, tiny_stream[200:210])
        one.steps()
        one.now += 0.2
        one.steps()
        one.worker.feed(ticket, tiny_stream[210:300])
        one.steps()
        assert heard(ticket).calls == ["looked", "looked"] * watched


def test_enough_when_the_classifier_is_sure(bench, tiny_stream):
    """An unsure look asks for more; a sure one ends the frame, and the answer has its own label."""
    answers = iter([Label("cat", 0.4), Label("cat", 0.95), Label("cat", 0.97)])
    one = bench(classify=lambda image: next(answers), enough=0.9)
    ticket = one.open(1009.0, tiny_stream[:150])
    one.steps()
    assert heard(ticket).calls == ["looked"]
    one.now += 0.2
    one.worker.feed(ticket, tiny_stream[150:250])
    one.steps()
    assert heard(ticket).calls == ["looked", "looked", "enough", "finishing"]
    one.labeller.stop()
    one.labeller.run()
    (outcome,) = heard(ticket).outcomes
    assert (outcome.status, outcome.label, outcome.picture.bytes_used) == ("ok", Label("cat", 0.97), 250)


def test_a_label_that_would_come_too_late_is_left_out(bench, tiny_stream):
    """The picture is in time; the classifier takes a second that is not there."""
    one = bench(classify=lambda image: Label("cat", 0.9))
    for _ in range(3):
        one.labeller._costs.record("label", 1, 1.0)
    ticket = one.open(1005.0, tiny_stream[:250], closed=True)
    one.now = 1004.5
    one.steps()
    one.labeller.stop()
    one.labeller.run()
    (outcome,) = heard(ticket).outcomes
    assert (outcome.status, outcome.label) == ("ok", None)


def test_pictures_that_are_decoded_at_a_time_are_bounded(bench, tiny_stream):
    """The third waits for the first two; one that never has its turn is missed; a single one always may."""
    one = bench(open_pixels=2.5 * TINY_PIXELS)
    first, second, third = (one.open(due, tiny_stream[:250]) for due in (1003.0, 1005.0, 1004.9999))
    assert one.steps() == [("_feed", [first]), ("_feed", [third])]
    one.sleep()
    assert one.steps() == [("_finish", [first]), ("_feed", [second])]
    small = bench(open_pixels=1)
    only, other = small.open(1003.0, tiny_stream[:250]), small.open(1002.0)
    assert small.steps() == [("_feed", [only])]
    small.worker.feed(other, tiny_stream[:250])
    assert small.steps() == []
    small.sleep()
    small.steps()
    assert [outcome.status for outcome in heard(other).outcomes] == ["missed"]
    small.sleep()
    small.steps()
    assert [outcome.status for outcome in heard(only).outcomes] == ["ok"]


def test_a_frame_grows_on_beside_one_of_which_nothing_came(bench, tiny_stream):
    """A slice would last until that one's time is up: the answer that it is missed comes first, then the slice."""
    one = bench()
    growing, empty = one.open(1005.0, tiny_stream[:250]), one.open(1001.0)
    one.steps()
    for _ in range(3):
        one.worker._costs.record("slice", TINY_PIXELS, 0.005)
    one.now = 1000.995
    one.worker.feed(growing, tiny_stream[250:])
    assert one.steps() == []
    one.sleep()
    assert one.steps() == [("_finish", [empty]), ("_feed", [growing])]
    assert not heard(growing).outcomes and growing.fed == len(tiny_stream)


def test_a_frame_without_a_deadline_may_take_long_to_come(bench, tiny_stream):
    """It is nobody else's overload, is not answered while it grows, and in the end from all that came."""
    one = bench()
    slow, cost = one.open(None, tiny_stream[:250], cost_s=0.5), Job(1065.0, 0.1)
    one.steps()
    one.now = 1060.0
    assert one.worker.overload_s(cost) == 0.0
    urgent = one.open(1062.0, tiny_stream[:250])
    one.steps()
    one.sleep()
    assert one.steps() == [("_finish", [urgent])] and not heard(slow).outcomes
    one.worker.feed(slow, tiny_stream[250:])
    one.worker.close(slow)
    assert one.worker.overload_s(Job(1062.5, 0.1)) == 0.0
    assert one.steps() == [("_feed", [slow]), ("_finish", [slow])]
    (outcome,) = heard(slow).outcomes
    assert outcome.picture.complete and outcome.picture.bytes_used == len(tiny_stream)


def test_a_whole_frame_waits_for_its_turn(bench, tiny_stream):
    """Nothing more comes of it, but it was not decoded yet: it is answered after the one before it."""
    one = bench(open_pixels=1)
    first, whole = one.open(1003.0, tiny_stream[:250]), one.open(1005.0, tiny_stream, closed=True)
    assert one.steps() == [("_feed", [first])]
    one.sleep()
    assert one.steps() == [("_finish", [first]), ("_feed", [whole]), ("_finish", [whole])]
    assert heard(whole).outcomes[0].status == "ok"


def test_a_worker_that_ends_answers_from_what_came(bench, tiny_stream):
    """What was not decoded yet is decoded first; where it is too late for that, nothing is."""
    one = bench()
    late, first, whole = one.open(1001.0, tiny_stream), one.open(1005.0, tiny_stream[:250]), one.open(None, tiny_stream)
    one.now = 1002.0
    one.worker.stop()
    answered = [("_feed", [first]), ("_finish", [first]), ("_feed", [whole]), ("_finish", [whole])]
    assert one.steps() == [("_finish", [late]), *answered]
    assert [heard(ticket).outcomes[0].status for ticket in (late, first, whole)] == ["missed", "ok", "ok"]


# Admission.


def test_one_frame_too_many_is_known_before_it_is_taken(tiny_codec, bench):
    """Frames take two seconds: a third one in five seconds does not fit, a later one does."""
    one = bench()
    desk = Desk([tiny_codec], clock=lambda: one.now)
    desk.note_cost("gate", 2.0)
    for _ in range(2):
        assert desk.overload_s("gate", 1005.0) == 0.0
        desk.open("gate", 1005.0, Heard())
    assert desk.overload_s("gate", 1005.0) == pytest.approx(1.0)
    assert desk.overload_s("yard", 1005.0) == pytest.approx(1.0)  # as nothing is known of it
    assert desk.overload_s("gate", 1007.0) == 0.0 and desk.overload_s("gate", None) == 0.0


def test_a_machine_that_was_slow_once_takes_frames_again(tiny_codec, bench):
    """However long frames took, one is taken where nothing else waits; the next has to fit beside it."""
    one = bench()
    desk = Desk([tiny_codec], clock=lambda: one.now)
    desk.note_cost("gate", 100.0)
    assert desk.overload_s("gate", one.now + 1.0) == 0.0
    desk.open("gate", one.now + 1.0, Heard())
    assert desk.overload_s("gate", one.now + 1.0) > 0.0


# Threads.


@pytest.fixture
def desk(make_golden: Any) -> Iterator[Desk]:
    """Two workers on the tiny bundle, running."""
    one = Desk([Codec.open(make_golden.HERE / "tiny", threads=1) for _ in range(2)])
    one.start()
    yield one
    one.stop()


def test_every_frame_is_answered_exactly_once(desk, tiny_stream):
    """Many frames from several threads, with and without deadlines, whole, cut, empty and broken."""
    everybody: list[Heard] = []

    def send(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(25):
            listener = Heard()
            everybody.append(listener)
            due = None if draw.random() < 0.3 else desk._clock() + float(draw.uniform(-0.1, 0.4))
            ticket = desk.open(f"camera {seed}", due, listener)
            stream = tiny_stream[: draw.integers(0, len(tiny_stream) + 1)]
            broken = bytes(100) if draw.random() < 0.1 else stream
            for start in range(0, len(broken), 97):
                desk.feed(ticket, broken[start : start + 97])
            if due is None or draw.random() < 0.5:
                desk.close(ticket)

    threads = [threading.Thread(target=send, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(everybody) == 100
    for listener in everybody:
        assert listener.done.wait(PATIENCE_S)
    desk.stop()
    assert all(len(listener.outcomes) == 1 and listener.calls == ["finishing"] for listener in everybody)
    assert not any(worker.open_tickets for worker in desk._workers)


def test_stopping_answers_what_is_open(desk, tiny_stream):
    listener = Heard()
    ticket = desk.open("gate", None, listener)
    desk.feed(ticket, tiny_stream[:250])
    desk.stop()
    assert listener.outcomes[0].status == "ok"


def test_a_dropped_frame_is_not_answered(desk, tiny_stream):
    listener = Heard()
    ticket = desk.open("gate", None, listener)
    desk.feed(ticket, tiny_stream[:250])
    desk.drop(ticket)
    desk.feed(ticket, tiny_stream[250:])
    desk.close(ticket)
    desk.stop()
    assert listener.outcomes == [] and not any(worker.open_tickets for worker in desk._workers)
