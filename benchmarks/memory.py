"""Peak memory of encoding and of decoding, by size of the picture, each in a process of its own.

    python benchmarks/memory.py PICTURE --json benchmarks/results/memory.json --readme README.md

PICTURE is repeated, mirrored at every seam, until it fills a size. Counted is the peak resident set (VmHWM) of a
process that opens the bundle and encodes one uint8 array, the array included, or decodes one whole stream. The first
size is small: what a process takes with hardly any picture.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from readme import markdown, replace_table
from timing import machine, read_pictures

from engines.bundle import shipped_bundles
from runtime import Codec, Limits

SIZES = ("64x64", "768x512", "2048x2048", "4000x3000", "8000x6000")


def main() -> None:
    """Measure and print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--bundle", nargs="+", default=list(shipped_bundles()))
    parser.add_argument("--size", nargs="+", default=list(SIZES), help="WIDTHxHEIGHT")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--coder", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--readme", type=Path, help="file whose table to replace")
    arguments = parser.parse_args()
    settings = [str(arguments.threads), arguments.coder]
    bundles: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        array, stream = Path(folder, "picture.npy"), Path(folder, "stream")
        for size in arguments.size:
            width, height = (int(side) for side in size.split("x"))
            np.save(array, mirrored(read_pictures([arguments.picture])[0], height, width))
            for bundle in arguments.bundle:
                found = {way: in_own_process(way, bundle, *settings, array, stream) for way in ("encode", "decode")}
                bundles.setdefault(bundle, {})[size] = {
                    f"{way}_{key}": value for way, pair in found.items() for key, value in pair.items()
                } | {"bytes": stream.stat().st_size}
                print(bundle, size, bundles[bundle][size], file=sys.stderr)
    report = {"machine": machine(), "threads": arguments.threads, "coder": arguments.coder, "bundles": bundles}
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    table = memory_table(bundles, arguments.size)
    print(table)
    if arguments.readme is not None:
        replace_table(arguments.readme, "memory", "memory.py", table)


def memory_table(bundles: dict[str, dict[str, dict[str, float]]], sizes: list[str]) -> str:
    """Return README's table: peak memory of encoding and decoding, by size."""
    rows = [
        [f"`{bundle}`", *(f"{found[size]['encode_mb']:.0f} / {found[size]['decode_mb']:.0f}" for size in sizes)]
        for bundle, found in bundles.items()
    ]
    return markdown(["encode / decode, MB", *sizes], rows)


def mirrored(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return *image*, uint8 (H, W, 3), and its mirror images side by side, cut to *height* x *width*."""
    for axis, size in ((0, height), (1, width)):
        pair = np.concatenate([image, np.flip(image, axis)], axis)
        image = np.concatenate([pair] * -(-size // pair.shape[axis]), axis)
        image = image[:height] if axis == 0 else image[:, :width]
    return np.ascontiguousarray(image)


def in_own_process(*words: str | Path) -> dict[str, float]:
    """Return what `alone` prints."""
    command = [sys.executable, __file__, "--alone", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def alone(way: str, bundle: str, threads: str, coder: str, array: Path, stream: Path) -> None:
    """Encode or decode once, and print the peak memory, in MB, and the time, in seconds."""
    with Codec.open(bundle, threads=int(threads), coder=coder, limits=Limits(seconds=math.inf)) as codec:
        if way == "encode":
            image = np.load(array)
            started = time.perf_counter()
            code = codec.encode(image).stream
            seconds = time.perf_counter() - started
            stream.write_bytes(code)
        else:
            code = stream.read_bytes()
            started = time.perf_counter()
            codec.decode(code)
            seconds = time.perf_counter() - started
    print(json.dumps({"mb": round(peak_mb(), 1), "s": round(seconds, 2)}))


def peak_mb() -> float:
    """Return the peak resident set of this process so far, of which a parent's is no part."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        way, bundle, threads, coder, array, stream = sys.argv[2:]
        alone(way, bundle, threads, coder, Path(array), Path(stream))
    else:
        main()
