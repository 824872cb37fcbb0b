"""`cutoff serve` as a process: killed, ended, and over TLS."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import Camera

from runtime.protocol import Ack, Chunk, Frame, Result
from runtime.serve.settings import StoreSettings
from runtime.serve.store import Store

ROOT = Path(__file__).parents[3]
TINY = ROOT / "tests" / "golden" / "tiny"
GATE = "gate-0123456789abcdef"


@contextmanager
def process(folder: Path, *lines: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run `cutoff serve` on a free port with its store in *folder*; it is killed at the end if it still runs."""
    config = folder / "server.toml"
    config.write_text(
        f'[decode]\nbundle = "{TINY}"\nthreads = 1\nwarm = ["96x80"]\n[tokens.cameras]\ngate = "env:GATE"\n'
        f'[store]\nfolder = "{folder}/store"\n[listen]\nport = 0\n' + "\n".join(lines)
    )
    command = [sys.executable, "-m", "runtime", "serve", "--config", str(config)]
    environment = os.environ | {"GATE": GATE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as one:
        try:
            said = []
            for line in one.stderr:
                said.append(line)
                if found := re.search(r"running on https?://127\.0\.0\.1:(\d+)", line):
                    break
            else:
                pytest.fail("".join(said))
            yield one, int(found.group(1))
        finally:
            one.kill()


def test_what_was_acknowledged_as_stored_survives_kill_9(tmp_path, tiny_codec, tiny_stream):
    """The results that a camera has are in the store of the next process; a frame that was open is asked for again."""
    exact_id = tiny_codec.bundle.exact_id.hex()
    stored = []
    with process(tmp_path) as (one, port), Camera(port, "gate", GATE, exact_id) as gate:
        gate.greet()
        for sequence in range(12):
            gate.send(Frame(sequence, len(tiny_stream), None, None, 1e9))
            gate.send(Chunk(sequence, 0, tiny_stream))
        gate.send(Frame(99, len(tiny_stream), None, 50.0, 1e9), Chunk(99, 0, tiny_stream[:200]))
        stored += [gate.until(Result) for _ in range(6)]
        one.send_signal(signal.SIGKILL)
    assert all(result.stored for result in stored)
    with process(tmp_path) as (one, port), Camera(port, "gate", GATE, exact_id) as gate:
        gate.greet()
        for result in stored:
            gate.send(Frame(result.sequence, len(tiny_stream), None, None, 1e9))
            assert gate.until(Ack) == Ack(result.sequence, len(tiny_stream))
            assert gate.until(Result).stored
        gate.send(Frame(99, len(tiny_stream), None, None, 1e9))
        held = gate.until(Ack).bytes
        gate.send(Chunk(99, held, tiny_stream[held:]))
        assert gate.until(Result).status == "ok"
        one.send_signal(signal.SIGTERM)
        assert one.wait(30) == 0
    store = Store(StoreSettings(folder=tmp_path / "store"))
    for sequence in [result.sequence for result in stored] + [99]:
        assert store.stream(store.frame("gate", sequence)) == tiny_stream
    store.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl, which would make a certificate")
def test_tls(tmp_path, tiny_codec, tiny_stream):
    """With a certificate, a camera that trusts it gets its answer."""
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*new, "-keyout", key, "-out", certificate, *subject], check=True, capture_output=True)
    lines = f'certificate = "{certificate}"', f'key = "{key}"'
    trust = ssl.create_default_context(cafile=certificate)
    with (
        process(tmp_path, *lines) as (_, port),
        Camera(port, "gate", GATE, tiny_codec.bundle.exact_id.hex(), trust=trust) as gate,
    ):
        gate.greet()
        gate.send(Frame(1, len(tiny_stream), None, None, 1e9), Chunk(1, 0, tiny_stream))
        assert gate.until(Result).status == "ok"
