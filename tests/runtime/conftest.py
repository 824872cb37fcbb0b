"""Fixtures of the core's tests: the golden folder, its generator's functions, and the tiny bundle."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from runtime import Codec
from runtime.entropy.tables import Tables

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """The folder of golden files."""
    return GOLDEN


@pytest.fixture(scope="session")
def make_golden() -> ModuleType:
    """The generator of the golden files, as a module."""
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_tables() -> Tables:
    """The tables of the tiny bundle."""
    return Tables.from_bytes((GOLDEN / "tiny" / "tables" / "entropy.npz").read_bytes())


@pytest.fixture(scope="session")
def tiny_codec() -> Iterator[Codec]:
    """The golden files' bundle, opened: hand-made networks that run in no time, the same for ever."""
    with Codec.open(GOLDEN / "tiny", threads=1) as opened:
        yield opened
