"""Native TensorRT, against doubles of every generation: what it is asked for, what is kept, and how it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import cuda_driver, tensorrt_api, tensorrt_engine
from engines.bundle import Bundle, GraphSpec
from engines.errors import EngineError, NotPrepared
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.plan_cache import PlanCache
from engines.tensorrt_api import import_tensorrt, tensorrt_missing
from engines.tensorrt_builder import build_plan
from engines.tensorrt_engine import TensorrtEngine, profile_of

GENERATIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")
TINY = Path(__file__).parents[1] / "golden" / "tiny"
Y = np.arange(128, dtype=np.float32).reshape(1, 8, 4, 4) / 16
Z = np.arange(-4, 4, dtype=np.float32).reshape(1, 2, 2, 2)
Install = Callable[..., Any]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(TINY)


@pytest.fixture
def make(bundle: Bundle) -> Callable[..., TensorrtEngine]:
    """Makes an engine of a graph with a module."""

    def made(module: Any, role: str = "h_a", *, may_build: bool = True, **options: Any) -> TensorrtEngine:
        spec = bundle.graphs[role]
        driver = cuda_driver.open_driver()
        return TensorrtEngine(
            bundle.read(spec.file), spec, 1, module, driver, PlanCache(), may_build=may_build, **options
        )

    return made


def expected(bundle: Bundle, role: str, *inputs: Any) -> Any:
    spec = bundle.graphs[role]
    return OnnxRuntimeCpu(bundle.read(spec.file), spec, 1).run(*inputs)


@pytest.mark.parametrize("version", GENERATIONS)
@pytest.mark.parametrize("role", ["h_a", "h_s"])
def test_every_generation_builds_keeps_and_runs(
    tensorrt: Install, make: Callable[..., TensorrtEngine], bundle: Bundle, gpu: Any, version: str, role: str
) -> None:
    """Strongly typed; TF32 off for exact graphs; one profile; the plan is there for the next engine."""
    module = tensorrt(version)
    x = Y if role == "h_a" else Z
    engine = make(module, role)
    for _ in range(4):
        assert all(map(np.allclose, engine.run(x), expected(bundle, role, x)))
    (flags,) = module.record.of("network")
    strong = module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert flags >> strong & 1
    if version.startswith("10"):
        assert flags & 1, "version 10 was asked for an explicit batch, as 8.6 demanded and 10 ignores"
    (build,) = module.record.of("build")
    assert build["tf32"] == (role == "h_a") and len(build["profiles"]) == 1
    assert module.record.of("workspace") == [("WORKSPACE", 1 << 30)]
    assert len(PlanCache().entries()) == 1
    engine.close()
    again = make(module, role, may_build=False)
    assert all(map(np.allclose, again.run(x), expected(bundle, role, x)))
    again.close()
    assert len(module.record.of("build")) == 1 and gpu.live == set()


def test_second_run_is_captured_and_later_ones_are_launches(
    tensorrt: Install, make: Callable[..., TensorrtEngine], bundle: Bundle, gpu: Any
) -> None:
    """The first warms up; from the second on the graph runs, with fresh inputs every time."""
    make(tensorrt()).run(Y)
    gpu.launches = 0
    engine = make(tensorrt(), may_build=False)
    engine.run(Y)
    assert gpu.launches == 0
    for factor in (1.0, 2.0, -1.0):
        x = np.float32(factor) * Y
        assert np.allclose(engine.run(x)[0], expected(bundle, "h_a", x)[0], atol=1e-4)
    assert gpu.launches >= 2
    engine.close()


def test_plan_that_cannot_be_captured_runs_all_the_same(
    tensorrt: Install, make: Callable[..., TensorrtEngine], bundle: Bundle, gpu: Any
) -> None:
    """Capture is an optimisation."""
    engine = make(tensorrt(faults=["capture"]))
    for _ in range(3):
        assert np.allclose(engine.run(Y)[0], expected(bundle, "h_a", Y)[0], atol=1e-4)
    engine.close()
    assert gpu.launches == 0 and gpu.live == set()


def test_sizes_have_plans_and_buffers_of_their_own(
    tensorrt: Install,
    make: Callable[..., TensorrtEngine],
    bundle: Bundle,
    gpu: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A free graph is built for each size; going back and forth gives the right results; few sizes stay ready."""
    monkeypatch.setattr(tensorrt_engine, "_MOST_SIZES", 8)
    module = tensorrt()
    engine = make(module)
    sizes = [np.resize(Y, (1, 8, 4 * h, 4 * w)).astype(np.float32) for h in (1, 2, 3) for w in (1, 2, 3, 4)]
    for x in (*sizes, *sizes):
        assert np.allclose(engine.run(x)[0], expected(bundle, "h_a", x)[0], atol=1e-3)
    assert len(module.record.of("build")) == len(sizes) == len(PlanCache().entries())
    assert len([1 for kind, _ in gpu.live if kind == "device memory"]) == 2 * 8
    engine.close()
    assert gpu.live == set()


def test_exact_graph_has_one_plan_for_many_sizes(tensorrt: Install, make: Callable[..., TensorrtEngine]) -> None:
    """Its known answers run on the plan that pictures run on."""
    module = tensorrt()
    engine = make(module, "h_s")
    for height, width in ((1, 1), (2, 3), (30, 64), (65, 3)):
        engine.run(np.zeros((1, 2, height, width), np.float32))
    assert [build["profiles"][0]["z_hat"] for build in module.record.of("build")] == [
        ([1, 2, 1, 1], [1, 2, 8, 12], [1, 2, 64, 64]),
        ([1, 2, 1, 1], [1, 2, 16, 24], [1, 2, 128, 128]),
    ]
    engine.close()


def test_profiles() -> None:
    """Free graphs: the size itself; exact ones: up to the next power of two."""
    free = GraphSpec("g_a", "", False, ("x",), ("y",), None)
    assert profile_of(free, [(2, 3, 64, 128)]) == {"x": ((2, 3, 64, 128),) * 3}
    exact = replace(free, exact=True)
    assert profile_of(exact, [(1, 3, 200, 9)]) == {"x": ((1, 3, 1, 1), (1, 3, 32, 48), (1, 3, 256, 256))}


def test_nothing_is_built_without_leave(tensorrt: Install, make: Callable[..., TensorrtEngine]) -> None:
    """The error says what would make the plan."""
    module = tensorrt()
    engine = make(module, may_build=False)
    with pytest.raises(NotPrepared, match=r"has no TensorRT plan for y 1x8x4x4; `cutoff engines build` makes one"):
        engine.run(Y)
    assert module.record.of("build") == [] and PlanCache().entries() == []
    engine.close()


def test_wrong_size_is_refused_before_anything_is_built(tensorrt: Install, make: Callable[..., TensorrtEngine]) -> None:
    """A build would take minutes to find out."""
    module = tensorrt()
    engine = make(module)
    with pytest.raises(EngineError, match=r"graph 'h_a': y must be .* not \(1, 7, 4, 4\)"):
        engine.run(Y[:, :7].copy())
    assert module.record.of("network") == []
    engine.close()


def test_timing_cache_is_kept_and_given_again(tensorrt: Install, make: Callable[..., TensorrtEngine]) -> None:
    """The second build starts from the first one's; one of another version is left aside and replaced."""
    module = tensorrt("10.3.0")
    engine = make(module)
    engine.run(Y)
    engine.run(np.concatenate([Y, Y]))
    assert module.record.of("timing cache") == [b"", b"timing 10.3.0"]
    key = engine._key
    PlanCache().store_timing(key, b"timing of something else")
    engine.run(np.concatenate([Y, Y, Y]))
    assert module.record.of("timing cache")[2:] == [None, b""]
    assert PlanCache().load_timing(key) == b"timing 10.3.0"
    engine.close()


def test_plans_of_another_version_are_not_loaded(
    tensorrt: Install, make: Callable[..., TensorrtEngine], bundle: Bundle
) -> None:
    """After an update everything is built again."""
    make(tensorrt("10.3.0")).run(Y)
    module = tensorrt("10.16.1.11")
    make(module).run(Y)
    assert len(module.record.of("build")) == 1 and len(PlanCache().entries()) == 2


def test_progress_is_told(tensorrt: Install, make: Callable[..., TensorrtEngine]) -> None:
    """Phase, steps done, steps in all."""
    told: list[tuple[str, int, int]] = []
    make(tensorrt(), progress=lambda *state: told.append(state)).run(Y)
    assert told == [("Building", 0, 2), ("Building", 1, 2), ("Building", 2, 2), ("Building", 2, 2)]


def test_version_without_progress_builds_all_the_same(tensorrt: Install, make: Callable[..., TensorrtEngine]) -> None:
    """Not every version reports it."""
    module = tensorrt()
    del module.IProgressMonitor
    make(module, progress=lambda *state: None).run(Y)


def test_plan_with_wrong_numbers_is_not_kept(tensorrt: Install, make: Callable[..., TensorrtEngine], gpu: Any) -> None:
    """A free graph is compared with the CPU before its plan goes into the cache."""
    engine = make(tensorrt(faults=["bits"]), "g_s")
    y = np.ones((1, 8, 4, 4), np.float32)
    inputs = [y] * len(engine._spec.inputs)
    with pytest.raises(EngineError, match=r"graph 'g_s' on tensorrt is off by"):
        engine.run(*inputs)
    assert PlanCache().entries() == []
    engine.close()
    assert gpu.live == set()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("builder", "has no builder here: CUDA initialization failure"),
        ("network", "gives no network"),
        ("parse", "cannot read it: unsupported operator Banana"),
        ("profile", "refuses the sizes .* bad profile"),
        ("build", "cannot build a plan: could not find any implementation"),
        ("deserialize", "cannot load its plan: the engine plan file is not compatible"),
        ("context", "gives no context"),
        ("shape", "its plan does not take y"),
        ("execute", "failed in TensorRT: enqueueV3: illegal memory access"),
    ],
)
def test_what_goes_wrong_is_one_error(
    tensorrt: Install, make: Callable[..., TensorrtEngine], gpu: Any, fault: str, message: str
) -> None:
    """None, False and logged errors all end in the same way; nothing stays on the device or in the cache."""
    engine = make(tensorrt(faults=[fault]))
    with pytest.raises(EngineError, match=message):
        engine.run(Y)
    assert PlanCache().entries() == []
    engine.close()
    assert gpu.live == set()


def test_runtime_that_logs_an_error_is_not_used(
    tensorrt: Install, make: Callable[..., TensorrtEngine], gpu: Any
) -> None:
    """It is an empty shell that crashes when it is used; the double fails the test if it is."""
    with pytest.raises(EngineError, match=r"TensorRT 10\.3\.0 does not start: CUDA initialization failure"):
        make(tensorrt(faults=["runtime"]))
    assert gpu.live == set()


def test_whatever_the_binding_raises_is_one_error(
    tensorrt: Install, bundle: Bundle, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exceptions share no base class."""
    module = tensorrt()
    monkeypatch.setattr(module.Builder, "create_network", lambda self, flags: 1 / 0)
    spec = bundle.graphs["h_a"]
    with pytest.raises(EngineError, match="building graph 'h_a' failed in TensorRT: division by zero"):
        build_plan(module, bundle.read(spec.file), spec, profile_of(spec, [Y.shape]))


@pytest.mark.parametrize("version", ["8.6.1", "8.5.2.2", "9.3.0", "", "nonsense"])
def test_old_versions_are_refused(monkeypatch: pytest.MonkeyPatch, gpu: Any, version: str) -> None:
    """Without strongly typed networks the precision would not be the graph's."""
    module = type("Module", (), {"__version__": version})
    monkeypatch.setattr(tensorrt_api.importlib, "import_module", lambda name: module)
    with pytest.raises(EngineError, match=r"has no strongly typed networks; 10\.0 or newer is needed"):
        import_tensorrt()
    assert "newer is needed" in (tensorrt_missing() or "")


@pytest.mark.parametrize("fault", [ModuleNotFoundError("No module named 'tensorrt'"), OSError("libnvinfer.so.10")])
def test_library_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, gpu: Any, fault: Exception) -> None:
    """Neither the module nor its libraries need be installed."""

    def fail(name: str) -> None:
        raise fault

    monkeypatch.setattr(tensorrt_api.importlib, "import_module", fail)
    assert tensorrt_missing() == f"TensorRT for Python is not here: {fault}"


def test_without_a_driver_the_library_is_not_even_imported(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hand out objects that crash."""
    monkeypatch.setattr(tensorrt_api.importlib, "import_module", lambda name: pytest.fail("imported"))
    assert "there is no NVIDIA driver" in (tensorrt_missing() or "")
