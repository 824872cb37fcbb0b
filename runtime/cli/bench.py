"""`cutoff bench`: what entropy coding and networks cost on this machine, warm, as medians over repeated runs.

JSON: bundle, coder, picture, width, height, threads, repeats, trits, bytes, bpp, encode_ms, decode_ms (both between
picture and whole stream in memory), entropy (object: encode_ns_per_trit, decode_ns_per_trit, overhead_pct), networks_ms
(object by role), peak_mb (largest resident memory of the process so far, in 10^6 bytes).

The entropy times hold everything but the networks between symbols and stream: walk, ordering, coder, framing.
`overhead_pct` compares the range code, framing apart, with -sum log2 of the frequencies in the bundle's own tables.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from engines.bundle import Bundle
from engines.open import available_cores
from engines.tiles import Source
from runtime.cli.console import print_object
from runtime.cli.exercise import exercise
from runtime.cli.options import add_bundle, add_engine_options, add_json, engine_options, positive_int
from runtime.cli.samples import synthetic_picture
from runtime.codec import Codec
from runtime.entropy.choose import CODERS
from runtime.entropy.tables import TOTAL_BITS
from runtime.image_files import read_image
from runtime.model import Model
from runtime.picture import Image, tensor_from_image
from runtime.stream import Header, Limits

_WARM_RUNS = 2
_SIZE = 768, 512  # of the synthetic picture


class TimedModel(Model):
    """A model that keeps how long each graph ran."""

    def __init__(
        self, bundle: Bundle, engine: str, threads: int | None, coder: str = "auto", precision: str = "auto"
    ) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        super().__init__(bundle, engine, threads, Limits(), coder, precision)

    @contextmanager
    def watched(self, role: str, inputs: Sequence[Source]) -> Iterator[None]:
        """Keep how long the run takes."""
        started = time.perf_counter()
        yield
        self.seconds[role].append(time.perf_counter() - started)

    def run(self, role: str, *inputs: Source, until: float | None = None, lazily: bool = False) -> Sequence[Any]:
        """Run the graph of *role*, never lazily: that time would count as another graph's."""
        return super().run(role, *inputs, until=until)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    width, height = _SIZE
    parser.add_argument(
        "picture", type=Path, nargs="?", metavar="PICTURE", help=f"default: a synthetic one of {width}x{height}"
    )
    parser.add_argument("--repeats", type=positive_int, default=9, metavar="N", help="measured runs (default: 9)")
    add_bundle(parser)
    add_engine_options(parser)
    parser.add_argument(
        "--coder", choices=CODERS, default="auto", help="implementation of the range code (default: the fastest here)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    image = synthetic_picture(*_SIZE) if arguments.picture is None else read_image(arguments.picture)
    model = TimedModel(Bundle.open(arguments.bundle), coder=arguments.coder, **engine_options(arguments))
    model.open_all()
    model.hurry()
    result = {
        "bundle": model.bundle.name,
        "coder": model.coder.name,
        "picture": "synthetic" if arguments.picture is None else arguments.picture.name,
        "width": image.shape[1],
        "height": image.shape[0],
        "threads": arguments.threads or available_cores(),
        "repeats": arguments.repeats,
        **measure(model, image, arguments.repeats),
    }
    if arguments.json:
        print_object(result)
    else:
        _print(result)
    return 0


def measure(model: TimedModel, image: Image, repeats: int) -> dict[str, Any]:
    """Return medians of *repeats* warm runs on *image*; keys as in the module text."""
    codec = Codec(model)
    stream = codec.encode(image).stream
    trits, ideal_bits = ideal_code(model, image)
    runs: list[tuple[float, float, float, float]] = []
    for repeat in range(_WARM_RUNS + repeats):
        if repeat == _WARM_RUNS:
            runs.clear()
            model.seconds.clear()
        timings = codec.encode(image).timings
        decode_s, decode_entropy_s = _timed_decode(codec, stream)
        runs.append((timings["total"] / 1000, timings["entropy"] / 1000, decode_s, decode_entropy_s))
    encode_s, encode_entropy_s, decode_s, decode_entropy_s = (median(column) for column in zip(*runs, strict=True))
    for _ in range(3):
        exercise(codec, image)  # networks that a whole stream does not need
    header = Header.from_bytes(stream, model.limits)
    code_bits = 8 * (header.head_bytes + header.body_bytes)
    return {
        "trits": trits,
        "bytes": len(stream),
        "bpp": 8 * len(stream) / (header.width * header.height),
        "encode_ms": 1000 * encode_s,
        "decode_ms": 1000 * decode_s,
        "entropy": {
            "encode_ns_per_trit": 1e9 * encode_entropy_s / trits,
            "decode_ns_per_trit": 1e9 * decode_entropy_s / trits,
            "overhead_pct": 100 * (code_bits / ideal_bits - 1),
        },
        "networks_ms": {role: 1000 * median(model.seconds[role]) for role in sorted(model.seconds)},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


def ideal_code(model: Model, image: Image) -> tuple[int, float]:
    """Return how many trits *image* is, and their -sum log2 of the tables' frequencies, in bits."""
    latents = model.family.analyse(tensor_from_image(image, model.family.stride))
    count, bits = 0, 0.0
    for step in chain(latents.head(), latents.body()):
        trits = step.trits()
        frequencies = model.tables.row_frequencies[step.rows, trits].astype(np.float64)
        bits += float((TOTAL_BITS - np.log2(frequencies)).sum())
        count += len(trits)
        step.receive(trits)
    return count, bits


def _timed_decode(codec: Codec, stream: bytes) -> tuple[float, float]:
    """Return the seconds of a whole decode, and of its way from bytes to symbols without networks."""
    model = codec.model
    assert isinstance(model, TimedModel)
    runs = {role: len(durations) for role, durations in model.seconds.items()}
    started = time.perf_counter()
    decoder = codec.decoder()
    decoder.feed(stream)
    fed = time.perf_counter()
    networks_s = sum(sum(durations[runs.get(role, 0) :]) for role, durations in model.seconds.items())
    finishing = time.perf_counter()
    decoder.finish()
    finished = time.perf_counter()
    return (fed - started) + (finished - finishing), fed - started - networks_s


def _print(result: dict[str, Any]) -> None:
    for key, value in result.items():
        inner = value if isinstance(value, dict) else {"": value}
        for name, figure in inner.items():
            label = f"{key}.{name}" if name else key
            print(f"{label:<28} {f'{figure:.3f}' if isinstance(figure, float) else figure}")
