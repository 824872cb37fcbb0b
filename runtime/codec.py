"""The codec: one bundle opened on one machine, which encodes pictures and decodes prefixes.

from runtime import Codec
codec = Codec.open("dpict-edge")
encoding = codec.encode(image)
picture = codec.decode(encoding.stream[:4096])
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

import numpy as np

from engines.bundle import Bundle
from runtime.deadline import Clock, Deadline
from runtime.decoder import Decoder, Picture
from runtime.encoder import Encoding, encode
from runtime.model import Model
from runtime.picture import Image
from runtime.stream import Limits

_AMPLE_MS = 600_000  # for `rehearse`: what runs under a deadline is to run, but nothing is left out


class Codec:
    """An opened bundle. One thread at a time may use it; open one per thread.

    On the CPU, and once `warm` was called, one thread may feed decoders while another finishes others.
    """

    def __init__(self, model: Model) -> None:
        """Wrap *model*; `Codec.open` is the usual way."""
        self.model = model

    @classmethod
    def open(
        cls,
        bundle: str | Path,
        engine: str = "auto",
        threads: int | None = None,
        limits: Limits = Limits(),
        coder: str = "auto",
        precision: str = "auto",
        clock: Clock = time.monotonic,
    ) -> Codec:
        """Open a shipped bundle by name, or any by its folder or single file.

        Args:
            engine: back end of the networks: "cpu", "cuda", "tensorrt" or "tensorrt-ep"; "auto" takes the best that
                works here without building anything. See `engines.open`.
            threads: CPU threads of a network's run; None takes all cores.
            limits: what a stream may cost; see `Limits`.
            coder: which implementation of the range code, "constriction", "compiled" or "plain"; "auto" takes what
                starts soonest, and what runs fastest once `warm` was called.
            precision: "fp32" or "fp16" of networks that may run in FP16; "auto" takes FP16 where the back end computes
                in it.
            clock: what deadlines are instants of, in seconds; another one is for tests.

        Raises:
            BundleError, EngineError, UsageError: see `Bundle.open`, `open_engine` and `open_coder`.
        """
        return cls(Model(Bundle.open(bundle), engine, threads, limits, coder, precision, clock=clock))

    @property
    def bundle(self) -> Bundle:
        """The bundle that was opened."""
        return self.model.bundle

    def encode(self, image: Image) -> Encoding:
        """Encode *image*, uint8 (H, W, 3) RGB or (H, W) grey, once, into a stream that may be cut anywhere.

        Raises:
            PictureError, LimitExceeded: the picture cannot be coded.
        """
        return encode(self.model, image)

    def decode(self, stream: bytes, deadline: Deadline | None = None, *, strict: bool = False) -> Picture:
        """Decode any prefix of a stream that holds its head segment.

        Args:
            deadline: when the picture must be finished; less is decoded, or stages are skipped, to keep it.
            strict: use verified bytes only, and refuse a damaged body.

        Raises:
            StreamError, ModelMismatch, Incomplete, LimitExceeded: see `Decoder`.
        """
        decoder = self.decoder(deadline, strict=strict)
        decoder.feed(stream)
        return decoder.finish()

    def decoder(self, deadline: Deadline | None = None, *, strict: bool = False) -> Decoder:
        """Return a decoder of one stream that takes bytes as they come; see `Decoder`."""
        return Decoder(self.model, deadline, strict=strict)

    def warm(self, width: int, height: int) -> None:
        """Open every engine and run all stages on a picture of *width* x *height*, so that their costs are known.

        The fastest coder is loaded first; where its machine code is not in the cache yet, it is compiled.
        Whoever decodes one stream alone need not encode for that: see `rehearse`.
        """
        self.model.hurry()
        row, column = np.ogrid[:height, :width]
        image = np.stack([(row * 7 + column * 5) % 256, (row + column) % 256, (row * column) % 256], axis=2)
        self.model.open_all()
        for _ in range(3):
            encoding = self.encode(image.astype(np.uint8))
            stream, shortest = encoding.stream, int(encoding.value.offsets[0])
            for length in (len(stream), max(shortest, len(stream) // 8)):
                self._rehearse(stream[:length])

    def rehearse(self, prefix: bytes) -> None:
        """Decode *prefix* some times with all the time there is, preview included, so that its costs are known.

        Raises:
            StreamError, ModelMismatch, LimitExceeded, Incomplete: see `Decoder`.
        """
        self.model.hurry()
        for _ in range(3):
            self._rehearse(prefix)

    def _rehearse(self, prefix: bytes) -> None:
        decoder = self.decoder(Deadline.after_ms(_AMPLE_MS, self.model.clock))
        decoder.feed(prefix)
        decoder.preview()
        decoder.finish()

    def close(self) -> None:
        """Save measured costs and free the engines."""
        self.model.close()

    def __enter__(self) -> Codec:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
