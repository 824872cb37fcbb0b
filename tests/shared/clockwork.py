"""A codec on a made-up clock: networks advance it by what they are said to cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.costs import RARE, TAIL, Costs
from runtime import Codec, Deadline
from runtime.entropy.coder import TritDecoder
from runtime.errors import OutOfTime
from runtime.stream import Header, Limits

# Of one picture, in seconds.
COSTS = {"reconstruct": 0.002, "g_s": 0.020, "post_low": 0.010, "preview": 0.003, "finish": 0.001, "step": 0.0005}
SAFETY = 0.0005
FULL = COSTS["reconstruct"] + COSTS["g_s"] + COSTS["finish"] + SAFETY  # the cheapest picture of full quality


class FixedCosts(Costs):
    """Costs that are known and learn nothing."""

    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__()
        self.seconds = seconds
        self.most: dict[str, float] = {}  # what most runs take, where that is less

    def record(self, stage: str, pixels: int, seconds: float) -> None:
        pass

    def estimate_s(self, stage: str, pixels: int, share: float = TAIL) -> float:
        seconds = self.seconds.get(stage, 0.0)
        return seconds if share >= RARE else self.most.get(stage, seconds)

    def typical_s(self, stage: str, pixels: int) -> float:
        return self.seconds.get(stage, 0.0)

    def runs(self, stage: str, pixels: int) -> int:
        return 1000 if stage in self.seconds else 0


@dataclass
class World:
    """A codec whose networks take the time of *costs* on a clock of its own, and a stream for it."""

    codec: Codec
    stream: bytes
    costs: dict[str, float]
    now: float = 1000.0
    slice_s: float = 0.0  # what a call into the trit decoder takes
    takes: dict[str, float] = field(default_factory=dict)  # where that is not what the cost model believes
    runs: list[tuple[str, int]] = field(default_factory=list)  # of networks: role, pictures

    @property
    def early(self) -> bytes:
        """A prefix with so few planes that postprocessing helps."""
        start = Header.from_bytes(self.stream, Limits()).body_start
        return self.stream[: start + 1200]

    def deadline(self, left_s: float) -> Deadline:
        return Deadline(self.now + left_s)


@contextmanager
def clockwork(bundle: Path, stream: bytes, costs: dict[str, float]) -> Iterator[World]:
    """Open *bundle* on a made-up clock; a run of *n* pictures takes what the stage "role xn" does."""
    with Codec.open(bundle, threads=1) as codec, pytest.MonkeyPatch.context() as patch:
        made = World(codec, stream, costs)
        codec.model.open_all()
        codec.model.clock = lambda: made.now
        codec.model.costs = FixedCosts(costs)
        run, decode = codec.model.run, TritDecoder.decode

        def timed_run(role: str, *inputs: NDArray[np.float32], until: float | None = None) -> Any:
            count = len(inputs[0])
            made.runs.append((role, count))
            end = made.now + made.takes.get(role, costs.get(role if count == 1 else f"{role} x{count}", 0.0))
            if until is not None and end > until:
                made.now = max(made.now, until)
                raise OutOfTime(role)
            made.now = end
            return run(role, *inputs)

        def timed_decode(self: TritDecoder, rows: NDArray[np.int32]) -> NDArray[np.int32]:
            made.now += made.slice_s
            return decode(self, rows)

        patch.setattr(codec.model.family, "preview_share", 10.0)  # a preview is worse than anything else
        patch.setattr(codec.model, "run", timed_run)
        patch.setattr(TritDecoder, "decode", timed_decode)
        yield made
