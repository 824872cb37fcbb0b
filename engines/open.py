"""Open a bundle's graph on this machine, and prove it before it is used.

    auto         tensorrt where plans of the graph are in the cache, else cuda where it is, else cpu
    a name       that back end

An exact graph must give the known answers' bits, on an accelerator again with the first inputs of every size. One that
cannot be opened, fails, or gives others is replaced: the chosen back end, then cpu, then numpy-int64. A free graph must
come close to its known answers on an accelerator. Under "auto" it is replaced too, first by float32 where FP16 was
tried, then by the next back end; a back end that was named runs it or nothing does.

What was replaced and why stays visible in `OpenedEngine.reason`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from engines.backends import BACKENDS, ENGINES, EXACT_ONLY, PRECISIONS, Backend, OpenSettings
from engines.bundle import Bundle, GraphSpec
from engines.engine import Engine, Progress, StoppableEngine, Tensor
from engines.errors import BundleError, EngineError, NotPrepared, OutOfTime, UsageError
from engines.half import half_graph
from engines.known_answers import check_known_answers, known_answers
from engines.onnx_file import read_graph
from engines.plan_cache import PlanCache
from engines.proving import check_close, prove_size

_CPU = "cpu"
_CHOSEN = "chosen"
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Candidate:
    """A back end, and whether the graph is to run in FP16 on it."""

    backend: str
    half: bool = False

    @property
    def described(self) -> str:
        """As it stands in reasons."""
        return f"{self.backend} in FP16" if self.half else self.backend


class OpenedEngine:
    """An engine that has proved itself, and its successors if it fails later.

    Attributes:
        backend: of the engine that runs now.
        precision: "fp32" or "fp16".
        reason: why it is that one: "chosen", or what was wrong with those before it.
    """

    def __init__(
        self, bundle: Bundle, spec: GraphSpec, chain: Sequence[Candidate], settings: OpenSettings, reason: str = _CHOSEN
    ) -> None:
        """Open the first candidate of *chain* that can run the graph and gives its known answers.

        Raises:
            BundleError: the graph's file or its known answers are not as they should be.
            EngineError: no back end of the chain is left.
        """
        self.backend, self.precision, self.reason = "", "fp32", reason
        self._bundle, self._spec, self._settings = bundle, spec, settings
        self._left = list(chain)
        self._faults: list[str] = []
        self._reference: Engine | None = None
        self._proved: set[tuple[tuple[int, ...], ...]] = set()
        self._instead: OpenedEngine | None = None  # for sizes without a plan
        self._open_first()

    @classmethod
    def only(cls, bundle: Bundle, role: str, backend: str, threads: int) -> OpenedEngine:
        """Open a graph on one back end, with no other to fall back on.

        Raises:
            BundleError, EngineError: see above.
        """
        return cls(bundle, bundle.graph(role), [Candidate(backend)], OpenSettings(threads))

    def run(self, *inputs: Tensor, within_s: float | None = None) -> Sequence[Tensor]:
        """Run the graph; see `Engine.run`. An engine that fails where a later one succeeds gives way to it for good.

        Args:
            within_s: engines that can (`StoppableEngine`) give up after so many seconds; the others take their time.

        Raises:
            OutOfTime: the run was given up.
        """
        until = None if within_s is None else time.monotonic() + within_s
        self._left_s(until)  # a proof would take time, too
        try:
            self._prove(inputs)
            return self._run_until(until, self._engine, inputs)
        except NotPrepared as fault:
            return self._run_unprepared(fault, inputs, until)
        except EngineError as fault:
            return self._run_elsewhere(fault, inputs, until)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()
        for other in (self._reference, self._instead):
            if other is not None:
                other.close()
        self._reference = self._instead = None

    def _prove(self, inputs: Sequence[Tensor]) -> None:
        """Compare an exact graph on an accelerator with the CPU, once for every size."""
        if not self._spec.exact or not BACKENDS[self.backend].accelerator:
            return
        shapes = tuple(value.shape for value in inputs)
        if shapes in self._proved:
            return
        if self._reference is None:
            self._reference = BACKENDS[_CPU].open(self._bundle.read(self._spec.file), self._spec, self._settings)
        prove_size(self._bundle, self._spec, self._engine, self._reference, inputs)
        self._proved.add(shapes)

    def _left_s(self, until: float | None) -> float | None:
        """Return how many seconds there are until an instant; OutOfTime if there are none."""
        if until is None:
            return None
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise OutOfTime(f"graph {self._spec.role!r} was not begun: there was no time for it")
        return left_s

    def _run_until(self, until: float | None, engine: Engine, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        left_s = self._left_s(until)
        if left_s is not None and isinstance(engine, StoppableEngine):
            return engine.run_within(left_s, *inputs)
        return engine.run(*inputs)

    def _run_unprepared(self, fault: NotPrepared, inputs: Sequence[Tensor], until: float | None) -> Sequence[Tensor]:
        """Run a size that has no plan on the next back end; sizes that have one stay where they are."""
        if self._instead is None:
            if not self._left:
                raise fault
            self._instead = OpenedEngine(self._bundle, self._spec, self._left, self._settings)
            self.reason = f"{self.reason}; sizes without a plan on {self._instead.backend}"
        return self._instead.run(*inputs, within_s=self._left_s(until))

    def _run_elsewhere(self, fault: EngineError, inputs: Sequence[Tensor], until: float | None) -> Sequence[Tensor]:
        for place, candidate in enumerate(self._left):
            try:
                engine = self._open(candidate)
            except EngineError:
                continue
            try:
                outputs = self._run_until(until, engine, inputs)
            except EngineError:
                engine.close()
                continue
            except OutOfTime:  # it stays, or every run with as little time would open it anew
                self._give_way(fault, place, engine)
                raise
            self._give_way(fault, place, engine)
            return outputs
        raise fault  # no engine can: the call itself is wrong

    def _give_way(self, fault: EngineError, place: int, engine: Engine) -> None:
        """Put *engine*, of the candidate at *place* of those left, where the one is that failed."""
        self._faults.append(f"{self.backend}: {fault}")
        self._engine.close()
        self._take(self._left[place], engine)
        del self._left[: place + 1]

    def _open_first(self) -> None:
        while self._left:
            candidate = self._left.pop(0)
            try:
                self._take(candidate, self._open(candidate))
                return
            except EngineError as fault:
                self._faults.append(f"{candidate.described}: {fault}")
        raise EngineError("; ".join(self._faults))

    def _take(self, candidate: Candidate, engine: Engine) -> None:
        self._engine, self.backend = engine, candidate.backend
        self.precision = "fp16" if candidate.half else "fp32"
        if self._faults:
            self.reason = f"instead of {'; '.join(self._faults)}"

    def _open(self, candidate: Candidate) -> Engine:
        spec, backend = self._spec, BACKENDS[candidate.backend]
        missing = backend.missing()
        if missing is not None:
            raise EngineError(missing)
        model = self._bundle.read(spec.file)
        if candidate.half:
            model = half_graph(model, spec.float32_in_fp16 or ())
        engine = backend.open(model, spec, self._settings)
        try:
            self._check(backend, engine)
        except (BundleError, EngineError):
            engine.close()
            raise
        return engine

    def _check(self, backend: Backend, engine: Engine) -> None:
        spec = self._spec
        if spec.exact:
            check_known_answers(self._bundle, spec, engine)
        elif backend.accelerator and not backend.has_plans:  # plans were compared with the CPU when they were built
            for answer in known_answers(self._bundle, spec):
                check_close(spec, engine.backend, engine.run(*answer.inputs), answer.outputs)


def open_engine(
    bundle: Bundle,
    role: str,
    engine: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    *,
    may_build: bool = False,
    progress: Progress | None = None,
) -> OpenedEngine:
    """Open the graph of *role*.

    Args:
        engine: one of ENGINES; see the module text.
        threads: CPU threads of one run; None takes all cores.
        precision: of free graphs that the bundle offers in FP16. "auto" takes FP16 where the back end computes in it;
            "fp16" takes it everywhere (on the CPU it is emulated: slower, not faster).
        may_build: plans may be built for sizes that have none, which takes minutes.
        progress: is told how a build goes on.

    Raises:
        UsageError: there is no such engine or precision, or threads are more than make sense.
        BundleError: the bundle has no such graph, or its file holds what bundles may not, such as external data.
        EngineError: the graph cannot be opened, or an exact graph gives other bits than its known answers everywhere.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine {engine!r} is unknown; there are {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is unknown; there are {', '.join(PRECISIONS)}")
    if threads is not None and not 0 <= threads <= _MOST_THREADS:
        raise UsageError(f"threads must be at most {_MOST_THREADS}, not {threads}")
    spec = bundle.graph(role)
    try:
        read_graph(bundle.read(spec.file))  # what engines parse was looked through before
    except BundleError as fault:
        raise BundleError(f"bundle {bundle.name}: graph {role!r} cannot be opened: {fault}") from fault
    settings = OpenSettings(threads or available_cores(), may_build, progress)
    return OpenedEngine(bundle, spec, _chain(spec, _names(engine, spec), precision), settings)


def _names(engine: str, spec: GraphSpec) -> Sequence[str]:
    """Return the back ends to try, in order. What is not here at all is no reason worth telling under "auto"."""
    if engine != "auto":
        return [engine]
    here = [name for name in ("tensorrt", "cuda") if BACKENDS[name].missing() is None]
    if "tensorrt" in here and not _has_plans("tensorrt", spec):
        here.remove("tensorrt")
    return [*here, _CPU]


def _has_plans(backend: str, spec: GraphSpec) -> bool:
    try:
        return any(
            (entry.key.get("engine"), entry.key.get("role")) == (backend, spec.role) for entry in PlanCache().entries()
        )
    except EngineError:
        return False


def _chain(spec: GraphSpec, names: Sequence[str], precision: str) -> list[Candidate]:
    if spec.exact:
        return [Candidate(name) for name in dict.fromkeys((*names, _CPU, EXACT_ONLY))]
    chain = []
    for name in names:
        offered = spec.float32_in_fp16 is not None and BACKENDS[name].takes_fp16
        if offered and (precision == "fp16" or (precision == "auto" and BACKENDS[name].computes_fp16())):
            chain.append(Candidate(name, half=True))
        if not offered or precision != "fp16":
            chain.append(Candidate(name))
    return chain


def available_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


__all__ = ["ENGINES", "PRECISIONS", "OpenedEngine", "available_cores", "check_known_answers", "open_engine"]
