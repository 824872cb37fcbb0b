"""Numbers as people and JSON read them; what is not known is a dash, or null."""

from __future__ import annotations

import math
from typing import Any

from runtime.evaluate.shares import Share


def text_of(value: float | None, form: str) -> str:
    """Return *value* in *form*; a dash if it is None or not a number."""
    return "-" if value is None or math.isnan(value) else format(value, form)


def percent_of(share: Share, digits: int = 1) -> str:
    """Return *share* and its interval in percent."""
    if not share.n:
        return "-"
    return f"{100 * share.value:.{digits}f} [{100 * share.low:.{digits}f}, {100 * share.high:.{digits}f}]"


def finite(value: Any) -> Any:
    """Return plain *value* with None for every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
