"""TensorRT's Python interface, as much of it as is used, and how to get hold of it without a crash.

The protocols below are written by hand from NVIDIA's documentation and checked by mypy. They name only what versions
10.3 (JetPack 6) to 11.4 have alike; what exists in some versions only is asked for by `member`. Calls that report
failure by None, False or a logged error are the rule: every result is looked at.

Version 8 has no strongly typed networks and is refused.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

from engines.cuda_driver import open_driver
from engines.errors import CutoffError, EngineError

MODULE = "tensorrt"
OLDEST = 10
_MOST_ERRORS = 8


class HostMemory(Protocol):
    """IHostMemory: bytes in host memory, through the buffer protocol."""

    nbytes: int


class TimingCache(Protocol):
    """ITimingCache."""

    def serialize(self) -> HostMemory | None:
        """Return its bytes."""


class OptimizationProfile(Protocol):
    """IOptimizationProfile."""

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        """Allow sizes of an input."""


class NetworkTensor(Protocol):
    """ITensor."""

    name: str


class Network(Protocol):
    """INetworkDefinition."""

    num_inputs: int
    num_outputs: int

    def get_input(self, index: int) -> NetworkTensor:
        """Return an input."""

    def get_output(self, index: int) -> NetworkTensor:
        """Return an output."""


class BuilderConfig(Protocol):
    """IBuilderConfig."""

    builder_optimization_level: int

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """Limit memory."""

    def clear_flag(self, flag: Any) -> None:
        """Switch something off."""

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        """Add a profile; -1 if it is not valid."""

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
        """Read a timing cache; empty bytes make a new one."""

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        """Use a timing cache; False if it is of another machine or version."""

    def get_timing_cache(self) -> TimingCache | None:
        """Return the timing cache in use."""


class Builder(Protocol):
    """IBuilder."""

    def create_network(self, flags: int) -> Network | None:
        """Return an empty network."""

    def create_builder_config(self) -> BuilderConfig | None:
        """Return settings."""

    def create_optimization_profile(self) -> OptimizationProfile | None:
        """Return an empty profile."""

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> HostMemory | None:
        """Build a plan; None if that failed."""


class ParserError(Protocol):
    """IParserError."""

    def desc(self) -> str:
        """Return what is wrong."""


class OnnxParser(Protocol):
    """OnnxParser."""

    num_errors: int

    def parse(self, model: bytes) -> bool:
        """Read a model into the network; False if that failed."""

    def get_error(self, index: int) -> ParserError:
        """Return an error."""


class ExecutionContext(Protocol):
    """IExecutionContext."""

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """Say how large an input is; False if the profile does not allow it."""

    def infer_shapes(self) -> Sequence[str]:
        """Return the names of inputs that are still unknown."""

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """Return sizes; negative ones are unknown."""

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Say where a tensor is."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queue a run."""


class CudaEngine(Protocol):
    """ICudaEngine."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str:
        """Return the name of an input or output."""

    def get_tensor_mode(self, name: str) -> Any:
        """Return whether it is an input or an output."""

    def get_tensor_dtype(self, name: str) -> Any:
        """Return its type."""

    def create_execution_context(self) -> ExecutionContext | None:
        """Return a context; None if there is too little memory."""


class Runtime(Protocol):
    """IRuntime."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None:
        """Read a plan; None if that failed."""


class ErrorLog(Protocol):
    """Our ILogger."""

    errors: list[str]


class TensorRT(Protocol):
    """The module."""

    __version__: str

    def Builder(self, logger: ErrorLog) -> Builder | None:  # noqa: N802
        """Return a builder."""

    def OnnxParser(self, network: Network, logger: ErrorLog) -> OnnxParser | None:  # noqa: N802
        """Return a parser that fills *network*."""

    def Runtime(self, logger: ErrorLog) -> Runtime | None:  # noqa: N802
        """Return a runtime."""


def import_tensorrt() -> TensorRT:
    """Return the module, of a version that can be used.

    Raises:
        EngineError: it is not installed, cannot be loaded, or is older than version 10.
    """
    try:
        module = cast(TensorRT, importlib.import_module(MODULE))
    except Exception as fault:  # its own import looks for libraries and fails in several ways
        raise EngineError(f"TensorRT for Python is not here: {_line(fault)}") from fault
    major = re.match(r"\d+", getattr(module, "__version__", ""))
    if major is None or int(major[0]) < OLDEST:
        version = getattr(module, "__version__", "of no version")
        raise EngineError(f"TensorRT {version} has no strongly typed networks; {OLDEST}.0 or newer is needed")
    return module


def tensorrt_missing() -> str | None:
    """Return why TensorRT cannot run here, or None if it can be tried: driver and GPU are looked for first."""
    try:
        open_driver()  # without one, TensorRT hands out objects that crash the process when they are used
        import_tensorrt()
    except EngineError as fault:
        return str(fault)
    return None


def error_log(trt: TensorRT) -> ErrorLog:
    """Return a logger that keeps errors, for messages and because some failures are told nowhere else."""
    base: Any = member(trt, "ILogger")
    if base is None:
        raise EngineError(f"TensorRT {trt.__version__} has no ILogger")
    kept = {member(base, "Severity", name) for name in ("INTERNAL_ERROR", "ERROR")}

    class Log(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in kept and len(self.errors) < _MOST_ERRORS:
                self.errors.append(_line(msg))

    return cast(ErrorLog, Log())


def open_runtime(trt: TensorRT, log: ErrorLog) -> Runtime:
    """Return a runtime.

    Raises:
        EngineError: there is none; one that logged an error counts as none, as it may be an empty shell.
    """
    open_driver()
    known = len(log.errors)
    with translated("a runtime"):
        runtime = trt.Runtime(log)
    if runtime is None or len(log.errors) > known:
        raise EngineError(f"TensorRT {trt.__version__} does not start: {described(log)}")
    return runtime


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn whatever the binding raises into an `EngineError` about *what*: its exceptions differ between versions."""
    try:
        yield
    except CutoffError:
        raise
    except Exception as fault:
        raise EngineError(f"{what} failed in TensorRT: {_line(fault)}") from fault


def member(owner: Any, *path: str) -> Any:
    """Return a member that some versions lack, or None."""
    for name in path:
        owner = getattr(owner, name, None)
    return owner


def needed(owner: Any, *path: str) -> Any:
    """Return a member that every version has.

    Raises:
        EngineError: this one has not.
    """
    found = member(owner, *path)
    if found is None:
        raise EngineError(f"this TensorRT has no {'.'.join(path)}")
    return found


def described(log: ErrorLog) -> str:
    """Return what was logged last."""
    return log.errors[-1] if log.errors else "it does not say why"


def _line(text: object) -> str:
    return " ".join(str(text).split())[:300]
