"""The server's settings and secrets: what is refused, and how that is said."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from commands import refusal, run

from runtime.cli.main import main
from runtime.errors import ConfigurationError
from runtime.serve.settings import ServerSettings, TokenSettings, read_server_settings
from runtime.serve.tokens import Tokens, bearer

ROOT = Path(__file__).parents[3]
SECRET = "0123456789abcdef"


def read(tmp_path: Path, text: str) -> ServerSettings:
    (tmp_path / "server.toml").write_text(text)
    return read_server_settings(tmp_path / "server.toml")


def test_an_empty_file_is_the_defaults(tmp_path):
    assert read(tmp_path, "") == ServerSettings()


def test_the_sample_is_valid():
    """configs/server.toml says what it says."""
    settings = read_server_settings(ROOT / "configs" / "server.toml")
    assert settings.tokens.cameras and settings.decode == ServerSettings().decode


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[listen]\nports = 1", "unknown key 'ports' = 1; allowed: .*port.*"),
        ("[listen]\nport = 70000", "port must be 0 to 65535"),
        ('[listen]\ncertificate = "a.pem"', "go together"),
        ("[limits]\nframes = 0", "frames must be above 0"),
        ("[limits]\nframes = true", "frames"),
        ("[limits]\nmemory_bytes = 1000", "memory_bytes must hold"),
        ('[tokens.cameras]\n"a/b" = "0123456789abcdef"', "camera's name"),
        ('[tokens.cameras]\n".." = "0123456789abcdef"', "camera's name"),
        ('[decode]\nwarm = ["768"]', "no size"),
        ('[decode]\nwarm = ["9000x1000"]', "a size of warm has more than pixels"),
        ('[decode]\nengine = "gpu"', "engine must be one of"),
        ('[classifier]\nfile = "a"', "missing key 'labels'"),
        ('[classifier]\nfile = "a"\nlabels = "b"\nenough = 1.5', "enough"),
        ('[classifier]\nfile = "a"\nlabels = "b"\nmean = [1.0]', "mean is three numbers"),
        ("[", "server.toml"),
    ],
)
def test_what_is_refused(tmp_path, text, said):
    with pytest.raises(ConfigurationError, match=said):
        read(tmp_path, text)


def tokens(cameras: dict[str, str], environment: dict[str, str], **listen: str) -> Tokens:
    settings = ServerSettings(tokens=TokenSettings(cameras=cameras))
    settings = dataclasses.replace(settings, listen=dataclasses.replace(settings.listen, **listen))
    return Tokens.read(settings, environment)


def test_secrets_from_environment_and_files(tmp_path):
    (tmp_path / "secret").write_text(f"{SECRET}-file\n")
    found = tokens(
        {"a": "env:A", "b": f"file:{tmp_path}/secret", "c": f"{SECRET}-text"}, {"A": f"{SECRET}-environment"}
    )
    assert found.is_camera("a", f"{SECRET}-environment") and found.is_camera("b", f"{SECRET}-file")
    assert found.camera_of(f"{SECRET}-text") == "c" and found.cameras == ["a", "b", "c"]
    for camera, token in (("a", f"{SECRET}-file"), ("a", ""), ("", ""), ("d", f"{SECRET}-text"), ("a", "env:A")):
        assert not found.is_camera(camera, token)


@pytest.mark.parametrize(
    "text", ["env:NOT_THERE", "file:/not/there", "short", "", "a token with spaces in it", "ü" * 20]
)
def test_secrets_that_are_none(text):
    with pytest.raises(ConfigurationError, match=r"tokens\.cameras\.a"):
        tokens({"a": text}, {"OTHER": SECRET})


def test_who_may_look():
    assert tokens({}, {}).viewer_of(None) == "anybody"
    assert tokens({}, {}, host="0.0.0.0").viewer_of(None) is None
    assert tokens({"a": SECRET}, {}, host="0.0.0.0").viewer_of(SECRET) is None  # a camera is no viewer


@pytest.mark.parametrize(
    ("header", "token"),
    [(None, None), ("", None), ("Bearer", None), ("Bearer  ", None), ("Basic x", None), ("bearer x y", "x y")],
)
def test_bearer(header, token):
    assert bearer(header) == token


def test_check_opens_what_the_settings_name(tmp_path, capsys):
    """`--check` ends with one line, either way."""
    tiny = ROOT / "tests" / "golden" / "tiny"
    config = tmp_path / "server.toml"
    config.write_text(f'[decode]\nbundle = "{tiny}"\n[tokens.cameras]\ngate = "{SECRET}"\n')
    assert "1 camera(s)" in run(capsys, "serve", "--config", config, "--check")
    config.write_text(f'[decode]\nbundle = "{tiny}"\n[listen]\nhost = "0.0.0.0"\n[tokens.cameras]\ngate = "{SECRET}"\n')
    assert main(["serve", "--config", str(config), "--check"]) == 0
    assert "without a certificate tokens cross the network" in capsys.readouterr().err
    assert "no viewer has a token" not in capsys.readouterr().err
    config.write_text(f'[decode]\nbundle = "{tiny}"\n[tokens.cameras]\ngate = "{SECRET}"\n')
    assert main(["serve", "--config", str(config), "--check"]) == 0
    assert "no viewer has a token" in capsys.readouterr().err
    for file in ("server.pem", "server.key"):
        (tmp_path / file).write_text("no PEM")
    files = f'certificate = "{tmp_path / "server.pem"}"\nkey = "{tmp_path / "server.key"}"\n'
    config.write_text(f'[decode]\nbundle = "{tiny}"\n[listen]\n{files}')
    assert "no certificate and its key" in refusal(capsys, "serve", "--config", config, "--check")[1]
    config.write_text(f'[decode]\nbundle = "{tiny}"\nengine = "tensorrt"\n')
    assert "tensorrt" in refusal(capsys, "serve", "--config", config, "--check")[1]
    config.write_text('[decode]\nbundle = "no-such-bundle"\n')
    assert refusal(capsys, "serve", "--config", config)[0] == 1
    config.write_text(f'[decode]\nbundle = "{tiny}"\n[classifier]\nfile = "a"\nlabels = "b"\n')
    assert "labels" in refusal(capsys, "serve", "--config", config)[1]
    assert refusal(capsys, "serve", "--config", tmp_path / "none.toml")[0] == 2


def test_the_verb_is_listed_without_its_packages():
    """`cutoff --help` loads no web framework."""
    code = "import runtime.cli.main, sys; print(any(name in sys.modules for name in ('starlette', 'uvicorn', 'h11')))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
