"""A libcuda for tests: a GPU whose memory is the host's and whose streams work only when they are waited for.

Every function is a C callback with the signature of NVIDIA's documentation, so that calls go through ctypes'
conversions as they would to the real library.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_ulonglong, c_void_p
from typing import Any

INVALID, OUT_OF_MEMORY, NO_DEVICE, NOT_PERMITTED, INVALIDATED = 1, 2, 100, 800, 901
Work = Callable[[], None]


class FakeCuda:
    """The library, and what a test wants to know of it.

    Attributes:
        live: what was made and not freed, as (kind, handle).
        calls: names of the functions that were called.
        fail: function name -> status that it returns instead of working.
    """

    def __init__(self, devices: int = 1, capability: tuple[int, int] = (8, 7), name: str = "Orin (made up)") -> None:
        self.devices, self.capability, self.name = devices, capability, name
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}
        self.live: set[tuple[str, int]] = set()
        self.launches = 0
        self._memory: dict[int, Any] = {}
        self._queues: dict[int, list[Work]] = {}
        self._capturing: dict[int, list[Work]] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._next = 0x1000
        self._kept: list[Any] = []
        self.current: int | None = None
        self._define()

    def enqueue(self, stream: int, work: Work) -> None:
        """Queue work of another library."""
        self._capturing.get(stream, self._queues[stream]).append(work)

    def is_memory(self, address: int, size: int) -> bool:
        """True if *size* bytes at *address* are device memory."""
        return any(a <= address and address + size <= a + len(b) for a, b in self._memory.items())

    def _new(self, kind: str) -> int:
        self._next += 16
        self.live.add((kind, self._next))
        return self._next

    def _free(self, kind: str, handle: int) -> int:
        if (kind, handle) not in self.live:
            return INVALID
        self.live.remove((kind, handle))
        return 0

    def _function(self, name: str, *arguments: Any) -> Callable[[Callable[..., int]], None]:
        def define(body: Callable[..., int]) -> None:
            def called(*values: Any) -> int:
                self.calls.append(name)
                return self.fail[name] if name in self.fail else body(*values)

            callback = CFUNCTYPE(c_int, *arguments)(called)
            self._kept.append(callback)
            setattr(self, name, callback)

        return define

    def _define(self) -> None:  # noqa: PLR0915 - one statement for every function
        function = self._function
        out_int, out_handle = POINTER(c_int), POINTER(c_void_p)

        @function("cuInit", c_uint)
        def _(flags: int) -> int:
            return 0 if self.devices else NO_DEVICE

        @function("cuDriverGetVersion", out_int)
        def _(version: Any) -> int:
            version[0] = 12060
            return 0

        @function("cuGetErrorString", c_int, POINTER(c_char_p))
        def _(status: int, text: Any) -> int:
            text[0] = {OUT_OF_MEMORY: b"out of memory"}.get(status, b"something else")
            return 0

        @function("cuDeviceGetCount", out_int)
        def _(count: Any) -> int:
            count[0] = self.devices
            return 0

        @function("cuDeviceGet", out_int, c_int)
        def _(device: Any, ordinal: int) -> int:
            if ordinal >= self.devices:
                return INVALID
            device[0] = ordinal
            return 0

        @function("cuDeviceGetName", c_void_p, c_int, c_int)
        def _(text: int, length: int, device: int) -> int:
            content = self.name.encode() + b"\0"
            assert len(content) <= length
            ctypes.memmove(text, content, len(content))
            return 0

        @function("cuDeviceGetAttribute", out_int, c_int, c_int)
        def _(value: Any, attribute: int, device: int) -> int:
            value[0] = {16: 14, 18: 1, 75: self.capability[0], 76: self.capability[1]}[attribute]
            return 0

        @function("cuDeviceTotalMem_v2", POINTER(c_size_t), c_int)
        def _(size: Any, device: int) -> int:
            size[0] = 7 << 30
            return 0

        @function("cuDevicePrimaryCtxRetain", out_handle, c_int)
        def _(context: Any, device: int) -> int:
            context[0] = 0x77
            self.live.add(("context", len([1 for kind, _ in self.live if kind == "context"])))
            return 0

        @function("cuDevicePrimaryCtxRelease_v2", c_int)
        def _(device: int) -> int:
            held = max((handle for kind, handle in self.live if kind == "context"), default=-1)
            return self._free("context", held)

        @function("cuCtxSetCurrent", c_void_p)
        def _(context: int) -> int:
            self.current = context
            return 0

        @function("cuMemAlloc_v2", POINTER(c_uint64), c_size_t)
        def _(address: Any, size: int) -> int:
            block = ctypes.create_string_buffer(size)
            address[0] = ctypes.addressof(block)
            self._memory[ctypes.addressof(block)] = block
            self.live.add(("device memory", ctypes.addressof(block)))
            return 0

        @function("cuMemFree_v2", c_uint64)
        def _(address: int) -> int:
            self._memory.pop(address, None)
            return self._free("device memory", address)

        @function("cuMemHostAlloc", out_handle, c_size_t, c_uint)
        def _(address: Any, size: int, flags: int) -> int:
            block = ctypes.create_string_buffer(size)
            self._kept.append(block)
            address[0] = ctypes.addressof(block)
            self.live.add(("host memory", ctypes.addressof(block)))
            return 0

        @function("cuMemFreeHost", c_void_p)
        def _(address: int) -> int:
            return self._free("host memory", address)

        @function("cuMemcpyHtoDAsync_v2", c_uint64, c_void_p, c_size_t, c_void_p)
        def _(target: int, source: int, size: int, stream: int) -> int:
            return self._copy(target, source, size, stream, device=target)

        @function("cuMemcpyDtoHAsync_v2", c_void_p, c_uint64, c_size_t, c_void_p)
        def _(target: int, source: int, size: int, stream: int) -> int:
            return self._copy(target, source, size, stream, device=source)

        @function("cuStreamCreate", out_handle, c_uint)
        def _(stream: Any, flags: int) -> int:
            stream[0] = handle = self._new("stream")
            self._queues[handle] = []
            return 0

        @function("cuStreamDestroy_v2", c_void_p)
        def _(stream: int) -> int:
            return self._free("stream", stream)

        @function("cuStreamSynchronize", c_void_p)
        def _(stream: int) -> int:
            if stream in self._capturing:
                return NOT_PERMITTED
            queue, self._queues[stream] = self._queues[stream], []
            for work in queue:
                work()
            return 0

        @function("cuStreamBeginCapture_v2", c_void_p, c_int)
        def _(stream: int, mode: int) -> int:
            if stream in self._capturing:
                return INVALID
            self._capturing[stream] = []
            return 0

        @function("cuStreamEndCapture", c_void_p, out_handle)
        def _(stream: int, graph: Any) -> int:
            graph[0] = handle = self._new("graph")
            self._graphs[handle] = self._capturing.pop(stream)
            return 0

        @function("cuGraphInstantiateWithFlags", out_handle, c_void_p, c_ulonglong)
        def _(executable: Any, graph: int, flags: int) -> int:
            executable[0] = handle = self._new("executable graph")
            self._graphs[handle] = self._graphs[graph]
            return 0

        @function("cuGraphLaunch", c_void_p, c_void_p)
        def _(executable: int, stream: int) -> int:
            self.launches += 1
            for work in self._graphs[executable]:
                self.enqueue(stream, work)
            return 0

        @function("cuGraphExecDestroy", c_void_p)
        def _(executable: int) -> int:
            return self._free("executable graph", executable)

        @function("cuGraphDestroy", c_void_p)
        def _(graph: int) -> int:
            return self._free("graph", graph)

    def _copy(self, target: int, source: int, size: int, stream: int, device: int) -> int:
        if not self.is_memory(device, size) or stream not in self._queues:
            return INVALID
        self.enqueue(stream, lambda: ctypes.memmove(target, source, size) and None)
        return 0
