"""Which networks of a run nobody has trained: they are not to ship."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from export.training.config import TrainingSettings
from export.training.families import make_family
from export.weights import as_stored


def untrained_roles(
    settings: TrainingSettings, weights: Mapping[str, Tensor], steps: Mapping[str, int], roles: Collection[str]
) -> list[str]:
    """Return those of *roles* whose weights are what a run begins with when nobody gives it any.

    A role is trained if a stage of the run did so, or if its weights differ in any bit from those that the settings'
    seed makes: then the run began with others, of which its folder says nothing more.

    Args:
        weights: of a run or a weights file; roles that are not there at all are not looked at.
        steps: of every stage so far.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # as training does
        family = make_family(settings)
    made = family.networks.state_dict()
    by_stages = {role for name, stage in family.stages.items() if steps.get(name, 0) > 0 for role in stage.trains}
    as_made = {
        role
        for role in roles
        if all(
            name in weights and torch.equal(as_stored(name, weights[name]).float(), as_stored(name, tensor).float())
            for name, tensor in made.items()
            if name.partition(".")[0] == role
        )
    }
    return sorted(as_made - by_stages)
