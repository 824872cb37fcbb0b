"""From decodes to the record of deadlines: how many were kept, by how much others were missed, and what it cost.

Decode, Decode, ... -> punctuality -> Punctuality per deadline; goals -> Goal
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from runtime.evaluate.deadline.decodes import IDLE, NOT_ARRIVED, NOTHING, PREVIEW, SYNTHESIS, Decode
from runtime.evaluate.shares import Share, mean, quantile

LOSS_GOAL_DB = 0.2
_FROM = 1.2  # times minimum, and times synthesis, from where on goals hold
_P999 = 0.999


@dataclass(frozen=True)
class Punctuality:
    """Decodes of one codec under one load against one kind of deadline, over all traces.

    Attributes:
        codec, load, factor, relative_to: as of `Decode`.
        deadline_ms: mean.
        n: decodes whose head segment was there in time; shares are of these.
        not_arrived: decodes whose was not; nothing else counts them.
        in_time: there was a picture by the deadline.
        late: there was one after it.
        nothing: there was none, for lack of time: the decoder said so, or it was fed too late.
        preview: the picture was a preview.
        overshoot_p99_ms, overshoot_p999_ms, overshoot_max_ms: by how much answers came after the deadline; 0 if not.
        loss_mean_db, loss_p95_db: PSNR of the ideal less that of the picture, where there are both. Decodes answered
            with nothing have no PSNR and are left out: `in_time` and `nothing` count them.
    """

    codec: str
    load: str
    factor: float
    relative_to: str
    deadline_ms: float
    n: int
    not_arrived: int
    in_time: Share
    late: int
    nothing: int
    preview: Share
    overshoot_p99_ms: float
    overshoot_p999_ms: float
    overshoot_max_ms: float
    loss_mean_db: float
    loss_p95_db: float


@dataclass(frozen=True)
class Goal:
    """A figure to reach, and what was measured: of one codec under one load.

    Attributes:
        figure: what it is, in words.
        wanted, measured: with units; of shares with the 95 % interval of what that says of all such decodes.
        reached: whether what was measured is as wanted; the interval may reach beyond.
        n: how many decodes it rests on.
    """

    codec: str
    load: str
    figure: str
    wanted: str
    measured: str
    reached: bool
    n: int


def punctuality(decodes: Iterable[Decode]) -> list[Punctuality]:
    """Return a line for each codec, load and deadline, in the order in which they first come."""
    groups: dict[tuple[str, str, float, str], list[Decode]] = {}
    for one in decodes:
        groups.setdefault((one.codec, one.load, one.factor, one.relative_to), []).append(one)
    return [_punctuality(*key, group) for key, group in groups.items()]


def _punctuality(codec: str, load: str, factor: float, relative_to: str, decodes: Sequence[Decode]) -> Punctuality:
    arrived = [one for one in decodes if one.answer != NOT_ARRIVED]
    pictures = [one for one in arrived if one.answer != NOTHING]
    late = sum(one.finished_ms > one.deadline_ms for one in pictures)
    overshoots, losses = [overshoot_ms(one) for one in arrived], losses_db(pictures)
    return Punctuality(
        codec=codec,
        load=load,
        factor=factor,
        relative_to=relative_to,
        deadline_ms=mean([one.deadline_ms for one in decodes]),
        n=len(arrived),
        not_arrived=len(decodes) - len(arrived),
        in_time=Share.of(len(pictures) - late, len(arrived)),
        late=late,
        nothing=len(arrived) - len(pictures),
        preview=Share.of(sum(one.answer == PREVIEW for one in arrived), len(arrived)),
        overshoot_p99_ms=quantile(overshoots, 0.99),
        overshoot_p999_ms=quantile(overshoots, _P999),
        overshoot_max_ms=max(overshoots, default=float("nan")),
        loss_mean_db=mean(losses),
        loss_p95_db=quantile(losses, 0.95),
    )


def overshoot_ms(one: Decode) -> float:
    """Return by how much the answer came after the deadline; 0 if it did not."""
    return max(0.0, one.finished_ms - one.deadline_ms)


def losses_db(decodes: Iterable[Decode]) -> list[float]:
    """Return PSNR of the ideal less that of the picture, in dB, where there are both."""
    return [one.ideal_db - one.psnr_db for one in decodes if one.ideal_db is not None and one.psnr_db is not None]


def goals(decodes: Sequence[Decode]) -> list[Goal]:
    """Return what was to be reached, and what was, for each codec and load.

    What is left counts from the arrival of the head segment to the deadline. Decodes answered with nothing count as not
    in time, and beside previews; the mean loss leaves them out, as they have no PSNR.
    """
    groups: dict[tuple[str, str], list[Decode]] = {}
    for one in decodes:
        groups.setdefault((one.codec, one.load), []).append(one)
    return [goal for (codec, load), group in groups.items() for goal in _goals(codec, load, group)]


def _goals(codec: str, load: str, everything: Sequence[Decode]) -> list[Goal]:
    decodes = [one for one in everything if one.answer != NOT_ARRIVED]
    # Time counts from when there was anything to decode: no scheduler makes up for a link.
    fair = [one for one in decodes if one.deadline_ms - one.head_ms >= _FROM * one.minimum_ms]
    roomy = [one for one in decodes if one.deadline_ms - one.head_ms >= _FROM * one.synthesis_ms]
    in_time = Share.of(_count(fair, lambda one: one.answer != NOTHING and overshoot_ms(one) == 0), len(fair))
    overshoot = quantile([overshoot_ms(one) for one in fair], _P999)
    most = 5.0 if load == IDLE else 20.0
    preview = Share.of(_count(roomy, lambda one: one.answer != SYNTHESIS), len(roomy))
    losses = losses_db(one for one in roomy if one.answer != NOTHING)
    loss = mean(losses)
    from_minimum, from_synthesis = f"{_FROM:g} minima or more left", f"{_FROM:g} syntheses or more left"
    return [
        Goal(codec, load, f"in time, {from_minimum}", "at least 99.9 %", _percent(in_time),
             in_time.value >= _P999, len(fair)),
        Goal(codec, load, f"overshoot, 99.9th percentile, {from_minimum}", f"under {most:g} ms", f"{overshoot:.2f} ms",
             overshoot < most, len(fair)),
        Goal(codec, load, f"answered by the preview or nothing, {from_synthesis}", "at most 5 %",
             _percent(preview), preview.value <= 0.05, len(roomy)),
        Goal(codec, load, f"mean loss against unlimited time, {from_synthesis}", f"at most {LOSS_GOAL_DB:g} dB",
             f"{loss:.3f} dB", loss <= LOSS_GOAL_DB, len(losses)),
    ]  # fmt: skip


def _percent(share: Share) -> str:
    return f"{100 * share.value:.2f} % ({100 * share.low:.2f} to {100 * share.high:.2f})" if share.n else "-"


def _count(decodes: Sequence[Decode], holds: Callable[[Decode], bool]) -> int:
    return sum(map(holds, decodes))
