"""ONNX Runtime on NVIDIA GPUs: the CUDA provider, and the TensorRT provider with engines in cutoff's cache.

Neither has run on hardware yet. Tensors are copied to the device and back by the session itself: what binding them by
hand would gain has to be measured first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from engines.cuda_driver import Device
from engines.engine import Tensor, check_inputs
from engines.errors import EngineError, NotPrepared
from engines.manifest import GraphSpec
from engines.onnxruntime_options import CUDA, TENSORRT, cuda_settings, tensorrt_settings
from engines.onnxruntime_session import OnnxRuntimeEngine, import_onnxruntime
from engines.plan_cache import PlanCache, PlanKey, described_shapes

_MOST_SESSIONS = 16


class OnnxRuntimeCuda(OnnxRuntimeEngine):
    """An engine of one graph; see `engines.engine.Engine`."""

    backend = "cuda"

    def __init__(self, model: bytes, spec: GraphSpec, threads: int) -> None:
        """Open *model* on the first GPU.

        Raises:
            EngineError: ONNX Runtime cannot load the graph or has no CUDA, or its tensors are not those of *spec*.
        """
        super().__init__(model, spec, cuda_settings(spec, threads))


class OnnxRuntimeTensorrt:
    """An engine of one graph with a session per set of input sizes; see `engines.engine.Engine`.

    Exact graphs do not run here, as the provider has no way to switch TF32 off. FP16 graphs do not either: its networks
    are not strongly typed, so that what stays float32 would not be certain to.
    """

    backend = "tensorrt-ep"

    def __init__(
        self, model: bytes, spec: GraphSpec, threads: int, device: Device, cache: PlanCache, *, may_build: bool
    ) -> None:
        """Keep *model*; sessions open with the first inputs of each size.

        Raises:
            EngineError: the graph is exact.
        """
        if spec.exact:
            raise EngineError(f"graph {spec.role!r} is exact, and this provider cannot switch TF32 off")
        self._model, self._spec, self._threads = model, spec, threads
        self._device, self._cache, self._may_build = device, cache, may_build
        self._sessions: dict[tuple[tuple[int, ...], ...], OnnxRuntimeEngine] = {}
        version = import_onnxruntime().__version__
        self._key = PlanKey.of(self.backend, model, spec, f"onnxruntime {version}", device, ("float32",))

    def run(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph; see `Engine.run`."""
        check_inputs(self._spec, inputs)
        shapes = tuple(value.shape for value in inputs)
        if shapes not in self._sessions:
            while len(self._sessions) >= _MOST_SESSIONS:
                self._sessions.pop(next(iter(self._sessions))).close()
            self._sessions[shapes] = self._open(inputs)
        return self._sessions[shapes].run(*inputs)

    def close(self) -> None:
        """Free the sessions."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _open(self, inputs: Sequence[Tensor]) -> OnnxRuntimeEngine:
        shapes = {name: value.shape for name, value in zip(self._spec.inputs, inputs, strict=True)}
        key = self._key.at({name: (shape, shape, shape) for name, shape in shapes.items()})
        if not self._may_build and not self._cache.is_complete(key):
            raise NotPrepared(
                f"graph {self._spec.role!r} has no engine for {described_shapes(shapes)}; "
                "`cutoff engines build` makes one"
            )
        with self._cache.locked(key):
            ready = self._cache.is_complete(key)
            folder = self._cache.library_folder(key)
            settings = tensorrt_settings(self._spec, self._threads, shapes, folder, self._cache.folder)
            session = OnnxRuntimeEngine(self._model, self._spec, settings)
            session.backend = self.backend
            started = time.perf_counter()
            session.run(*inputs)  # builds, or loads what was built
            if not ready:
                self._cache.complete(key, {"build_s": round(time.perf_counter() - started, 3)})
        return session


def provider_missing(provider: str) -> str | None:
    """Return why ONNX Runtime has no *provider* here, or None if it claims to."""
    ort = import_onnxruntime()
    if provider in ort.get_available_providers():
        return None
    name = {CUDA: "CUDA", TENSORRT: "TensorRT"}[provider]
    return f"onnxruntime {ort.__version__} is built without {name} (the package onnxruntime-gpu has it)"
