"""What a family supplies, and nothing else in the system may ask which family it is.

encoder:  Family.analyse(x) -> Latents, the truth filled in
decoder:  Family.begin(height, width) -> Latents, nothing known
both:     Latents.head(), Latents.body() -> Steps   (runtime.entropy.plan)
decoder:  Latents.reconstruct() -> Reconstruction: tensors, and the free graphs to run on them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.tiles import Source
from runtime.entropy.plan import Step

Tensor = NDArray[np.float32]
RunGraph = Callable[..., Sequence[Any]]  # (role, *inputs, lazily=False) -> outputs; see `Model.run`


@dataclass(frozen=True)
class Pass:
    """One free graph to run: `inputs` are names of tensors, `output` the name of its result.

    An optional pass refines: without it the tensor that it would replace is used as it is.
    """

    role: str
    inputs: tuple[str, ...]
    output: str
    optional: bool = False


@dataclass(frozen=True)
class Reconstruction:
    """What is known of the latents, as tensors by name, and how a picture comes of them.

    Attributes:
        tensors: float32 (1, C, h, w) each, or what makes them; among them all that the bundle's preview network takes.
        passes: in order; the last one's output is the picture, float32 (1, 3, H, W), about 0..1.
    """

    tensors: Mapping[str, Source]
    passes: tuple[Pass, ...]


class Latents(Protocol):
    """One picture's latents: in an encoder with their true values, in a decoder with what is known so far."""

    def head(self) -> Iterator[Step]:
        """Yield the steps of the head segment; all of it is there before the body begins."""
        ...

    def body(self) -> Iterator[Step]:
        """Yield the steps of the body. Exact graphs run inside, when what they need is complete."""
        ...

    def reconstruct(self) -> Reconstruction:
        """Return the best estimate of the latents from what the fields know now (any time after the body began)."""
        ...

    def error_left(self) -> float:
        """Return the expected squared error of the latents as they are known now (any time after the body began)."""
        ...

    @property
    def steps(self) -> float:
        """How far the body is known, fractional, in the family's unit: its planes, or its channels."""
        ...

    @property
    def steps_total(self) -> int:
        """What `steps` is once all of the body is known; fixed when its first step is."""
        ...


class Family(Protocol):
    """A family's networks and tables of one bundle."""

    has_planes: bool  # `Latents.steps` counts planes
    stride: int  # pictures are padded to a multiple of this
    order: str  # of the stream, in a few words for people
    synthesis: tuple[str, ...]  # the roles of the passes that no full-size picture can do without
    pairs: tuple[str, ...]  # the roles of the graphs that give two tensors; all others give one
    # What the preview loses of complete latents, at worst, as a share of the error of latents of which nothing is known
    preview_share: float
    value_gain: float  # squared error of the picture (grey levels of 0..255) per squared error of a latent

    def analyse(self, x: Source) -> Latents:
        """Run the encoder's networks on *x*, float32 (1, 3, H, W) in 0..1, H and W multiples of `stride`."""
        ...

    def begin(self, height: int, width: int) -> Latents:
        """Return latents of which nothing is known, for a padded picture of *height* x *width*."""
        ...

    def input_limits(self, role: str) -> Mapping[str, NDArray[np.int32]]:
        """Return the largest magnitude, per channel, of the integers that the exact graph *role* is given, by input.

        Raises:
            BundleError: the family has no such exact graph.
        """
        ...
