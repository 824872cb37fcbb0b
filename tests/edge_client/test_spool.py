"""The spool: order of worth, caps, damage, full disks, processes that are killed while they write."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from edge_frames import frame

from edge_client.spool import Spool
from runtime.errors import ConfigurationError, OutputError

ROOT = Path(__file__).parents[2]


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def spool(
    path: Path, most_bytes: int = 10**9, most_s: float = 1e6, clock: FakeClock | None = None, camera: str = "gate"
) -> Spool:
    return Spool(path / "spool.sqlite", camera, most_bytes, most_s, clock or FakeClock())


def sequences(one: Spool, count: int = 100) -> list[int]:
    return [each.frame.sequence for each in one.best(count)]


def leave_as_earlier(path: Path, statement: str) -> None:
    """Leave a spool with frame 1 in it; *statement* takes away what an earlier version did not make."""
    one = spool(path)
    one.add(frame(1))
    one.close()
    with closing(sqlite3.connect(path / "spool.sqlite")) as database:
        database.execute(statement)


def test_frame_comes_back_as_it_was(tmp_path: Path) -> None:
    """Stream, worth, number and time, in another process's spool; it has no deadline any more."""
    first = spool(tmp_path)
    first.add(frame(7, due=3.0))
    first.close()
    second = spool(tmp_path)
    assert (second.frames, second.size_bytes) == (1, 20_000)
    (found,) = second.best(5)
    assert found.frame == frame(7)
    assert found.held == 0
    second.close()


def test_no_stream_is_read_to_count_or_to_age(tmp_path: Path) -> None:
    """A spool may hold a gigabyte: what every frame costs must not, also in one that an earlier version has made."""
    leave_as_earlier(tmp_path, "DROP INDEX by_age")
    asked: list[str] = []
    again = spool(tmp_path)
    assert again._database is not None
    again._database.set_trace_callback(asked.append)
    again.add(frame(2))
    again.best(1)
    again.stored(2, 8000, done=False)
    again.tend()
    again.close()
    with sqlite3.connect(tmp_path / "spool.sqlite") as database:
        plans = {
            words: [line for *_, line in database.execute(f"EXPLAIN QUERY PLAN {words}")]
            for words in asked
            if "frames" in words
        }
    database.close()
    assert any("COUNT(*)" in words for words in plans)
    scans = {line for lines in plans.values() for line in lines if "SCAN frames" in line}
    assert all("COVERING INDEX" in line or "by_worth" in line for line in scans), scans


def test_best_is_what_gains_most_by_its_next_byte(tmp_path: Path) -> None:
    """More contrast first, of equals the newest; a frame that the server has half of comes after all beginnings."""
    one = spool(tmp_path)
    for sequence, gain in [(1, 1.0), (2, 3.0), (3, 1.0), (4, 2.0)]:
        one.add(frame(sequence, gain=gain))
    assert sequences(one) == [2, 4, 3, 1]
    one.stored(2, 8000, done=False)
    assert sequences(one) == [4, 3, 1, 2]
    assert [each.frame.sequence for each in one.best(2, without={4, 1})] == [3, 2]
    one.close()


def test_rest_of_a_busy_picture_may_come_before_the_beginning_of_a_dark_one(tmp_path: Path) -> None:
    """What the next byte gains is all that counts, not which byte of its stream it is."""
    one = spool(tmp_path)
    one.add(frame(1, gain=10.0))
    one.add(frame(2, gain=0.1))
    one.stored(1, 8192, done=False)
    assert sequences(one) == [1, 2]
    one.close()


def test_only_what_is_done_is_forgotten(tmp_path: Path) -> None:
    """Stored bytes are noted and never become fewer; done removes the frame; an unknown one is left alone."""
    one = spool(tmp_path)
    one.add(frame(1))
    one.stored(1, 5000, done=False)
    one.stored(1, 3000, done=False)
    assert one.best(1)[0].held == 5000
    one.stored(99, 10, done=False)
    one.stored(1, 20_000, done=True)
    assert one.frames == 0
    one.close()


def test_same_frame_twice_is_one(tmp_path: Path) -> None:
    """What is known of it stays."""
    one = spool(tmp_path)
    one.add(frame(1))
    one.stored(1, 5000, done=False)
    one.add(frame(1))
    assert one.frames == 1
    assert one.best(1)[0].held == 5000
    one.close()


def test_least_worth_gives_way_to_the_cap_of_bytes(tmp_path: Path) -> None:
    """The frame whose next byte gains least, of equals the oldest, goes; and is counted."""
    one = spool(tmp_path, most_bytes=60_000)
    for sequence, gain in [(1, 1.0), (2, 0.5), (3, 1.0), (4, 1.0), (5, 1.0)]:
        one.add(frame(sequence, gain=gain))
    assert sequences(one) == [5, 4, 3]
    assert one.evicted == 2
    assert one.size_bytes == 60_000
    with pytest.raises(OutputError, match="most_bytes"):
        one.add(frame(6, size=60_001))
    assert one.frames == 3
    one.close()


def test_age_counts_while_the_spool_is_in_use(tmp_path: Path) -> None:
    """An hour's cap: half an hour before a restart and half an hour after it; the time between does not count."""
    clock = FakeClock()
    one = spool(tmp_path, most_s=3600, clock=clock)
    one.add(frame(1))
    clock.now += 1790
    one.add(frame(2))
    one.close()
    clock.now += 1e6  # switched off
    one = spool(tmp_path, most_s=3600, clock=clock)
    clock.now += 1790
    one.tend()
    assert sequences(one) == [2, 1]
    clock.now += 30
    one.tend()
    assert sequences(one) == [2]
    assert one.evicted == 1
    one.close()


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0" + bytes(5000)])
def test_damaged_database_is_set_aside(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It stays for people under another name, a new one begins, and the log says so; an empty file is a new one."""
    (tmp_path / "spool.sqlite").write_bytes(content)
    one = spool(tmp_path)
    one.add(frame(1))
    assert sequences(one) == [1]
    one.close()
    if content:
        assert (tmp_path / "spool.sqlite.damaged-1").read_bytes() == content
        assert "set aside" in caplog.text


def test_damage_found_while_in_use(tmp_path: Path) -> None:
    """Pages overwritten behind the spool's back: the next frame is kept all the same, in a new database."""
    one = spool(tmp_path)
    for sequence in range(20):
        one.add(frame(sequence))
    one.close()
    path = tmp_path / "spool.sqlite"
    content = bytearray(path.read_bytes())
    content[4096 : 40 * 4096] = os.urandom(39 * 4096)
    path.write_bytes(content)
    one = spool(tmp_path)
    one.add(frame(50))
    assert 50 in sequences(one)
    assert one.set_aside == 1
    one.close()


def test_database_of_another_version_is_set_aside(tmp_path: Path) -> None:
    """A later program's spool is not touched."""
    with sqlite3.connect(tmp_path / "spool.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
        database.execute("CREATE TABLE other (x)")
    database.close()
    one = spool(tmp_path)
    one.add(frame(1))
    one.close()
    assert (tmp_path / "spool.sqlite.damaged-1").exists()


def test_spool_of_another_camera_is_refused(tmp_path: Path) -> None:
    """It would send these frames under its own name, and forget them; their own camera finds them as they were."""
    one = spool(tmp_path)
    one.add(frame(1))
    one.close()
    with pytest.raises(ConfigurationError, match=r"spool\.file: .* is the spool of camera 'gate', not of 'yard'"):
        spool(tmp_path, camera="yard")
    one = spool(tmp_path)
    assert sequences(one) == [1]
    assert one.set_aside == 0
    one.close()


@pytest.mark.parametrize("camera", ["gate", "yard"])
def test_spool_in_use_is_refused(tmp_path: Path, camera: str) -> None:
    """Whoever asks, until it is closed."""
    one = spool(tmp_path)
    with pytest.raises(ConfigurationError, match=r"spool\.file: .* is held by another process"):
        spool(tmp_path, camera=camera)
    one.close()
    spool(tmp_path).close()


def test_spool_without_a_name_takes_the_first(tmp_path: Path) -> None:
    """As earlier versions made them: what is in it is sent, and nobody else may have it from then on."""
    leave_as_earlier(tmp_path, "DROP TABLE owner")
    one = spool(tmp_path, camera="yard")
    assert sequences(one) == [1]
    one.close()
    with pytest.raises(ConfigurationError, match="camera 'yard', not of 'gate'"):
        spool(tmp_path)


def test_full_disk_is_reported_and_what_is_there_stays(tmp_path: Path) -> None:
    """SQLite's own error of a full disk: the frame is refused, all others are there, and room helps."""
    one = spool(tmp_path)
    one.add(frame(1))
    assert one._database is not None
    one._database.execute("PRAGMA max_page_count = 12")
    with pytest.raises(OutputError, match="full"):
        one.add(frame(2, size=100_000))
    assert sequences(one) == [1]
    one._database.execute("PRAGMA max_page_count = 100000")
    one.add(frame(2, size=100_000))
    assert one.frames == 2
    one.close()


def test_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="spool"):
        spool(tmp_path / "file" / "deeper")


WRITER = """
import sys
from pathlib import Path
from edge_client.spool import Spool
from edge_frames import frame
spool = Spool(Path(sys.argv[1]), "gate", 10**9, 1e6)
for sequence in range(100000):
    spool.add(frame(sequence, size=3000))
    print(sequence, flush=True)
"""


def test_what_was_added_survives_a_kill(tmp_path: Path) -> None:
    """A process killed -9 while it writes: every frame that it said it had added is there, whole."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'shared'}"}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "spool.sqlite"], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert writer.stdout is not None
    added = [int(writer.stdout.readline()) for _ in range(25)]
    writer.send_signal(signal.SIGKILL)
    added += [int(line) for line in writer.stdout.read().splitlines() if line]
    writer.wait()
    writer.stdout.close()
    one = spool(tmp_path)
    found = {each.frame.sequence: each.frame.stream for each in one.best(10**6)}
    assert set(added) <= set(found)
    assert all(stream == frame(sequence, size=3000).stream for sequence, stream in found.items())
    assert one.set_aside == 0
    one.close()
