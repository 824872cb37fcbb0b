"""A session of ONNX Runtime as an engine: opened by settings, with the library's ways of hiding failures closed."""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from engines.aside import run_aside
from engines.engine import Tensor, check_inputs, check_ports
from engines.errors import EngineError
from engines.manifest import GraphSpec
from engines.onnxruntime_options import BOUNDED_SPINNING_SINCE, CPU, SPINNING, SessionSettings
from engines.tiles import is_large


def import_onnxruntime() -> Any:
    """Return the module; from 1.29 on it would otherwise report to its maker and write below the home folder."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # must be set before the import
    import onnxruntime

    return onnxruntime


class OnnxRuntimeEngine:
    """An engine of one graph; see `engines.engine.Engine`."""

    backend = "cpu"

    def __init__(self, model: bytes, spec: GraphSpec, settings: SessionSettings) -> None:
        """Open *model*.

        Raises:
            EngineError: ONNX Runtime cannot load the graph or the provider, or its tensors are not those of *spec*.
        """
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, settings.optimisation)
        for key, value in session_entries(settings, ort.__version__).items():
            options.add_session_config_entry(key, value)
        wanted = settings.providers[0][0]
        providers = [(name, dict(chosen)) for name, chosen in settings.providers]
        if wanted == CPU:
            _share_arena()
        else:
            _load_libraries(ort)
        try:
            self._session = ort.InferenceSession(model, options, providers=providers)
        except Exception as fault:  # the binding's exceptions share no base class
            raise EngineError(f"graph {spec.role!r} cannot be opened by ONNX Runtime: {fault}") from fault
        # A provider whose libraries are missing is left out without an error.
        active = self._session.get_providers()
        if not active or active[0] != wanted:
            raise EngineError(f"graph {spec.role!r}: ONNX Runtime left out {wanted} and would use {', '.join(active)}")
        # Nor must a run that fails be repeated elsewhere without a word.
        self._session.disable_fallback()
        check_ports(
            spec,
            [one.name for one in self._session.get_inputs()],
            [one.name for one in self._session.get_outputs()],
        )
        self._spec = spec
        self._ort = ort if wanted == CPU else None

    def run(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph; see `Engine.run`."""
        return self._run(inputs, None)

    def run_within(self, seconds: float, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph; see `StoppableEngine`. It is between two operations of the graph that a run ends."""
        options = import_onnxruntime().RunOptions()

        def stop() -> None:
            options.terminate = True

        return run_aside(lambda: self._run(inputs, options), seconds, stop)

    def _run(self, inputs: Sequence[Tensor], options: Any) -> Sequence[Tensor]:
        check_inputs(self._spec, inputs)
        try:
            feeds = dict(zip(self._spec.inputs, inputs, strict=True))
            outputs: Sequence[Tensor] = self._session.run(None, feeds, *self._options(inputs, options))
        except Exception as fault:  # as above
            raise EngineError(f"graph {self._spec.role!r} failed in ONNX Runtime: {fault}") from fault
        return outputs

    def _options(self, inputs: Sequence[Tensor], options: Any) -> list[Any]:
        """Let a run on a large picture give back what its feature maps took; others keep it for the next run."""
        if self._ort is not None and is_large(inputs, self._spec.tiling):
            options = self._ort.RunOptions() if options is None else options
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return [] if options is None else [options]

    def close(self) -> None:
        """Free the session."""
        del self._session


def session_entries(settings: SessionSettings, version: str) -> Mapping[str, str]:
    """Return the configuration; a library that would spin for as long as it likes must not spin."""
    major, minor = (int(part) for part in version.split(".")[:2])
    bounded = (major, minor) >= BOUNDED_SPINNING_SINCE
    return settings.entries if bounded else {**settings.entries, SPINNING: "0"}


@functools.cache
def _share_arena() -> None:
    """Make the arena that sessions with `SHARED_ARENA` allocate from; it lasts as long as the process."""
    ort = import_onnxruntime()
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # If a program around this one has made an arena already, and this version takes no second, that one serves.
    with contextlib.suppress(Exception):  # the binding's exceptions share no base class
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg({}))


def _load_libraries(ort: Any) -> None:
    """Load CUDA's libraries from Python packages, if they come from there; the loader's remarks are of no use."""
    preload = getattr(ort, "preload_dlls", None)  # since 1.21
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            preload()
