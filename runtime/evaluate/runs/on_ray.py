"""Units measured by actors on a Ray cluster; every actor holds its engines as long as it lives.

Pictures' bytes, settings and the classifier travel; bundles must be installed on every node. An actor that dies, or
whose node does, is replaced, and its unit measured anew: an outcome counts when the driver has it, and never twice.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from runtime.errors import CutoffError, EngineError, MissingExtra, UsageError
from runtime.evaluate.runs.processes import MOST_TRIES
from runtime.evaluate.runs.work import Job, Outcome, Unit, Worker, measured, read_unit

LOCAL = "local"


def run_on_ray(job: Job, units: Sequence[Unit], workers: int, cores: int, address: str = LOCAL) -> Iterator[Outcome]:
    """Measure *units* by *workers* actors of *cores* CPU cores each.

    Args:
        address: of a running cluster, as `ray.init` takes it; "local" starts Ray on this machine for as long as it
            takes. A connection that there is already is used, and left as it is.

    Raises:
        MissingExtra: Ray is not installed.
        UsageError: no cluster answers at *address*.
        EngineError: actors died over and over.
    """
    ray = import_ray()
    connected_before = ray.is_initialized()
    if not connected_before:
        connect(ray, address, workers * cores)
    try:
        yield from _Crew(ray, job, workers, cores).run(units)
    finally:
        if not connected_before:
            ray.shutdown()


def import_ray() -> Any:
    """Return the module; MissingExtra if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # must be set before the import
    try:
        import ray
    except ImportError as fault:
        raise MissingExtra("--ray needs Ray: pip install '.[ray]' in the checkout") from fault
    return ray


def connect(ray: Any, address: str, cores: int) -> None:
    """Connect to the cluster at *address*, or start one of *cores* here; UsageError if that fails."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == LOCAL:
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as fault:  # Ray's own share no base class
        raise UsageError(f"--ray {address}: no cluster answers: {' '.join(str(fault).split())}") from fault


class _Actor:
    """What an actor is: a worker, opened when it is first needed, so that what goes wrong can be handed back."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._worker: Worker | None = None

    def measure(self, unit: Unit, content: bytes) -> Outcome | CutoffError:
        """Measure; an error of ours is handed back as it is, not as Ray wraps it."""
        try:
            if self._worker is None:
                self._worker = self._job.open()
            return measured(self._worker, unit, content)
        except CutoffError as fault:
            return fault


class _Crew:
    """The actors, and who measures what."""

    def __init__(self, ray: Any, job: Job, workers: int, cores: int) -> None:
        self._ray, self._workers = ray, workers
        self._kind = ray.remote(num_cpus=cores, max_restarts=0)(_Actor)
        self._job = ray.put(job)
        self._busy: dict[Any, tuple[Unit, Any]] = {}
        self._deaths: Counter[str] = Counter()

    def run(self, units: Sequence[Unit]) -> Iterator[Outcome]:
        """Yield the outcomes of *units* as they come."""
        waiting = list(reversed(units))
        for _ in range(min(self._workers, len(waiting))):
            self._give(self._kind.remote(self._job), waiting)
        while self._busy:
            (done,), _ = self._ray.wait(list(self._busy), num_returns=1)
            unit, actor = self._busy.pop(done)
            try:
                outcome = self._ray.get(done)
            except self._ray.exceptions.RayActorError as fault:
                waiting.append(self._once_more(unit, fault))
                actor = self._kind.remote(self._job)
            else:
                if isinstance(outcome, CutoffError):
                    raise outcome
                yield outcome
            self._give(actor, waiting)

    def _give(self, actor: Any, waiting: list[Unit]) -> None:
        """Give *actor* the next unit, if there is one; DataError if its file cannot be read."""
        if waiting:
            unit = waiting.pop()
            self._busy[actor.measure.remote(unit, read_unit(unit))] = (unit, actor)

    def _once_more(self, unit: Unit, fault: Exception) -> Unit:
        self._deaths[unit.name] += 1
        if self._deaths[unit.name] >= MOST_TRIES:
            raise EngineError(f"{MOST_TRIES} actors died on {unit.name}: {' '.join(str(fault).split())}") from fault
        return unit
