"""Native TensorRT: plans from the cache or built on demand, run on one stream, captured as a CUDA graph per size.

It has not run on hardware yet; tests hold it against doubles of versions 10.3, 10.13, 10.16 and 11.4.

A free graph has a plan for each set of input sizes, tuned for exactly these. An exact graph has plans for ranges, so
that its known answers run on the very plan that is used. A plan of a free graph is compared with the CPU once, on the
inputs that it was built for, before it is kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from engines.cuda_driver import Buffer, Context, Driver, Graph
from engines.engine import Engine, Progress, Tensor, check_inputs
from engines.errors import EngineError, NotPrepared
from engines.manifest import GraphSpec
from engines.onnx_file import read_graph
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.plan_cache import PlanCache, PlanKey, Profile, Shape, described_shapes
from engines.proving import check_close
from engines.tensorrt_api import (
    CudaEngine,
    ExecutionContext,
    TensorRT,
    described,
    error_log,
    needed,
    open_runtime,
    translated,
)
from engines.tensorrt_builder import build_flags, build_plan

_MOST_SIZES = 16  # that are kept ready, with their buffers; a large picture in tiles has up to nine
_SMALLEST_RANGE = 64


class TensorrtEngine:
    """An engine of one graph; see `engines.engine.Engine`."""

    backend = "tensorrt"

    def __init__(
        self,
        model: bytes,
        spec: GraphSpec,
        threads: int,
        trt: TensorRT,
        driver: Driver,
        cache: PlanCache,
        *,
        may_build: bool,
        progress: Progress | None = None,
    ) -> None:
        """Keep *model*; plans are loaded, or built if that is allowed, with the first inputs of each size.

        Args:
            threads: of the CPU, when a new plan is compared with it.

        Raises:
            EngineError: the driver or TensorRT does not start.
        """
        self._model, self._spec, self._threads, self._trt = model, spec, threads, trt
        self._cache, self._may_build, self._progress = cache, may_build, progress
        device = driver.device()
        library = f"tensorrt {trt.__version__}"
        self._key = PlanKey.of(self.backend, model, spec, library, device, build_flags(spec))
        self._log = error_log(trt)
        self._context = Context(driver, device.index)
        try:
            self._context.use()
            self._runtime = open_runtime(trt, self._log)
            self._stream = self._context.stream()
        except EngineError:
            self._context.close()
            raise
        self._fixed = {port.name: port.shape for port in read_graph(model).inputs}
        self._plans: dict[str, CudaEngine] = {}
        self._ready: dict[tuple[Shape, ...], _Ready] = {}

    def run(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph; see `Engine.run`."""
        check_inputs(self._spec, inputs)
        self._check_fixed_sizes(inputs)
        with translated(f"graph {self._spec.role!r}"):
            return self._run(inputs)

    def _run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        self._context.use()
        shapes = tuple(value.shape for value in inputs)
        if shapes not in self._ready:
            key = self._key.at(profile_of(self._spec, shapes))
            ready = self._opened(key, shapes) or self._built(key, inputs)
            while len(self._ready) >= _MOST_SIZES:
                self._ready.pop(next(iter(self._ready))).close()
            self._ready[shapes] = ready
        return self._ready[shapes].run(inputs)

    def close(self) -> None:
        """Free everything on the device."""
        self._context.use()
        for ready in self._ready.values():
            ready.close()
        self._ready.clear()
        # The library's objects free device memory, so they go before the context does.
        self._plans.clear()
        del self._runtime
        self._stream.close()
        self._context.close()

    def _check_fixed_sizes(self, inputs: Sequence[Tensor]) -> None:
        """Refuse inputs that no plan could ever take, before one is built for them."""
        for name, value in zip(self._spec.inputs, inputs, strict=True):
            fixed = self._fixed[name]
            if len(fixed) != value.ndim or any(
                isinstance(size, int) and size != found for size, found in zip(fixed, value.shape, strict=True)
            ):
                raise EngineError(f"graph {self._spec.role!r}: {name} must be {fixed}, not {value.shape}")

    def _opened(self, key: PlanKey, shapes: Sequence[Shape]) -> _Ready | None:
        """Return what runs *shapes* by the plan of *key*, if the cache has it."""
        if key.digest not in self._plans:
            plan = self._cache.load(key)
            if plan is None:
                return None
            self._plans[key.digest] = self._deserialized(plan)
        return self._made_ready(self._plans[key.digest], shapes)

    def _built(self, key: PlanKey, inputs: Sequence[Tensor]) -> _Ready:
        """Build, check and keep a plan, unless another process has just done so."""
        shapes = [value.shape for value in inputs]
        if not self._may_build:
            sizes = described_shapes(dict(zip(self._spec.inputs, shapes, strict=True)))
            raise NotPrepared(
                f"graph {self._spec.role!r} has no TensorRT plan for {sizes}; `cutoff engines build` makes one"
            )
        with self._cache.locked(key):
            made = self._opened(key, shapes)
            if made is not None:
                return made
            started = time.perf_counter()
            timing = self._cache.load_timing(key)
            built = build_plan(self._trt, self._model, self._spec, key.profile, timing, self._progress)
            seconds = time.perf_counter() - started
            plan = self._deserialized(built.plan)
            ready = self._made_ready(plan, shapes)
            facts: dict[str, float] = {"build_s": round(seconds, 3)}
            if not self._spec.exact:
                facts["difference"] = self._compared(ready, inputs)
            self._cache.store(key, built.plan, facts)
            if built.timing is not None:
                self._cache.store_timing(key, built.timing)
            self._plans[key.digest] = plan
            return ready

    def _compared(self, ready: _Ready, inputs: Sequence[Tensor]) -> float:
        reference: Engine = OnnxRuntimeCpu(self._model, self._spec, self._threads)
        try:
            return check_close(self._spec, self.backend, ready.run(inputs), reference.run(*inputs))
        except EngineError:
            ready.close()
            raise
        finally:
            reference.close()

    def _deserialized(self, plan: bytes) -> CudaEngine:
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"graph {self._spec.role!r}: TensorRT cannot load its plan: {described(self._log)}")
        float32, input_mode = needed(self._trt, "float32"), needed(self._trt, "TensorIOMode", "INPUT")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = {name for name in names if engine.get_tensor_mode(name) == input_mode}
        if inputs != set(self._spec.inputs) or set(names) - inputs != set(self._spec.outputs):
            raise EngineError(f"graph {self._spec.role!r}: its plan has tensors {names}")
        if any(engine.get_tensor_dtype(name) != float32 for name in names):
            raise EngineError(f"graph {self._spec.role!r}: its plan has inputs or outputs that are not float32")
        return engine

    def _made_ready(self, engine: CudaEngine, shapes: Sequence[Shape]) -> _Ready:
        context = engine.create_execution_context()  # one per size: a captured graph rests on its context's memory
        if context is None:
            raise EngineError(f"graph {self._spec.role!r}: TensorRT gives no context: {described(self._log)}")
        for name, shape in zip(self._spec.inputs, shapes, strict=True):
            if not context.set_input_shape(name, list(shape)):
                raise EngineError(f"graph {self._spec.role!r}: its plan does not take {name} {shape}")
        unknown = context.infer_shapes()
        if unknown:
            raise EngineError(f"graph {self._spec.role!r}: TensorRT does not know {', '.join(unknown)}")
        buffers: dict[str, Buffer] = {}
        try:
            for name in (*self._spec.inputs, *self._spec.outputs):
                shape = tuple(int(size) for size in context.get_tensor_shape(name))
                if len(shape) != 4 or min(shape) < 1:
                    raise EngineError(f"graph {self._spec.role!r}: TensorRT gives {name} the shape {shape}")
                buffers[name] = self._context.buffer(shape)
                if not context.set_tensor_address(name, buffers[name].address):
                    raise EngineError(f"graph {self._spec.role!r}: TensorRT refuses memory for {name}")
        except EngineError:
            for buffer in buffers.values():
                buffer.close()
            raise
        return _Ready(self, context, buffers)


class _Ready:
    """A context with its buffers for one set of sizes. The first run warms up, the second is captured and replayed."""

    def __init__(self, engine: TensorrtEngine, context: ExecutionContext, buffers: dict[str, Buffer]) -> None:
        self._spec, self._stream, self._log = engine._spec, engine._stream, engine._log
        self._context, self._buffers = context, buffers
        self._graph: Graph | None = None
        self._runs = 0

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        for name, value in zip(self._spec.inputs, inputs, strict=True):
            np.copyto(self._buffers[name].host, value)
        if self._runs == 1:
            self._capture()
        self._runs += 1
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._queue()
        self._stream.synchronize()
        return [self._buffers[name].host.copy() for name in self._spec.outputs]

    def close(self) -> None:
        if self._graph is not None:
            self._graph.close()
        for buffer in self._buffers.values():
            buffer.close()
        del self._context

    def _queue(self) -> None:
        """Queue copies and run; what the next capture of the same calls will hold."""
        for name in self._spec.inputs:
            self._buffers[name].to_device(self._stream)
        if not self._context.execute_async_v3(self._stream.number):
            raise EngineError(f"graph {self._spec.role!r} failed in TensorRT: {described(self._log)}")
        for name in self._spec.outputs:
            self._buffers[name].to_host(self._stream)

    def _capture(self) -> None:
        try:
            self._graph = self._stream.capture(self._queue)
        except EngineError:
            self._graph = None  # some plans cannot be captured; they run all the same


def profile_of(spec: GraphSpec, shapes: Sequence[Shape]) -> Profile:
    """Return the sizes that a plan for inputs of *shapes* is made for.

    Free graphs: these and no others. Exact graphs: batch 1, sides from 1 to a power of two that is at least 64.
    """
    if not spec.exact:
        return {name: (shape, shape, shape) for name, shape in zip(spec.inputs, shapes, strict=True)}
    profile = {}
    for name, (batch, channels, height, width) in zip(spec.inputs, shapes, strict=True):
        side = _SMALLEST_RANGE
        while side < max(height, width):
            side *= 2
        best = (batch, channels, side // 8, side * 3 // 16)
        profile[name] = ((batch, channels, 1, 1), best, (batch, channels, side, side))
    return profile
