"""Time of encoding and decoding, whole and by stage, and of the entropy path alone.

    python benchmarks/speed.py PICTURES... --json benchmarks/results/speed.json --readme README.md

Timed: from a uint8 array to stream bytes and back, warm, one process; the median over pictures of the median over
repetitions. README's table is of stages, with the compiled coder; `benchmarks/gpu.py` is for other engines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from readme import markdown, replace_table
from timing import machine, median_ms, medians, read_pictures

from engines.engine import Tensor
from engines.tiles import Source
from runtime import Codec
from runtime.entropy.choose import installed_coders
from runtime.entropy.plan import Field, trit_planes
from runtime.entropy.tables import TOTAL_BITS
from runtime.stream import StreamParser

# What is shown: a stage, and whether it is timed while encoding or decoding.
STAGES = (
    ("picture to tensor", "encode", "prepare"),
    ("g_a", "encode", "g_a"),
    ("h_a", "encode", "h_a"),
    ("h_s", "encode", "h_s"),
    ("entropy coding, plan included", "encode", "entropy"),
    ("**encode**", "encode", "total"),
    ("head segment", "decode", "head"),
    ("h_s, and sigma levels by table", "decode", "side"),
    ("entropy decoding, plan included", "decode", "entropy"),
    ("reconstruct from tables", "decode", "reconstruct"),
    ("g_s", "decode", "g_s"),
    ("tensor to picture (finish)", "decode", "finish"),
    ("**decode a whole stream**", "decode", "total"),
    ("preview, in place of g_s", "preview", "preview"),
)


def main() -> None:
    """Measure and print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of PNG files")
    parser.add_argument("--bundle", default="dpict-edge")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--readme", type=Path, help="file whose table to replace")
    arguments = parser.parse_args()
    images = read_pictures(arguments.pictures)
    coders = installed_coders()
    report = {
        "machine": machine(),
        "pictures": len(images),
        "bundle": arguments.bundle,
        "codec": {
            coder: {
                str(threads): codec_times(arguments.bundle, images, threads, arguments.repeat, coder)
                for threads in arguments.threads
            }
            for coder in coders
        },
        "entropy": {coder: entropy_times(arguments.bundle, images, arguments.repeat, coder) for coder in coders},
        "import_s": fresh_seconds("", "import runtime"),
        "open_s": fresh_seconds("import runtime", f"runtime.Codec.open({arguments.bundle!r})"),
    }
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    table = stage_table(report["codec"][coders[-1]])
    print(table)
    if arguments.readme is not None:
        replace_table(arguments.readme, "stages", "speed.py", table)


def stage_table(by_threads: dict[str, dict[str, float]]) -> str:
    """Return README's table: milliseconds of every stage."""
    columns = [f"{n} thread{'s' * (n != '1')}, ms" for n in by_threads]
    rows = [
        [label, *(f"{times[f'{way}_{stage}_ms']:.1f}" for times in by_threads.values())]
        for label, way, stage in STAGES
        if all(f"{way}_{stage}_ms" in times for times in by_threads.values())
    ]
    return markdown(["stage", *columns], rows)


def codec_times(
    bundle: str, images: list[NDArray[np.uint8]], threads: int, repeat: int, coder: str
) -> dict[str, float]:
    """Return milliseconds of whole encodes and decodes ("total"), and of their stages."""
    rows = []
    with Codec.open(bundle, threads=threads, coder=coder) as codec:
        networks = _Networks(codec)
        for image in images:
            stream = codec.encode(image).stream
            codec.decode(stream)
            runs: list[dict[str, float]] = []
            for _ in range(repeat):
                networks.ms.clear()
                encoding = codec.encode(image)
                row = {f"encode_{stage}_ms": ms for stage, ms in {**encoding.timings, **networks.ms}.items()}
                started = time.perf_counter()
                decoded = codec.decode(stream)
                row |= {f"decode_{stage}_ms": ms for stage, ms in decoded.timings.items()}
                row["decode_total_ms"] = 1000 * (time.perf_counter() - started)
                decoder = codec.decoder()
                decoder.feed(stream)
                decoder.preview()
                runs.append(row | {"preview_preview_ms": decoder.finish().timings["preview"]})
            rows.append(medians(runs))
    return medians(rows)


class _Networks:
    """Keeps how long each graph of a codec ran; those of one role together."""

    def __init__(self, codec: Codec) -> None:
        self.ms: dict[str, float] = defaultdict(float)
        self._run = codec.model.run
        codec.model.family.run = self.run  # type: ignore[attr-defined]

    def run(self, role: str, *inputs: Source, lazily: bool = False) -> Sequence[Tensor]:
        started = time.perf_counter()
        outputs: Sequence[Tensor] = self._run(role, *inputs, lazily=lazily)
        self.ms[role] += 1000 * (time.perf_counter() - started)
        return outputs


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
            encode_ms, decode_ms = median_ms(encode, repeat), median_ms(decode, repeat)
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
    return medians(rows)


def fresh_seconds(before: str, statement: str) -> float:
    """Return the median time of *statement* in fresh processes, after *before*, which is not counted."""
    clock = "import time; t = time.perf_counter()"
    script = "\n".join([before, clock, statement, "print(time.perf_counter() - t)"])
    times = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    return round(statistics.median(times), 4)


if __name__ == "__main__":
    main()
