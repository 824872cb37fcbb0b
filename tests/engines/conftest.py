"""Fixtures of the tests of engines: small ONNX files made byte by byte."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from loading import module_at


@pytest.fixture(scope="session")
def writer() -> ModuleType:
    """The module that writes ONNX files, `onnx_writer.py`."""
    return module_at(Path(__file__).parent / "onnx_writer.py")
