"""Fixtures of fault tests: programs in a folder of the test's own, killed at its end."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from plant import Plant

PACKAGES = ("cv2", "prometheus_client", "starlette", "uvicorn", "websockets")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def pytest_pycollect_makemodule() -> None:
    """Skip this folder where client or server cannot be imported: a conftest's own import may not skip."""
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)}: not installed (extras: edge, serve)", allow_module_level=True)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """Where programs of a test are made."""
    one = Plant(tmp_path)
    try:
        yield one
    finally:
        one.kill_all()
