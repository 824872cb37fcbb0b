"""Context tables from integer tables: made once at export, never on a device. See `runtime.entropy.context`."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.networks.entropy import LOG_STEP, SIGMA_LEVELS, SIGMA_MIN
from export.tables import integer_frequencies, level_symbols
from runtime.entropy.context import FEATURE_BITS, GRID_BITS, LOG_ODDS_UNIT, Context
from runtime.entropy.tables import Tables

FEATURES = 4  # position, energy, certainty, level
GRID_STEPS = 72  # log-odds up to 9: a trit of 1/8,000
_UNIT = 1 << FEATURE_BITS
# Position and energy up to 8 standard deviations and 7 variances; certainty up to 1; levels up to 63, in 1/16, too.
FEATURE_LIMITS = (127, 112, _UNIT, SIGMA_LEVELS - 1)


def with_context(tables: Tables) -> Tables:
    """Return *tables*, the first SIGMA_LEVELS of whose models are sigma levels, with context tables."""
    features = np.zeros((len(tables.mean), FEATURES))
    for level in range(SIGMA_LEVELS):
        _fill_features(features, tables, level)
    limits = np.array(FEATURE_LIMITS)
    logarithms = np.log(tables.frequencies.astype(np.float64))
    log_odds = np.rint(LOG_ODDS_UNIT * (logarithms[:, [0, 2]] - logarithms[:, [1]]))
    context = Context(
        features=np.rint(np.clip(_UNIT * features, -limits, limits)).astype(np.int8, order="C"),
        log_odds=log_odds.astype(np.int16, order="C"),
        grid=_grid(),
    )
    return replace(tables, context=context)


def _fill_features(features: NDArray[np.float64], tables: Tables, level: int) -> None:
    """Write the rows of all nodes of a sigma level: moments of the level's distribution inside the node's interval."""
    sigma, depth = SIGMA_MIN * math.exp(LOG_STEP * level), int(tables.trits[level])
    symbols = level_symbols(sigma)
    nodes = tables.root[[level]]
    for joined in range(depth + 1):
        mass, first, second = (
            m.reshape(3**joined, -1).sum(axis=1) for m in (symbols.mass, symbols.first, symbols.second)
        )
        position, square = first / mass / sigma, second / mass / sigma**2
        certainty = 1 - (square - position**2)
        features[nodes] = np.stack([position, square - 1, certainty, np.full_like(mass, level / _UNIT)], axis=1)
        if joined < depth:
            nodes = (tables.first_child[nodes, None] + np.arange(3)).reshape(-1)


def _grid() -> NDArray[np.uint32]:
    log_odds = np.arange(-GRID_STEPS, GRID_STEPS + 1) / (1 << GRID_BITS)
    ends = np.exp(log_odds)
    first, last = (side.reshape(-1) for side in np.meshgrid(ends, ends, indexing="ij"))
    weights = np.stack([first, np.ones_like(first), last], axis=1)
    return integer_frequencies(weights / weights.sum(axis=1, keepdims=True))
