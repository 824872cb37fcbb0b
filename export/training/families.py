"""Families in training; the only place that lists them."""

from __future__ import annotations

from export.networks.backbones import make_backbone
from export.training import ctc, deepfgs, dpict, progdtd
from export.training.config import TrainingSettings
from export.training.loop import FamilyTraining
from runtime.errors import ConfigurationError

FAMILIES = {
    "ctc": ctc.training,
    "deepfgs": deepfgs.training,
    "dpict": dpict.training,
    "progdtd": progdtd.training,
}


def make_family(settings: TrainingSettings) -> FamilyTraining:
    """Return networks, stages and validation of the family and backbone that *settings* name.

    Raises:
        ConfigurationError: there is no such family, backbone, dimension or stage, or there are no stages at all.
    """
    if settings.family not in FAMILIES:
        raise ConfigurationError(f"family {settings.family!r} is unknown; there are {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[settings.family](settings, make_backbone(settings.backbone, settings.network))
    unknown = settings.stages.keys() - family.stages.keys()
    if unknown or not settings.stages:
        found = f"stages {', '.join(sorted(unknown))}" if unknown else "settings without stages"
        raise ConfigurationError(f"family {settings.family!r} has no {found}")
    return family
