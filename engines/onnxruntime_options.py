"""How ONNX Runtime is to run a graph: all options of every execution provider, in one place.

Everything here is data, so that it can be read, compared and tested without the library or a GPU.

Exact graphs: basic optimisation only, no reduced-precision path, TF32 off; their integers then come out the same
everywhere. Free graphs: full optimisation, TF32 allowed.

CPU. Threads wait for the next operation of a run awake, but for a millisecond at most, and never between runs. A thread
that sleeps between operations wakes too late for many of them on a machine that is mostly idle: a run of g_s after a
pause took half as long again. One that spins for as long as the library does by default takes a core from others: on
two busy cores 40 % more processor time. Versions that know no such bound do not spin. All sessions of a process share
one arena: with one each, which is ONNX Runtime's default, every graph of a bundle keeps the memory that its largest run
took, though a picture's graphs run one after the other (docs/engines.md).

CUDA. `cudnn_conv_algo_search`: HEURISTIC. EXHAUSTIVE gives other results from session to session, and since ONNX
Runtime 1.20 DEFAULT means a slow fallback (microsoft/onnxruntime#22705). The arena grows by what is asked for, as
memory of small devices is shared.

TensorRT. One session per set of input sizes: with a profile of exactly these, since a size outside makes the provider
build again, for minutes, inside a run. Precision is written in the graph (`engines.half`), so no FP16 flag is set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engines.manifest import GraphSpec

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
WORKSPACE_BYTES = 1 << 30
SPINNING = "session.intra_op.allow_spinning"
SHARED_ARENA = "session.use_env_allocators"
BOUNDED_SPINNING_SINCE = (1, 27)  # the versions of ONNX Runtime that keep to _SPINS_US
_SPINS_US = 1000

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class SessionSettings:
    """What makes a session.

    Attributes:
        providers: name and options of each, most wanted first; the first must be the one that is used.
        threads: CPU threads of one run.
        optimisation: name of a `GraphOptimizationLevel`.
        entries: session configuration, by key.
    """

    providers: Sequence[tuple[str, Mapping[str, str]]]
    threads: int
    optimisation: str
    entries: Mapping[str, str] = field(default_factory=dict)


def cpu_settings(spec: GraphSpec, threads: int) -> SessionSettings:
    """Return the settings of a session on the CPU."""
    return SessionSettings([(CPU, {})], threads, _optimisation(spec), {**_entries(spec), SHARED_ARENA: "1"})


def cuda_settings(spec: GraphSpec, threads: int, device: int = 0) -> SessionSettings:
    """Return the settings of a session on an NVIDIA GPU."""
    return SessionSettings([_cuda(spec, device)], threads, _optimisation(spec), _entries(spec))


def tensorrt_settings(
    spec: GraphSpec, threads: int, shapes: Shapes, cache: Path, timing: Path, device: int = 0
) -> SessionSettings:
    """Return the settings of a session of the TensorRT provider.

    Args:
        shapes: of the inputs; the engine is built for exactly these.
        cache: folder of this engine alone.
        timing: folder of the timing cache.
    """
    profile = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
    tensorrt = {
        "device_id": str(device),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(timing),
        "trt_profile_min_shapes": profile,
        "trt_profile_opt_shapes": profile,
        "trt_profile_max_shapes": profile,
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
    }
    # What TensorRT does not take runs on CUDA.
    return SessionSettings([(TENSORRT, tensorrt), _cuda(spec, device)], threads, _optimisation(spec), _entries(spec))


def _cuda(spec: GraphSpec, device: int) -> tuple[str, Mapping[str, str]]:
    return CUDA, {
        "device_id": str(device),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "use_tf32": "0" if spec.exact else "1",
    }


def _optimisation(spec: GraphSpec) -> str:
    return "ORT_ENABLE_BASIC" if spec.exact else "ORT_ENABLE_ALL"


def _entries(spec: GraphSpec) -> Mapping[str, str]:
    entries = {
        SPINNING: "1",
        "session.intra_op.spin_duration_us": str(_SPINS_US),
        "session.force_spinning_stop": "1",  # at the end of a run
    }
    if spec.exact:
        entries["mlas.enable_gemm_fastmath_arm64_bfloat16"] = "0"
    return entries
