"""The encoding thread: budget, sizes, faults."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_client.capture import Newest, Shot
from edge_client.encoding import Encoding
from edge_client.frames import CameraFrame
from edge_client.metrics import Metrics
from edge_client.settings import CodecSettings, EdgeSettings
from runtime.codec import Codec
from runtime.stream import Header, Limits

SAFETY_S = 60.0
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


class Bench:
    """An encoding thread that is fed one picture after another."""

    def __init__(self, settings: EdgeSettings, codec: Codec) -> None:
        self.frames: list[CameraFrame] = []
        self.ended: list[bool] = []
        self.metrics = Metrics()
        self.newest = Newest()
        numbers = iter(range(1000))
        self.encoding = Encoding(
            codec, settings, self.newest, lambda: next(numbers), self.frames.append, lambda: self.ended.append(True),
            self.metrics, cv2,
        )  # fmt: skip

    def run(self, *shots: Shot) -> None:
        for shot in shots:
            self.encoding._one(shot)

    def count(self, outcome: str) -> float:
        return self.metrics.registry.get_sample_value("cutoff_edge_pictures_total", {"outcome": outcome}) or 0.0


def now(image: np.ndarray = IMAGE) -> Shot:
    return Shot(image, time.monotonic(), 123.0)


def bench(settings: Callable[..., EdgeSettings], budget_s: float = 0.0) -> Bench:
    made = settings("ws://localhost")
    made = replace(made, codec=replace(made.codec, budget_s=budget_s))
    return Bench(made, Codec.open(made.codec.bundle, threads=1, coder="constriction"))


def test_picture_becomes_a_frame_that_decodes(settings: Callable[..., EdgeSettings]) -> None:
    """Its stream, what it is worth, its time and its deadline."""
    one, shot = bench(settings), now()
    one.run(shot)
    (frame,) = one.frames
    assert frame.due == shot.taken + 0.5
    assert (frame.sequence, frame.captured, frame.taken) == (0, 123.0, shot.taken)
    assert frame.worth.first <= len(frame.stream)
    assert frame.worth.at(0) > frame.worth.at(frame.worth.first) >= 0
    with Codec.open(CodecSettings(settings("ws://localhost").codec.bundle).bundle, threads=1) as codec:
        assert codec.decode(frame.stream).image.shape == IMAGE.shape
    assert one.count("encoded") == 1


def test_late_picture_is_encoded_smaller_or_skipped_and_counted(settings: Callable[..., EdgeSettings]) -> None:
    """Encoding takes a second as far as is known: with 0.3 s half the size, without any time nothing."""
    one = bench(settings, budget_s=0.3)
    for _ in range(3):
        one.encoding._budget.took(time.monotonic() + 1e6, 1.0, 1.0)
    shot = now()
    one.run(shot, Shot(IMAGE, shot.taken - 10, 0.0))
    assert (one.count("encoded_smaller"), one.count("skipped")) == (1, 1)
    header = Header.from_bytes(one.frames[0].stream, Limits())
    assert (header.width, header.height) == (48, 32)


def test_picture_that_cannot_be_encoded_does_not_end_it(settings: Callable[..., EdgeSettings]) -> None:
    """A crop outside one picture: counted, and the next is encoded."""
    made = settings("ws://localhost")
    made = replace(made, picture=replace(made.picture, crop=(0, 0, 90, 60)))
    one = Bench(made, Codec.open(made.codec.bundle, threads=1, coder="constriction"))
    one.encoding.start()
    for image in (IMAGE[:10, :10], IMAGE):
        one.newest.put(now(image))
        deadline = time.monotonic() + SAFETY_S
        while not (one.count("failed") if image is not IMAGE else one.frames) and time.monotonic() < deadline:
            time.sleep(0.005)
    one.newest.close()
    assert one.encoding.join(SAFETY_S)
    assert one.count("failed") == 1
    assert len(one.frames) == 1
    assert one.ended == [True]


def test_library_that_fails_again_and_again_ends_it(
    settings: Callable[..., EdgeSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fault passes; ten in a row are for a new process, and are kept as the reason."""
    one = bench(settings)
    faults = iter([RuntimeError("device lost"), None, *[RuntimeError("device gone")] * 10])

    def fail(shot: Shot) -> None:
        fault = next(faults)
        if fault is not None:
            raise fault

    monkeypatch.setattr(one.encoding, "_one", fail)
    monkeypatch.setattr(one.newest, "take", now)
    one.encoding.start()
    assert one.encoding.join(SAFETY_S)
    assert str(one.encoding.fault) == "device gone"
    assert one.count("failed") == 11
    assert one.ended == [True]


def test_warm_up_gives_no_frame(settings: Callable[..., EdgeSettings]) -> None:
    """It is for the machine alone."""
    one = bench(settings)
    one.encoding.warm_up()
    assert not one.frames
