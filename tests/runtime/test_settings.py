"""Settings files: defaults, overrides, and errors that name file, key, value and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ConfigurationError
from runtime.settings import load_settings, settings_from_dict


@dataclass(frozen=True)
class Inner:
    """A nested table."""

    weight: float = 1.0
    label: str = "none"


@dataclass(frozen=True)
class Outer:
    """All kinds of fields."""

    name: str
    count: int = 3
    rate: float = 0.5
    on: bool = False
    where: Path = Path(".")
    limit: int | None = None
    sizes: tuple[int, ...] = (1, 2)
    inner: Inner = Inner()
    stages: dict[str, Inner] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)


def loaded(tmp_path: Path, text: str) -> Outer:
    file = tmp_path / "settings.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(Outer, file)


def test_defaults_hold_where_the_file_says_nothing(tmp_path: Path) -> None:
    """Only required keys need to stand in the file."""
    assert loaded(tmp_path, 'name = "x"') == Outer(name="x")


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    """Values, nested tables and tables by name reach their fields as the types that these have."""
    text = """
        name = "näme"
        count = -7
        rate = 2
        on = true
        where = "some/folder"
        limit = 9
        sizes = [4, 5, 6]
        inner = { weight = 0.25 }
        free = { anything = [1, "two"] }
        [stages.first]
        label = "one"
        [stages.second]
        weight = 3
    """
    settings = loaded(tmp_path, text)
    assert settings == Outer(
        name="näme",
        count=-7,
        rate=2.0,
        on=True,
        where=Path("some/folder"),
        limit=9,
        sizes=(4, 5, 6),
        inner=Inner(weight=0.25),
        stages={"first": Inner(label="one"), "second": Inner(weight=3.0)},
        free={"anything": [1, "two"]},
    )
    assert isinstance(settings.rate, float) and isinstance(settings.stages["second"].weight, float)


def test_unknown_key_is_refused_with_the_allowed_ones(tmp_path: Path) -> None:
    """A misspelt key is not ignored."""
    with pytest.raises(ConfigurationError, match=r"settings\.toml: unknown key 'cuont' = 5; allowed: count, free,"):
        loaded(tmp_path, 'name = "x"\ncuont = 5')


def test_unknown_nested_key_is_refused_with_its_place(tmp_path: Path) -> None:
    """The error says in which table the key stands."""
    with pytest.raises(ConfigurationError, match=r"stages\.a: unknown key 'wieght'.*allowed: label, weight"):
        loaded(tmp_path, 'name = "x"\n[stages.a]\nwieght = 1')


def test_text_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    """No path, host or name holds one, and what takes them raises all kinds of errors."""
    with pytest.raises(ConfigurationError, match=r"settings\.toml: name holds a zero byte: 'a\\x00b'"):
        loaded(tmp_path, 'name = "a\\u0000b"')


def test_missing_key_is_refused(tmp_path: Path) -> None:
    """What has no default must be given."""
    with pytest.raises(ConfigurationError, match=r"settings\.toml: missing key 'name'"):
        loaded(tmp_path, "count = 1")


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ('count = "3"', "count must be int"),
        ("count = 3.0", "count must be int"),
        ("count = true", "count must be int"),
        ('rate = "fast"', "rate must be float"),
        ("rate = 1" + "0" * 400, "rate must be float, not 1000"),
        ("rate = 0x1" + "0" * 5000, "rate must be float, not a number of thousands of digits"),
        ("where = 0x1" + "0" * 5000, "where must be Path, not a number of thousands of digits"),
        ("rate = true", "rate must be float"),
        ("on = 1", "on must be bool"),
        ("where = 1", "where must be Path"),
        ("limit = 1.5", "limit must be int"),
        ("sizes = 4", "sizes must be "),
        ('sizes = [1, "2"]', r"sizes\[1\] must be int"),
        ("inner = 1", "inner must be Inner"),
        ("stages = 1", "stages must be "),
        ("stages = { a = 1 }", r"stages\.a must be Inner"),
        ("name = 1", "name must be str"),
    ],
)
def test_value_of_another_type_is_refused(tmp_path: Path, line: str, where: str) -> None:
    """Nothing is converted but integers to floats; the error names key, type and value."""
    name = "" if line.startswith("name") else 'name = "x"\n'
    with pytest.raises(ConfigurationError, match=where):
        loaded(tmp_path, name + line)


@pytest.mark.parametrize(
    "content",
    [
        b"name = ",
        b"name = \xff",
        b"name = 'x'\nname = 'y'",
        b"name = 'x'\ncount = " + b"9" * 5000,
        b"name = " + b"[" * 5000,
    ],
)
def test_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    """The error names the file."""
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"broken\.toml"):
        load_settings(Outer, file)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there is an error of the call."""
    with pytest.raises(ConfigurationError, match=r"absent\.toml") as caught:
        load_settings(Outer, tmp_path / "absent.toml")
    assert caught.value.exit_status == 2


def test_dict_names_its_source_in_errors() -> None:
    """Settings from elsewhere than a file say where they are from."""
    assert settings_from_dict(Inner, {"weight": 2}, "flags") == Inner(weight=2.0)
    with pytest.raises(ConfigurationError, match="flags: unknown key 'x' = 1"):
        settings_from_dict(Inner, {"x": 1}, "flags")
