"""Parts of the stream benchmark: JPEG as a codec, and how rows are counted."""

from __future__ import annotations

import itertools
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stream
from numpy.typing import NDArray
from stream_jpeg import Jpeg, scan_ends
from stream_pictures import moving_views
from stream_score import Row, psnr_of, summarise, table

from runtime.deadline import Deadline
from runtime.errors import Incomplete


@pytest.fixture(scope="module")
def picture(photographs: dict[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return photographs["chelsea"]


@pytest.mark.parametrize("room", [3_000, 10_000, 40_000])
def test_fitted_jpeg_fills_its_room(picture: NDArray[np.uint8], room: int) -> None:
    """It fits, and hardly any of the room is left; more room gives a better picture."""
    codec = Jpeg(progressive=False, room=lambda: room)
    stream = codec.encode(picture).stream
    assert 0.8 * room < len(stream) <= room
    better = Jpeg(progressive=False, room=lambda: 2 * room)
    images = [one.decode(one.encode(picture).stream) for one in (codec, better)]
    first, second = (psnr_of(image, picture) for image in images if image is not None)
    assert first < second


def test_without_room_the_smallest_file_is_made(picture: NDArray[np.uint8]) -> None:
    """The sender's schedule then leaves it."""
    smallest = Jpeg(progressive=False, room=lambda: 0).encode(picture)
    assert len(smallest.stream) < 1000
    assert smallest.value.offsets.tolist() == [len(smallest.stream)]


def test_cut_baseline_jpeg_shows_nothing(picture: NDArray[np.uint8]) -> None:
    """Not even half of it."""
    codec = Jpeg(progressive=False, quality=50)
    stream = codec.encode(picture).stream
    assert codec.decode(stream[:-10]) is None
    assert codec.decode(stream) is not None


def test_progressive_jpeg_shows_more_the_more_there_is(picture: NDArray[np.uint8]) -> None:
    """From the end of its first scan on; what its bytes are worth falls."""
    codec = Jpeg(progressive=True, quality=75)
    encoding = codec.encode(picture)
    ends = scan_ends(encoding.stream)
    assert len(ends) >= 8 and ends[-1] == len(encoding.stream)
    assert encoding.value.offsets.tolist() == ends
    assert (np.diff(encoding.value.squared_error) <= 0).all()
    shown = [codec.decode(encoding.stream[:end]) for end in (100, ends[0], ends[4], ends[-1])]
    assert shown[0] is None
    quality = [psnr_of(image, picture) for image in shown if image is not None]
    assert len(quality) == 3 and quality == sorted(quality)


def test_a_jpeg_decoder_takes_bytes_as_they_come(picture: NDArray[np.uint8]) -> None:
    """Nothing, too little, and a part that shows something."""
    codec = Jpeg(progressive=True, quality=75)
    stream = codec.encode(picture).stream
    decoder = codec.decoder(Deadline(1e12))
    with pytest.raises(Incomplete):
        decoder.finish()
    decoder.feed(stream[:3000])
    decoder.feed(stream[3000:6000])
    found = decoder.finish()
    assert found.image is not None and found.image.shape == picture.shape
    assert (found.bytes_used, found.complete, found.missed) == (6000, False, False)


def test_a_moving_view_moves_and_does_not_jump() -> None:
    """Neighbours are alike, but never the same."""
    views = moving_views((160, 96), 20, 4.0)
    assert views.shape == (20, 96, 160, 3)
    steps = [psnr_of(a, b) for a, b in itertools.pairwise(views)]
    assert max(steps) < 45
    assert np.median(steps) > 14


def row(sender: str, number: int, psnr_db: float | None, *, agrees: bool = True, status: str = "ok") -> Row:
    return Row("film", "trace", sender, number, status, psnr_db is not None, 100, 5.0, psnr_db, psnr_db, agrees)


def test_summaries_count_what_was_due() -> None:
    """What never came counts against a sender; comparisons between senders rest on what all of them had in time."""
    rows = [
        *(row("one", number, 30.0 + number) for number in range(4)),
        row("two", 0, 20.0),
        row("two", 1, None, agrees=False, status="missed"),
        row("two", 2, 24.0, agrees=False),
        row("two", 3, None, agrees=False, status="none"),
    ]
    one, two = summarise(rows, {"one": 4000, "two": 2000})
    assert (one.in_time, two.in_time, one.link_bytes, two.link_bytes) == (1.0, 0.5, 1000, 500)
    assert (one.psnr_db, one.psnr_common_db, two.psnr_db) == (31.5, 31.0, 22.0)
    assert (one.agreement, one.agreement_common, two.agreement, two.agreement_common) == (1.0, 1.0, 0.25, 0.5)
    lines = table([one, two]).splitlines()
    assert len(lines) == 4


def test_shares_say_over_how_many_films_and_traces_they_are() -> None:
    """Pictures of one trace stall together: intervals that took them for independent cases would be too narrow."""
    rows = [replace(row("one", number, 30.0), film=film, trace=trace) for film in "ab" for trace in "xyz"
            for number in range(9)]  # fmt: skip
    (summary,) = summarise(rows, {"one": 5400})
    assert (summary.films, summary.traces, summary.due) == (2, 3, 54)
    assert table([summary]).splitlines()[2].startswith("| one | 2 | 3 | 100.0 | 100 | 30.00 |")


def test_every_sender_brings_pictures_in_time(tmp_path: Path) -> None:
    """The whole of it, small: client, link and server as programs, with our codec and with JPEG in its place."""
    senders = ("cutoff", "jpeg-50", "jpeg-progressive-q75")
    arguments = Namespace(
        clip=None,
        classifier=None,
        side=224,
        senders=senders,
        traces=1,
        seconds=4.0,
        low=256.0,
        high=512.0,
        delay=0.01,
        loss=0.0,
        deadline=3.0,  # a busy machine is no fault of theirs
        fps=3.0,
        size="96x80",
        bundle=str(Path(__file__).parents[1] / "golden" / "tiny"),
        threads=1,
    )
    report = stream.measure(arguments, tmp_path)
    summaries = {one["sender"]: one for one in report["summaries"]}  # type: ignore[attr-defined]
    assert set(summaries) == set(senders)
    for one in summaries.values():
        assert one["due"] == 12
        assert one["in_time"] > 0
        assert one["psnr_db"] > 15
        assert one["link_bytes"] > 300
