"""Pictures out of latents: what still fits before a deadline, for one decoder or for several together.

    Rendering, ... -> by deadline -> reconstruct -> passes that fit, in one batch where that pays -> Rendered, ...

One picture: optional passes are left out first, then synthesis (the preview network answers), then everything.
Networks begin if all but one run in a thousand would be in time; or if most are, and a preview can answer for the
others. It is made after them, if there is time for that, and a run is ended when it has to begin; or before them.
No run goes on for long after a deadline that it has missed, as the next picture waits for it.
Several: the most urgent first. Where measured costs say that one run of a network on a batch takes less time than one
run after the other, and nobody's picture would be late for it, those of one size are made together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from engines.costs import HALF, MOST, RARE, USUAL
from runtime.deadline import Deadline
from runtime.errors import BundleError, CutoffError, OutOfTime
from runtime.families.base import Latents, Pass, Reconstruction, Tensor
from runtime.model import Model
from runtime.picture import Image, enlarged, image_from_tensor
from runtime.reserves import HAND_OVER, PREVIEW, SAFETY_S, cost_s, insurance_s, reserve_s, together
from runtime.stopwatch import Stopwatch
from runtime.stream import Header

_BATCHES = (8, 4, 2)  # few sizes, so that each is soon known, and has its plans
_GAIN = 0.95  # of the time one by one, at most, that a batch must take to be worth it
_TRIALS = 4  # runs after which a batch must have proved that it pays
_DARE = 0.97  # of an estimate: nobody finishes at the very instant that was planned
_PATIENCE = 2.0  # of what a run usually takes: how long after a deadline it may still end
_UNTRIED = 1.5  # how much longer than one by one a batch may take that was never tried


@dataclass(eq=False)
class Rendering:
    """One picture to be made.

    Attributes:
        size: height and width after padding.
        aim: the roles that are to make it.
        last_preview: the answer where nothing else fits.
        working: counts a block as work on the stream; see `Stopwatch.working`.
    """

    latents: Latents
    header: Header
    size: tuple[int, int]
    deadline: Deadline | None
    aim: tuple[str, ...]
    last_preview: Image | None
    watch: Stopwatch
    working: Callable[[], AbstractContextManager[None]]

    @property
    def pixels(self) -> int:
        """Of the padded picture."""
        return self.size[0] * self.size[1]

    @property
    def instant(self) -> float:
        """Of the deadline; infinite without one."""
        return math.inf if self.deadline is None else self.deadline.instant


@dataclass(frozen=True)
class Rendered:
    """A picture, uint8 (H, W, 3) or (H, W), or None; the stages left out; when it was there."""

    image: Image | None
    skipped: tuple[str, ...]
    instant: float


Outcome = Rendered | CutoffError
_Known = tuple[Rendering, Reconstruction]


def start_by(model: Model, renderings: Sequence[Rendering]) -> float | None:
    """Return the latest instant at which `render` can begin so that each picture is made as it is aimed at, in time.

    None if there is no deadline. Where even one by one is too late already, so is the instant.
    """
    waiting = sorted(renderings, key=lambda one: one.instant)
    starts = []
    for largest in range(len(_BATCHES) + 1):
        left, spent_s, start = list(waiting), 0.0, math.inf
        while left:
            batch = next((b for b in _batches(left, _BATCHES[largest:]) if _pays(model, b)), left[:1])
            left = [one for one in left if one not in batch]
            ends = [spent_s + end for end in _ends_s(model, batch)]
            start = min([start, *(one.instant - end for one, end in zip(batch, ends, strict=True))])
            spent_s = ends[-1]
        starts.append(start)
    latest = max(starts)
    return None if latest == math.inf else latest


def render(model: Model, renderings: Sequence[Rendering]) -> Iterator[tuple[Rendering, Outcome]]:
    """Make the pictures of *renderings*; yield each as soon as it is there, the most urgent first."""
    waiting = sorted(renderings, key=lambda one: one.instant)
    while waiting:
        batch = _batch(model, waiting)
        waiting = [one for one in waiting if one not in batch]
        if len(batch) == 1:
            yield batch[0], _outcome(_render_one, model, batch[0], waiting)
        else:
            yield from _render_batch(model, batch, waiting)


def preview(model: Model, rendering: Rendering) -> Image:
    """Make a preview."""
    with rendering.working(), rendering.watch.measured(together(("reconstruct", *PREVIEW, "finish"))):
        return _run_preview(model, rendering, _reconstruct(rendering))


def _outcome(work: Callable[..., Rendered], *arguments: object) -> Outcome:
    try:
        return work(*arguments)
    except CutoffError as fault:
        return fault


# One picture.


def _render_one(
    model: Model, one: Rendering, others: Sequence[Rendering], known: Reconstruction | None = None
) -> Rendered:
    """Make the best picture for which there is time, without taking from *others* what a preview takes them."""
    with one.working():
        began = one.watch.clock()
        image, roles, skipped = _best_in_time(model, one, known or _reconstruct(one), others)
        if known is None and roles:
            one.watch.record(together(("reconstruct", *roles, "finish")), one.watch.clock() - began)
    return Rendered(image, skipped, one.watch.clock())


def _best_in_time(
    model: Model, one: Rendering, known: Reconstruction, others: Sequence[Rendering]
) -> tuple[Image | None, tuple[str, ...], tuple[str, ...]]:
    """Return a picture, the roles that made it, and those left out."""

    def fits(roles: Sequence[str]) -> bool:
        return _fits(model, one, roles, others)

    passes, skipped = _without_what_is_late(known.passes, fits)
    roles = tuple(each.role for each in passes)
    if fits(roles) and _preview_comes_first(model, one, roles):
        one.last_preview = _run_preview(model, one, known)
    if fits(roles):
        began, until = one.watch.clock(), _until(model, one, roles)
        given_up = _given_up(model, [one], roles) if until is None else until
        try:
            with one.watch.measured(together((*roles, "finish"))):
                x = _run_passes(model, [(one, known)], passes, given_up)
                if one.last_preview is not None and not _fits_finish(model, one):
                    raise OutOfTime("there is no time left to finish the picture")
                return _image(one, x), roles, skipped
        except OutOfTime:
            if until is not None and one.watch.clock() > until:
                one.watch.record(HAND_OVER, one.watch.clock() - until)
            for stages in ((*roles, "finish"), ("reconstruct", *roles, "finish")):
                model.costs.record_ended(together(stages), one.pixels, one.watch.clock() - began)
    else:
        for stages in ((*roles, "finish"), ("reconstruct", *roles, "finish")):
            model.costs.doubt(together(stages), one.pixels, one.instant - one.watch.clock())
    skipped += roles[::-1]
    if fits(PREVIEW):
        return _run_preview(model, one, known), PREVIEW, skipped
    return one.last_preview, (), (*skipped, *PREVIEW)


def _fits_finish(model: Model, one: Rendering) -> bool:
    finish_s = model.costs.typical_s("finish", one.pixels)
    return one.watch.clock() + finish_s < one.instant


def _until(model: Model, one: Rendering, roles: Sequence[str]) -> float | None:
    """Return when a run of *roles* has to end for a preview instead; None to let it run, or if it hardly has a chance.

    With a preview made, that is when the picture could not be finished any more. Without one: where nearly all runs are
    over by the deadline, but many too late for a preview, a preview is no better chance.
    """
    if one.deadline is None or _unknown(model, one, roles):
        return None
    now, stages = one.watch.clock(), (*roles, "finish")
    made = one.last_preview is not None
    finish_s = model.costs.typical_s("finish", one.pixels)
    then_s = insurance_s(model, one.pixels, roles, preview_made=made) + (finish_s if made else 0.0)
    until = one.instant - then_s - SAFETY_S
    in_time = now + cost_s(model, one.pixels, stages, RARE) * _DARE + SAFETY_S < one.instant
    if in_time and made:
        return until
    networks_s = cost_s(model, one.pixels, stages, USUAL if in_time else HALF) - finish_s
    return until if now + networks_s < until else None


def _given_up(model: Model, members: Sequence[Rendering], roles: Sequence[str]) -> float | None:
    """Return when a run of *roles* for *members*, which no preview could replace in time, is given up; None if never.

    That is after everybody's deadline, as a picture that is hardly late may be of use, by twice what the run usually
    takes, so that a machine that has become busy is measured.
    """
    if any(one.deadline is None or _unknown(model, one, roles) for one in members):
        return None
    usual_s = sum(_cost_together_s(model, members[0].pixels, role, len(members)) for role in roles)
    return max(one.instant for one in members) + _PATIENCE * usual_s


def _preview_comes_first(model: Model, one: Rendering, roles: Sequence[str]) -> bool:
    """Decide whether to make a preview before a run of *roles*: it might be too late, and too late for one after it."""
    if one.deadline is None or one.last_preview is not None or _unknown(model, one, roles):
        return False
    left_s, stages = one.instant - one.watch.clock() - SAFETY_S, (*roles, "finish")
    if cost_s(model, one.pixels, stages) < left_s:
        return False
    after_s = cost_s(model, one.pixels, stages, MOST) - model.costs.typical_s("finish", one.pixels)
    if after_s + insurance_s(model, one.pixels, roles, preview_made=False) < left_s:
        return False
    first_s = cost_s(model, one.pixels, (*PREVIEW, "finish"), HALF) + cost_s(model, one.pixels, stages, HALF)
    return first_s + insurance_s(model, one.pixels, roles, preview_made=True) < left_s


def _unknown(model: Model, one: Rendering, roles: Sequence[str]) -> bool:
    """True if one of *roles* has never run; it has to run to its end for once, or what it takes is never learned."""
    return any(model.costs.estimate_s(role, one.pixels) == 0 for role in roles)


def _without_what_is_late(
    passes: Sequence[Pass], fits: Callable[[Sequence[str]], bool]
) -> tuple[Sequence[Pass], tuple[str, ...]]:
    """Return *passes* without optional ones, the last first, until the rest fits; and the roles left out."""
    kept, skipped = list(passes), []
    for one in reversed(passes):
        if one.optional and not fits([each.role for each in kept]):
            kept.remove(one)
            skipped.append(one.role)
    return kept, tuple(skipped)


def _fits(model: Model, one: Rendering, roles: Sequence[str], others: Sequence[Rendering]) -> bool:
    """Decide whether to run *roles* now, and whether *others* can still have the previews that they could have.

    More is dared here than was planned with, or else whoever calls a little later than planned would get less. A run
    that is ended in time for a preview risks nothing but the preview's being of fewer bytes.
    """
    now, stages = one.watch.clock(), (*roles, "finish")
    if _unknown(model, one, roles):
        return now + cost_s(model, one.pixels, stages, HALF) < one.instant
    quick_s = cost_s(model, one.pixels, (*PREVIEW, "finish"))
    if roles == PREVIEW and one.last_preview is None:  # the only chance
        end = now + cost_s(model, one.pixels, stages, HALF)
    else:
        end = now + cost_s(model, one.pixels, stages, MOST if roles == PREVIEW else RARE) * _DARE + SAFETY_S
    if end >= one.instant:
        insured = _until(model, one, roles) is not None or _preview_comes_first(model, one, roles)
        if roles == PREVIEW or not insured:
            return False
        end = one.instant
    soonest = min(end, now + quick_s)
    return all(
        end + wait_s < other.instant or soonest + wait_s >= other.instant
        for other, wait_s in zip(others, _one_by_one_s(model, others, PREVIEW), strict=True)
    )


# Several.


def _batch(model: Model, waiting: Sequence[Rendering]) -> Sequence[Rendering]:
    """Return which of *waiting*, by deadline, to make next: the first, alone or with others."""
    for batch in _batches(waiting, _BATCHES):
        if _pays(model, batch) and _in_time(model, batch, waiting):
            return batch
    return waiting[:1]


def _batches(waiting: Sequence[Rendering], sizes: Sequence[int]) -> Iterator[Sequence[Rendering]]:
    """Yield sets of those that can share a run with the first: the most first, the most urgent always among them."""
    first = waiting[0]
    alike = [one for one in waiting if (one.size, one.aim) == (first.size, first.aim) and one.aim != PREVIEW]
    for size in sizes:
        if size <= len(alike):
            yield alike[:size]


def _pays(model: Model, batch: Sequence[Rendering]) -> bool:
    """Decide from measured runs whether a batch takes less time; what was hardly measured is worth a trial."""
    costs, pixels, count = model.costs, batch[0].pixels, len(batch)
    roles = batch[0].aim
    if any(costs.runs(_batched(role, count), pixels) < _TRIALS for role in roles):
        return True
    together = sum(costs.typical_s(_batched(role, count), pixels) for role in roles)
    return together <= _GAIN * count * sum(costs.typical_s(role, pixels) for role in roles)


def _in_time(model: Model, batch: Sequence[Rendering], waiting: Sequence[Rendering]) -> bool:
    """Decide whether all of *batch* come in time, and nobody loses a picture or a preview that one by one he had."""
    now = batch[0].watch.clock()
    ends = [now + end for end in _ends_s(model, batch)]
    if any(end >= one.instant for one, end in zip(batch, ends, strict=True)):
        return False
    rest = [one for one in waiting if one not in batch]
    full, previews = (dict(zip(waiting, _one_by_one_s(model, waiting, aim), strict=True)) for aim in (None, PREVIEW))
    for alone, aim in ((full, None), (previews, PREVIEW)):
        behind = zip(rest, _one_by_one_s(model, rest, aim), strict=True)
        if any(ends[-1] + end >= one.instant > now + alone[one] for one, end in behind):
            return False
    return True


def _one_by_one_s(model: Model, some: Sequence[Rendering], aim: Sequence[str] | None = None) -> Iterator[float]:
    """Yield when each of *some* is there, one after the other, from now; *aim*, if given, instead of their own."""
    return accumulate(
        reserve_s(model, one.pixels, aim or one.aim, preview_made=one.last_preview is not None) for one in some
    )


def _ends_s(model: Model, batch: Sequence[Rendering], roles: Sequence[str] | None = None) -> list[float]:
    """Return how long it takes until each picture of *batch* is there; with *roles*, these are what is left to run."""
    pixels, count = batch[0].pixels, len(batch)
    begin = count * cost_s(model, pixels, ["reconstruct"]) if roles is None else 0.0
    networks = sum(_cost_together_s(model, pixels, role, count) for role in roles or batch[0].aim)
    finish = cost_s(model, pixels, ["finish"])
    return [begin + networks + (place + 1) * finish + SAFETY_S for place in range(count)]


def _cost_together_s(model: Model, pixels: int, role: str, count: int) -> float:
    alone = model.costs.estimate_s(role, pixels)
    if count == 1:
        return alone
    if model.costs.runs(_batched(role, count), pixels) == 0:
        return _UNTRIED * count * alone
    return model.costs.estimate_s(_batched(role, count), pixels)


def _batched(role: str, count: int) -> str:
    """Return the name under which the cost model knows one run of *role* on *count* pictures."""
    return f"{role} x{count}"


def _render_batch(
    model: Model, batch: Sequence[Rendering], others: Sequence[Rendering]
) -> Iterator[tuple[Rendering, Outcome]]:
    """Make pictures together that turn out to be alike, and the others one by one."""
    alike: dict[object, list[_Known]] = {}
    for one in batch:
        try:
            with one.working():
                known = _reconstruct(one)
        except CutoffError as fault:
            yield one, fault
            continue
        shapes = tuple((name, tensor.shape) for name, tensor in known.tensors.items())
        alike.setdefault((known.passes, shapes), []).append((one, known))
    groups = list(alike.values())
    for place, group in enumerate(groups):
        later = [one for following in groups[place + 1 :] for one, _ in following]
        yield from _render_alike(model, group, [*later, *others])


def _render_alike(
    model: Model, group: Sequence[_Known], others: Sequence[Rendering]
) -> Iterator[tuple[Rendering, Outcome]]:
    """Run the passes of *group* on all together; one by one where there is no time for that, or a network fails."""
    members = [one for one, _ in group]

    def fits(roles: Sequence[str]) -> bool:
        now = members[0].watch.clock()
        ends = _ends_s(model, members, roles)
        return all(now + end < one.instant for one, end in zip(members, ends, strict=True))

    passes, skipped = _without_what_is_late(group[0][1].passes, fits)
    x: Tensor | NDArray[np.uint8] | None = None
    roles = [each.role for each in passes]
    if len(group) > 1 and fits(roles):
        with suppress(CutoffError):  # whose fault it is, one by one will show
            x = _run_passes(model, group, passes, _given_up(model, members, roles))
    for place, (one, known) in enumerate(group):
        if x is None:
            yield one, _outcome(_render_one, model, one, [*members[place + 1 :], *others], known)
        else:
            yield one, _outcome(_finished, one, x[place : place + 1], skipped)


def _finished(one: Rendering, x: Tensor | NDArray[np.uint8], skipped: tuple[str, ...]) -> Rendered:
    with one.working():
        image = _image(one, x)
    return Rendered(image, skipped, one.watch.clock())


# Stages.


def _reconstruct(one: Rendering) -> Reconstruction:
    one.watch.check()
    with one.watch.timed("reconstruct"):
        return one.latents.reconstruct()


def _run_passes(
    model: Model, group: Sequence[_Known], passes: Sequence[Pass], until: float | None = None
) -> Tensor | NDArray[np.uint8]:
    """Run *passes* on what is known of all of *group*; each picture's share of the time is its work.

    What comes of the last one is a picture as `Model.picture` gives it.

    Raises:
        BundleError: it has another size.
        OutOfTime: the passes were not over at *until*.
    """
    watches, tensors = [one.watch for one, _ in group], [dict(known.tensors) for _, known in group]
    x = (
        {name: np.concatenate([each[name] for each in tensors]) for name in tensors[0]}
        if len(group) > 1
        else tensors[0]
    )
    picture: Tensor | NDArray[np.uint8] | None = None
    for place, one in enumerate(passes, 1):
        for watch in watches:
            watch.check()
        began = watches[0].clock()
        inputs = [x[name] for name in one.inputs]
        try:
            if place == len(passes):
                picture = model.picture(one.role, *inputs, until=until)
            else:
                (x[one.output],) = model.run(one.role, *inputs, until=until)
        except OutOfTime:
            if len(group) > 1:
                name = _batched(one.role, len(group))
                model.costs.record_ended(name, group[0][0].pixels, watches[0].clock() - began)
            raise
        finally:
            took_s = watches[0].clock() - began
            for watch in watches:
                watch.add(one.role, took_s / len(group))
                if len(group) > 1:
                    watch.add("total", took_s / len(group))
        watches[0].record(one.role if len(group) == 1 else _batched(one.role, len(group)), took_s)
    assert picture is not None, "a picture takes at least one network"
    (height, width), size = picture.shape[2:], group[0][0].size
    if (height, width) != size:
        raise BundleError(f"graph {passes[-1].role!r} gives {height} x {width}, not {size}")
    return picture


def _run_preview(model: Model, one: Rendering, known: Reconstruction) -> Image:
    (role,) = PREVIEW
    inputs = model.bundle.graph(role).inputs
    if missing := set(inputs) - known.tensors.keys():
        raise BundleError(f"graph {role!r} takes {', '.join(sorted(missing))}, which its family does not have")
    one.watch.check()
    with one.watch.measured(together((role, "finish"))):
        with one.watch.timed(role):
            x = model.picture(role, *(known.tensors[name] for name in inputs))
            height, width = x.shape[2:]
            factor = one.size[0] // height if height else 0
            if factor < 1 or (factor * height, factor * width) != one.size:
                raise BundleError(f"graph {role!r} gives {height} x {width}, no whole part of {one.size}")
            x = enlarged(x, factor, one.header.height, one.header.width)
        return _image(one, x)


def _image(one: Rendering, x: Tensor | NDArray[np.uint8]) -> Image:
    with one.watch.timed("finish"):
        return image_from_tensor(x, one.header.height, one.header.width, grey=one.header.grey)
