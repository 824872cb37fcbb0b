"""Open a bundle's graph on this machine, and prove it before it is used."""

from __future__ import annotations

import io
import os

import numpy as np

from engines.bundle import Bundle, GraphSpec
from engines.engine import Engine, Tensor
from engines.errors import BundleError, EngineError, UsageError
from engines.onnxruntime_cpu import OnnxRuntimeCpu

BACKENDS = ("auto", "onnxruntime-cpu")


def open_engine(bundle: Bundle, role: str, backend: str = "auto", threads: int | None = None) -> Engine:
    """Open the graph of *role*; `threads=None` takes all cores.

    Raises:
        UsageError: there is no such back end.
        BundleError: the bundle has no such graph.
        EngineError: the graph cannot be opened, or an exact graph gives other bits than its known answers.
    """
    if backend not in BACKENDS:
        raise UsageError(f"engine {backend!r} is unknown; there are {', '.join(BACKENDS)}")
    if role not in bundle.graphs:
        raise BundleError(f"bundle {bundle.name} has no graph {role!r}; it has {', '.join(sorted(bundle.graphs))}")
    spec = bundle.graphs[role]
    engine = OnnxRuntimeCpu(bundle.read(spec.file), spec, threads or available_cores())
    if spec.exact:
        check_known_answers(bundle, spec, engine)
    return engine


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_known_answers(bundle: Bundle, spec: GraphSpec, engine: Engine) -> float:
    """Run the graph's known answers and return the largest difference; 0.0 for every exact graph that returns at all.

    Raises:
        EngineError: an exact graph's output differs from its known answer in any bit.
        BundleError: the graph has no known answers, or they cannot be read.
    """
    worst = 0.0
    for case in _known_answers(bundle, spec):
        for name, output in zip(spec.outputs, engine.run(*(case[name] for name in spec.inputs)), strict=True):
            same_shape = output.shape == case[name].shape
            difference = float(np.abs(output - case[name]).max()) if same_shape else np.inf
            worst = max(worst, np.inf if np.isnan(difference) else difference)
    if spec.exact and worst != 0.0:
        raise EngineError(
            f"graph {spec.role!r} of bundle {bundle.name} gives other bits on {engine.backend} than its known answers "
            f"(largest difference {worst:g}); streams would not decode"
        )
    return worst


def _known_answers(bundle: Bundle, spec: GraphSpec) -> list[dict[str, Tensor]]:
    """Return the inputs and outputs of every known answer by tensor name."""
    if spec.known_answers is None:
        raise BundleError(f"bundle {bundle.name}: graph {spec.role!r} has no known answers")
    try:
        with np.load(io.BytesIO(bundle.read(spec.known_answers)), allow_pickle=False) as file:
            names = (*spec.inputs, *spec.outputs)
            cases = [
                {name: file[f"{case}.{name}"].astype(np.float32) for name in names}
                for case in range(int(file["cases"]))
            ]
    except Exception as fault:  # what numpy, zipfile and zlib raise on garbage has no common base
        raise BundleError(f"bundle {bundle.name}: {spec.known_answers} cannot be read: {fault!r}") from fault
    if not cases:
        raise BundleError(f"bundle {bundle.name}: {spec.known_answers} holds no known answers")
    return cases
