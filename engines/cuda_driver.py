"""NVIDIA's driver through ctypes: devices, memory, streams, captured graphs; no other package is needed.

The functions are those of `libcuda.so.1`, which comes with the driver and so always matches it. The primary context is
used, as TensorRT uses it. Nothing is loaded before `open_driver`; without a driver, or without a GPU, that is
an error of ours and never a crash.

It has not run on hardware yet; tests hold it against a library made for them.

Source: CUDA Driver API (docs.nvidia.com/cuda/cuda-driver-api), versions 11.4 to 13.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_ulonglong, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineError

LIBRARY = "libcuda.so.1"
_SUCCESS, _NO_DEVICE = 0, 100
_NAME_BYTES = 256
# CUdevice_attribute
_MULTIPROCESSORS, _INTEGRATED, _CAPABILITY_MAJOR, _CAPABILITY_MINOR = 16, 18, 75, 76
_NON_BLOCKING_STREAM = 1
_CAPTURE_THREAD_LOCAL = 1  # other threads may go on using CUDA meanwhile

_HANDLE, _ADDRESS = c_void_p, c_uint64
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDeviceTotalMem_v2": (POINTER(c_size_t), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(_HANDLE), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (_HANDLE,),
    "cuMemAlloc_v2": (POINTER(_ADDRESS), c_size_t),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, c_void_p, c_size_t, _HANDLE),
    "cuMemcpyDtoHAsync_v2": (c_void_p, _ADDRESS, c_size_t, _HANDLE),
    "cuStreamCreate": (POINTER(_HANDLE), c_uint),
    "cuStreamDestroy_v2": (_HANDLE,),
    "cuStreamSynchronize": (_HANDLE,),
    "cuStreamBeginCapture_v2": (_HANDLE, c_int),
    "cuStreamEndCapture": (_HANDLE, POINTER(_HANDLE)),
    "cuGraphInstantiateWithFlags": (POINTER(_HANDLE), _HANDLE, c_ulonglong),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGraphDestroy": (_HANDLE,),
}


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        driver: version of CUDA that the driver supports, as 1000 * major + 10 * minor.
        integrated: it shares memory with the CPU, as on Jetson.
    """

    index: int
    name: str
    capability: tuple[int, int]
    multiprocessors: int
    memory_bytes: int
    integrated: bool
    driver: int

    @property
    def computes_fp16(self) -> bool:
        """True if FP16 is faster than FP32: tensor cores, since compute capability 7.0."""
        return self.capability >= (7, 0)


class Driver:
    """The driver's functions; every failure is an `EngineError` that names the function."""

    def __init__(self, library: Any) -> None:
        """Start the driver of *library*.

        Raises:
            EngineError: a function is missing, the driver does not start, or there is no GPU.
        """
        self._functions: dict[str, Callable[..., int]] = {}
        for name, arguments in _PROTOTYPES.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise EngineError(f"the NVIDIA driver is too old: it has no {name}") from None
            function.argtypes, function.restype = arguments, c_int
            self._functions[name] = function
        self.call("cuInit", 0)
        count = c_int()
        self.call("cuDeviceGetCount", byref(count))
        if count.value < 1:
            raise EngineError("there is no NVIDIA GPU")
        self.devices = count.value

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            EngineError: it failed.
        """
        status = self._functions[name](*arguments)
        if status == _NO_DEVICE:
            raise EngineError("there is no NVIDIA GPU")
        if status != _SUCCESS:
            raise EngineError(f"{name} failed: {self._described(status)}")

    def device(self, index: int = 0) -> Device:
        """Return what GPU *index* is."""
        handle, version, memory = c_int(), c_int(), c_size_t()
        name = ctypes.create_string_buffer(_NAME_BYTES)
        self.call("cuDeviceGet", byref(handle), index)
        self.call("cuDriverGetVersion", byref(version))
        self.call("cuDeviceGetName", name, _NAME_BYTES, handle)
        self.call("cuDeviceTotalMem_v2", byref(memory), handle)
        return Device(
            index=index,
            name=name.value.decode("utf-8", "replace"),
            capability=(self._attribute(_CAPABILITY_MAJOR, handle), self._attribute(_CAPABILITY_MINOR, handle)),
            multiprocessors=self._attribute(_MULTIPROCESSORS, handle),
            memory_bytes=memory.value,
            integrated=bool(self._attribute(_INTEGRATED, handle)),
            driver=version.value,
        )

    def _attribute(self, attribute: int, handle: c_int) -> int:
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), attribute, handle)
        return value.value

    def _described(self, status: int) -> str:
        text = c_char_p()
        self._functions["cuGetErrorString"](status, byref(text))
        return f"{text.value.decode('utf-8', 'replace') if text.value else 'unknown error'} (CUDA error {status})"


_opened: list[Driver] = []


def open_driver() -> Driver:
    """Return the driver, started once per process.

    Raises:
        EngineError: there is none, it does not start, or it has no GPU.
    """
    if not _opened:
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as fault:
            raise EngineError(f"there is no NVIDIA driver: {fault}") from fault
        _opened.append(Driver(library))
    return _opened[0]


class Context:
    """The primary context of a GPU, and what is made in it. A thread calls `use` before anything else."""

    def __init__(self, driver: Driver, index: int = 0) -> None:
        """Retain the context.

        Raises:
            EngineError: the driver refuses.
        """
        self._driver, self._device, self._handle = driver, c_int(), _HANDLE()
        driver.call("cuDeviceGet", byref(self._device), index)
        driver.call("cuDevicePrimaryCtxRetain", byref(self._handle), self._device)

    def use(self) -> None:
        """Make this the calling thread's context."""
        self._driver.call("cuCtxSetCurrent", self._handle)

    def close(self) -> None:
        """Release the context; everything made in it is closed before."""
        self._driver.call("cuDevicePrimaryCtxRelease_v2", self._device)

    def stream(self) -> Stream:
        """Return a new stream."""
        handle = _HANDLE()
        self._driver.call("cuStreamCreate", byref(handle), _NON_BLOCKING_STREAM)
        return Stream(self._driver, handle)

    def buffer(self, shape: tuple[int, ...]) -> Buffer:
        """Return float32 memory of *shape* on both sides."""
        return Buffer(self._driver, shape)


class Buffer:
    """A float32 tensor on the device and its place in pinned host memory.

    Attributes:
        host: float32 array over the pinned memory; not to be used after `close`.
        address: on the device.
    """

    host: NDArray[np.float32]

    def __init__(self, driver: Driver, shape: tuple[int, ...]) -> None:
        """Allocate; see `Context.buffer`.

        Raises:
            EngineError: there is not enough memory.
        """
        self._driver = driver
        self._bytes = 4 * int(np.prod(shape))
        device, self._pinned = _ADDRESS(), c_void_p()
        driver.call("cuMemAlloc_v2", byref(device), self._bytes)
        self.address = int(device.value)
        try:
            driver.call("cuMemHostAlloc", byref(self._pinned), self._bytes, 0)
        except EngineError:
            driver.call("cuMemFree_v2", self.address)
            raise
        memory = (ctypes.c_float * (self._bytes // 4)).from_address(self._pinned.value or 0)
        self.host = np.frombuffer(memoryview(memory), np.float32).reshape(shape)

    def to_device(self, stream: Stream) -> None:
        """Queue the copy from host to device."""
        self._driver.call("cuMemcpyHtoDAsync_v2", self.address, self._pinned, self._bytes, stream.handle)

    def to_host(self, stream: Stream) -> None:
        """Queue the copy from device to host."""
        self._driver.call("cuMemcpyDtoHAsync_v2", self._pinned, self.address, self._bytes, stream.handle)

    def close(self) -> None:
        """Free both."""
        del self.host
        self._driver.call("cuMemFreeHost", self._pinned)
        self._driver.call("cuMemFree_v2", self.address)


class Stream:
    """A queue of work on the device."""

    def __init__(self, driver: Driver, handle: c_void_p) -> None:
        """Wrap *handle*; see `Context.stream`."""
        self._driver, self.handle = driver, handle

    @property
    def number(self) -> int:
        """The handle as other libraries take it."""
        return int(self.handle.value or 0)

    def synchronize(self) -> None:
        """Wait until all work is done.

        Raises:
            EngineError: some of it failed.
        """
        self._driver.call("cuStreamSynchronize", self.handle)

    def capture(self, work: Callable[[], None]) -> Graph:
        """Return what *work* queues as a graph that can be launched again and again; nothing is done yet.

        Raises:
            EngineError: something in *work* cannot be captured; the stream can be used all the same.
        """
        self._driver.call("cuStreamBeginCapture_v2", self.handle, _CAPTURE_THREAD_LOCAL)
        graph = _HANDLE()
        try:
            work()
        except BaseException:
            self._abandon(graph)
            raise
        self._driver.call("cuStreamEndCapture", self.handle, byref(graph))
        executable = _HANDLE()
        try:
            self._driver.call("cuGraphInstantiateWithFlags", byref(executable), graph, 0)
        finally:
            self._driver.call("cuGraphDestroy", graph)
        return Graph(self._driver, executable)

    def close(self) -> None:
        """Free the stream."""
        self._driver.call("cuStreamDestroy_v2", self.handle)

    def _abandon(self, graph: c_void_p) -> None:
        try:
            self._driver.call("cuStreamEndCapture", self.handle, byref(graph))
        except EngineError:
            return  # a capture that failed ends with an error and leaves no graph
        if graph.value:
            self._driver.call("cuGraphDestroy", graph)


class Graph:
    """Captured work."""

    def __init__(self, driver: Driver, handle: c_void_p) -> None:
        """Wrap *handle*; see `Stream.capture`."""
        self._driver, self._handle = driver, handle

    def launch(self, stream: Stream) -> None:
        """Queue the work."""
        self._driver.call("cuGraphLaunch", self._handle, stream.handle)

    def close(self) -> None:
        """Free the graph."""
        self._driver.call("cuGraphExecDestroy", self._handle)
