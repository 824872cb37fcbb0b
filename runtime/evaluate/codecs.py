"""What is measured: bundles and peers behind one protocol.

    picture -> Codec.deliver(budgets) -> the bytes that a receiver has -> Codec.decode -> picture

A progressive codec delivers one stream, cut at every budget. A codec without prefixes delivers a file of its own for
every budget: the best quality setting that fits. The decoder is handed those bytes and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from runtime.errors import ModelMismatch, UsageError
from runtime.picture import Image
from runtime.stream import Limits

# Streams were made by who decodes them: however slow the machine is at the moment, no picture is given up for that.
OWN_STREAMS = Limits(seconds=math.inf)


@dataclass(frozen=True)
class Delivery:
    """What a receiver has of a picture.

    Attributes:
        data: a prefix of a stream, or a file; empty if nothing fits.
        encode_ms: what making it took; of a stream, all of it.
    """

    data: bytes
    encode_ms: float


class Codec(Protocol):
    """A codec that is measured."""

    @property
    def name(self) -> str:
        """What tables and plots call it."""
        ...

    @property
    def progressive(self) -> bool:
        """True if `deliver` cuts one stream."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """Return what tells it from others: hashes, library versions, settings."""
        ...

    def deliver(self, image: Image, budgets: Sequence[int | None]) -> list[Delivery | None]:
        """Encode *image*, uint8 (H, W, 3) RGB or (H, W) grey, for *budgets* in bytes.

        Returns:
            One for each budget, in order. The budget None is the whole stream; there is no such thing, None, of codecs
            that are not progressive.
        """
        ...

    def decode(self, data: bytes) -> Image | None:
        """Decode *data*, and nothing but it, to a picture of the original's size; None if it shows nothing yet."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def cut_stream(encode: Callable[[Image], bytes], image: Image, budgets: Sequence[int | None]) -> list[Delivery | None]:
    """Encode *image* once, and cut the stream at each of *budgets*."""
    started = time.perf_counter()
    stream = encode(image)
    encode_ms = 1000 * (time.perf_counter() - started)
    return [Delivery(stream if budget is None else stream[:budget], encode_ms) for budget in budgets]


def best_files(
    encode: Callable[[Image, int], bytes], qualities: range, image: Image, budgets: Sequence[int | None]
) -> list[Delivery | None]:
    """Encode *image* for each of *budgets* with the highest of *qualities* whose file fits, found by bisection."""
    made: dict[int, Delivery] = {}

    def at(place: int) -> Delivery:
        if place not in made:
            (delivery,) = cut_stream(lambda image: encode(image, qualities[place]), image, [None])
            assert delivery is not None
            made[place] = delivery
        return made[place]

    def best(budget: int) -> Delivery:
        low, high = -1, len(qualities) - 1  # the file at `low` fits, as far as it is known
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if len(at(middle).data) <= budget else (low, middle - 1)
        return at(low) if low >= 0 else Delivery(b"", 0.0)

    return [None if budget is None else best(budget) for budget in budgets]


class ProgressiveCodec:
    """Base of codecs that are an `encode` and a `decode`, and hold nothing that must be freed."""

    name: str
    progressive = True

    def identity(self) -> Mapping[str, Any]:
        """Return what tells it from others."""
        return {"kind": "progressive"}

    def encode(self, image: Image) -> bytes:
        """Encode *image*, uint8 (H, W, 3) or (H, W), into one stream that may be cut."""
        raise NotImplementedError

    def decode(self, data: bytes) -> Image | None:
        """Decode the prefix *data*; see `Codec.decode`."""
        raise NotImplementedError

    def deliver(self, image: Image, budgets: Sequence[int | None]) -> list[Delivery | None]:
        """Encode *image* once, and cut the stream at *budgets*."""
        return cut_stream(self.encode, image, budgets)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class CodecChoice:
    """Which codecs to open, and how.

    Attributes:
        bundles: names of shipped bundles, or paths.
        peers: names in `runtime.evaluate.peers.PEERS`.
        engine, threads, precision: as of `runtime.Codec.open`.
        hashes: `bundle_hash` of each of the bundles, where they are known: another machine may have others.
        cuts: bytes at which streams will be cut, where they are the same of every picture; peers may prepare for them.
    """

    bundles: tuple[str, ...]
    peers: tuple[str, ...]
    engine: str
    threads: int
    precision: str = "auto"
    hashes: tuple[str, ...] = ()
    cuts: tuple[int, ...] = ()

    @contextmanager
    def opened(self) -> Iterator[list[Codec]]:
        """Open all, bundles first, and close them in the end.

        Raises:
            UsageError: there are none, or two have the same name.
            ModelMismatch: a bundle has another hash here.
            MissingExtra: a peer's library is not installed.
            CutoffError: as of `runtime.Codec.open`.
        """
        from runtime.evaluate.bundles import BundleCodec
        from runtime.evaluate.peers import PEERS

        with ExitStack() as stack:
            codecs: list[Codec] = [
                BundleCodec.open(name, self.engine, self.threads, self.precision) for name in self.bundles
            ]
            codecs += [codec for name in self.peers for codec in PEERS[name](self.cuts)]
            for codec in codecs:
                stack.callback(codec.close)
            _check_names([codec.name for codec in codecs])
            for codec, wanted in zip(codecs, self.hashes, strict=False):  # bundles come first
                _check_hash(codec, wanted)
            yield codecs

    def identified(self) -> tuple[CodecChoice, dict[str, Mapping[str, Any]]]:
        """Return this choice with its hashes, and the identities of its codecs by name; errors as of `opened`."""
        with self.opened() as codecs:
            found = {codec.name: codec.identity() for codec in codecs}
        hashes = tuple(str(identity["bundle_hash"]) for identity in list(found.values())[: len(self.bundles)])
        return replace(self, hashes=hashes), found


def _check_hash(codec: Codec, wanted: str) -> None:
    found = codec.identity()["bundle_hash"]
    if found != wanted:
        raise ModelMismatch(f"{codec.name} has bundle_hash {found[:16]} here, and {wanted[:16]} where the run began")


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise UsageError("nothing to measure: give --bundle or --peers")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two codecs have the name {name!r}; results could not be told apart")
