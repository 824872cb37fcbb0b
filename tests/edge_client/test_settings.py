"""Settings of the client: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_client.settings import EdgeSettings, load_edge_settings
from runtime.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
SOUND = """
camera = "gate"
state = "state"
[server]
url = "wss://pictures.example"
token = "secret"
[source]
kind = "pattern"
"""


def load(tmp_path: Path, text: str, **environment: str) -> EdgeSettings:
    (tmp_path / "edge.toml").write_text(text, encoding="utf-8")
    return load_edge_settings(tmp_path / "edge.toml", environment)


def changed(key: str, value: str) -> str:
    """Return sound settings in which *key*, with the name of its table, has *value*."""
    table, _, name = key.rpartition(".")
    lines = SOUND.splitlines()
    if not table:
        return "\n".join([f"{name} = {value}", *(line for line in lines if not line.startswith(f"{name} ="))])
    if f"[{table}]" not in lines:
        lines.append(f"[{table}]")
    place = lines.index(f"[{table}]")
    rest = [line for line in lines[place + 1 :] if not line.startswith(f"{name} =")]
    return "\n".join([*lines[: place + 1], f"{name} = {value}", *rest])


def test_few_settings_are_needed(tmp_path: Path) -> None:
    """Camera, state, server, token, source; all others have defaults."""
    settings = load(tmp_path, SOUND)
    assert settings.camera == "gate"
    assert settings.sending.deadline_s == 0.5
    assert settings.spool.file is None


def test_sample_is_sound() -> None:
    """The file that comes with the project, with a token from the environment."""
    settings = load_edge_settings(ROOT / "configs" / "edge.toml", {"CUTOFF_EDGE_TOKEN": "secret"})
    assert settings.spool.file is not None


def test_secrets_of_the_environment_come_first(tmp_path: Path) -> None:
    """And they are shown nowhere."""
    text = SOUND.replace('kind = "pattern"', 'kind = "rtsp"\nurl = "rtsp://a/b"')
    settings = load(tmp_path, text, CUTOFF_EDGE_TOKEN="hush1", CUTOFF_EDGE_SOURCE_URL="rtsp://u:hush2@a/b")
    assert settings.server.token == "hush1"
    assert settings.source.url == "rtsp://u:hush2@a/b"
    assert "hush" not in repr(settings)


def test_token_may_stand_in_a_file(tmp_path: Path) -> None:
    """As systemd's credentials do; a file that cannot be read is named."""
    (tmp_path / "token").write_text("from-file\n")
    text = SOUND.replace('token = "secret"', f'token_file = "{tmp_path / "token"}"')
    assert load(tmp_path, text).server.token == "from-file"
    (tmp_path / "token").unlink()
    with pytest.raises(ConfigurationError, match=r"server.token_file: .*token cannot be read"):
        load(tmp_path, text)


def test_unknown_key_is_refused_with_those_allowed(tmp_path: Path) -> None:
    """At the top and in a table."""
    with pytest.raises(ConfigurationError, match=r"unknown key 'deadline'.*allowed: .*sending"):
        load(tmp_path, "deadline = 1\n" + SOUND)
    with pytest.raises(ConfigurationError, match=r"unknown key 'fsp'.*allowed: device, flip, fps"):
        load(tmp_path, SOUND + "fsp = 3")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("camera", '"gate 1"', "camera must be 1 to 64"),
        ("camera", '""', "camera must be 1 to 64"),
        ("server.url", '"http://a"', "server.url must be ws"),
        ("server.url", '"wss://"', "server.url must be ws"),
        ("server.url", '"wss://a:99999"', "server.url"),
        ("server.url", '"wss://cam..example"', "server.url must be ws"),
        ("server.url", '"wss://me:hush[@a"', "server.url must be ws"),
        ("server.url", '"wss://me:hu/hush@a"', "server.url must be ws"),
        ("server.url", '"wss://me:hush@a"', "server.url must hold no password"),
        ("server.url", '"http://me:hush@a"', "server.url must hold no password"),
        ("server.url", '"ws://far.example"', "shows the token"),
        ("server.token", '""', "no token: set CUTOFF_EDGE_TOKEN"),
        ("server.backoff_most_s", "0.1", "server.backoff_most_s must be 0.5 to"),
        ("source.kind", '"usb"', "source.kind must be one of file, folder, v4l2, rtsp, csi, pattern"),
        ("source.kind", '"folder"', "source.path is missing"),
        ("source.kind", '"rtsp"', "source.url must be rtsp"),
        ("source.fps", "0", "source.fps must be 0.001 to 1000"),
        ("source.fps", "nan", "source.fps must be"),
        ("source.fps", '"5"', "fps must be float"),
        ("picture.crop", "[1, 2, 3]", "picture.crop must be"),
        ("picture.crop", "[0, 0, 0, 5]", "picture.crop must be"),
        ("sending.deadline_s", "0", "sending.deadline_s must be"),
        ("sending.answer_s", "0.6", "sending.answer_s must be 0 to 0.5"),
        ("sending.chunk_bytes", "70000", "sending.chunk_bytes must be 64 to 65536"),
        ("spool.keep", '"some"', "spool.keep must be one of all, unsent"),
        ("status.port", "70000", "status.port must be"),
        pytest.param("status.port", "0x" + "f" * 5000, "not a number of thousands of digits", id="status.port-huge"),
        ("spool.file", '"a\\u0000b"', "file holds a zero byte"),
        ("status.host", '"a\\u0000b"', "host holds a zero byte"),
        ("log.level", '"loud"', "log.level must be one of"),
    ],
)
def test_value_out_of_range_is_refused(tmp_path: Path, key: str, value: str, words: str) -> None:
    """The message names file, key, what is allowed and what was found."""
    with pytest.raises(ConfigurationError, match=words) as refusal:
        load(tmp_path, changed(key, value))
    assert "edge.toml" in str(refusal.value)
    assert "hush" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://me:hush[@camera/live",
        "rtsp://me:hush]@camera/live",
        "rtsp://me:hush/1@camera/live",
        "rtsp://me:1/hush@camera/live",
        "rtsp://me:1?hush@camera/live",
        "rtsp://me:1#hush@camera/live",
        "rtsp://camera:99999/hush",
        "rtsp:///hush",
        "http://camera/hush",
    ],
)
def test_address_of_a_camera_must_be_clear(tmp_path: Path, url: str) -> None:
    """Where a password would end too early, its rest is taken for a path, and logged; so it is written otherwise."""
    text = SOUND.replace('"pattern"', '"rtsp"')
    with pytest.raises(ConfigurationError, match=r"source\.url must be rtsp://HOST.*%2F") as refusal:
        load(tmp_path, text, CUTOFF_EDGE_SOURCE_URL=url)
    assert "hush" not in str(refusal.value)
    assert load(tmp_path, text, CUTOFF_EDGE_SOURCE_URL="rtsp://me:%2F%5Bp@ss@camera:554/live?channel=1#a")


def test_plain_connections_are_for_this_machine_or_asked_for(tmp_path: Path) -> None:
    """The token would be seen by everybody on the way."""
    for host in ("localhost:8080", "127.0.0.1", "[::1]:80"):
        load(tmp_path, changed("server.url", f'"ws://{host}"'))
    load(tmp_path, changed("server.url", '"ws://far.example"').replace("[server]", "[server]\nplain = true"))
