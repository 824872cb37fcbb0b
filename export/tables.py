"""Integer tables from distributions: made once at export, never on a device.

Source: DPICT (CVPR 2022), equations 9 to 18, for probabilities, conditional means and priorities of trits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from export.networks.entropy import LOG_STEP, SIGMA_LEVELS, SIGMA_MIN, FactorizedPrior
from runtime.entropy.tables import MEAN_UNIT, TOTAL_BITS, Tables

CODE_UNIT = 16  # sigma codes per level: h_s rounds the level to 1/16
COVERAGE = 6.1  # a level's symbols reach at least this many standard deviations
MOST_TRITS = 6  # symbols up to 364: means fit int16 in units of 1/64
NEVER_SENT = 1e-4  # a level whose plain Gaussian differs from 0 with a smaller probability is not coded
Z_TAIL = 1e-6  # probability that a z symbol may have beyond its channel's range
# What h_s says of an element's scale is off by about so much, as a logarithm: y given its level is not a Gaussian, but
# a mixture of Gaussians of many scales. Fitted to photographs that are not trained on: NOTEBOOK.md, section 14.
SCALE_SPREAD = 0.25
SCALE_BIAS = -0.06
_MIXED = 9  # scales


@dataclass(frozen=True)
class Symbols:
    """A model's symbols -r..r: probability, first and second moment of the value that each stands for."""

    mass: NDArray[np.float64]
    first: NDArray[np.float64]  # mass times mean
    second: NDArray[np.float64]  # mass times mean square
    leaf_mean: NDArray[np.float64]  # what a complete symbol reconstructs to


def make_tables(*priors: FactorizedPrior, thresholds: NDArray[np.int32] | None = None) -> Tables:
    """Return the tables of SIGMA_LEVELS scales of y, followed by those of every prior's channels.

    Args:
        thresholds: between sigma codes of neighbouring levels; those of codes in CODE_UNIT per level if None.
    """
    scales = [level_symbols(s) for s in level_sigmas()]
    channels = [symbols for prior in priors for symbols in _prior_symbols(prior)]
    if thresholds is None:
        thresholds = (CODE_UNIT * np.arange(1, SIGMA_LEVELS) - CODE_UNIT // 2).astype(np.int32)
    return _assemble([*scales, *channels], thresholds)


def level_sigmas() -> list[float]:
    """Return the standard deviation of every level."""
    return [SIGMA_MIN * math.exp(LOG_STEP * level) for level in range(SIGMA_LEVELS)]


def trits_for_sigma(sigma: float) -> int:
    """Return how many trits cover COVERAGE standard deviations; 0 if the symbol is all but certain to be 0."""
    if math.erfc(0.5 / sigma / math.sqrt(2)) < NEVER_SENT:
        return 0
    needed = COVERAGE * sigma - 0.5
    return min(MOST_TRITS, max(1, math.ceil(math.log(2 * needed + 1, 3) - 1e-9))) if needed > 0 else 1


def level_symbols(sigma: float) -> Symbols:
    """Return the symbols of a sigma level: a mixture of Gaussians whose scales lie around *sigma*."""
    places, weights = np.polynomial.hermite_e.hermegauss(_MIXED)
    parts = [
        gaussian_symbols(sigma * math.exp(SCALE_BIAS + SCALE_SPREAD * place), trits_for_sigma(sigma))
        for place in places
    ]

    def mixed(moments: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = weights / weights.sum() @ np.stack(moments)
        return result

    return Symbols(
        mixed([part.mass for part in parts]),
        mixed([part.first for part in parts]),
        mixed([part.second for part in parts]),
        parts[0].leaf_mean,
    )


def gaussian_symbols(sigma: float, trits: int) -> Symbols:
    """Return the symbols of N(0, sigma^2) rounded, as far as *trits* trits reach; the last ones hold the tails."""
    largest = (3**trits - 1) // 2
    edges = torch.arange(-largest, largest + 2, dtype=torch.float64) - 0.5
    edges[0], edges[-1] = -math.inf, math.inf
    a, b = edges[:-1] / sigma, edges[1:] / sigma
    # On the negative side erfc keeps its precision; the distribution is symmetric.
    flip = a > 0
    low, high = torch.where(flip, -b, a), torch.where(flip, -a, b)
    mass = 0.5 * (torch.erfc(-high / math.sqrt(2)) - torch.erfc(-low / math.sqrt(2)))

    def density(t: torch.Tensor) -> torch.Tensor:
        return torch.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)

    def t_density(t: torch.Tensor) -> torch.Tensor:
        return torch.where(t.isinf(), torch.zeros_like(t), t * density(t))

    first = sigma * (density(a) - density(b))
    second = sigma**2 * (mass + t_density(a) - t_density(b))
    symbols = torch.arange(-largest, largest + 1, dtype=torch.float64)
    empty = mass < 1e-300  # so far out that only the symbol itself can be said
    mass = torch.where(empty, torch.full_like(mass, 1e-300), mass)
    first = torch.where(empty, mass * symbols, first)
    second = torch.where(empty, mass * (symbols**2 + 1 / 12), second)
    return Symbols(mass.numpy(), first.numpy(), second.numpy(), symbols.numpy())


def _prior_symbols(prior: FactorizedPrior) -> Iterable[Symbols]:
    with torch.no_grad():
        widest = (3**MOST_TRITS - 1) // 2
        edges = torch.arange(-widest, widest + 2, dtype=torch.float32) - 0.5
        channels = prior.matrices[0].shape[0]
        logits = prior.cumulative_logits(edges.expand(channels, 1, -1)).double()[:, 0]
    for row in logits:
        below, above = torch.sigmoid(row), torch.sigmoid(-row)
        trits = next(
            t
            for t in range(1, MOST_TRITS + 1)
            if t == MOST_TRITS or float(below[widest - (3**t - 1) // 2] + above[widest + (3**t - 1) // 2 + 1]) < Z_TAIL
        )
        largest = (3**trits - 1) // 2
        inside = slice(widest - largest, widest + largest + 2)
        lower, upper = below[inside].clone(), above[inside].clone()
        lower[0], upper[0], lower[-1], upper[-1] = 0.0, 1.0, 1.0, 0.0
        mass = torch.where(lower[1:] < 0.5, lower[1:] - lower[:-1], upper[:-1] - upper[1:]).clamp_min(1e-300)
        symbols = torch.arange(-largest, largest + 1, dtype=torch.float64)
        moments = (mass * symbols).numpy(), (mass * symbols**2).numpy()
        yield Symbols(mass.numpy(), *moments, symbols.numpy())


def _assemble(models: list[Symbols], thresholds: NDArray[np.int32]) -> Tables:
    inner_counts = [(len(m.mass) - 1) // 2 for m in models]
    inner_total = sum(inner_counts)
    first_child = np.zeros(inner_total, np.int32)
    weights = np.zeros((inner_total, 3))
    priority = np.zeros(inner_total)
    means: list[NDArray[np.float64]] = []
    deviations: list[NDArray[np.float64]] = []
    leaf_means: list[NDArray[np.float64]] = []
    trits, roots = [], []
    inner_next, leaf_next = 0, inner_total
    for model in models:
        depth = round(math.log(len(model.mass), 3))
        trits.append(depth)
        roots.append(inner_next if depth else leaf_next)
        leaf_error = model.second - 2 * model.leaf_mean * model.first + model.leaf_mean**2 * model.mass
        for level in range(depth):
            nodes, children = 3**level, 3 ** (level + 1)
            rows = slice(inner_next, inner_next + nodes)
            mass, first, second = (m.reshape(nodes, -1).sum(1) for m in (model.mass, model.first, model.second))
            parts = model.mass.reshape(children, -1).sum(1).reshape(nodes, 3)
            error = second - first**2 / mass
            parts_first = model.first.reshape(children, -1).sum(1)
            parts_second = model.second.reshape(children, -1).sum(1)
            left = parts_second - parts_first**2 / parts.reshape(-1) if level + 1 < depth else leaf_error
            weights[rows] = parts / mass[:, None]
            priority[rows] = _priority(weights[rows], (error - left.reshape(nodes, 3).sum(1)) / mass)
            means.append(first / mass)
            deviations.append(np.sqrt(np.maximum(error / mass, 0.0)))
            base = inner_next + nodes if level + 1 < depth else leaf_next
            first_child[rows] = base + 3 * np.arange(nodes)
            inner_next += nodes
        leaf_means.append(model.leaf_mean)
        leaf_next += len(model.mass)
    mean = np.concatenate([*means, *leaf_means])
    deviation = np.concatenate([*deviations, np.zeros(leaf_next - inner_total)])
    return Tables(
        trits=np.array(trits, np.uint8),
        root=np.array(roots, np.int32),
        first_child=first_child,
        frequencies=integer_frequencies(weights),
        priority=np.round(priority).astype(np.int16),
        mean=np.round(mean * MEAN_UNIT).astype(np.int16),
        deviation=np.minimum(np.round(deviation * MEAN_UNIT), 65535).astype(np.uint16),
        sigma_thresholds=thresholds,
    )


def _priority(probabilities: NDArray[np.float64], error_fall: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -dD/dR of DPICT, equation 18, as log2 in units of 1/64 octave."""
    safe = np.maximum(probabilities, 1e-300)
    bits = -(probabilities * np.log2(safe)).sum(1)
    ratio = np.maximum(error_fall, 1e-30) / np.maximum(bits, 1e-30)
    priority: NDArray[np.float64] = np.clip(64 * np.log2(ratio), -32000, 32000)
    return priority


def integer_frequencies(weights: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Return integers of at least 1 that sum to 2^24 in each row, as close to *weights* as rounding down allows."""
    total = 1 << TOTAL_BITS
    frequencies = np.floor(weights * (total - 3)).astype(np.int64) + 1
    frequencies[np.arange(len(weights)), frequencies.argmax(1)] += total - frequencies.sum(1)
    return frequencies.astype(np.uint32)
