"""The client as a whole, against a server's double: what is sent, spooled, resent and drained, in real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Capture, refusal, run
from edge_frames import frame
from ingest_double import IngestDouble, ingest_double

from edge_client.client import Client
from edge_client.dispatch import Finished
from edge_client.settings import EdgeSettings, SendingSettings, SourceSettings, SpoolSettings
from edge_client.spool import Spool
from runtime import Codec
from runtime.errors import ConfigurationError
from runtime.protocol import Result

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "golden" / "tiny"
SAFETY_S = 60.0
Make = Callable[..., EdgeSettings]


async def until(reached: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not reached():
            await asyncio.sleep(0.02)

    await asyncio.wait_for(wait(), SAFETY_S)


async def with_client(settings: EdgeSettings, work: Callable[[Client], Awaitable[None]]) -> Client:
    """Run a client in this process for as long as *work* takes, and drain it."""
    client = Client(settings)
    running = asyncio.ensure_future(client.run())
    try:
        await asyncio.wait((running, asyncio.ensure_future(work(client))), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            client.stop()
        await asyncio.wait_for(running, SAFETY_S)
    finally:
        running.cancel()
    return client


def answered(double: IngestDouble) -> int:
    return sum(bool(held.results) for held in double.held.values())


def value(client: Client, name: str, **labels: str) -> float:
    return client.metrics.registry.get_sample_value(f"cutoff_edge_{name}", labels) or 0.0


def spooled(path: Path) -> dict[int, bytes]:
    """Return what is in a spool, by sequence; a client may be at work in it."""
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("SELECT * FROM sqlite_master WHERE name = 'frames'").fetchall():
            return {}
        return dict(database.execute("SELECT sequence, stream FROM frames"))


def test_pictures_arrive_and_are_answered(settings: Make) -> None:
    """Streams are whole and decode; frames are numbered upwards; counters agree with the server."""

    async def story() -> None:
        async with ingest_double() as double:
            client = await with_client(settings(double.url), lambda client: until(lambda: answered(double) >= 5))
            assert double.order == sorted(set(double.order))
            with Codec.open(TINY, threads=1) as codec:
                for held in double.held.values():
                    assert codec.decode(bytes(held.data)).complete
            assert value(client, "answers_total", status="ok") == answered(double) == len(double.held)
            assert value(client, "frames_total", outcome="answered") == len(double.held)

    asyncio.run(story())


def test_end_of_the_source_ends_the_client(settings: Make, pictures: Path) -> None:
    """A folder without loop: its pictures are sent, and the client ends by itself."""

    async def story() -> None:
        async with ingest_double() as double:
            source = SourceSettings("folder", path=pictures, loop=False, fps=20.0)
            client = Client(settings(double.url, source=source, sending=SendingSettings(deadline_s=30.0)))
            await asyncio.wait_for(client.run(), SAFETY_S)
            assert 1 <= answered(double) <= 2

    asyncio.run(story())


def test_server_that_has_enough_gets_no_more(settings: Make, tmp_path: Path) -> None:
    """Each frame is opened once, and its rest is not sent, now or by the spool: what was stored is all that was wanted.

    Frames that gave way to newer ones before they were opened may lie in the spool at the end.
    """

    async def story() -> None:
        async with ingest_double(enough_bytes=600) as double:
            made = settings(
                double.url,
                source=SourceSettings("pattern", width=480, height=360, fps=20.0),
                sending=SendingSettings(chunk_bytes=512, rate_kbps=8.0, deadline_s=30.0),
                spool=SpoolSettings(tmp_path / "spool.sqlite"),
            )
            await with_client(made, lambda client: until(lambda: answered(double) >= 5))
            assert any(len(one.data) < one.size for one in double.held.values())
            assert all(len(one.openings) == 1 for one in double.held.values())
        assert not spooled(tmp_path / "spool.sqlite").keys() & double.held.keys()

    asyncio.run(story())


def test_what_was_stored_is_not_found_in_the_spool_again(settings: Make, tmp_path: Path) -> None:
    """A look for frames to send again that comes right after an answer, before the event loop turns, sees it."""

    async def story() -> None:
        client = Client(settings("ws://127.0.0.1:9", spool=SpoolSettings(tmp_path / "spool.sqlite")))
        one = frame(1, due=5.0)
        client._note(lambda spool: spool.add(one))
        assert await client._in_spool(lambda: client._best(2, frozenset()))
        client._settle(Finished(one, 600, True, Result(1, "ok", 600, 1.0, 9, None, True), "answered"))
        assert not await client._in_spool(lambda: client._best(2, frozenset()))
        client._close_spool()
        client._counter.close()

    asyncio.run(story())


@pytest.mark.parametrize("keep", ["all", "unsent"])
def test_nothing_is_lost_in_an_outage(settings: Make, tmp_path: Path, keep: str) -> None:
    """No server for some frames, which are spooled; when it comes, all of them arrive whole, and the spool is empty."""

    async def story() -> None:
        async with ingest_double() as double:
            await double.stop()
            path = tmp_path / "spool.sqlite"
            made = settings(double.url, spool=SpoolSettings(path, keep), sending=SendingSettings(deadline_s=0.1))
            numbers: list[int] = []

            async def work(client: Client) -> None:
                await until(lambda: client._spool is not None and client._spool.frames >= 6)
                assert not client.ready()["server"]
                numbers.extend(spooled(path))
                await double.start()
                await until(lambda: set(numbers) <= {number for number, held in double.held.items() if held.results})
                assert client.ready() == {"source": True, "server": True, "running": True}

            await with_client(made, work)
            for number in numbers:
                assert len(double.held[number].data) == double.held[number].size
                assert double.held[number].openings[-1].deadline_s is None
            assert not set(spooled(path)) & {number for number, held in double.held.items() if held.results}

    asyncio.run(story())


def test_spool_is_resent_by_worth_beginnings_first(settings: Make, tmp_path: Path) -> None:
    """What gains most comes first: of frames that differ this little, every first portion before any rest."""

    async def story() -> None:
        path = tmp_path / "spool.sqlite"
        spool = Spool(path, "gate", 10**9, 1e9)
        for sequence, gain in [(1, 1.0), (2, 4.0), (3, 2.0), (4, 3.0)]:
            spool.add(frame(sequence, gain=gain))
        spool.close()
        async with ingest_double(frames=1) as double:
            made = settings(
                double.url,
                source=SourceSettings("v4l2", device="/dev/there-is-none"),
                spool=SpoolSettings(path, portion_bytes=5000),
            )
            await with_client(
                made, lambda client: until(lambda: sum(len(h.results) for h in double.held.values()) == 8)
            )
            assert double.order[:4] == [2, 4, 3, 1]
            assert sorted(double.order[4:]) == [1, 2, 3, 4]
            firsts = [result.bytes for held in double.held.values() for result in held.results[:1]]
            assert firsts == [5000] * 4
            assert all(len(held.data) == 20_000 for held in double.held.values())
        assert not spooled(path)

    asyncio.run(story())


def test_no_fewer_bytes_are_sent_again_than_make_a_picture(settings: Make, tmp_path: Path) -> None:
    """A head segment is sent whole, however little of a frame is wanted, or nobody could ever decode it."""

    async def story() -> None:
        path = tmp_path / "spool.sqlite"
        spool = Spool(path, "gate", 10**9, 1e9)
        spool.add(frame(1, first=900))
        spool.close()
        async with ingest_double() as double:
            source = SourceSettings("v4l2", device="/dev/there-is-none")
            made = settings(double.url, source=source, spool=SpoolSettings(path, frame_bytes=600, portion_bytes=512))
            await with_client(made, lambda client: until(lambda: bool(double.held) and not spooled(path)))
            assert len(double.held[1].data) == 900

    asyncio.run(story())


@pytest.mark.parametrize(("under_way", "kept"), [(300, 300), (3, 203)])
def test_what_is_under_way_is_spooled_whole_when_the_client_ends(
    settings: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, under_way: int, kept: int
) -> None:
    """As many frames as may be under way; what a slow disk cannot take beside them is counted, and said once."""

    async def story() -> None:
        path = tmp_path / "spool.sqlite"
        sending = SendingSettings(deadline_s=600.0, frames=under_way)
        client = Client(settings("ws://127.0.0.1:9", spool=SpoolSettings(path, "unsent"), sending=sending))
        for sequence in range(300):
            client._settle(Finished(frame(sequence, due=600.0, size=1000), 0, False, None, "lost"))
        await asyncio.wait(set(client._notes))
        assert value(client, "spool_errors_total") == 300 - kept
        assert caplog.text.count("spool failed") == (kept < 300)
        await client._in_spool(client._close_spool)
        assert len(spooled(path)) == kept
        client._spool_thread.shutdown()
        client._codec.close()
        client._counter.close()

    asyncio.run(story())


def test_frames_that_the_server_does_not_store_stay(settings: Make, tmp_path: Path) -> None:
    """Its disk is full: answers come, the frames stay in the spool, and are not sent over and over."""

    async def story() -> None:
        path = tmp_path / "spool.sqlite"
        async with ingest_double(stored=False) as double:
            made = settings(double.url, spool=SpoolSettings(path))
            await with_client(made, lambda client: until(lambda: answered(double) >= 8))
            assert set(spooled(path)) == set(double.held)
            assert max(len(held.openings) for held in double.held.values()) <= 2

    asyncio.run(story())


def test_spool_that_cannot_be_written_does_not_stop_the_camera(
    settings: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reported and counted; frames are sent all the same."""

    async def story() -> None:
        (tmp_path / "file").write_text("")
        async with ingest_double() as double:
            made = settings(double.url, spool=SpoolSettings(tmp_path / "file" / "spool.sqlite"))
            client = await with_client(made, lambda client: until(lambda: answered(double) >= 3))
            assert value(client, "spool_errors_total") >= 3
            assert "spool failed" in caplog.text

    asyncio.run(story())


def test_damaged_spool_is_counted(settings: Make, tmp_path: Path) -> None:
    """What lay in it is lost until somebody looks at it, so that somebody should hear of it."""

    async def story() -> None:
        (tmp_path / "spool.sqlite").write_bytes(b"rubbish" * 1000)
        made = settings("ws://127.0.0.1:9", spool=SpoolSettings(tmp_path / "spool.sqlite"))
        client = await with_client(made, lambda client: until(lambda: value(client, "spool_set_aside") == 1))
        assert value(client, "spool_set_aside") == 1

    asyncio.run(story())


def test_spool_of_another_camera_ends_the_client(settings: Make, tmp_path: Path) -> None:
    """With one clear error; its frames stay where they are, and none is added to them."""

    async def story() -> None:
        path = tmp_path / "spool.sqlite"
        spool = Spool(path, "yard", 10**9, 1e9)
        spool.add(frame(1))
        spool.close()
        async with ingest_double() as double:
            made = settings(double.url, spool=SpoolSettings(path))
            with pytest.raises(ConfigurationError, match="is the spool of camera 'yard', not of 'gate'"):
                await asyncio.wait_for(Client(made).run(), SAFETY_S)
            assert 1 not in double.held
        assert set(spooled(path)) == {1}

    asyncio.run(story())


def write_settings(folder: Path, url: str, **lines: str) -> Path:
    """Write settings of a client of the tiny bundle; *lines* are added to the tables of their names."""
    tables = {
        "server": f'url = "{url}"\nbackoff_s = 0.01\nbackoff_most_s = 0.1',
        "source": 'kind = "pattern"\nwidth = 96\nheight = 80\nfps = 20.0',
        "codec": f'bundle = "{TINY}"\ncoder = "constriction"\nthreads = 1\nbudget_s = 0',
        "status": "port = 0",
        "spool": f'file = "{folder / "spool.sqlite"}"',
    }
    text = f'camera = "gate"\nstate = "{folder / "state"}"\n'
    for name, content in tables.items():
        text += f"[{name}]\n{content}\n{lines.pop(name, '')}\n"
    text += "".join(f"[{name}]\n{content}\n" for name, content in lines.items())
    (folder / "edge.toml").write_text(text)
    return folder / "edge.toml"


async def started(config: Path, *more: str) -> asyncio.subprocess.Process:
    """Start `cutoff edge` in a process of its own."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runtime", "edge", "--config", str(config), *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUTOFF_EDGE_TOKEN": "secret"},
    )


def test_sigterm_drains(tmp_path: Path) -> None:
    """Every frame that the server saw is answered, every other in the spool; the status is 0, the log is JSON."""

    async def story() -> None:
        async with ingest_double() as double:
            config = write_settings(tmp_path, double.url, sending="deadline_s = 2.0")
            process = await started(config)
            await until(lambda: answered(double) >= 5)
            double.pause_s = 0.05  # some are under way now
            await until(lambda: answered(double) >= 6)
            process.send_signal(signal.SIGTERM)
            _, errors = await asyncio.wait_for(process.communicate(), SAFETY_S)
            assert process.returncode == 0, errors.decode()
            assert all(held.results for held in double.held.values())
            messages = [json.loads(line) for line in errors.decode().splitlines()]
            assert [one["message"] for one in messages][-2:] == ["draining", "ended"]
            assert messages[-1]["in_spool"] == len(spooled(tmp_path / "spool.sqlite")) == 0
            assert b"secret" not in errors

    asyncio.run(story())


def test_sigterm_without_a_server_spools(tmp_path: Path) -> None:
    """With keep = "unsent" what is under way is spooled at once; the client does not wait for a server."""

    async def story() -> None:
        config = write_settings(
            tmp_path, "ws://127.0.0.1:9", spool='keep = "unsent"', sending="deadline_s = 600.0\nframes = 50"
        )
        process = await started(config)
        assert process.stderr is not None
        await until((tmp_path / "state" / "gate.sequence").exists)
        await asyncio.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), SAFETY_S)
        assert process.returncode == 0, errors.decode()
        assert len(spooled(tmp_path / "spool.sqlite")) >= 1

    asyncio.run(story())


def test_killed_client_loses_nothing_that_was_spooled(tmp_path: Path) -> None:
    """Killed -9 without a server; the next process sends all of it, and gives no number twice."""

    async def story() -> None:
        path = tmp_path / "spool.sqlite"
        async with ingest_double() as double:
            await double.stop()
            config = write_settings(tmp_path, double.url, sending="deadline_s = 0.2")
            first = await started(config)
            await until(path.exists)
            await until(lambda: len(spooled(path)) >= 5)
            first.kill()
            await asyncio.wait_for(first.communicate(), SAFETY_S)
            left = spooled(path)
            await double.start()
            second = await started(config)
            await until(lambda: all(number in double.held and double.held[number].results for number in left))
            await until(lambda: max(double.held) > max(left))
            second.terminate()
            _, errors = await asyncio.wait_for(second.communicate(), SAFETY_S)
            assert second.returncode == 0, errors.decode()
            assert all(bytes(double.held[number].data) == stream for number, stream in left.items())
            assert not [number for number in double.held if number < max(left) and number not in left]

    asyncio.run(story())


def test_damaged_spool_does_not_stop_the_client(tmp_path: Path) -> None:
    """It is set aside, the log says so, frames are sent and spooled."""

    async def story() -> None:
        (tmp_path / "spool.sqlite").write_bytes(b"rubbish" * 1000)
        async with ingest_double() as double:
            process = await started(write_settings(tmp_path, double.url))
            await until(lambda: answered(double) >= 3)
            process.terminate()
            _, errors = await asyncio.wait_for(process.communicate(), SAFETY_S)
            assert process.returncode == 0
            assert "set aside" in errors.decode()
            assert (tmp_path / "spool.sqlite.damaged-1").exists()

    asyncio.run(story())


def test_check_says_what_would_run(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started, no secret is shown, nothing is written."""
    monkeypatch.setenv("CUTOFF_EDGE_TOKEN", "secret")
    lines = run(capsys, "edge", "--config", write_settings(tmp_path, "ws://127.0.0.1:9"), "--check").splitlines()
    assert lines[-1] == "ok"
    assert "server    ws://127.0.0.1:9/v1/ingest" in lines
    assert not [line for line in lines if "secret" in line]
    assert {path.name for path in tmp_path.iterdir()} == {"edge.toml"}


def test_check_says_that_a_camera_is_not_there(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be plugged in later, so it is no fault; but whoever sets it up wants to know."""
    monkeypatch.setenv("CUTOFF_EDGE_TOKEN", "secret")
    settings = tmp_path / "edge.toml"
    settings.write_text(
        f'camera = "gate"\nstate = "{tmp_path}"\n[server]\nurl = "ws://127.0.0.1:9"\n[codec]\nbundle = "{TINY}"\n'
        f'[source]\nkind = "v4l2"\ndevice = "{tmp_path}/video7"\n'
    )
    lines = run(capsys, "edge", "--config", settings, "--check").splitlines()
    assert f"source    v4l2 {tmp_path}/video7 (not there now), at most 5 pictures per second" in lines
    assert lines[-1] == "ok"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"sending": "deadlin_s = 2"}, "unknown key 'deadlin_s' = 2; allowed: answer_s, chunk_bytes"),
        ({"codec": 'engine = "abacus"'}, "abacus"),
        ({"codec": 'precision = "fp12"'}, "fp12"),
        ({"source": 'path = "/nowhere"'}, "source.path: /nowhere does not exist"),
        ({"server": 'ca_file = "/nowhere"'}, "server.ca_file: /nowhere"),
    ],
)
def test_check_refuses_what_would_fail(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, lines: dict[str, str], words: str
) -> None:
    """In one line, with the status of a wrong call."""
    monkeypatch.setenv("CUTOFF_EDGE_TOKEN", "secret")
    status, line = refusal(capsys, "edge", "--config", write_settings(tmp_path, "wss://there", **lines), "--check")
    assert status == 2
    assert words in line


def test_second_client_of_a_camera_is_refused(settings: Make) -> None:
    """Both would give the same numbers."""
    made = settings("ws://127.0.0.1:9")
    first = Client(made)
    with pytest.raises(ConfigurationError, match="another process"):
        Client(made)
    Client(replace(made, camera="yard"))._counter.close()
    first._counter.close()
