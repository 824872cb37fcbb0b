"""Disks that are full, and files that are not what they were."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from plant import SCALE, Plant, wait_until

long = pytest.mark.skipif(not SCALE.long, reason="takes long: make faults")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a disk of *size* as *folder*; skips where that is not allowed."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "cutoff-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def enlarge(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@long
def test_a_server_whose_disk_is_full_answers_all_the_same(plant: Plant) -> None:
    """It says that frames are not stored; the client keeps them, and they arrive once there is room."""
    with small_disk(plant.folder / "server", "400k"):
        server = plant.server({"store": {"bytes": 50_000_000}}).start().wait_ready()
        camera = plant.camera(server.port, {"source": {"fps": 20.0}}).start()
        wait_until(lambda: server.metric("cutoff_server_store_errors_total") >= 5, "the disk is full")
        answered = server.metric("cutoff_server_margin_milliseconds_count")
        wait_until(
            lambda: server.metric("cutoff_server_margin_milliseconds_count") >= answered + 10, "frames are answered"
        )
        wait_until(lambda: len(plant.spooled()) >= SCALE.frames, "frames wait in the spool")
        waiting = plant.spooled()
        enlarge(plant.folder / "server", "50m")
        wait_until(lambda: waiting <= plant.whole(), "all that waited is stored")
        assert camera.stop() == 0
        everything = plant.whole() | plant.spooled()
        assert everything == set(range(min(everything), max(everything) + 1))
        assert server.stop() == 0


def test_a_camera_whose_disk_is_full_goes_on(plant: Plant) -> None:
    """Frames are answered and stored by the server; what the spool cannot keep is counted."""
    with small_disk(plant.folder / "gate", "10m"):
        server = plant.server().start().wait_ready()
        camera = plant.camera(server.port).start()
        wait_until(lambda: len(plant.whole()) >= 3, "frames arrive")
        with open(plant.folder / "gate" / "ballast", "wb", buffering=0) as ballast:
            with suppress(OSError):
                while ballast.write(bytes(4096)):
                    pass
            wait_until(lambda: camera.metric("cutoff_edge_spool_errors_total") >= 3, "the spool fails")
            known = plant.whole()
            wait_until(lambda: len(plant.whole() - known) >= 5, "frames arrive without a spool")
            ballast.truncate(0)
        failed = camera.metric("cutoff_edge_spool_errors_total")
        known = plant.whole()
        wait_until(lambda: len(plant.whole() - known) >= 8, "frames arrive with room again")
        assert camera.metric("cutoff_edge_spool_errors_total") <= failed + 8
        assert camera.status("/healthz") == 200
        assert camera.stop() == 0


@pytest.mark.parametrize(
    "how", ["garbage", "torn", pytest.param("cut short", marks=long), pytest.param("a folder", marks=long)]
)
def test_a_corrupted_spool_is_set_aside(plant: Plant, how: str) -> None:
    """It is kept as it is, under another name; the camera says so, starts with a new one, and sends."""
    server = plant.server()
    camera = plant.camera(server.port).start()
    wait_until(lambda: len(plant.spooled()) >= 8, "frames wait in the spool")
    camera.kill()
    damaged = corrupt(plant.spool, how)
    server.start().wait_ready()
    camera.start()
    wait_until(lambda: len(plant.whole()) >= 3, "frames arrive")
    if how == "a folder":  # nothing that can be set aside without risk to what is not ours
        wait_until(lambda: camera.metric("cutoff_edge_spool_errors_total") >= 1, "the spool fails")
    else:
        aside = plant.spool.with_name(f"{plant.spool.name}.damaged-1")
        wait_until(aside.exists, "the damaged spool is set aside")
        assert aside.read_bytes() == damaged
        said = [json.loads(line) for line in camera.said().splitlines() if "set aside" in line]
        assert [(one["level"], one["aside"]) for one in said] == [("error", str(aside))]
        wait_until(plant.spool.exists, "there is a new spool")
        assert camera.metric("cutoff_edge_spool_errors_total") == 0
        known = plant.whole()
        wait_until(lambda: len(plant.whole() - known) >= 3, "frames arrive")
    assert camera.status("/healthz") == 200
    assert camera.stop() == 0


def corrupt(file: Path, how: str) -> bytes | None:
    """Damage the spool *file*; return what it is now, None for a folder."""
    with closing(sqlite3.connect(file)) as database:  # until now, all that there is may be in the write-ahead log
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    generator = random.Random(8)
    if how == "garbage":
        file.write_bytes(generator.randbytes(20_000))
    elif how == "torn":
        content = bytearray(file.read_bytes())
        for start in range(4096, len(content), 8192):
            content[start : start + 512] = generator.randbytes(512)
        file.write_bytes(content)
    elif how == "cut short":
        os.truncate(file, max(600, file.stat().st_size // 3))
    else:
        file.unlink()
        file.mkdir()
        (file / "precious").write_text("not ours")
        return None
    return file.read_bytes()
