"""The families of codecs; one file each. `FAMILIES` is the only place that lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runtime.entropy.plan import Plane
from runtime.entropy.tables import Tables
from runtime.families.base import Family, RunGraph
from runtime.families.ctc import Ctc
from runtime.families.deepfgs import DeepFgs
from runtime.families.dpict import Dpict
from runtime.families.progdtd import ProgDtd

FAMILIES: Mapping[str, Callable[[Mapping[str, Any], Tables, RunGraph, Plane], Family]] = {
    "ctc": Ctc,
    "deepfgs": DeepFgs,
    "dpict": Dpict,
    "progdtd": ProgDtd,
}

__all__ = ["FAMILIES"]
