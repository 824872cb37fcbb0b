"""Runs every network that a codec may need for a picture: whole and cut streams, previews, postprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from engines.bundle import Bundle
from engines.engine import Tensor
from engines.tiles import Source
from runtime.codec import Codec
from runtime.model import Model
from runtime.picture import Image
from runtime.stream import Limits

CUTS = (1.0, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.04)  # shares of the stream, so that every postprocessing network runs


class RecordingModel(Model):
    """A model in FP32 that keeps the latest inputs of every graph."""

    def __init__(self, bundle: Bundle, engine: str, threads: int | None) -> None:
        self.seen: dict[str, tuple[Tensor, ...]] = {}
        super().__init__(bundle, engine, threads, Limits(), precision="fp32")

    @contextmanager
    def watched(self, role: str, inputs: Sequence[Source]) -> Iterator[None]:
        """Keep the inputs."""
        self.seen[role] = tuple(np.array(value) for value in inputs)
        yield


def exercise(codec: Codec, image: Image) -> None:
    """Encode *image*, and decode it from prefixes of many lengths, with previews."""
    stream = codec.encode(image).stream
    for share in CUTS:
        decoder = codec.decoder()
        decoder.feed(stream[: int(share * len(stream))])
        if decoder.preview() is not None:
            decoder.finish()
