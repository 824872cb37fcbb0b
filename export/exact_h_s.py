"""The exact form of any h_s: which chain of integer layers it becomes, and what its sigma codes mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, nn

from export.dense_integers import dense_integer_graph
from export.integers import SIGMA_CODE, Head, IntegerInput, integer_graph, z_input
from export.networks.dense import DenseHyperSynthesis, LevelAlone
from export.networks.entropy import SIGMA_MIN, FactorizedPrior, sigma_from_level
from export.tables import CODE_UNIT, level_sigmas, make_tables
from runtime.entropy.tables import Tables
from runtime.families.hyperprior import CODES

_LINEAR_UNIT = 256  # codes of one unit of standard deviation


@dataclass(frozen=True)
class SigmaCode:
    """How sigma codes are read.

    Attributes:
        head: of the exact graph.
        sigma: standard deviations of float32 codes, as the trained network has them: within what tables cover.
        thresholds: int32, between codes of neighbouring levels.
    """

    head: Head
    sigma: Callable[[Tensor], Tensor]
    thresholds: NDArray[np.int32] | None


def _linear_thresholds() -> NDArray[np.int32]:
    sigmas = np.array(level_sigmas())
    thresholds: NDArray[np.int32] = np.ceil(_LINEAR_UNIT * np.sqrt(sigmas[1:] * sigmas[:-1])).astype(np.int32)
    return thresholds


LOGARITHMIC = SigmaCode(SIGMA_CODE, lambda codes: sigma_from_level(codes / CODE_UNIT), None)
LINEAR = SigmaCode(
    Head("sigma_code", _LINEAR_UNIT, 0, CODES - 1),
    lambda codes: (codes / _LINEAR_UNIT).clamp(SIGMA_MIN, level_sigmas()[-1]),
    _linear_thresholds(),
)


def sigma_code_of(h_s: nn.Module) -> SigmaCode:
    """Return how the sigma codes of *h_s*'s exact graph are read."""
    return LINEAR if _dense(h_s) is not None else LOGARITHMIC


def tables_for(h_s: nn.Module, prior: FactorizedPrior) -> Tables:
    """Return the tables for the codes of *h_s* and the channels of *prior*."""
    return make_tables(prior, thresholds=sigma_code_of(h_s).thresholds)


def exact_h_s(
    h_s: nn.Module, tables: Tables, other_heads: Sequence[Head], samples: list[Tensor]
) -> tuple[onnx.ModelProto, dict[str, float], IntegerInput]:
    """Return the exact graph, its proof, and its input; see `export.integers.integer_graph`.

    Args:
        other_heads: what the graph gives before the sigma code.
        samples: float32 (1, C, h, w) each, as h_s takes them.
    """
    channels = len(tables.trits) - tables.y_levels
    heads = (*other_heads, sigma_code_of(h_s).head)
    dense = _dense(h_s)
    if dense is None:
        given = z_input(channels)
        return *integer_graph("h_s", h_s, given, heads, samples), given
    # Dense layers have no precision to spare: what the tables cannot express need not fit.
    given = IntegerInput("z_hat", np.zeros(channels, np.int64), tables.largest[tables.y_levels :].astype(np.float64))
    return *dense_integer_graph("h_s", dense, given, heads, samples), given


def _dense(h_s: nn.Module) -> DenseHyperSynthesis | None:
    found = h_s.h_s if isinstance(h_s, LevelAlone) else h_s
    return found if isinstance(found, DenseHyperSynthesis) else None
