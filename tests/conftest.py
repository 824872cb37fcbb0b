"""What many tests share: photographs, the shipped codec and a stream of it, a cache folder of their own, and doubles of
libraries that need a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pytest
from loading import module_at
from numpy.typing import NDArray

from engines import cuda_driver, onnxruntime_gpu, onnxruntime_session, tensorrt_api
from runtime.cli.samples import photographs as photographs_of_skimage
from runtime.codec import Codec

# Speed is never asserted: a busy machine may take as long as it likes for an example.
hypothesis.settings.register_profile("cutoff", deadline=None)
hypothesis.settings.load_profile("cutoff")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep measured costs out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTOFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photographs() -> dict[str, NDArray[np.uint8]]:
    """Photographs by name, uint8 (H, W, 3): astronaut, chelsea, coffee, motorcycle, rocket."""
    return photographs_of_skimage()


@pytest.fixture(scope="session")
def codec(own_cache: None) -> Iterator[Codec]:
    """The shipped bundle, opened: no test may depend on its exact values."""
    with Codec.open("dpict-edge", threads=2) as opened:
        yield opened


@pytest.fixture(scope="session")
def stream(codec: Codec, photographs: dict[str, NDArray[np.uint8]]) -> bytes:
    """The stream of `photographs["chelsea"]`, 451x300; its body has several frames."""
    return codec.encode(photographs["chelsea"]).stream


@pytest.fixture(scope="session")
def doubles() -> Callable[[str], ModuleType]:
    """Return a module of `doubles` by its name."""
    loaded: dict[str, ModuleType] = {}

    def get(name: str) -> ModuleType:
        if name not in loaded:
            loaded[name] = module_at(Path(__file__).parent / "doubles" / f"{name}.py")
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
def no_gpu(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has no NVIDIA driver."""
    monkeypatch.setattr(cuda_driver, "_opened", [])
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so.1")


@pytest.fixture
def tensorrt(gpu: Any, doubles: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Install a TensorRT of a version, with faults."""

    def install(version: str = "10.3.0", **options: Any) -> Any:
        module = doubles("tensorrt").make_tensorrt(version, gpu, **options)
        monkeypatch.setattr(tensorrt_api, "import_tensorrt", lambda: module)
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
