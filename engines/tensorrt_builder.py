"""From a graph to a TensorRT plan: strongly typed, so that precision is what the graph says and nothing else.

Flags of precision (FP16, BF16, INT8) do not exist from version 11 on and are never used; `engines.half` writes
precision into the graph. Exact graphs are built without TF32, which rounds products to 11 bits. Choices of kernels
are timed, so two builds may differ in the last bits: exact graphs prove themselves afterwards, free ones may differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engines.engine import Progress
from engines.errors import EngineError
from engines.manifest import GraphSpec
from engines.plan_cache import Profile
from engines.tensorrt_api import (
    BuilderConfig,
    ErrorLog,
    Network,
    TensorRT,
    described,
    error_log,
    member,
    needed,
    translated,
)

WORKSPACE_BYTES = 1 << 30  # on Jetson it is taken from the memory that the CPU uses too
LEVEL = 3  # TensorRT's own default; 5 tries several times as long


@dataclass(frozen=True)
class BuiltPlan:
    """A plan, and the timing cache as it is now; None if the version gives none."""

    plan: bytes
    timing: bytes | None


def build_flags(spec: GraphSpec) -> tuple[str, ...]:
    """Return what decides about a plan beside graph and profile, for its key."""
    return ("strongly typed", "no TF32" if spec.exact else "TF32", f"level {LEVEL}", f"workspace {WORKSPACE_BYTES}")


def build_plan(
    trt: TensorRT,
    model: bytes,
    spec: GraphSpec,
    profile: Profile,
    timing: bytes | None = None,
    progress: Progress | None = None,
) -> BuiltPlan:
    """Build a plan of the ONNX file *model*; takes seconds to minutes.

    Args:
        profile: sizes of every input.
        timing: a timing cache of this machine and version.
        progress: is called as the build goes on, if the version reports it.

    Raises:
        EngineError: TensorRT refuses, with what it logged.
    """
    with translated(f"building graph {spec.role!r}"):
        return _build(trt, model, spec, profile, timing, progress)


def _build(
    trt: TensorRT, model: bytes, spec: GraphSpec, profile: Profile, timing: bytes | None, progress: Progress | None
) -> BuiltPlan:
    log = error_log(trt)
    builder = trt.Builder(log)
    if builder is None or log.errors:
        raise EngineError(f"TensorRT {trt.__version__} has no builder here: {described(log)}")
    network = _some(builder.create_network(_network_flags(trt)), "a network", log)
    _parse(trt, model, spec, network, log)
    config = _some(builder.create_builder_config(), "settings", log)
    config.set_memory_pool_limit(needed(trt, "MemoryPoolType", "WORKSPACE"), WORKSPACE_BYTES)
    config.builder_optimization_level = LEVEL
    if spec.exact:
        config.clear_flag(needed(trt, "BuilderFlag", "TF32"))
    sizes = _some(builder.create_optimization_profile(), "a profile", log)
    for name, (smallest, best, largest) in profile.items():
        sizes.set_shape(name, list(smallest), list(best), list(largest))
    if config.add_optimization_profile(sizes) < 0:
        raise EngineError(f"graph {spec.role!r}: TensorRT refuses the sizes {dict(profile)}: {described(log)}")
    _use_timing(config, timing)
    if progress is not None:
        _show(trt, config, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"graph {spec.role!r}: TensorRT {trt.__version__} cannot build a plan: {described(log)}")
    return BuiltPlan(_bytes(plan), _timing_of(config))


def _network_flags(trt: TensorRT) -> int:
    """Return the flags that this version has: all of 8 to 10 ask for one that 11 has no more."""
    names = ("EXPLICIT_BATCH", "STRONGLY_TYPED")
    flags = [member(trt, "NetworkDefinitionCreationFlag", name) for name in names]
    return sum(1 << int(flag) for flag in flags if flag is not None)


def _parse(trt: TensorRT, model: bytes, spec: GraphSpec, network: Network, log: ErrorLog) -> None:
    parser = _some(trt.OnnxParser(network, log), "a parser", log)
    if not parser.parse(model):
        faults = [parser.get_error(index).desc() for index in range(parser.num_errors)] or [described(log)]
        raise EngineError(f"graph {spec.role!r}: TensorRT {trt.__version__} cannot read it: {faults[0]}")
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    outputs = {network.get_output(index).name for index in range(network.num_outputs)}
    if inputs != set(spec.inputs) or outputs != set(spec.outputs):
        raise EngineError(f"graph {spec.role!r} has inputs and outputs {(inputs, outputs)} in TensorRT")


def _use_timing(config: BuilderConfig, timing: bytes | None) -> None:
    """Start from *timing*, or from nothing if it is of another machine or version."""
    for content in (timing, b""):
        if content is None:
            continue
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _timing_of(config: BuilderConfig) -> bytes | None:
    cache = config.get_timing_cache()
    content = cache.serialize() if cache is not None else None
    return _bytes(content) if content is not None else None


def _show(trt: TensorRT, config: Any, progress: Progress) -> None:
    base: Any = member(trt, "IProgressMonitor")
    if base is None or not hasattr(config, "progress_monitor"):
        return

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self.steps.get(phase_name, 0))
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, 0)
            progress(phase_name, steps, steps)

    config.progress_monitor = Monitor()


def _bytes(memory: Any) -> bytes:
    return bytes(memoryview(memory))  # the library's own type has the buffer protocol, and no other way out


def _some(made: Any, what: str, log: ErrorLog) -> Any:
    if made is None:
        raise EngineError(f"TensorRT gives no {what.removeprefix('a ')}: {described(log)}")
    return made
