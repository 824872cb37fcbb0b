"""TOML files as frozen dataclasses: defaults live in code, a file overrides them, an unknown key is an error."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from runtime.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def load_settings(kind: type[T], path: Path) -> T:
    """Read the TOML file at *path* as dataclass *kind*.

    Tables become nested dataclasses. Integers are accepted where a float is asked for; nothing else is converted.

    Raises:
        ConfigurationError: the file cannot be read or is not TOML, or a key is unknown, missing or of the wrong type.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:  # also of numbers and nesting without end
        raise ConfigurationError(f"{path}: {fault}") from fault
    return settings_from_dict(kind, content, str(path))


def settings_from_dict(kind: type[T], content: dict[str, Any], where: str) -> T:
    """Build dataclass *kind* from nested dicts; *where* names the source in errors (see `load_settings`)."""
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in content.items():
        if key not in fields:
            raise ConfigurationError(
                f"{where}: unknown key {key!r} = {written(value)}; allowed: {', '.join(sorted(fields))}"
            )
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in content:
            raise ConfigurationError(f"{where}: missing key {name!r}")
    return kind(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in content.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        hint = next(choice for choice in typing.get_args(hint) if choice is not type(None))
        return _convert(hint, value, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return settings_from_dict(hint, value, where)  # type: ignore[arg-type]
    elif origin is tuple:
        if isinstance(value, list):
            item = typing.get_args(hint)[0]
            return tuple(_convert(item, element, f"{where}[{i}]") for i, element in enumerate(value))
    elif origin is dict:
        if isinstance(value, dict):
            item = typing.get_args(hint)[1]
            return value if item is Any else {k: _convert(item, v, f"{where}.{k}") for k, v in value.items()}
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            with suppress(OverflowError):  # an integer beyond all floats
                return float(value)
    elif hint in (str, Path) and isinstance(value, str):
        if "\0" in value:  # what takes paths, hosts and names raises all kinds of errors
            raise ConfigurationError(f"{where} holds a zero byte: {value!r}")
        return hint(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigurationError(f"{where} must be {getattr(hint, '__name__', hint)}, not {written(value)}")


def written(value: Any) -> str:
    """Return *value* as an error names it."""
    try:
        return repr(value)
    except ValueError:  # Python writes no integers of thousands of digits, which TOML may hold as hexadecimal ones
        return "a number of thousands of digits"
