"""A TensorRT for tests, by generation: what it has, what it returns when it refuses, and a record of what it was asked.

Written by hand from NVIDIA's documentation of what exists in which version. Plans are the graph itself behind a line of
JSON; running one runs ONNX Runtime on the memory of the fake GPU, so that results are right or wrong for real.
"""

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from engines.manifest import GraphSpec
from engines.onnx_file import read_graph
from engines.onnxruntime_cpu import OnnxRuntimeCpu

GENERATIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
_MAGIC = b"plan "


class Record(list[tuple[str, Any]]):
    """What was called, in order, with what matters of it."""

    def of(self, name: str) -> list[Any]:
        return [value for called, value in self if called == name]


def make_tensorrt(version: str, cuda: Any, *, faults: Sequence[str] = ()) -> Any:
    """Return a module.

    Args:
        cuda: the FakeCuda on which it runs.
        faults: what goes wrong: "builder", "network", "parse", "profile", "build", "deserialize", "context", "runtime",
            "execute", "capture", "bits", "shape".
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    record = Record()

    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        def __init__(self) -> None:
            self.made = True

        def complain(self, text: str) -> None:
            assert self.made, "the base's __init__ was not called"
            self.log(ILogger.Severity.INFO, "not an error")  # type: ignore[attr-defined]
            self.log(ILogger.Severity.ERROR, text)  # type: ignore[attr-defined]

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class IProgressMonitor:
        def __init__(self) -> None:
            self.made = True

    modern = major > 10 or minor >= 13
    flags = ["STRONGLY_TYPED"] if major >= 11 else ["EXPLICIT_BATCH", "STRONGLY_TYPED"]
    if modern:
        flags += ["PREFER_AOT_PYTHON_PLUGINS", "PREFER_JIT_PYTHON_PLUGINS"]
    creation = enum.IntEnum("NetworkDefinitionCreationFlag", {name: place for place, name in enumerate(flags)})
    gone = [] if major >= 11 else ["FP16", "BF16", "INT8", "FP8", "OBEY_PRECISION_CONSTRAINTS"]
    kept = ["TF32", "REFIT", *(["EDITABLE_TIMING_CACHE", "STRICT_NANS"] if modern else [])]
    builder_flag = enum.IntEnum("BuilderFlag", {name: place for place, name in enumerate([*gone, *kept])})
    pools = enum.IntEnum("MemoryPoolType", {"WORKSPACE": 0, "TACTIC_DRAM": 1})
    modes = enum.IntEnum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})

    def host_memory(content: bytes) -> Any:
        return np.frombuffer(content, np.uint8)  # the buffer protocol, as the library's own type has it

    class TimingCache:
        def __init__(self, content: bytes) -> None:
            self.content = content

        def serialize(self) -> Any:
            return host_memory(self.content)

    class Config:
        def __init__(self) -> None:
            self.builder_optimization_level = 3
            self.flags = {builder_flag.TF32}  # type: ignore[attr-defined]
            self.profiles: list[Any] = []
            self.timing: TimingCache | None = None
            self.progress_monitor: Any = None

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            record.append(("workspace", (pool.name, pool_size)))

        def set_flag(self, flag: Any) -> None:
            raise AssertionError("no flag is to be set")

        def clear_flag(self, flag: Any) -> None:
            self.flags.discard(flag)

        def add_optimization_profile(self, profile: Any) -> int:
            if "profile" in faults:
                log.complain("bad profile")
                return -1
            self.profiles.append(profile.shapes)
            return len(self.profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
            return TimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            assert ignore_mismatch is False
            fits = cache.content == b"" or cache.content.startswith(f"timing {version}".encode())
            record.append(("timing cache", cache.content if fits else None))
            self.timing = cache if fits else self.timing
            return fits

        def get_timing_cache(self) -> TimingCache | None:
            return self.timing

    class Profile:
        def __init__(self) -> None:
            self.shapes: dict[str, tuple[list[int], list[int], list[int]]] = {}

        def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
            for sizes in (min, opt, max):
                assert isinstance(sizes, list) and all(type(size) is int for size in sizes)  # Dims takes nothing else
            self.shapes[input] = (min, opt, max)  # type: ignore[assignment]

    class Network:
        def __init__(self, flags: int) -> None:
            self.strongly_typed = bool(flags >> creation.STRONGLY_TYPED & 1)  # type: ignore[attr-defined]
            self.model = b""
            self.inputs: list[str] = []
            self.outputs: list[str] = []

        @property
        def num_inputs(self) -> int:
            return len(self.inputs)

        @property
        def num_outputs(self) -> int:
            return len(self.outputs)

        def get_input(self, index: int) -> Any:
            return SimpleNamespace(name=self.inputs[index])

        def get_output(self, index: int) -> Any:
            return SimpleNamespace(name=self.outputs[index])

    log: Any = None
    runtime_log: Any = None

    class Builder:
        def __init__(self, logger: Any) -> None:
            nonlocal log
            log = logger
            if "builder" in faults:
                log.complain("CUDA initialization failure with error: 35")

        def create_network(self, flags: int) -> Network | None:
            record.append(("network", flags))
            return None if "network" in faults else Network(flags)

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> Any:
            if "build" in faults:
                log.complain("could not find any implementation")
                return None
            assert network.strongly_typed
            if config.progress_monitor is not None:
                assert config.progress_monitor.made
                config.progress_monitor.phase_start("Building", None, 2)
                assert config.progress_monitor.step_complete("Building", 0) is True
                assert config.progress_monitor.step_complete("Building", 1) is True
                config.progress_monitor.phase_finish("Building")
            tf32 = builder_flag.TF32 in config.flags  # type: ignore[attr-defined]
            record.append(("build", {"tf32": tf32, "profiles": config.profiles}))
            config.timing = TimingCache(f"timing {version}".encode())
            head = {"version": version, "profile": config.profiles[0], "in": network.inputs, "out": network.outputs}
            return host_memory(_MAGIC + json.dumps(head).encode() + b"\n" + network.model)

    if major < 11:
        Builder.platform_has_fast_fp16 = True  # type: ignore[attr-defined]

    class OnnxParser:
        def __init__(self, network: Network, logger: Any) -> None:
            self._network = network
            self.num_errors = 0

        def parse(self, model: bytes) -> bool:
            if "parse" in faults:
                self.num_errors = 1
                return False
            graph = read_graph(model)
            self._network.model = bytes(model)
            self._network.inputs = [port.name for port in graph.inputs]
            self._network.outputs = [port.name for port in graph.outputs]
            return True

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: "unsupported operator Banana")

    class Context:
        def __init__(self, head: dict[str, Any], engine: OnnxRuntimeCpu) -> None:
            self._head, self._engine = head, engine
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}
            self._warm: tuple[Any, ...] | None = None

        def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
            low, _, high = self._head["profile"][name]
            fits = all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
            if fits:
                self._shapes[name] = tuple(shape)
            return fits and "shape" not in faults

        def infer_shapes(self) -> list[str]:
            missing = [name for name in self._head["in"] if name not in self._shapes]
            if not missing:
                zeros = [np.zeros(self._shapes[name], np.float32) for name in self._head["in"]]
                results = self._engine.run(*zeros)
                self._shapes |= {n: r.shape for n, r in zip(self._head["out"], results, strict=True)}
            return missing

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self._shapes.get(name, (-1, -1, -1, -1))

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if not cuda.is_memory(memory, 4 * int(np.prod(self._shapes[name]))):
                return False
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert cuda.current == 0x77, "the context is not current"
            names = (*self._head["in"], *self._head["out"])
            capturing = stream_handle in cuda._capturing
            if "execute" in faults or set(names) - set(self._addresses):
                runtime_log.complain("enqueueV3: illegal memory access")
                return False
            state = tuple(sorted(self._addresses.items()))
            if capturing and ("capture" in faults or self._warm != state):
                runtime_log.complain("operation not permitted when stream is capturing")
                return False
            self._warm = state
            cuda.enqueue(stream_handle, self._run)
            return True

        def _run(self) -> None:
            inputs = [self._view(name).copy() for name in self._head["in"]]
            for name, value in zip(self._head["out"], self._engine.run(*inputs), strict=True):
                self._view(name)[...] = value + (1 if "bits" in faults else 0)

        def _view(self, name: str) -> Any:
            shape = self._shapes[name]
            memory = (ctypes.c_float * int(np.prod(shape))).from_address(self._addresses[name])
            return np.frombuffer(memory, np.float32).reshape(shape)  # type: ignore[call-overload]

    class Engine:
        def __init__(self, head: dict[str, Any], model: bytes) -> None:
            spec = GraphSpec("plan", "", False, tuple(head["in"]), tuple(head["out"]), None)
            self._head, self._engine = head, OnnxRuntimeCpu(model, spec, 1)
            self._names = [*head["in"], *head["out"]]
            self.num_io_tensors = len(self._names)

        def get_tensor_name(self, index: int) -> str:
            return str(self._names[index])

        def get_tensor_mode(self, name: str) -> Any:
            return modes.INPUT if name in self._head["in"] else modes.OUTPUT  # type: ignore[attr-defined]

        def get_tensor_dtype(self, name: str) -> str:
            return "float32"

        def create_execution_context(self) -> Context | None:
            return None if "context" in faults else Context(self._head, self._engine)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            nonlocal runtime_log
            runtime_log = logger
            if "runtime" in faults:
                runtime_log.complain("CUDA initialization failure with error: 35")

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
            assert "runtime" not in faults, "a real one would have crashed the process"
            head, _, model = bytes(serialized_engine).removeprefix(_MAGIC).partition(b"\n")
            if "deserialize" in faults or json.loads(head)["version"] != version:
                runtime_log.complain("the engine plan file is not compatible with this version of TensorRT")
                return None
            record.append(("load", json.loads(head)["profile"]))
            return Engine(json.loads(head), model)

    shared: dict[str, Any] = {
        "__version__": version,
        "record": record,
        "ILogger": ILogger,
        "IProgressMonitor": IProgressMonitor,
        "Builder": Builder,
        "OnnxParser": OnnxParser,
        "Runtime": Runtime,
        "NetworkDefinitionCreationFlag": creation,
        "BuilderFlag": builder_flag,
        "MemoryPoolType": pools,
        "TensorIOMode": modes,
        "float32": "float32",
    }
    if modern:
        shared["TilingOptimizationLevel"] = enum.Enum("TilingOptimizationLevel", ["NONE", "FAST"])
    return SimpleNamespace(**shared)
