"""Labels: who gets one, in which order, and that nobody is late for one. On a made-up clock, without the thread."""

from __future__ import annotations

import numpy as np
from hearing import Heard
from numpy.typing import NDArray

from runtime.serve.labeller import Classify, Label, Labeller, Outcome


class Bench:
    """A labeller whose clock stands still."""

    def __init__(self, classify: Classify) -> None:
        self.now = 1000.0
        self.labeller = Labeller(classify, lambda: self.now)


def test_labels_are_made_by_deadline_and_nobody_is_late_for_another_s(tiny_codec, tiny_stream):
    """A label takes a second: who has no time for one is answered at once, then the more urgent of the others."""
    order: list[Heard] = []

    class Noted(Heard):
        def answered(self, outcome: Outcome) -> None:
            super().answered(outcome)
            order.append(self)

    def classify(image: NDArray[np.uint8]) -> Label:
        one.now += 1.0
        return Label("cat", 0.9)

    one = Bench(classify)
    one.labeller._costs.record("label", 1, 1.0)
    outcome = Outcome("ok", tiny_codec.decode(tiny_stream), None, 0.0)
    patient, late, soon, hasty = (Noted() for _ in range(4))
    for listener, due in ((patient, None), (late, 1005.0), (soon, 1001.5), (hasty, 1000.5)):
        one.labeller.hand_on(listener, due, outcome)
    one.labeller.stop()
    one.labeller.run()
    assert order == [hasty, soon, late, patient]
    assert [listener.outcomes[0].status for listener in order] == ["ok"] * 4
    assert [listener.outcomes[0].label is None for listener in order] == [True, False, False, False]


def test_nobody_waits_for_somebody_else_s_label_who_has_no_time_for_one(tiny_codec, tiny_stream):
    """A picture that is finished while a label is made is answered then, not behind it."""
    hasty = Heard()

    def classify(image: NDArray[np.uint8]) -> Label:
        one.labeller.hand_on(hasty, one.now + 0.5, outcome)
        one.now += 1.0
        return Label("cat", 0.9)

    one = Bench(classify)
    one.labeller._costs.record("label", 1, 1.0)
    outcome, patient = Outcome("ok", tiny_codec.decode(tiny_stream), None, 0.2), Heard()
    one.labeller.hand_on(patient, 1005.0, outcome)
    one.labeller.stop()
    one.labeller.run()
    assert hasty.outcomes == [outcome]
    (labelled,) = patient.outcomes
    assert (labelled.status, labelled.label, labelled.seconds) == ("ok", Label("cat", 0.9), 0.2)  # of a worker's time


def test_a_classifier_that_was_slow_once_is_measured_again(tiny_codec, tiny_stream):
    """Its labels are left out where there is too little time, but not for ever."""
    one = Bench(lambda image: Label("cat", 0.9))
    for _ in range(2):
        one.labeller._costs.record("label", 1, 1.0)
    outcome = Outcome("ok", tiny_codec.decode(tiny_stream), None, 0.0)
    listeners = [Heard() for _ in range(1000)]
    for listener in listeners:
        one.labeller.hand_on(listener, one.now + 0.5, outcome)
        one.labeller.stop()
        one.labeller.run()
    labels = [listener.outcomes[0].label for listener in listeners]
    assert labels[0] is None and labels[-1] is not None
