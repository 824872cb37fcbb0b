"""What is kept: whole or not, whenever the process dies or the disk is full; and what retention does to it."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import OutputError
from runtime.protocol import Ack, Chunk, Frame, Result
from runtime.serve import store as store_module
from runtime.serve.settings import StoreSettings
from runtime.serve.store import Store
from runtime.stream import Header, Limits

ROOT = Path(__file__).parents[3]
DAY = 86_400.0


@pytest.fixture
def store(tmp_path):
    one = Store(StoreSettings(folder=tmp_path / "store"))
    yield one
    one.close()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder / "streams").as_posix() for path in (folder / "streams").rglob("*.cut"))


def set_version(folder: Path, version: int) -> None:
    with sqlite3.connect(folder / "cutoff.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def result(sequence: int, **changes: object) -> Result:
    return dataclasses.replace(Result(sequence, "ok", 3, 1.5, 4, 12.0, True, "cat", 0.5), **changes)


def test_keep_and_read(store):
    """The longest prefix counts, however often and in which order prefixes are kept."""
    store.keep("gate", 5, 10, 1e9, b"abc")
    store.keep("gate", 5, 10, 1e9, b"abcdef")
    store.keep("gate", 5, 10, 1e9, b"ab")
    frame = store.frame("gate", 5)
    assert (frame.held, frame.size, frame.file_bytes, frame.result) == (6, 10, 6, None)
    assert store.stream(frame) == b"abcdef" and store.stream_bytes == 6
    assert store.frame("gate", 6) is None and store.frame("yard", 5) is None


def test_the_names_of_cameras(store):
    """Each once, in order; none where nothing is kept."""
    assert store.cameras() == []
    for number, camera in enumerate(["yard", "gate", "yard", "attic", "gate"]):
        store.keep(camera, number, 10, 1e9, b"abc")
    assert store.cameras() == ["attic", "gate", "yard"]


def test_no_question_is_answered_by_looking_at_every_frame(tmp_path):
    """A store that is in use for weeks has a million: each is trimmed once, and the page asks all the time."""
    one = Store(StoreSettings(folder=tmp_path / "store", bytes=5, trimmed_bytes=2))
    asked: list[str] = []
    for connection in (one._reader, one._writer):
        connection.set_trace_callback(asked.append)
    for sequence in range(3):
        one.keep("gate", sequence, 10, 1e9, b"abc")
    one.note("gate", result(2))
    one.frames("gate"), one.frames("gate", before=2), one.neighbours("gate", 1), one.cameras(), one.newest("gate")
    assert one.retain() == (3, 2)
    one.close()
    with sqlite3.connect(tmp_path / "store" / "cutoff.sqlite") as database:
        plans = {
            words: [line for *_, line in database.execute(f"EXPLAIN QUERY PLAN {words}")]
            for words in asked
            if not words.startswith(("BEGIN", "COMMIT"))
        }
    database.close()
    assert len(plans) > 10
    assert not [words for words, lines in plans.items() if any("SCAN frames" in line for line in lines)]


def test_a_result_is_noted(store):
    store.keep("gate", 5, 10, 1e9, b"abc")
    store.note("gate", result(5))
    assert store.frame("gate", 5).result == result(5)
    store.note("gate", result(5, label=None, confidence=None, margin_ms=None))
    assert store.frame("gate", 5).result.label is None


def test_frames_newest_first_in_pages(store):
    for sequence in range(10):
        store.keep("gate", sequence, 10, 1e9, b"abc")
    store.keep("yard", 99, 10, 1e9, b"abc")
    assert [one.sequence for one in store.frames("gate", 3)] == [9, 8, 7]
    assert [one.sequence for one in store.frames("gate", 3, before=7)] == [6, 5, 4]
    assert store.cameras() == ["gate", "yard"] and store.newest("gate") == 9 and store.newest("lane") is None


def test_an_empty_frame_is_a_row_without_a_file(store, tmp_path):
    store.keep("gate", 1, 10, 1e9, b"")
    assert store.stream(store.frame("gate", 1)) is None and files(tmp_path / "store") == []


@settings(max_examples=25)
@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=12))
def test_what_is_open_again_is_what_was_kept(tmp_path_factory, steps):
    """Closing and opening changes nothing; every row has its file, every file its row, and the sum is right."""
    folder = tmp_path_factory.mktemp("store")
    longest: dict[int, int] = {}
    one = Store(StoreSettings(folder=folder))
    for sequence, length in steps:
        one.keep("gate", sequence, 10, 1e9, b"0123456789"[:length])
        longest[sequence] = max(longest.get(sequence, 0), length)
    one.close()
    again = Store(StoreSettings(folder=folder))
    for sequence, length in longest.items():
        assert (again.stream(again.frame("gate", sequence)) or b"") == b"0123456789"[:length]
    assert again.stream_bytes == sum(longest.values())
    assert len(files(folder)) == sum(1 for length in longest.values() if length)
    again.close()


def test_strays_are_removed_when_the_store_is_opened(store, tmp_path):
    """A file that no row names, and a half-written one, are what a killed process leaves."""
    store.keep("gate", 5, 10, 1e9, b"abc")
    store.close()
    folder = tmp_path / "store" / "streams" / "gate"
    (folder / "6-4.cut").write_bytes(b"abcd")
    (folder / ".cutoff-xyz.part").write_bytes(b"ab")
    again = Store(StoreSettings(folder=tmp_path / "store"))
    assert [path.name for path in folder.iterdir()] == ["5-3.cut"]
    again.close()


def test_a_store_is_opened_by_one_at_a_time(store, tmp_path):
    """Another one would take for strays what the first is writing; who closes it, or fails to open it, lets go."""
    folder = tmp_path / "store"
    written = folder / "streams" / "gate" / "6-4.cut"
    written.parent.mkdir()
    written.write_bytes(b"abcd")  # its row comes next
    with pytest.raises(OutputError, match="another server has this store open"):
        Store(StoreSettings(folder=folder))
    assert written.exists()
    store.close()
    set_version(folder, 2)
    with pytest.raises(OutputError, match="version 2"):
        Store(StoreSettings(folder=folder))
    set_version(folder, 1)
    Store(StoreSettings(folder=folder)).close()


def test_a_full_disk_is_an_error_and_nothing_is_lost(store, tmp_path, monkeypatch):
    """What was kept before still is, and once there is room again keeping goes on."""
    store.keep("gate", 5, 10, 1e9, b"abc")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            store.keep("gate", 5, 10, 1e9, b"abcdef")
        with pytest.raises(OutputError, match="No space left"):
            store.keep("gate", 6, 10, 1e9, b"abcdef")
    assert store.stream(store.frame("gate", 5)) == b"abc" and store.frame("gate", 6) is None
    assert store.stream_bytes == 3 and files(tmp_path / "store") == ["gate/5-3.cut"]
    store.keep("gate", 5, 10, 1e9, b"abcdef")
    assert store.stream(store.frame("gate", 5)) == b"abcdef"


def test_a_stream_that_is_gone_is_kept_again(store, tmp_path):
    """A backup's folder may be older than its database; what is said to be stored is on the disk."""
    store.keep("gate", 5, 3, 1e9, b"abc")
    (tmp_path / "store" / "streams" / "gate" / "5-3.cut").unlink()
    store.keep("gate", 5, 3, 1e9, b"abc")
    assert store.stream(store.frame("gate", 5)) == b"abc" and store.stream_bytes == 3


def test_a_database_that_cannot_be_written_is_an_error(store, tmp_path):
    """Another process holds it, or it is full: the same kind of error."""
    store._writer.execute("PRAGMA max_page_count = 1")
    with pytest.raises(OutputError, match="cannot keep"):
        for sequence in range(10_000):
            store.keep("gate" + "x" * 40, sequence, 10, 1e9, b"")
    assert store.frames("yard") == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be opened"):
        Store(StoreSettings(folder=tmp_path / "file" / "store"))


def test_a_database_that_is_none(tmp_path):
    (tmp_path / "cutoff.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(OutputError, match="cannot be opened"):
        Store(StoreSettings(folder=tmp_path))


def test_a_store_of_a_later_version_is_left_alone(tmp_path):
    Store(StoreSettings(folder=tmp_path)).close()
    set_version(tmp_path, 2)
    with pytest.raises(OutputError, match="version 2"):
        Store(StoreSettings(folder=tmp_path))


# Retention.


def kept_at(store: Store, monkeypatch: pytest.MonkeyPatch, sequence: int, received: float, data: bytes) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "_now", lambda: received)
        store.keep("gate", sequence, len(data), 1e9, data)


def test_old_streams_are_trimmed_and_then_deleted(tmp_path, monkeypatch, tiny_codec, tiny_stream):
    """What is left of a trimmed stream is a stream: it decodes like a prefix."""
    small = 150
    store = Store(StoreSettings(folder=tmp_path, days=30.0, trim_days=7.0, trimmed_bytes=small))
    for sequence, age in ((1, 40), (2, 10), (3, 1)):
        kept_at(store, monkeypatch, sequence, 1e9 - age * DAY, tiny_stream)
    assert store.retain(1e9) == (1, 1)
    assert store.retain(1e9) == (0, 0)
    assert store.frame("gate", 1) is None
    trimmed, whole = store.frame("gate", 2), store.frame("gate", 3)
    assert trimmed.trimmed and trimmed.held == len(tiny_stream) and trimmed.file_bytes <= small
    assert tiny_codec.decode(store.stream(trimmed), strict=True).image is not None
    assert not whole.trimmed and store.stream(whole) == tiny_stream
    assert store.stream_bytes == trimmed.file_bytes + len(tiny_stream)
    assert len(files(tmp_path)) == 2
    store.close()


def test_on_a_full_disk_old_streams_make_room(tmp_path, monkeypatch, tiny_stream):
    """There is none for a smaller stream beside the old one: the oldest is deleted, and the next one is trimmed."""
    store = Store(StoreSettings(folder=tmp_path, trim_days=7.0, trimmed_bytes=150))
    for sequence in range(3):
        kept_at(store, monkeypatch, sequence, 1e9 - 10 * DAY + sequence, tiny_stream)
    write = store._write

    def full(file: str, data: bytes) -> None:
        if store.stream_bytes == 3 * len(tiny_stream):
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
                write(file, data)
        write(file, data)

    monkeypatch.setattr(store, "_write", full)
    assert store.retain(1e9) == (2, 1)
    assert store.frame("gate", 0) is None and all(store.frame("gate", sequence).trimmed for sequence in (1, 2))
    store.close()


def test_a_clock_that_jumps_deletes_nothing(tmp_path, monkeypatch, tiny_stream):
    """Neither while the store is open, nor when it is opened by a clock that is behind."""
    store = Store(StoreSettings(folder=tmp_path, days=30.0))
    store.keep("gate", 1, len(tiny_stream), 1e9, tiny_stream)
    monkeypatch.setattr(store_module.time, "time", lambda: 4e9)
    assert store.retain() == (0, 0)
    store.close()
    monkeypatch.setattr(store_module.time, "time", lambda: 0.0)
    store = Store(StoreSettings(folder=tmp_path, days=30.0))
    store.keep("gate", 2, len(tiny_stream), 1e9, tiny_stream)
    assert store.retain() == (0, 0)
    first, second = store.frame("gate", 1), store.frame("gate", 2)
    assert 1e9 < first.received <= second.received < 4e9
    store.close()


def test_too_many_bytes_are_trimmed_from_the_oldest_before_anything_is_deleted(tmp_path, monkeypatch, tiny_stream):
    store = Store(StoreSettings(folder=tmp_path, bytes=4 * len(tiny_stream), trimmed_bytes=150))
    for sequence in range(6):
        kept_at(store, monkeypatch, sequence, 1e9 + sequence, tiny_stream)
    trimmed, deleted = store.retain(1e9 + 100)
    assert trimmed == 4 and deleted == 0 and store.stream_bytes <= 4 * len(tiny_stream)
    assert [store.frame("gate", sequence).trimmed for sequence in range(6)] == [True] * 4 + [False] * 2
    for sequence in range(6, 40):
        kept_at(store, monkeypatch, sequence, 1e9 + sequence, tiny_stream)
    trimmed, deleted = store.retain(1e9 + 100)
    assert deleted > 0 and store.stream_bytes <= 4 * len(tiny_stream)
    left = [one.sequence for one in store.frames("gate", 100)]
    assert left == list(range(39, 39 - len(left), -1))
    store.close()


HUGE = Header(bytes(8), 65_535, 65_535, grey=False, trimmed=False, head_bytes=4, body_bytes=4).to_bytes()


@pytest.mark.parametrize("data", [b"no stream at all", b"\x89CUT", HUGE])
def test_what_cannot_be_trimmed_is_left_until_it_is_deleted(tmp_path, monkeypatch, data):
    store = Store(StoreSettings(folder=tmp_path, trimmed_bytes=3))
    kept_at(store, monkeypatch, 1, 1e9 - 10 * DAY, data)
    assert store.retain(1e9) == (1, 0) and store.retain(1e9) == (0, 0)
    assert store.stream(store.frame("gate", 1)) == data
    store.close()


def test_limits_are_those_of_the_server(tmp_path, monkeypatch, tiny_stream):
    """What it decodes is trimmed, however large; what it does not is left."""
    for pixels, trimmed in ((96 * 80, True), (96 * 80 - 1, False)):
        store = Store(StoreSettings(folder=tmp_path / str(pixels), trimmed_bytes=150), Limits(pixels=pixels))
        kept_at(store, monkeypatch, 1, 1e9 - 10 * DAY, tiny_stream)
        assert store.retain(1e9) == (1, 0)
        assert (store.stream_bytes <= 150) == trimmed
        store.close()


def test_a_file_that_cannot_be_read_keeps_no_other_from_being_trimmed(tmp_path, monkeypatch, tiny_stream):
    """It counts as trimmed, as what is no stream does."""
    store = Store(StoreSettings(folder=tmp_path, trimmed_bytes=150))
    for sequence in (1, 2):
        kept_at(store, monkeypatch, sequence, 1e9 - (20 - sequence) * DAY, tiny_stream)
    broken = tmp_path / "streams" / store.frame("gate", 1).file
    broken.unlink()
    broken.mkdir()
    assert store.retain(1e9) == (2, 0)
    assert store.frame("gate", 1).trimmed and store.frame("gate", 2).file_bytes <= 150
    store.close()


def test_a_trimmed_frame_that_comes_again_is_not_asked_for(running, camera, tiny_stream):
    """Its bytes were here once, and the result stands."""
    gate = camera()
    gate.send(Frame(1, len(tiny_stream), None, 20.0, 1e9), Chunk(1, 0, tiny_stream))
    first = gate.until(Result)
    gate.close()
    store = running.server.store
    store._settings = dataclasses.replace(running.server.settings.store, trimmed_bytes=150)
    assert store.retain(time.time() + 10 * DAY) == (1, 0) and store.stream_bytes <= 150
    again = camera()
    again.send(Frame(1, len(tiny_stream), None, None, 1e9))
    assert again.receive() == Ack(1, len(tiny_stream))
    assert again.receive() == first


# Processes that die.


def test_nothing_that_was_kept_is_lost_by_kill_9(tmp_path):
    """A process keeps frames, says so, and is killed in the middle of it; every frame it has told of is whole."""
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from runtime.serve.settings import StoreSettings
        from runtime.serve.store import Store
        store = Store(StoreSettings(folder=Path(sys.argv[1])))
        for sequence in range(100_000):
            for length in (1000, 5000):
                store.keep("gate", sequence, 5000, 1e9, bytes([sequence % 256]) * length)
                print(sequence, length, flush=True)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        told = [process.stdout.readline().split() for _ in range(25)]
        process.send_signal(signal.SIGKILL)
        told += [line.split() for line in process.stdout]
    longest = {int(sequence): int(length) for sequence, length in told}
    assert len(longest) >= 10
    store = Store(StoreSettings(folder=tmp_path))
    for sequence, length in longest.items():
        frame = store.frame("gate", sequence)
        assert frame.held >= length and store.stream(frame) == bytes([sequence % 256]) * frame.held
    assert store.stream_bytes == sum(one.file_bytes for one in store.frames("gate", 100_000))
    store.close()
