"""The back ends that there are: what each needs, and how it opens a graph. GPU code is imported when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engines.cuda_driver import open_driver
from engines.engine import Engine, Progress
from engines.errors import EngineError
from engines.manifest import GraphSpec
from engines.numpy_exact import NumpyExact
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.onnxruntime_options import CUDA, TENSORRT
from engines.plan_cache import PlanCache


@dataclass(frozen=True)
class OpenSettings:
    """How a graph is opened.

    Attributes:
        threads: CPU threads of one run.
        may_build: plans may be built, which takes minutes; without it only those of the cache are used.
        progress: is told how a build goes on.
    """

    threads: int
    may_build: bool = False
    progress: Progress | None = None


@dataclass(frozen=True)
class Backend:
    """A back end.

    Attributes:
        name: as in `open_engine`, reports and the command line.
        library: what computes.
        missing: returns why it cannot run here, or None.
        open: opens a graph from its ONNX file.
        computes_fp16: returns whether FP16 graphs gain anything on it.
        takes_fp16: it obeys the types of an FP16 graph.
        takes_exact: exact graphs can run on it.
        accelerator: it is not the CPU, and has to prove itself against it.
        has_plans: it runs sizes for which a plan was built, and no others.
    """

    name: str
    library: str
    missing: Callable[[], str | None]
    open: Callable[[bytes, GraphSpec, OpenSettings], Engine]
    computes_fp16: Callable[[], bool]
    accelerator: bool = True
    has_plans: bool = False
    takes_fp16: bool = True
    takes_exact: bool = True


def _open_cpu(model: bytes, spec: GraphSpec, settings: OpenSettings) -> Engine:
    return OnnxRuntimeCpu(model, spec, settings.threads)


def _open_numpy(model: bytes, spec: GraphSpec, settings: OpenSettings) -> Engine:
    return NumpyExact(model, spec)


def _open_cuda(model: bytes, spec: GraphSpec, settings: OpenSettings) -> Engine:
    from engines.onnxruntime_gpu import OnnxRuntimeCuda

    return OnnxRuntimeCuda(model, spec, settings.threads)


def _open_tensorrt_provider(model: bytes, spec: GraphSpec, settings: OpenSettings) -> Engine:
    from engines.onnxruntime_gpu import OnnxRuntimeTensorrt

    device = open_driver().device()
    return OnnxRuntimeTensorrt(model, spec, settings.threads, device, PlanCache(), may_build=settings.may_build)


def _open_tensorrt(model: bytes, spec: GraphSpec, settings: OpenSettings) -> Engine:
    from engines.tensorrt_api import import_tensorrt
    from engines.tensorrt_engine import TensorrtEngine

    driver = open_driver()
    return TensorrtEngine(
        model,
        spec,
        settings.threads,
        import_tensorrt(),
        driver,
        PlanCache(),
        may_build=settings.may_build,
        progress=settings.progress,
    )


def _nothing_missing() -> str | None:
    return None


def _provider_missing(provider: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        try:
            open_driver()
        except EngineError as fault:
            return str(fault)
        from engines.onnxruntime_gpu import provider_missing

        return provider_missing(provider)

    return missing


def _tensorrt_missing() -> str | None:
    from engines.tensorrt_api import tensorrt_missing

    return tensorrt_missing()


def _gpu_computes_fp16() -> bool:
    try:
        return open_driver().device().computes_fp16
    except EngineError:
        return False


def _never() -> bool:
    return False


_ALL = (
    Backend("cpu", "ONNX Runtime, CPU", _nothing_missing, _open_cpu, _never, accelerator=False),
    Backend("cuda", "ONNX Runtime, CUDA", _provider_missing(CUDA), _open_cuda, _gpu_computes_fp16),
    Backend(
        "tensorrt-ep",
        "ONNX Runtime, TensorRT",
        _provider_missing(TENSORRT),
        _open_tensorrt_provider,
        _never,
        has_plans=True,
        takes_fp16=False,
        takes_exact=False,
    ),
    Backend("tensorrt", "TensorRT", _tensorrt_missing, _open_tensorrt, _gpu_computes_fp16, has_plans=True),
    Backend("numpy-int64", "numpy, 64-bit integers", _nothing_missing, _open_numpy, _never, accelerator=False),
)
BACKENDS: Mapping[str, Backend] = {backend.name: backend for backend in _ALL}
EXACT_ONLY = "numpy-int64"
ENGINES = ("auto", *(name for name in BACKENDS if name != EXACT_ONLY))
PRECISIONS = ("auto", "fp32", "fp16")
