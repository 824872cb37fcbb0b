"""Fixtures of the tests of engines: small ONNX files made byte by byte."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def writer() -> ModuleType:
    """The module that writes ONNX files, `onnx_writer.py`."""
    spec = importlib.util.spec_from_file_location("onnx_writer", Path(__file__).parent / "onnx_writer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
