"""The table of families in README, made from the bundles themselves.

    python benchmarks/family_table.py --readme README.md --rd benchmarks/results/kodak-rd.csv PICTURE

One picture is encoded and decoded with every bundle while all runs of graphs are counted: operations are those that
really happen, however often a plan runs a graph. Decode times are medians on one thread of this machine. BD-rates are
against JPEG 2000 of the same results file. The table stands between two comments in README.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from readme import replace_table

from engines.tiles import Source
from runtime import Codec
from runtime.evaluate.rd.cuts import Cut
from runtime.evaluate.rd.summary import curves_from_points, delta_rate, summarise
from runtime.evaluate.runs.rows import read_rows
from runtime.families.base import Tensor
from runtime.image_files import read_image
from runtime.model import Model

BUNDLES = ("dpict-edge", "ctc-edge", "progdtd-edge", "deepfgs-edge")
REFERENCE = "jpeg2000"
_REPETITIONS = 9


@dataclass(frozen=True)
class Row:
    """One bundle's line; operations in thousand multiply-accumulates per pixel."""

    bundle: str
    family: str
    order: str
    networks: str
    weights: int
    encode_kmac: float
    decode_kmac: float
    decode_ms: float
    bd_rate_percent: float | None


def main() -> None:
    """Measure, print, and replace README's table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--bundle", action="append", default=[], help=f"default: {', '.join(BUNDLES)}")
    parser.add_argument("--rd", type=Path, help="rows.csv of a run of `cutoff eval rd` with the bundles and jpeg2000")
    parser.add_argument("--readme", type=Path, help="file whose table to replace")
    arguments = parser.parse_args()
    image = read_image(arguments.picture)
    rates = {} if arguments.rd is None else bd_rates(arguments.rd)
    table = markdown([measure(bundle, image, rates) for bundle in arguments.bundle or BUNDLES])
    print(table)
    if arguments.readme is not None:
        replace_table(arguments.readme, "families", "family_table.py", table)


def measure(bundle: str, image: NDArray[np.uint8], rates: dict[str, float | None]) -> Row:
    """Return one bundle's line."""
    with Codec.open(bundle, threads=1) as codec:
        codec.warm(image.shape[1], image.shape[0])
        counter = _Operations(codec.model)
        stream = codec.encode(image).stream
        encoding = counter.take()
        codec.decode(stream)
        decoding = counter.take()
        counter.remove()
        times = []
        for _ in range(_REPETITIONS):
            started = time.perf_counter()
            codec.decode(stream)
            times.append(time.perf_counter() - started)
        opened = codec.bundle
        pixels = image.shape[0] * image.shape[1]
        roles = [spec.role + (" (exact)" if spec.exact else "") for spec in opened.graphs.values()]
        return Row(
            bundle=opened.name,
            family=opened.family,
            order=codec.model.family.order,
            networks=", ".join(sorted(roles)),
            weights=sum(_weights(onnx.load_from_string(opened.read(spec.file))) for spec in opened.graphs.values()),
            encode_kmac=sum(encoding.values()) / pixels / 1000,
            decode_kmac=sum(decoding.values()) / pixels / 1000,
            decode_ms=1000 * statistics.median(times),
            bd_rate_percent=rates.get(opened.name),
        )


class _Operations:
    """Counts the multiply-accumulates of every graph that a model runs."""

    def __init__(self, model: Model) -> None:
        self._model, self._run = model, model.run
        self._graphs = {
            role: onnx.load_from_string(model.bundle.read(spec.file)) for role, spec in model.bundle.graphs.items()
        }
        self._counted: Counter[str] = Counter()
        model.run = self._counting  # type: ignore[method-assign]
        model.family.run = self._counting  # type: ignore[attr-defined]

    def _counting(
        self, role: str, *inputs: Source, until: float | None = None, lazily: bool = False
    ) -> Sequence[Tensor]:
        self._counted[role] += operations(self._graphs[role], [tensor.shape for tensor in inputs])
        return self._run(role, *inputs, until=until, lazily=lazily)

    def take(self) -> Counter[str]:
        """Return what was counted since the last call."""
        counted, self._counted = self._counted, Counter()
        return counted

    def remove(self) -> None:
        """Let the model run without counting."""
        self._model.run = self._run  # type: ignore[method-assign]
        self._model.family.run = self._run  # type: ignore[attr-defined]


def operations(model: onnx.ModelProto, shapes: list[tuple[int, ...]]) -> int:
    """Return the multiply-accumulates of the convolutions for inputs of *shapes*, from the shapes that they give."""
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    convolutions = [node for node in open_model.graph.node if node.op_type == "Conv"]
    del open_model.graph.output[:]
    open_model.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in convolutions)
    session = onnxruntime.InferenceSession(open_model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    results = session.run(None, {name: np.zeros(s, np.float32) for name, s in zip(names, shapes, strict=True)})
    kernels = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for value in onnx.shape_inference.infer_shapes(model).graph.value_info:  # weights stored as float16, or together
        kernels[value.name] = [size.dim_value for size in value.type.tensor_type.shape.dim]
    return sum(
        result.size * int(np.prod(kernels[node.input[1]][1:]))
        for node, result in zip(convolutions, results, strict=True)
    )


def _weights(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if len(tensor.dims) > 0)


def bd_rates(results: Path) -> dict[str, float | None]:
    """Return the BD-rate of every codec of a results file against JPEG 2000, in percent."""
    cuts = read_rows(Cut, results)
    curves = {curve.label: curve for curve in curves_from_points(summarise(cuts))}
    return {label: delta_rate(curve, curves[REFERENCE]).percent for label, curve in curves.items()}


def markdown(rows: list[Row]) -> str:
    """Return the table."""
    lines = [
        "| bundle | family | the stream's order | networks | weights | encode, kMAC/px | decode, kMAC/px | "
        "decode, one thread | BD-rate against JPEG 2000 |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        rate = "" if row.bd_rate_percent is None else f"{row.bd_rate_percent:+.1f} %"
        lines.append(
            f"| `{row.bundle}` | {row.family} | {row.order} | {row.networks} | {row.weights / 1e6:.2f} M | "
            f"{row.encode_kmac:.1f} | {row.decode_kmac:.1f} | {row.decode_ms:.0f} ms | {rate} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
