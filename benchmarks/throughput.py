"""Pictures per second: one by one, in batches, and with entropy decoding and synthesis in two threads.

    python benchmarks/throughput.py PICTURES... --json benchmarks/results/throughput.json --readme README.md

Decoding of whole streams from memory to uint8 arrays, warm, one process, in rounds of eight pictures of one size; the
median over rounds, the ways of decoding taking turns so that what disturbs disturbs all. `batches of n` makes the
networks run on n pictures whether that pays or not; `as measured` is what `runtime.batch` does by itself.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from readme import markdown, replace_table
from timing import machine, picture_files

from engines.costs import Costs
from engines.open import available_cores
from runtime import Codec, Decoder, Picture
from runtime.batch import finish_together

ROUND = 8  # pictures
BATCHES = (2, 4, 8)
SIZE = (768, 512)

Streams = Sequence[bytes]


def main() -> None:
    """Measure and print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of PNG files")
    parser.add_argument("--bundle", default="dpict-edge")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, available_cores()}))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--readme", type=Path, help="file whose table to replace")
    arguments = parser.parse_args()
    files = picture_files(arguments.pictures)[:ROUND]
    images = [np.array(Image.open(file).convert("RGB").resize(SIZE)) for file in files]
    found = {
        str(threads): rates(arguments.bundle, arguments.engine, threads, images, arguments.rounds)
        for threads in arguments.threads
    }
    report = {
        "machine": machine() | {"cores": available_cores()},
        "bundle": arguments.bundle,
        "size": list(SIZE),
        "pictures_per_second": found,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.readme:
        columns = list(found)
        ways = [way for way, rate in found[columns[0]].items() if not isinstance(rate, str)]
        header = ["pictures per second", *(f"{threads} thread{'s'[: threads != '1']}" for threads in columns)]
        rows = [[way, *(str(found[threads][way]) for threads in columns)] for way in ways]
        replace_table(arguments.readme, "throughput", "throughput.py", markdown(header, rows))
    print(json.dumps(report, indent=1))


def rates(bundle: str, engine: str, threads: int, images: Sequence[np.ndarray], rounds: int) -> dict[str, float | str]:
    """Return pictures per second by way of decoding, and the back end that ran."""
    with Codec.open(bundle, engine, threads) as codec:
        codec.warm(*SIZE)
        streams = [codec.encode(images[place % len(images)]).stream for place in range(ROUND)]
        learned = codec.model.costs
        ways: dict[str, tuple[Costs, Callable[[Codec, Streams], int]]] = {
            "one by one": (learned, one_by_one),
            **{f"batches of {count}": (OneBatch(count), together) for count in BATCHES},
            "as measured": (learned, together),
            "two threads": (learned, in_two_threads),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds + 1):  # the first one is not counted
            for way, (costs, decode) in ways.items():
                codec.model.costs = costs
                started = time.perf_counter()
                assert decode(codec, streams) == len(streams)
                if turn:
                    seconds[way].append(time.perf_counter() - started)
        codec.model.costs = learned
        (use,) = [one for one in codec.model.engines_report() if one.role == "g_s"]
        found = {way: round(ROUND / statistics.median(times), 2) for way, times in seconds.items()}
        return {**found, "engine of g_s": use.backend}


class OneBatch(Costs):
    """Costs by which batches of one size pay, and others do not."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._pays = f" x{count}"

    def runs(self, stage: str, pixels: int) -> int:
        """Say that all batches are known."""
        return 1000

    def typical_s(self, stage: str, pixels: int) -> float:
        """Say that the batches wanted take no time."""
        return 0.0 if stage.endswith(self._pays) else 1.0 if " x" not in stage else 1e9


def one_by_one(codec: Codec, streams: Streams) -> int:
    """Decode each picture before the next is begun; return how many came out."""
    return sum(codec.decode(stream).complete for stream in streams)


def together(codec: Codec, streams: Streams) -> int:
    """Feed all decoders, then finish them together."""
    decoders = [fed(codec, stream) for stream in streams]
    return sum(isinstance(result, Picture) and result.complete for _, result in finish_together(decoders))


def in_two_threads(codec: Codec, streams: Streams) -> int:
    """Feed decoders in one thread while another finishes those that were fed."""
    ready: queue.Queue[Decoder] = queue.Queue(maxsize=2)
    feeding = threading.Thread(target=lambda: [ready.put(fed(codec, stream)) for stream in streams])
    feeding.start()
    count = sum(ready.get().finish().complete for _ in streams)
    feeding.join()
    return count


def fed(codec: Codec, stream: bytes) -> Decoder:
    """Return a decoder that was given all of *stream*."""
    decoder = codec.decoder()
    decoder.feed(stream)
    return decoder


if __name__ == "__main__":
    main()
