"""Exact graphs fall back: the chosen back end, ONNX Runtime, 64-bit integers; and it is told what was used and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import unpacked

from engines import open as opening
from engines.backends import OpenSettings
from engines.bundle import Bundle, GraphSpec
from engines.engine import Engine, Tensor
from engines.errors import EngineError, OutOfTime
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.open import OpenedEngine, open_engine
from runtime.cli.main import main
from runtime.codec import Codec

Doctor = Callable[..., list["Doctored"]]


class Doctored:
    """ONNX Runtime with a fault: "bits" flips one unit, "late" fails on pictures, "run" fails always."""

    def __init__(self, model: bytes, spec: GraphSpec, threads: int, fault: str, backend: str) -> None:
        if fault == "open":
            raise EngineError(f"graph {spec.role!r} cannot be opened by {backend}: no memory")
        self._engine, self._fault = OnnxRuntimeCpu(model, spec, threads), fault
        self.backend, self.closed = backend, False

    def run(self, *inputs: Tensor) -> Sequence[Tensor]:
        large = inputs[0].shape[-1] == 2 and inputs[0].shape[-2] == 1
        if self._fault == "run" or (self._fault == "late" and large):
            raise EngineError("the device is gone")
        outputs = [output.copy() for output in self._engine.run(*inputs)]
        if self._fault == "bits":
            outputs[-1].reshape(-1)[0] += 1
        return outputs

    def close(self) -> None:
        self.closed = True
        self._engine.close()


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Gives a back end a fault, for exact graphs or all; returns the engines that will have been opened."""

    def put(fault: str, backend: str = "cpu", *, free: bool = False) -> list[Doctored]:
        opened: list[Doctored] = []

        def opener(model: bytes, spec: GraphSpec, settings: OpenSettings) -> Engine:
            if not spec.exact and not free:
                return OnnxRuntimeCpu(model, spec, settings.threads)
            opened.append(Doctored(model, spec, settings.threads, fault, backend))
            return opened[-1]

        like = opening.BACKENDS["cpu" if backend == "accelerator" else backend]
        accelerator = backend == "accelerator"
        made = replace(like, name=backend, open=opener, accelerator=accelerator, computes_fp16=lambda: accelerator)
        monkeypatch.setattr(opening, "BACKENDS", {**opening.BACKENDS, backend: made})
        monkeypatch.setattr(opening, "ENGINES", (*opening.ENGINES, backend))
        return opened

    return put


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open("dpict-edge")


def z_of(bundle: Bundle, height: int = 1, width: int = 2) -> Tensor:
    channels = bundle.settings["z_channels"]
    return np.random.default_rng(0).integers(-3, 4, (1, channels, height, width)).astype(np.float32)


def assert_right(engine: OpenedEngine, bundle: Bundle) -> None:
    spec = bundle.graphs["h_s"]
    expected = OnnxRuntimeCpu(bundle.read(spec.file), spec, 1).run(z_of(bundle))
    assert all(map(np.array_equal, engine.run(z_of(bundle)), expected))


def test_sound_engine_is_the_chosen_one(bundle: Bundle) -> None:
    """Nothing is replaced without a reason."""
    engine = open_engine(bundle, "h_s", threads=1)
    assert (engine.backend, engine.reason) == ("cpu", "chosen")


@pytest.mark.parametrize(
    ("fault", "reason"), [("bits", "gives other bits"), ("open", "no memory"), ("run", "the device is gone")]
)
def test_faulty_onnx_runtime_gives_way_to_integers(doctor: Doctor, bundle: Bundle, fault: str, reason: str) -> None:
    """Wrong bits, a graph that does not open, one that does not run: numpy takes over, with the right bits."""
    opened = doctor(fault)
    engine = open_engine(bundle, "h_s", threads=1)
    assert engine.backend == "numpy-int64"
    assert engine.reason.startswith("instead of cpu: ") and reason in engine.reason
    assert all(one.closed for one in opened)
    assert_right(engine, bundle)


def test_faulty_accelerator_gives_way_to_onnx_runtime(doctor: Doctor, bundle: Bundle) -> None:
    """The next one of the chain is the CPU's, not the slow reference."""
    opened = doctor("bits", "accelerator")
    engine = open_engine(bundle, "h_s", "accelerator", threads=1)
    assert engine.backend == "cpu"
    assert engine.reason.startswith("instead of accelerator: ") and opened[0].closed
    assert_right(engine, bundle)


def test_both_faults_are_told(doctor: Doctor, bundle: Bundle) -> None:
    """A chain of two faults ends in the reference and names both."""
    doctor("bits", "accelerator")
    doctor("open")
    engine = open_engine(bundle, "h_s", "accelerator", threads=1)
    assert engine.backend == "numpy-int64"
    assert "accelerator: graph 'h_s'" in engine.reason and "cpu: graph 'h_s'" in engine.reason


def test_engine_that_fails_later_gives_way_where_another_succeeds(doctor: Doctor, bundle: Bundle) -> None:
    """The run that fails is answered all the same, and those after it."""
    opened = doctor("late")
    engine = open_engine(bundle, "h_s", threads=1)
    assert engine.backend == "cpu"
    engine.run(z_of(bundle, 3, 3))
    assert_right(engine, bundle)
    assert (engine.backend, engine.reason) == ("numpy-int64", "instead of cpu: the device is gone")
    assert opened[0].closed
    assert_right(engine, bundle)


def test_wrong_call_replaces_nothing(bundle: Bundle) -> None:
    """What no engine can run is the caller's fault."""
    engine = open_engine(bundle, "h_s", threads=1)
    with pytest.raises(EngineError, match="takes 1 inputs"):
        engine.run()
    assert (engine.backend, engine.reason) == ("cpu", "chosen")


@pytest.mark.parametrize("fault", ["open", "run"])
def test_free_graphs_do_not_fall_back(doctor: Doctor, bundle: Bundle, fault: str) -> None:
    """There is no reference for floats."""
    doctor(fault, free=True)
    with pytest.raises(EngineError):
        open_engine(bundle, "h_a", threads=1).run(np.zeros((1, bundle.settings["y_channels"], 4, 4), np.float32))


def test_nothing_left_is_an_error_that_names_all(
    doctor: Doctor, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If not even integers give the known answers, the bundle is at fault."""
    doctor("bits")
    doctor("bits", "numpy-int64")
    with pytest.raises(EngineError, match=r"cpu: .* other bits .*numpy-int64: .* other bits"):
        open_engine(bundle, "h_s", threads=1)


def test_codec_codes_on_the_reference_and_reports_it(doctor: Doctor) -> None:
    """The stream is the same, byte by byte; the model says what ran."""
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    with Codec.open("dpict-edge", threads=1) as codec:
        expected = codec.encode(image).stream
        assert {use.reason for use in codec.model.engines_report()} == {"chosen"}
    doctor("bits")
    with Codec.open("dpict-edge", threads=1) as codec:
        assert codec.encode(image).stream == expected
        (use,) = (use for use in codec.model.engines_report() if use.role == "h_s")
    assert use.backend == "numpy-int64" and "gives other bits" in use.reason


def test_selfcheck_shows_what_fell_back(doctor: Doctor, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything works, slower, and the report says why."""
    doctor("bits")
    assert main(["selfcheck", "dpict-edge", "--threads", "1", "--json"]) == 0
    checks = {check["name"]: check["detail"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert "h_s on numpy-int64 (instead of cpu: " in checks["dpict-edge: engines"]
    assert "numpy-int64" in checks["dpict-edge: graph h_s"]


def test_selfcheck_finds_a_false_claim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A manifest that claims smaller sums than the graph can reach, or other layers, fails its proof."""
    folder = unpacked("dpict-edge", tmp_path / "bundle")
    sound = (folder / "manifest.json").read_text()
    for change in ({"mu": 20.0}, {"other": 20.0}):
        manifest = json.loads(sound)
        manifest["graphs"]["h_s"]["accumulator_log2"].update(change)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert main(["selfcheck", str(folder), "--threads", "2", "--json"]) == 1
        failed = [one for one in json.loads(capsys.readouterr().out)["checks"] if not one["ok"]]
        assert [one["name"] for one in failed] == [f"{folder}: proof of h_s"]
        assert "the manifest claims" in failed[0]["detail"]


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that runs on the CPU are given, each of which takes longer."""
    given: list[float] = []

    def run_within(self: OnnxRuntimeCpu, seconds: float, *inputs: Tensor) -> Sequence[Tensor]:
        given.append(seconds)
        raise OutOfTime("not over")

    monkeypatch.setattr(OnnxRuntimeCpu, "run_within", run_within)
    return given


def test_engine_that_takes_over_is_ended_in_time(doctor: Doctor, bundle: Bundle, times: list[float]) -> None:
    """What is left of the time is the next engine's limit, too; it stays, though it was too slow this time."""
    doctor("late", "accelerator")
    engine = open_engine(bundle, "h_s", "accelerator", threads=1)
    for _ in range(2):
        with pytest.raises(OutOfTime):
            engine.run(z_of(bundle), within_s=60.0)
    assert (engine.backend, engine.reason) == ("cpu", "instead of accelerator: the device is gone")
    assert len(times) == 2 and all(0 < seconds <= 60 for seconds in times)
