"""Time and memory of encoding and decoding, beside JPEG 2000 in the same run.

    python benchmarks/speed.py PICTURES... --json benchmarks/results/speed.json

Timed: from a uint8 array to stream bytes and back, warm, one process; the median over pictures of the median over
repetitions. JPEG 2000 is OpenJPEG through Pillow, 38 quality layers, to and from memory. Memory is the peak resident
set of a fresh process that opens the bundle, encodes one picture and decodes it.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime import Codec
from runtime.entropy.choose import installed_coders
from runtime.entropy.plan import Field, trit_planes
from runtime.entropy.tables import TOTAL_BITS
from runtime.stream import StreamParser

LAYERS = tuple(0.05 * 1.1**i for i in range(38))


def main() -> None:
    """Measure and print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of PNG files")
    parser.add_argument("--bundle", default="dpict-edge")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    files = [f for p in arguments.pictures for f in (sorted(p.glob("*.png")) if p.is_dir() else [p])]
    images = [np.array(Image.open(f).convert("RGB")) for f in files]
    report = {
        "machine": {"processor": _processor(), "python": platform.python_version(), "numpy": np.__version__},
        "pictures": len(images),
        "bundle": arguments.bundle,
        "threads": {
            str(threads): codec_times(arguments.bundle, images, threads, arguments.repeat)
            for threads in arguments.threads
        },
        "entropy": {
            coder: entropy_times(arguments.bundle, images, arguments.repeat, coder) for coder in installed_coders()
        },
        "jpeg2000": jpeg2000_times(images, arguments.repeat),
        "peak_mb": peak_memory_mb(arguments.bundle, files[0]),
        "import_s": import_seconds(),
    }
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")


def codec_times(bundle: str, images: list[NDArray[np.uint8]], threads: int, repeat: int) -> dict[str, float]:
    """Return milliseconds of whole encodes and decodes, and of their stages."""
    rows = []
    with Codec.open(bundle, threads=threads) as codec:
        for image in images:
            stream = codec.encode(image).stream
            codec.decode(stream)
            row = {
                "encode_ms": _median_ms(lambda image=image: codec.encode(image), repeat),
                "decode_ms": _median_ms(lambda stream=stream: codec.decode(stream), repeat),
            }
            picture = codec.decode(stream)
            row |= {f"decode_{stage}_ms": value for stage, value in picture.timings.items() if stage != "total"}
            rows.append(row)
    return _medians(rows)


def entropy_times(bundle: str, images: list[NDArray[np.uint8]], repeat: int, coder: str) -> dict[str, float]:
    """Return what the entropy path of y costs on one core: plan, coder and bookkeeping, networks excluded."""
    rows = []
    with Codec.open(bundle, threads=1, coder=coder) as codec:
        model = codec.model
        for image in images:
            parser = StreamParser()
            parser.feed(codec.encode(image).stream)
            assert parser.header is not None and parser.head is not None
            height, width = (-(-n // model.family.stride) * model.family.stride for n in image.shape[:2])
            latents = model.family.begin(height, width)
            z = model.coder.decoder()
            z.extend(parser.head, whole=True)
            for step in latents.head():
                z.decode_step(step, len(step))
            y = next(latents.body()).field
            code = bytes(parser.body)

            def decode(models: NDArray[np.integer] = y.models, code: bytes = code) -> Field:
                field, decoder = Field(models, model.tables), model.coder.decoder()
                decoder.extend(code, whole=True)
                for step in trit_planes(field, model.plane):
                    decoder.decode_step(step, len(step))
                return field

            truth = decode().known_symbols()

            def encode(models: NDArray[np.integer] = y.models, truth: NDArray[np.int32] = truth) -> bytes:
                field, encoder = Field(models, model.tables, truth), model.coder.encoder()
                for step in trit_planes(field, model.plane):
                    encoder.encode_step(step, len(step))
                return encoder.finish()

            assert encode() == code
            trits, bits = 0, 0.0
            field = Field(y.models, model.tables, truth)
            for step in trit_planes(field):
                digits = step.trits()
                frequencies = model.tables.row_frequencies[step.rows, digits]
                bits += float((TOTAL_BITS - np.log2(frequencies.astype(np.float64))).sum())
                trits += len(step)
                step.receive(digits)
            encode_ms, decode_ms = _median_ms(encode, repeat), _median_ms(decode, repeat)
            rows.append(
                {
                    "encode_ms": encode_ms,
                    "decode_ms": decode_ms,
                    "encode_ns_per_trit": 1e6 * encode_ms / trits,
                    "decode_ns_per_trit": 1e6 * decode_ms / trits,
                    "latents": len(truth),
                    "trits": trits,
                    "overhead_percent": 100 * (8 * len(code) / bits - 1),
                }
            )
    return _medians(rows)


def jpeg2000_times(images: list[NDArray[np.uint8]], repeat: int) -> dict[str, float]:
    """Return milliseconds of OpenJPEG with quality layers."""
    rows = []
    for image in images:

        def encode(image: NDArray[np.uint8] = image) -> bytes:
            buffer = io.BytesIO()
            ratios = [24 / bpp for bpp in LAYERS]
            Image.fromarray(image).save(
                buffer, "JPEG2000", quality_mode="rates", quality_layers=ratios, irreversible=True, mct=1
            )
            return buffer.getvalue()

        code = encode()
        rows.append(
            {
                "encode_ms": _median_ms(encode, repeat),
                "decode_ms": _median_ms(lambda code=code: np.array(Image.open(io.BytesIO(code))), repeat),
            }
        )
    return _medians(rows)


def peak_memory_mb(bundle: str, picture: Path) -> float:
    """Return the peak resident memory of a process that encodes and decodes one picture, in MB."""
    script = (
        "import resource, sys, numpy as np\n"
        "from PIL import Image\n"
        "from runtime import Codec\n"
        "codec = Codec.open(sys.argv[1])\n"
        "codec.decode(codec.encode(np.array(Image.open(sys.argv[2]).convert('RGB'))).stream)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, bundle, str(picture)], capture_output=True, text=True, check=True
    )
    return round(float(done.stdout), 1)


def import_seconds() -> float:
    """Return the median time of `import runtime` in fresh processes, the interpreter's start not counted."""
    script = "import time; t = time.perf_counter(); import runtime; print(time.perf_counter() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    return round(statistics.median(times), 4)


def _median_ms(action: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
