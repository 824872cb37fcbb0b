"""What numbers a backbone can be made with: checks of its shape, before torch stumbles over one of them."""

from __future__ import annotations

import math

from runtime.errors import ConfigurationError

_MOST = 1 << 14  # channels or layers: a layer between so many has a gigabyte of weights


def require_count(shape: object, least: int, *names: str) -> None:
    """Refuse a number of channels or layers below *least*, or beyond all use.

    Raises:
        ConfigurationError: one of the attributes *names* of *shape* is out of range.
    """
    for name in names:
        found = getattr(shape, name)
        if not least <= found <= _MOST:
            raise ConfigurationError(f"{name} must be {least} to {_MOST}, not {found}")


def require_positive(shape: object, name: str) -> None:
    """Refuse what is no factor.

    Raises:
        ConfigurationError: attribute *name* of *shape* is not a positive number.
    """
    found = getattr(shape, name)
    if not (math.isfinite(found) and found > 0):
        raise ConfigurationError(f"{name} must be a positive number, not {found}")
