"""Whether an engine does what the CPU does: bits of exact graphs, closeness of free ones.

Known answers are small. A library may choose other kernels for other sizes, so an accelerator proves an exact graph
again with the first inputs of every size: on the known answers repeated over the whole size, and on the inputs
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engines.bundle import Bundle
from engines.engine import Engine, Tensor
from engines.errors import EngineError
from engines.known_answers import known_answers
from engines.manifest import GraphSpec

FREE_TOLERANCE = 0.02  # of the range of the outputs; FP16 and TF32 stay well below, a wrong kernel does not


def check_close(spec: GraphSpec, backend: str, found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference as a share of the range of *expected*.

    Raises:
        EngineError: it is above FREE_TOLERANCE, or something is not a number.
    """
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape:
            raise EngineError(f"graph {spec.role!r} gives {ours.shape} on {backend}, not {theirs.shape}")
        span = float(theirs.max() - theirs.min()) or 1.0
        with np.errstate(all="ignore"):
            difference = float(np.abs(ours - theirs).max()) / span
        worst = max(worst, difference if np.isfinite(difference) else np.inf)
    if not worst <= FREE_TOLERANCE:
        raise EngineError(f"graph {spec.role!r} on {backend} is off by {worst:.2g} of its range")
    return worst


def prove_size(bundle: Bundle, spec: GraphSpec, engine: Engine, reference: Engine, inputs: Sequence[Tensor]) -> None:
    """Compare two engines of an exact graph on cases of the size of *inputs*.

    Raises:
        EngineError: they differ in any bit.
    """
    for case in (*_cases(bundle, spec, inputs), tuple(inputs)):
        if not all(map(np.array_equal, engine.run(*case), reference.run(*case))):
            raise EngineError(
                f"graph {spec.role!r} gives other bits on {engine.backend} than on {reference.backend} "
                f"at {' and '.join('x'.join(map(str, one.shape)) for one in inputs)}"
            )


def _cases(bundle: Bundle, spec: GraphSpec, inputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    for answer in known_answers(bundle, spec):
        yield tuple(_repeated(small, like) for small, like in zip(answer.inputs, inputs, strict=True))


def _repeated(small: Tensor, like: Tensor) -> Tensor:
    """Return *small* repeated, or cut, to the batch, height and width of *like*."""
    batch, _, height, width = (np.arange(size) for size in like.shape)
    result: Tensor = small[batch % small.shape[0]]
    return np.ascontiguousarray(result[:, :, height % small.shape[2]][..., width % small.shape[3]])
