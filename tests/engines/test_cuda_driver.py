"""The driver through ctypes: against a library that is made of real C callbacks, and without one."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from engines import cuda_driver
from engines.cuda_driver import Context, Driver, open_driver
from engines.errors import EngineError


@pytest.fixture
def fake(doubles: Callable[[str], ModuleType]) -> Any:
    """A library with one GPU."""
    return doubles("cuda").FakeCuda()


@pytest.fixture
def context(fake: Any) -> Context:
    made = Context(Driver(fake))
    made.use()
    return made


def test_device_is_described(fake: Any) -> None:
    """What the driver says arrives unchanged."""
    device = Driver(fake).device()
    assert (device.name, device.capability, device.multiprocessors) == ("Orin (made up)", (8, 7), 14)
    assert (device.memory_bytes, device.integrated, device.driver) == (7 << 30, True, 12060)
    assert device.computes_fp16


def test_old_gpu_gains_nothing_from_fp16(doubles: Callable[[str], ModuleType]) -> None:
    """FP16 pays from compute capability 7.0 on."""
    assert not Driver(doubles("cuda").FakeCuda(capability=(6, 1))).device().computes_fp16


def test_data_goes_to_the_device_and_back(fake: Any, context: Context) -> None:
    """Nothing moves before the stream is waited for."""
    stream, buffer, other = context.stream(), context.buffer((2, 3)), context.buffer((2, 3))
    assert fake.is_memory(buffer.address, 24) and fake.is_memory(other.address, 24)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    buffer.host[...], other.host[...] = values, -1
    buffer.to_device(stream)
    stream.synchronize()
    buffer.host[...] = 0
    buffer.to_host(stream)
    assert (buffer.host == 0).all()
    stream.synchronize()
    assert (buffer.host == values).all() and (other.host == -1).all()
    for made in (buffer, other, stream):
        made.close()
    context.close()
    assert fake.live == set()


def test_captured_work_is_done_at_every_launch_and_not_before(fake: Any, context: Context) -> None:
    """A graph repeats copies with whatever the memory holds then."""
    stream, buffer = context.stream(), context.buffer((4,))
    done: list[int] = []
    graph = stream.capture(lambda: fake.enqueue(stream.number, lambda: done.append(1)))
    stream.synchronize()
    assert done == []
    for _ in range(3):
        graph.launch(stream)
        stream.synchronize()
    assert done == [1, 1, 1]
    for made in (graph, buffer, stream):
        made.close()
    context.close()
    assert fake.live == set()


def test_capture_that_fails_leaves_the_stream_usable(fake: Any, context: Context) -> None:
    """The error comes through, and nothing stays behind."""
    stream, buffer = context.stream(), context.buffer((4,))

    def fail() -> None:
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        stream.capture(fail)
    buffer.to_device(stream)
    stream.synchronize()
    fake.fail["cuGraphInstantiateWithFlags"] = 2
    with pytest.raises(EngineError, match="cuGraphInstantiateWithFlags failed: out of memory"):
        stream.capture(lambda: None)
    for made in (buffer, stream):
        made.close()
    context.close()
    assert fake.live == set()


def test_no_gpu_is_an_error(doubles: Callable[[str], ModuleType]) -> None:
    """A driver without a device is of no use."""
    with pytest.raises(EngineError, match="there is no NVIDIA GPU"):
        Driver(doubles("cuda").FakeCuda(devices=0))


def test_no_gpu_that_only_the_count_tells(fake: Any, doubles: Callable[[str], ModuleType]) -> None:
    """Some drivers start all the same."""
    empty = doubles("cuda").FakeCuda()
    empty.devices = 1
    library = type("Library", (), {name: getattr(empty, name) for name in cuda_driver._PROTOTYPES})()
    empty.fail["cuDeviceGetCount"] = 0  # succeeds, and leaves the number at zero
    with pytest.raises(EngineError, match="there is no NVIDIA GPU"):
        Driver(library)


def test_failures_name_function_and_reason(fake: Any, context: Context) -> None:
    """Too little memory on either side frees what was taken."""
    fake.fail["cuMemHostAlloc"] = 2
    with pytest.raises(EngineError, match=r"cuMemHostAlloc failed: out of memory \(CUDA error 2\)"):
        context.buffer((8,))
    context.close()
    assert fake.live == set()


def test_driver_that_is_too_old_is_refused(fake: Any) -> None:
    """A missing function is named."""
    functions = {name: getattr(fake, name) for name in cuda_driver._PROTOTYPES if name != "cuGraphLaunch"}
    with pytest.raises(EngineError, match="too old: it has no cuGraphLaunch"):
        Driver(type("Library", (), functions)())


def test_machine_without_a_driver_gets_an_error(no_gpu: None) -> None:
    """Not an OSError, and not a crash."""
    with pytest.raises(EngineError, match="there is no NVIDIA driver"):
        open_driver()


def test_driver_starts_once(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later calls return the same one."""
    monkeypatch.setattr(cuda_driver, "_opened", [])
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", lambda name: fake)
    assert open_driver() is open_driver()
    assert fake.calls.count("cuInit") == 1
