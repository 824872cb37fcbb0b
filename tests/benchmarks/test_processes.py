"""Programs and their settings, as benchmarks and fault tests start them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import Program, camera, free_port, report_text, server
from stream_side import jpeg_of

from runtime.settings import tomllib

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed (extra: edge)")


def test_settings_are_those_of_the_programs(tmp_path: Path) -> None:
    """What is written is read by the server's and the client's own readers, names with dots included."""
    from edge_client.settings import load_edge_settings
    from runtime.serve.settings import read_server_settings

    one = server(tmp_path, ["gate.1", "yard"], settings={"limits": {"frames": 3}})
    other = camera(tmp_path, "gate.1", one.port, settings={"picture": {"crop": [0, 1, 20, 30]}, "source": {"fps": 9.0}})
    settings = read_server_settings(tmp_path / "server.toml")
    assert set(settings.tokens.cameras) == {"gate.1", "yard"} and settings.limits.frames == 3
    assert settings.listen.port == one.port != other.port
    client = load_edge_settings(tmp_path / "gate.1.toml", {})
    assert (client.camera, client.picture.crop, client.source.fps) == ("gate.1", (0, 1, 20, 30), 9.0)
    assert tomllib.loads((tmp_path / "server.toml").read_text())["decode"] == {"threads": 1}


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    """Its output is in the error."""
    program = Program("broken", ["-c", "raise SystemExit('no such thing')"], tmp_path, free_port()).start()
    with pytest.raises(RuntimeError, match="no such thing"):
        program.wait_ready()


def test_a_program_that_does_not_end_says_where_it_is(tmp_path: Path) -> None:
    """It is aborted, and writes down its threads."""
    script = "import signal, sys, time\nsignal.signal(15, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(600)"
    program = Program("deaf", ["-c", script], tmp_path, free_port()).start()
    while "deaf" not in program.said():
        assert program.process is not None and program.process.poll() is None
    with pytest.raises(RuntimeError, match="most recent call first"):
        program.stop(0.1)


@pytest.mark.parametrize(
    ("name", "progressive", "quality", "share"),
    [
        ("jpeg-50", False, None, 0.5),
        ("jpeg-progressive", True, None, 1.0),
        ("jpeg-progressive-q75", True, 75, 1.0),
        ("jpeg-progressive-80", True, None, 0.8),
    ],
)
def test_names_of_senders(name: str, progressive: bool, quality: int | None, share: float) -> None:
    """They say what is sent."""
    codec = jpeg_of(name)
    assert codec is not None
    assert (codec.progressive, codec.quality, codec.share) == (progressive, quality, share)
    assert jpeg_of("cutoff") is None


def test_reports_are_json_with_short_lines() -> None:
    """Lists of plain values stand on one line each, and nothing is changed."""
    report = {"table": "a [b]\n c", "rows": [[1, "x  y", None], [2.5, "[", True]], "summaries": [{"sender": "cutoff"}]}
    text = report_text(report)
    assert json.loads(text) == report
    assert '\n  [1, "x  y", null],\n' in text
