"""Open a bundle's graph on this machine, and prove it before it is used.

An exact graph must give the known answers' bits. A back end that cannot open it, fails, or gives others is replaced:

    the chosen one -> onnxruntime-cpu -> numpy-int64

What was replaced and why stays visible in `OpenedEngine.reason`. Free graphs run on the chosen back end or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from engines.bundle import Bundle, GraphSpec
from engines.engine import Engine, Tensor
from engines.errors import BundleError, EngineError, UsageError
from engines.known_answers import check_known_answers
from engines.numpy_exact import NumpyExact
from engines.onnx_file import read_graph
from engines.onnxruntime_cpu import OnnxRuntimeCpu

BACKENDS = ("auto", "onnxruntime-cpu")
_DEFAULT = "onnxruntime-cpu"
_LAST = "numpy-int64"

Opener = Callable[[bytes, GraphSpec, int], Engine]


def _open_onnxruntime_cpu(model: bytes, spec: GraphSpec, threads: int) -> Engine:
    return OnnxRuntimeCpu(model, spec, threads)


def _open_numpy(model: bytes, spec: GraphSpec, threads: int) -> Engine:
    return NumpyExact(model, spec)


OPENERS: Mapping[str, Opener] = {"onnxruntime-cpu": _open_onnxruntime_cpu, "numpy-int64": _open_numpy}


class OpenedEngine:
    """An engine that has proved itself, and its successors if it fails later.

    Attributes:
        backend: of the engine that runs now.
        reason: why it is that one: "chosen", or what was wrong with those before it.
    """

    def __init__(self, bundle: Bundle, spec: GraphSpec, chain: Sequence[str], threads: int) -> None:
        """Open the first back end of *chain* that can run the graph and gives its known answers.

        Raises:
            BundleError: the graph's file or its known answers are not as they should be.
            EngineError: no back end of the chain is left.
        """
        self.backend, self.reason = "", "chosen"
        self._bundle, self._spec, self._threads = bundle, spec, threads
        self._left = list(chain)
        self._faults: list[str] = []
        self._open_first()

    def run(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph; see `Engine.run`. An engine that fails where a later one succeeds gives way to it for good."""
        try:
            return self._engine.run(*inputs)
        except EngineError as fault:
            return self._run_elsewhere(fault, inputs)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    def _run_elsewhere(self, fault: EngineError, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        for place, name in enumerate(self._left):
            try:
                engine = self._open(name)
            except EngineError:
                continue
            try:
                outputs = engine.run(*inputs)
            except EngineError:
                engine.close()
                continue
            self._faults.append(f"{self.backend}: {fault}")
            self._engine.close()
            self._take(engine)
            del self._left[: place + 1]
            return outputs
        raise fault  # no engine can: the call itself is wrong

    def _open_first(self) -> None:
        while self._left:
            name = self._left.pop(0)
            try:
                self._take(self._open(name))
                return
            except EngineError as fault:
                self._faults.append(f"{name}: {fault}")
        raise EngineError("; ".join(self._faults))

    def _take(self, engine: Engine) -> None:
        self._engine, self.backend = engine, engine.backend
        if self._faults:
            self.reason = f"instead of {'; '.join(self._faults)}"

    def _open(self, name: str) -> Engine:
        spec = self._spec
        engine = OPENERS[name](self._bundle.read(spec.file), spec, self._threads)
        if spec.exact:
            try:
                check_known_answers(self._bundle, spec, engine)
            except (BundleError, EngineError):
                engine.close()
                raise
        return engine


def open_engine(bundle: Bundle, role: str, backend: str = "auto", threads: int | None = None) -> OpenedEngine:
    """Open the graph of *role*; `threads=None` takes all cores.

    Raises:
        UsageError: there is no such back end.
        BundleError: the bundle has no such graph, or its file holds what bundles may not, such as external data.
        EngineError: the graph cannot be opened, or an exact graph gives other bits than its known answers everywhere.
    """
    if backend not in BACKENDS:
        raise UsageError(f"engine {backend!r} is unknown; there are {', '.join(BACKENDS)}")
    if role not in bundle.graphs:
        raise BundleError(f"bundle {bundle.name} has no graph {role!r}; it has {', '.join(sorted(bundle.graphs))}")
    spec = bundle.graphs[role]
    try:
        read_graph(bundle.read(spec.file))  # what engines parse was looked through before
    except BundleError as fault:
        raise BundleError(f"bundle {bundle.name}: graph {role!r} cannot be opened: {fault}") from fault
    chosen = _DEFAULT if backend == "auto" else backend
    chain = list(dict.fromkeys((chosen, _DEFAULT, _LAST))) if spec.exact else [chosen]
    return OpenedEngine(bundle, spec, chain, threads or available_cores())


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


__all__ = ["BACKENDS", "OpenedEngine", "available_cores", "check_known_answers", "open_engine"]
