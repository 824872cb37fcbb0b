"""Fixtures of the tests of engines: small ONNX files made byte by byte, and doubles of libraries that need a GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engines import backends, cuda_driver, onnxruntime_gpu, onnxruntime_session, tensorrt_api

HERE = Path(__file__).parent


def load(path: Path) -> ModuleType:
    """Import a file beside the tests, which are no packages."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def writer() -> ModuleType:
    """The module that writes ONNX files, `onnx_writer.py`."""
    return load(HERE / "onnx_writer.py")


@pytest.fixture(scope="session")
def doubles() -> Callable[[str], ModuleType]:
    """Return a module of `doubles` by its name."""
    loaded: dict[str, ModuleType] = {}

    def get(name: str) -> ModuleType:
        if name not in loaded:
            loaded[name] = load(HERE / "doubles" / f"{name}.py")
        return loaded[name]

    return get


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CUTOFF_CACHE", str(folder))
    return folder


@pytest.fixture
def gpu(doubles: Callable[[str], ModuleType], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU that is made up, as the one of this process."""
    fake = doubles("cuda").FakeCuda()
    monkeypatch.setattr(cuda_driver, "_opened", [cuda_driver.Driver(fake)])
    return fake


@pytest.fixture
def tensorrt(gpu: Any, doubles: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Install a TensorRT of a version, with faults."""

    def install(version: str = "10.3.0", **options: Any) -> Any:
        module = doubles("tensorrt").make_tensorrt(version, gpu, **options)
        for place in (tensorrt_api, backends):
            monkeypatch.setattr(place, "import_tensorrt", lambda: module)
        return module

    return install


@pytest.fixture
def onnxruntime(gpu: Any, doubles: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Install an ONNX Runtime with providers for GPUs."""

    def install(*arguments: Any, **options: Any) -> Any:
        module = doubles("onnxruntime").make_onnxruntime(*arguments, **options)
        for place in (onnxruntime_session, onnxruntime_gpu):
            monkeypatch.setattr(place, "import_onnxruntime", lambda: module)
        return module

    return install
