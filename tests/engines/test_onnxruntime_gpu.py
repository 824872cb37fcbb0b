"""ONNX Runtime's providers: their options, and that none of its silent ways out is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.backends import BACKENDS, OpenSettings
from engines.bundle import Bundle, GraphSpec
from engines.errors import EngineError, NotPrepared
from engines.onnxruntime_options import CPU, CUDA, TENSORRT, cpu_settings, cuda_settings, tensorrt_settings
from engines.onnxruntime_session import session_entries
from engines.plan_cache import PlanCache

TINY = Path(__file__).parents[1] / "golden" / "tiny"
Y = np.arange(128, dtype=np.float32).reshape(1, 8, 4, 4) / 16
Install = Callable[..., Any]
FREE = GraphSpec("g_s", "", False, ("y_hat", "deviation"), ("x_hat",), None)
EXACT = GraphSpec("h_s", "", True, ("z_hat",), ("mu",), None)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(TINY)


def opened(bundle: Bundle, backend: str, role: str = "h_a", *, may_build: bool = True) -> Any:
    spec = bundle.graphs[role]
    return BACKENDS[backend].open(bundle.read(spec.file), spec, OpenSettings(1, may_build))


def test_exact_graphs_run_without_whatever_could_round() -> None:
    """Basic optimisation, no bfloat16 on Arm, no TF32."""
    for settings in (cpu_settings(EXACT, 3), cuda_settings(EXACT, 3)):
        assert settings.optimisation == "ORT_ENABLE_BASIC" and settings.threads == 3
        assert settings.entries["mlas.enable_gemm_fastmath_arm64_bfloat16"] == "0"
    assert cuda_settings(EXACT, 1).providers[0][1]["use_tf32"] == "0"
    assert cuda_settings(FREE, 1).providers[0][1]["use_tf32"] == "1"
    assert cpu_settings(FREE, 1).optimisation == "ORT_ENABLE_ALL"


def test_waiting_threads_leave_the_cores_alone() -> None:
    """Threads spin for a bounded time, and not between runs; with libraries that know no bound not at all."""
    for settings in (cpu_settings(FREE, 1), cuda_settings(FREE, 1)):
        for version, spins in (("1.20.1", "0"), ("1.26.0", "0"), ("1.27.0", "1"), ("2.0.0.dev1", "1")):
            entries = session_entries(settings, version)
            assert entries["session.intra_op.allow_spinning"] == spins
            assert 0 < int(entries["session.intra_op.spin_duration_us"]) <= 1000
            assert entries["session.force_spinning_stop"] == "1"


def test_sessions_on_the_cpu_share_one_arena() -> None:
    """Those of a GPU have memory of their own."""
    assert cpu_settings(FREE, 1).entries["session.use_env_allocators"] == "1"
    assert "session.use_env_allocators" not in cuda_settings(FREE, 1).entries


def test_each_provider_has_only_itself_to_fall_back_on() -> None:
    """CUDA alone; TensorRT with CUDA for what it does not take."""
    assert [name for name, _ in cpu_settings(FREE, 1).providers] == [CPU]
    assert [name for name, _ in cuda_settings(FREE, 1).providers] == [CUDA]
    shapes = {"y_hat": (1, 8, 4, 4), "deviation": (1, 8, 4, 4)}
    settings = tensorrt_settings(FREE, 1, shapes, Path("/cache/x"), Path("/cache"))
    assert [name for name, _ in settings.providers] == [TENSORRT, CUDA]
    options = settings.providers[0][1]
    for end in ("min", "opt", "max"):
        assert options[f"trt_profile_{end}_shapes"] == "y_hat:1x8x4x4,deviation:1x8x4x4"
    assert options["trt_engine_cache_path"] == "/cache/x" and options["trt_timing_cache_path"] == "/cache"
    assert options["trt_fp16_enable"] == "0"
    assert all(isinstance(value, str) for value in options.values())


def test_provider_that_is_left_out_is_an_error(onnxruntime: Install, bundle: Bundle) -> None:
    """The library would run the graph on the CPU and say nothing."""
    onnxruntime(left_out=[CUDA])
    with pytest.raises(EngineError, match="left out CUDAExecutionProvider and would use CPUExecutionProvider"):
        opened(bundle, "cuda")


def test_failed_run_is_not_repeated_elsewhere(onnxruntime: Install, bundle: Bundle) -> None:
    """The library's own fallback is switched off."""
    module = onnxruntime()
    opened(bundle, "cuda")
    assert module.sessions[-1].fallback is False


def test_remarks_of_the_loader_are_not_printed(
    onnxruntime: Install, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """stdout belongs to results."""
    onnxruntime()
    opened(bundle, "cuda")
    assert capsys.readouterr().out == ""


def test_library_without_gpus_says_which_package_has_them(onnxruntime: Install) -> None:
    """The usual package runs on CPUs only."""
    onnxruntime([CPU])
    assert BACKENDS["cuda"].missing() == (
        "onnxruntime 1.31.1 is built without CUDA (the package onnxruntime-gpu has it)"
    )
    assert "without TensorRT" in (BACKENDS["tensorrt-ep"].missing() or "")


def test_provider_without_a_driver_is_missing(onnxruntime: Install, no_gpu: None) -> None:
    """The library claims providers that cannot work."""
    onnxruntime()
    for backend in ("cuda", "tensorrt-ep"):
        assert "there is no NVIDIA driver" in (BACKENDS[backend].missing() or "")


def test_tensorrt_provider_builds_once_per_size(onnxruntime: Install, bundle: Bundle) -> None:
    """A session for each size, in a folder of its own; another engine finds what was built."""
    module = onnxruntime()
    engine = opened(bundle, "tensorrt-ep")
    for x in (Y, Y, np.concatenate([Y, Y])):
        engine.run(x)
    folders = [session.wanted[TENSORRT]["trt_engine_cache_path"] for session in module.sessions]
    assert len(set(folders)) == 2 == len(PlanCache().entries())
    assert all(Path(folder).parent == PlanCache().folder for folder in folders)
    engine.close()
    again = opened(bundle, "tensorrt-ep", may_build=False)
    again.run(Y)
    with pytest.raises(NotPrepared, match="has no engine for y 3x8x4x4"):
        again.run(np.concatenate([Y, Y, Y]))


def test_what_the_tensorrt_provider_kept_is_not_used_once_changed(onnxruntime: Install, bundle: Bundle) -> None:
    """It would be loaded as code."""
    onnxruntime()
    opened(bundle, "tensorrt-ep").run(Y)
    (made,) = PlanCache().folder.glob("*/made.engine")
    made.write_bytes(b"other")
    with pytest.raises(NotPrepared):
        opened(bundle, "tensorrt-ep", may_build=False).run(Y)


def test_tensorrt_provider_refuses_exact_graphs(onnxruntime: Install, bundle: Bundle) -> None:
    """TF32 cannot be switched off there."""
    onnxruntime()
    with pytest.raises(EngineError, match="'h_s' is exact"):
        opened(bundle, "tensorrt-ep", "h_s")
