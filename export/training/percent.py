"""The loss of streams that are cut: a percent of rate counts the same at every rate."""

from __future__ import annotations

from torch import Tensor

EASY = 0.1  # of the mean, added to each patch's figure, or hardly anything would outweigh everything


def even_weight(bpp: Tensor) -> Tensor:
    """Return the weight of each patch, (B,), with which a percent of its rate, *bpp* (B,), counts as in any other."""
    mean = bpp.detach().mean()
    return mean / (bpp.detach() + EASY * mean)


class Percent:
    """log rate + c log MSE.

    c is what it is for complete latents, lambda MSE / rate, averaged over batches: with any other the cuts would have
    the whole stream grow or shrink.
    """

    def __init__(self) -> None:
        self._c: Tensor | None = None
        self._batches = 0

    def __call__(self, bpp: Tensor, mse: Tensor, *, complete_bpp: Tensor, complete_distortion: Tensor) -> Tensor:
        """Return the mean loss of cuts, each with its *bpp* and *mse*, of one shape.

        Args:
            complete_bpp, complete_distortion: of the complete latents of the same batch; lambda is in the distortion.
        """
        c = (complete_distortion / complete_bpp).detach()
        self._batches += 1
        self._c = c if self._c is None else self._c.lerp(c, max(0.01, 1 / self._batches))
        return (bpp.log() + self._c * mse.log()).mean()
