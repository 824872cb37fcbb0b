"""Fixtures of fault tests: programs in a folder of the test's own, killed at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from plant import Plant

for package in ("cv2", "starlette", "uvicorn", "websockets", "prometheus_client"):
    pytest.importorskip(package, reason=f"{package} is not installed (extras: edge, serve)")


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """Where programs of a test are made."""
    one = Plant(tmp_path)
    try:
        yield one
    finally:
        one.kill_all()
