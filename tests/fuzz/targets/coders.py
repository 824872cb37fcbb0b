"""The tiny bundle's tables, and every coder of this machine, to be compared on the same bytes."""

from __future__ import annotations

from functools import cache

from targets.streams import GOLDEN

from engines.costs import cache_folder
from runtime.entropy.choose import Coder, installed_coders, open_coder
from runtime.entropy.tables import Tables


@cache
def tiny_tables() -> Tables:
    """Return the tables of the tiny bundle."""
    return Tables.from_bytes((GOLDEN / "tiny" / "tables" / "entropy.npz").read_bytes())


def coders(tables: Tables) -> list[Coder]:
    """Return the coders that are installed, opened for *tables*."""
    return [open_coder(tables, name, cache_folder() / "kernels") for name in installed_coders()]


@cache
def tiny_coders() -> list[Coder]:
    """Return the coders, opened for the tiny bundle's tables."""
    return coders(tiny_tables())
