"""Deadlines on a made-up clock: how a change of the scheduler fares, in a minute instead of ten.

    python benchmarks/deadline_simulation.py PICTURE [--host fast] [--load idle] [--repeats 7] [--seed 1] [--show 12]

`cutoff eval deadline` with its traces, its loop, its pictures and its goals; all that is made up is time. Stages, waits
and wakes advance a clock by durations that are drawn: their medians and how they vary are those of a host with two
slow cores, or of one with two fast ones, and networks have spells in which all their runs are slow, as on machines that
others use, too. So nothing else need rest, and policies are compared on the same draws of traces. It says nothing of
how fast anything is.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import runtime.render
from engines.costs import Costs
from runtime import Codec
from runtime.errors import OutOfTime
from runtime.evaluate.deadline.decodes import (
    IDLE,
    LOADED,
    LOADS,
    NOT_ARRIVED,
    NOTHING,
    DeadlineJob,
    DeadlineWorker,
    Decode,
    Place,
    unit_name,
)
from runtime.evaluate.deadline.promptness import goals, punctuality
from runtime.evaluate.runs.work import Unit
from runtime.families.base import Latents, Reconstruction
from runtime.model import Model

_TRITS = 8192  # of which the stage "slice" says what they take


@dataclass(frozen=True)
class Stage:
    """How long a stage takes: log-normal, and now and then much longer."""

    median_ms: float
    deviation: float  # of the logarithm
    stalls: float = 0.003  # share of runs
    stall_ms: tuple[float, float] = (1.0, 5.0)  # what these take more


@dataclass(frozen=True)
class Load:
    """What stages take; and how often, how long and by how much networks are slower in spells."""

    stages: Mapping[str, Stage]
    spells_per_s: float
    spell_s: float
    slower: float


HOSTS: Mapping[str, Mapping[str, Load]] = {
    "slow": {
        IDLE: Load(
            {
                "g_s": Stage(71, 0.09, 0.005, (5, 30)),
                "preview": Stage(9.5, 0.12, 0.003, (1, 18)),
                "side": Stage(11.3, 0.12, 0.003, (1, 18)),
                "reconstruct": Stage(2.4, 0.15),
                "finish": Stage(2.3, 0.10),
                "step": Stage(2.5, 0.30),
                "slice": Stage(0.7, 0.20),
                "wake": Stage(0.15, 0.40),
            },
            spells_per_s=0.25,
            spell_s=1.0,
            slower=1.35,
        ),
        LOADED: Load(
            {
                "g_s": Stage(195, 0.14, 0.01, (10, 60)),
                "preview": Stage(22, 0.35, 0.02, (4, 12)),
                "side": Stage(24, 0.35, 0.02, (4, 12)),
                "reconstruct": Stage(3.0, 0.50, 0.04, (2, 6)),
                "finish": Stage(3.2, 0.45, 0.04, (2, 6)),
                "step": Stage(3.0, 0.40, 0.04, (2, 6)),
                "slice": Stage(0.9, 0.30, 0.03, (2, 6)),
                "wake": Stage(0.30, 0.60, 0.03, (2, 6)),
            },
            spells_per_s=0.1,
            spell_s=1.0,
            slower=1.25,
        ),
    },
    # Runs are short and mostly alike, and spells so rare that a calibration hardly sees one.
    "fast": {
        IDLE: Load(
            {
                "g_s": Stage(41, 0.04, 0.005, (5, 20)),
                "preview": Stage(6.8, 0.06, 0.003, (1, 8)),
                "side": Stage(5.0, 0.06, 0.003, (1, 8)),
                "reconstruct": Stage(1.0, 0.08),
                "finish": Stage(1.1, 0.06),
                "step": Stage(1.0, 0.30),
                "slice": Stage(0.25, 0.20),
                "wake": Stage(0.10, 0.40),
            },
            spells_per_s=0.03,
            spell_s=4.0,
            slower=1.6,
        ),
    },
}


class World:
    """A clock that stages advance."""

    def __init__(self, load: Load, seed: int) -> None:
        self.now = 1000.0
        self._load, self._random = load, np.random.default_rng(seed)
        self._spell = 0.0, 0.0  # from when to when

    def takes_s(self, stage: str) -> float:
        """Draw what a run of *stage* that begins now takes."""
        how = self._load.stages[stage]
        seconds = how.median_ms / 1000 * float(np.exp(how.deviation * self._random.normal()))
        if self._random.random() < how.stalls:
            seconds += float(self._random.uniform(*how.stall_ms)) / 1000
        return seconds * self._load.slower if self._in_spell() else seconds

    def _in_spell(self) -> bool:
        while self._spell[1] < self.now:
            begins = self._spell[1] + float(self._random.exponential(1 / self._load.spells_per_s))
            self._spell = begins, begins + float(self._random.exponential(self._load.spell_s))
        return self._spell[0] <= self.now

    def spend(self, stage: str, share: float = 1.0) -> None:
        """Let a run of *stage*, or a *share* of one, pass."""
        self.now += share * self.takes_s(stage)

    def sleep(self, seconds: float) -> None:
        """Wait, and wake up a little later."""
        self.now += max(0.0, seconds) + self.takes_s("wake")


class TimedLatents:
    """Latents whose steps and reconstruction take their time."""

    def __init__(self, latents: Latents, world: World) -> None:
        self._latents, self._world = latents, world

    def __getattr__(self, name: str) -> Any:
        """All else is as it is."""
        return getattr(self._latents, name)

    def body(self) -> Iterator[Any]:
        """Yield the steps; before the first there is the side information."""
        stage = "side"
        for step in self._latents.body():
            self._world.spend(stage)
            yield step
            stage = "step"

    def reconstruct(self) -> Reconstruction:
        """Return what is known."""
        self._world.spend("reconstruct")
        return self._latents.reconstruct()


class TimedDecoder:
    """A trit decoder that takes its time."""

    def __init__(self, decoder: Any, world: World) -> None:
        self._decoder, self._world = decoder, world

    def __getattr__(self, name: str) -> Any:
        """All else is as it is."""
        return getattr(self._decoder, name)

    def decode_step(self, step: Any, most: int) -> bool:
        """Decode up to *most* trits."""
        before = step.received
        more: bool = self._decoder.decode_step(step, most)
        self._world.spend("slice", (step.received - before) / _TRITS + 0.02)
        return more


@contextmanager
def simulated(model: Model, world: World) -> Iterator[None]:
    """Let everything that *model* does take what *world* says."""
    run, begin, decoder = model.run, model.family.begin, model.coder.decoder
    convert = runtime.render.image_from_tensor
    known: dict[object, Any] = {}

    def timed_run(role: str, *inputs: Any, until: float | None = None) -> Any:
        end = world.now + world.takes_s(role)
        if until is not None and end > until:
            world.now = max(world.now, until)
            raise OutOfTime(role)
        world.now = end
        key = role, *(hashlib.sha256(np.ascontiguousarray(each).data).digest() for each in inputs)
        if key not in known:  # the same prefix as another time
            known[key] = run(role, *inputs)
        return known[key]

    def timed_conversion(*arguments: Any, **words: Any) -> Any:
        world.spend("finish")
        return convert(*arguments, **words)

    with (
        mock.patch.object(model, "clock", lambda: world.now),
        mock.patch.object(model, "costs", Costs()),
        mock.patch.object(model, "run", timed_run),
        mock.patch.object(model.family, "begin", lambda *size: TimedLatents(begin(*size), world)),
        mock.patch.object(model.coder, "decoder", lambda: TimedDecoder(decoder(), world)),
        mock.patch.object(runtime.render, "image_from_tensor", timed_conversion),
    ):
        yield


def simulate(file: Path, bundle: str, host: str, load: str, repeats: int, seed: int) -> Sequence[Decode]:
    """Return the decodes of *file* on *host* under *load*, as `cutoff eval deadline` measures them."""
    world, name = World(HOSTS[host][load], seed), unit_name(load, bundle, file.name)

    class Job(DeadlineJob):
        """Its codec lives in the made-up world, where nothing need keep cores busy."""

        def codec_of(self, bundle: str) -> Codec:
            codec = super().codec_of(bundle)
            codec.model.hurry()
            codec.model.open_all()
            patches.append(simulated(codec.model, world))
            patches[-1].__enter__()
            return codec

    patches: list[Any] = []
    job = Job({name: Place(bundle, bundle, load, file.name)}, "cpu", 1, "auto", 0, repeats, 200, seed)
    worker = DeadlineWorker(job, world.sleep)
    try:
        rows = worker.measure(Unit(name, file, ""), file.read_bytes()).rows
    finally:
        for patch in patches:
            patch.__exit__(None, None, None)
        worker.close()
    return [row for row in rows if isinstance(row, Decode)]


def main() -> None:
    """Simulate, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--bundle", default="dpict-edge")
    parser.add_argument("--host", choices=HOSTS, default="slow")
    parser.add_argument("--load", choices=LOADS, action="append", help="default: all of the host's")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the N decodes that lost most")
    arguments = parser.parse_args()
    for load in arguments.load or HOSTS[arguments.host]:
        if load not in HOSTS[arguments.host]:
            parser.error(f"host {arguments.host} has no load {load!r}")
        decodes = simulate(arguments.picture, arguments.bundle, arguments.host, load, arguments.repeats, arguments.seed)
        for line in punctuality(decodes):
            print(f"{load:7}{line.factor:4g} x {line.relative_to:10}{line.deadline_ms:8.1f} ms{line.n:5}"
                  f"  in time {100 * line.in_time.value:5.1f} %  preview {100 * line.preview.value:5.1f} %"
                  f"  over {line.overshoot_max_ms:6.2f} ms  loss {line.loss_mean_db:6.3f} dB")  # fmt: skip
        for goal in goals(decodes):
            print(f"{load:7}{goal.figure:62}{goal.wanted:17}{goal.measured:>26}{goal.n:6}")
        for one in lost_most(decodes)[: arguments.show]:
            print(f"{load:7}{one.trace:9}{one.factor:4g} x {one.relative_to:10}head {one.head_ms:6.1f}"
                  f"  deadline {one.deadline_ms:6.1f}  finished {one.finished_ms:6.1f} ms"
                  f"  {one.bytes_used} of {one.bytes_ideal} B"
                  f"  {one.psnr_db or 0:.2f} of {one.ideal_db or 0:.2f} dB  {one.answer}")  # fmt: skip


def lost_most(decodes: Sequence[Decode]) -> list[Decode]:
    """Return those that goals speak of, in time or not, by what they lost."""
    fair = [
        one for one in decodes if one.answer != NOT_ARRIVED and one.deadline_ms - one.head_ms >= 1.2 * one.minimum_ms
    ]
    loss: Callable[[Decode], float] = lambda one: (  # noqa: E731
        100.0
        if one.answer == NOTHING or one.finished_ms > one.deadline_ms
        else (one.ideal_db or 0.0) - (one.psnr_db or 0.0)
        if one.deadline_ms - one.head_ms >= 1.2 * one.synthesis_ms
        else 0.0
    )
    return sorted(fair, key=loss, reverse=True)


if __name__ == "__main__":
    main()
