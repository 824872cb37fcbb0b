"""From trained networks to a bundle's content; one file per family."""

from __future__ import annotations

from export.families.dpict import export_dpict

EXPORTERS = {"dpict": export_dpict}

__all__ = ["EXPORTERS"]
