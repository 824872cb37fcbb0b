"""Which back end runs a graph, in which precision, and what happens when it is not up to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.bundle import Bundle
from engines.errors import EngineError, NotPrepared, OutOfTime
from engines.onnxruntime_session import OnnxRuntimeEngine
from engines.open import OpenedEngine, open_engine
from engines.plan_cache import PlanCache
from runtime.codec import Codec
from runtime.model import Model
from runtime.stream import Limits

TINY = Path(__file__).parents[1] / "golden" / "tiny"
Y = np.arange(128, dtype=np.float32).reshape(1, 8, 4, 4) / 16
Z = np.arange(-4, 4, dtype=np.float32).reshape(1, 2, 2, 2)
CPU_ONLY = ["CPUExecutionProvider"]
Install = Callable[..., Any]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(TINY)


@pytest.fixture(scope="module")
def offering(bundle: Bundle) -> Bundle:
    """The tiny bundle, with h_a offered in FP16."""
    graphs = dict(bundle.graphs) | {"h_a": dataclasses.replace(bundle.graphs["h_a"], float32_in_fp16=())}
    return dataclasses.replace(bundle, graphs=graphs)


def use(engine: OpenedEngine) -> tuple[str, str, str]:
    return engine.backend, engine.precision, engine.reason


def test_auto_is_the_cpu_where_nothing_else_is(bundle: Bundle, no_gpu: None) -> None:
    """And there is nothing to explain."""
    for role in ("h_a", "h_s"):
        assert use(open_engine(bundle, role, threads=1)) == ("cpu", "fp32", "chosen")


def test_auto_takes_cuda_where_it_is(bundle: Bundle, onnxruntime: Install) -> None:
    """For free and exact graphs, the latter proved."""
    onnxruntime()
    for role in ("h_a", "h_s"):
        assert use(open_engine(bundle, role, threads=1)) == ("cuda", "fp32", "chosen")


def test_auto_takes_tensorrt_only_where_plans_are(bundle: Bundle, tensorrt: Install, onnxruntime: Install) -> None:
    """It never builds; once a size was built, it is used, and other sizes run on the CPU."""
    module = tensorrt()
    onnxruntime(CPU_ONLY)
    assert open_engine(bundle, "h_a", threads=1).backend == "cpu"
    open_engine(bundle, "h_a", "tensorrt", threads=1, may_build=True).run(Y)
    engine = open_engine(bundle, "h_a", threads=1)
    engine.run(Y)
    assert use(engine) == ("tensorrt", "fp32", "chosen")
    assert engine.run(np.concatenate([Y, Y]))[0].shape[0] == 2
    engine.run(Y)
    assert use(engine) == ("tensorrt", "fp32", "chosen; sizes without a plan on cpu")
    assert len(module.record.of("build")) == 1
    engine.close()


def test_named_back_end_runs_a_free_graph_or_nothing_does(bundle: Bundle, onnxruntime: Install) -> None:
    """Someone who asks for a GPU is not given a CPU without a word."""
    onnxruntime(CPU_ONLY)
    with pytest.raises(EngineError, match=r"cuda: onnxruntime 1\.31\.1 is built without CUDA"):
        open_engine(bundle, "h_a", "cuda", threads=1)
    engine = open_engine(bundle, "h_s", "cuda", threads=1)
    assert engine.backend == "cpu" and engine.reason.startswith("instead of cuda: onnxruntime 1.31.1 is built without")


def test_named_tensorrt_without_a_plan_says_so(bundle: Bundle, tensorrt: Install) -> None:
    """A free graph cannot run; an exact one runs on the CPU."""
    tensorrt()
    with pytest.raises(NotPrepared, match="cutoff engines build"):
        open_engine(bundle, "h_a", "tensorrt", threads=1).run(Y)
    engine = open_engine(bundle, "h_s", "tensorrt", threads=1)
    assert engine.backend == "cpu" and "has no TensorRT plan" in engine.reason


def test_accelerator_with_wrong_bits_gives_way(bundle: Bundle, onnxruntime: Install) -> None:
    """For an exact graph at once, by its known answers; for a free one if it is far off."""
    onnxruntime(add=1.0)
    engine = open_engine(bundle, "h_s", threads=1)
    assert engine.backend == "cpu" and "gives other bits on cuda" in engine.reason
    engine = open_engine(bundle, "preview", threads=1)
    assert engine.backend == "cpu" and "graph 'preview' on cuda is off by" in engine.reason
    with pytest.raises(EngineError, match="is off by"):
        open_engine(bundle, "preview", "cuda", threads=1)


def test_exact_graph_is_proved_again_at_every_size(
    bundle: Bundle, onnxruntime: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library may take another kernel for a larger input; the result that is returned is right all the same."""
    module = onnxruntime()
    engine = open_engine(bundle, "h_s", threads=1)
    small, large = Z, np.tile(Z, (1, 1, 4, 5))
    engine.run(small)
    session = next(s for s in module.sessions if "CUDAExecutionProvider" in s.wanted)
    before = session.runs
    engine.run(small)
    assert session.runs == before + 1  # proved once
    original = session.run

    def winograd(names: None, feeds: dict[str, Any]) -> list[Any]:
        outputs = original(names, feeds)
        return [o + (1 if feeds["z_hat"].shape[-1] > 8 else 0) for o in outputs]

    monkeypatch.setattr(session, "run", winograd)
    expected = open_engine(bundle, "h_s", "cpu", threads=1).run(large)
    assert all(map(np.array_equal, engine.run(large), expected))
    assert engine.backend == "cpu" and "gives other bits on cuda than on cpu at 1x2x8x10" in engine.reason
    engine.close()


def test_precision_is_the_back_ends_where_it_is_left_open(offering: Bundle, onnxruntime: Install, gpu: Any) -> None:
    """FP16 on a GPU that computes in it, float32 on the CPU, and only for graphs that are offered."""
    onnxruntime()
    assert open_engine(offering, "h_a", "cuda", threads=1).precision == "fp16"
    assert open_engine(offering, "preview", "cuda", threads=1).precision == "fp32"
    assert open_engine(offering, "h_s", "cuda", threads=1).precision == "fp32"
    assert open_engine(offering, "h_a", "cpu", threads=1).precision == "fp32"
    gpu.capability = (6, 1)
    assert open_engine(offering, "h_a", "cuda", threads=1).precision == "fp32"


def test_precision_that_was_named_is_taken(offering: Bundle, onnxruntime: Install) -> None:
    """Where the graph has it and the back end obeys it."""
    onnxruntime()
    assert open_engine(offering, "h_a", "cuda", threads=1, precision="fp32").precision == "fp32"
    half = open_engine(offering, "h_a", "cpu", threads=1, precision="fp16")
    assert half.precision == "fp16"
    full = open_engine(offering, "h_a", "cpu", threads=1)
    difference = np.abs(half.run(Y)[0] - full.run(Y)[0]).max()
    assert difference < 1e-2 * np.abs(full.run(Y)[0]).max()
    assert open_engine(offering, "h_a", "tensorrt-ep", threads=1, precision="fp16").precision == "fp32"


def test_fp16_that_fails_gives_way_to_float32(
    offering: Bundle, tensorrt: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If precision was left open; the reason is told."""
    from engines import open as opening

    tensorrt()
    real = opening.BACKENDS["tensorrt"]

    def refuse_half(model: bytes, spec: Any, settings: Any) -> Any:
        if b".fp16" in model:
            raise EngineError("no tensor cores today")
        return real.open(model, spec, settings)

    made = dataclasses.replace(real, open=refuse_half)
    monkeypatch.setattr(opening, "BACKENDS", {**opening.BACKENDS, "tensorrt": made})
    engine = open_engine(offering, "h_a", "tensorrt", threads=1, may_build=True)
    assert use(engine) == ("tensorrt", "fp32", "instead of tensorrt in FP16: no tensor cores today")


def test_fp16_plan_is_another_plan(offering: Bundle, tensorrt: Install) -> None:
    """The graph that is built differs, and so does its hash."""
    tensorrt()
    for precision in ("fp16", "fp32"):
        open_engine(offering, "h_a", "tensorrt", threads=1, precision=precision, may_build=True).run(Y)
    assert len({entry.key["graph"] for entry in PlanCache().entries()}) == 2


@pytest.mark.parametrize("engine", ["cuda", "tensorrt"])
def test_codec_gives_the_same_stream_on_every_back_end(
    bundle: Bundle, onnxruntime: Install, tensorrt: Install, engine: str
) -> None:
    """Encoded on a GPU that is made up, decoded on the CPU, and the other way round."""
    onnxruntime()
    tensorrt()
    image = np.random.default_rng(3).integers(0, 256, (40, 56, 3), np.uint8)
    cpu = Codec(Model(bundle, "cpu", 1, Limits()))
    other = Codec(Model(bundle, engine, 1, Limits(), may_build=True))
    stream = other.encode(image).stream
    assert stream == cpu.encode(image).stream
    assert np.array_equal(other.decode(stream).image, cpu.decode(stream).image)
    assert {one.backend for one in other.model.engines_report()} == {engine}
    other.close()


def test_size_without_a_plan_is_ended_in_time(
    bundle: Bundle, tensorrt: Install, onnxruntime: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The back end that runs it is told how much time is left."""
    given: list[float] = []

    def run_within(self: OnnxRuntimeEngine, seconds: float, *inputs: Any) -> Any:
        given.append(seconds)
        raise OutOfTime("not over")

    tensorrt()
    onnxruntime(CPU_ONLY)
    open_engine(bundle, "h_a", "tensorrt", threads=1, may_build=True).run(Y)
    engine = open_engine(bundle, "h_a", threads=1)
    monkeypatch.setattr(OnnxRuntimeEngine, "run_within", run_within)
    with pytest.raises(OutOfTime):
        engine.run(np.tile(Y, (1, 1, 2, 2)), within_s=60.0)
    assert len(given) == 1 and 0 < given[0] <= 60
    engine.close()
