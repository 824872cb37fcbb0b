"""Units measured in this process, or in several of them; outcomes come as they are ready.

A process that dies takes nothing with it: an outcome exists once this process has it, and units without one are
measured anew. A unit that its process does not survive three times ends the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import get_context

from runtime.errors import EngineError
from runtime.evaluate.runs.work import Job, Outcome, Unit, Worker, measured

MOST_TRIES = 3


def run_here(job: Job, units: Sequence[Unit]) -> Iterator[Outcome]:
    """Measure *units* one after another."""
    with closing(job.open()) as worker:
        for unit in units:
            yield measured(worker, unit)


def run_in_processes(job: Job, units: Sequence[Unit], workers: int) -> Iterator[Outcome]:
    """Measure *units* in as many processes as there are *workers*.

    Raises:
        EngineError: a process died over and over.
    """
    left = {unit.name: unit for unit in units}
    tries: Counter[str] = Counter()
    while left:
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _keep, (job,))
        try:
            yield from _until_broken(pool, left)
        except BrokenProcessPool as fault:
            suspects = list(left)[:workers]  # they are measured in order: these were in work
            tries.update(suspects)
            worst = max(suspects, key=lambda name: tries[name])
            if tries[worst] >= MOST_TRIES:
                raise EngineError(
                    f"a worker process died {MOST_TRIES} times, about {worst}; --workers 1 will show the cause"
                ) from fault
        finally:
            pool.shutdown(cancel_futures=True)


def _until_broken(pool: ProcessPoolExecutor, left: dict[str, Unit]) -> Iterator[Outcome]:
    """Yield outcomes, and take their units out of *left*; BrokenProcessPool if a process died before all were there."""
    try:
        futures = {pool.submit(_measure, unit): name for name, unit in left.items()}
    # A process died while others were still to be started: its pipes are closed under the one that starts now, or,
    # where the operating system has given their numbers to another pipe by then, handed to it twice.
    except (OSError, ValueError) as fault:
        raise BrokenProcessPool("a process died early") from fault
    for future in as_completed(futures):
        outcome = future.result()
        del left[futures[future]]
        yield outcome


# A pool hands nothing to its processes' tasks but arguments, so that what a process holds stands here.
_job: Job | None = None
_worker: Worker | None = None


def _keep(job: Job) -> None:
    global _job  # noqa: PLW0603
    _job = job


def _measure(unit: Unit) -> Outcome:
    global _worker  # noqa: PLW0603
    if _worker is None:  # here and not before, so that what goes wrong reaches the caller as it is
        assert _job is not None
        _worker = _job.open()
    return measured(_worker, unit)
