"""Known answers: inputs of a graph and what it must make of them, by which an engine proves itself.

A file of them holds `cases`, and for every case and tensor an array `<case>.<tensor>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engines.arrays import read_arrays
from engines.bundle import Bundle
from engines.engine import Engine, Tensor
from engines.errors import BundleError, EngineError
from engines.manifest import GraphSpec

MOST_CASES = 64


@dataclass(frozen=True)
class KnownAnswer:
    """One case: float32 (B, C, H, W) each, in the graph's order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def known_answers(bundle: Bundle, spec: GraphSpec) -> Iterator[KnownAnswer]:
    """Yield the known answers of a graph, at least one.

    Raises:
        BundleError: there are none, or their file is not as it should be.
    """
    where = f"bundle {bundle.name}: {spec.known_answers}"
    if spec.known_answers is None:
        raise BundleError(f"bundle {bundle.name}: graph {spec.role!r} has no known answers")
    try:
        arrays = read_arrays(bundle.read(spec.known_answers))
    except BundleError as fault:
        raise BundleError(f"{where} cannot be read: {fault}") from fault
    count = arrays.get("cases")
    if count is None or count.shape != () or not 1 <= count.item() <= MOST_CASES:
        raise BundleError(f"{where}: `cases` must be a number from 1 to {MOST_CASES}")

    def tensor(case: int, name: str) -> Tensor:
        array = arrays.get(f"{case}.{name}")
        if array is None or array.ndim != 4 or array.size == 0:
            raise BundleError(f"{where}: case {case} has no {name} of four dimensions, or it is empty")
        return array.astype(np.float32)

    for case in range(int(count.item())):
        yield KnownAnswer(
            tuple(tensor(case, name) for name in spec.inputs), tuple(tensor(case, name) for name in spec.outputs)
        )


def check_known_answers(bundle: Bundle, spec: GraphSpec, engine: Engine) -> float:
    """Run the graph's known answers and return the largest difference; 0.0 for every exact graph that returns at all.

    Raises:
        EngineError: an exact graph's output differs from its known answer in any bit.
        BundleError: the graph has no known answers, or they cannot be read.
    """
    worst = 0.0
    for answer in known_answers(bundle, spec):
        for output, expected in zip(engine.run(*answer.inputs), answer.outputs, strict=True):
            difference = np.inf
            if output.shape == expected.shape:
                with np.errstate(all="ignore"):  # infinities, NaN: not equal, and no warning either
                    difference = float(np.abs(output - expected).max(initial=0.0))
            worst = max(worst, np.inf if np.isnan(difference) else difference)
    if spec.exact and worst != 0.0:
        raise EngineError(
            f"graph {spec.role!r} of bundle {bundle.name} gives other bits on {engine.backend} than its known answers "
            f"(largest difference {worst:g}); streams would not decode"
        )
    return worst
