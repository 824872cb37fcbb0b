"""How much time to keep for a picture: from measured costs to reserves.

A run of the networks is *insured* where a preview can answer for it: one that is made after it was ended, before it, or
that was made long ago. What is kept decides when decoding ends (`runtime.decoder`); what is left decides what is run
(`runtime.render`).
"""

from __future__ import annotations

from collections.abc import Sequence

from engines.costs import HALF, MOST, RARE, TAIL, USUAL
from runtime.model import Model

PREVIEW = ("preview",)
SAFETY_S = 0.0005  # between the last stage's estimate and the deadline
_KNOWN = 8  # runs of stages in a row after which these say more than the stages do
_WORTH = 0.95  # of the time with insurance, at most, that one must take for which there is none
HAND_OVER = "hand_over"  # from the end of a wait for a run to the answer that comes instead, for the cost model
_HAND_OVER_S = 0.002  # what that takes at least
_STOPS_AFTER = 0.1  # of a run, until it is over after it was ended; a preview that is made meanwhile is slower


def cost_s(model: Model, pixels: int, stages: Sequence[str], share: float = TAIL) -> float:
    """Return what *stages*, one after the other, take on a picture of *pixels* in *share* of all runs."""
    costs, whole = model.costs, together(stages)
    if len(stages) > 1 and costs.runs(whole, pixels) >= _KNOWN:  # the sum of rare durations is far rarer
        return costs.estimate_s(whole, pixels, share)
    return sum(costs.estimate_s(stage, pixels, share) for stage in stages)


def together(stages: Sequence[str]) -> str:
    """Return the name under which the cost model knows *stages*, one after the other."""
    return "+".join(stages)


def reserve_s(model: Model, pixels: int, aim: Sequence[str], *, preview_made: bool) -> float:
    """Return what must be kept for a picture made by the roles *aim*, where a preview was made before or not."""
    whole = ("reconstruct", *aim, "finish")
    sure_s = cost_s(model, pixels, whole)
    if aim == PREVIEW:
        return sure_s + SAFETY_S
    # An answer that is there already is worse than one that would still be made: fewer runs are to end in it.
    share = RARE if preview_made else MOST
    insured_s = cost_s(model, pixels, whole, share) + insurance_s(model, pixels, aim, preview_made=preview_made)
    if not preview_made:
        insured_s = min(insured_s, _preview_first_s(model, pixels, aim, USUAL, MOST))
    return (sure_s if sure_s < _WORTH * insured_s else insured_s) + SAFETY_S


def least_s(model: Model, pixels: int, aim: Sequence[str], *, preview_made: bool) -> float:
    """Return with how much time left a picture by the roles *aim* is still worth a try: usual runs would be in time."""
    planned_s = reserve_s(model, pixels, aim, preview_made=preview_made)
    if aim == PREVIEW:
        return planned_s
    if preview_made:
        usual_s = cost_s(model, pixels, ("reconstruct", *aim, "finish"), USUAL)
        return min(planned_s, usual_s + insurance_s(model, pixels, aim, preview_made=True) + SAFETY_S)
    return min(planned_s, _preview_first_s(model, pixels, aim, HALF, USUAL) + SAFETY_S)


def preview_s(model: Model, pixels: int) -> float:
    """Return what a preview usually takes."""
    return cost_s(model, pixels, ("reconstruct", *PREVIEW, "finish"), USUAL)


def _preview_first_s(model: Model, pixels: int, aim: Sequence[str], of_previews: float, of_runs: float) -> float:
    """Return what a preview and then a run of *aim* that is insured by it take, in these shares of all."""
    before_s = cost_s(model, pixels, ("reconstruct", *PREVIEW, "finish"), of_previews)
    run_s = cost_s(model, pixels, ("reconstruct", *aim, "finish"), of_runs)
    return before_s + run_s + insurance_s(model, pixels, aim, preview_made=True)


def insurance_s(model: Model, pixels: int, roles: Sequence[str], *, preview_made: bool) -> float:
    """Return what it takes to end a run of *roles*, which is rare, and to make a preview if there is none."""
    hand_over_s = max(_HAND_OVER_S, cost_s(model, pixels, [HAND_OVER], RARE))
    if preview_made:  # what is ended is a run that leaves too little for the last touches
        return max(hand_over_s, cost_s(model, pixels, ["finish"], RARE) - model.costs.typical_s("finish", pixels))
    ends_s = _STOPS_AFTER * sum(model.costs.typical_s(role, pixels) for role in roles)
    return hand_over_s + ends_s + cost_s(model, pixels, (*PREVIEW, "finish"), RARE)
