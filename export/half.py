"""Which free graphs may run in FP16, found by running them: ranges, and what the picture loses.

FP16 ends at 65,504. A tensor that comes near it on calibration pictures stays float32, and so do the squares, sums and
roots of a normalisation (GDN), whose range nobody checks. The rest is computed in FP16, as an engine would, and the
codec is run with each graph in turn. A graph that costs more than LARGEST_LOSS is not offered in FP16.

The check runs in numpy and torch with every result rounded to float16; ONNX Runtime on the CPU cannot check
this, as it computes FP16 graphs in float32.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.nn import functional as F

from engines.bundle import Bundle, GraphSpec
from engines.half import LARGEST_HALF, half_graph
from engines.onnx_file import Graph, Node, read_graph
from engines.tiles import Source
from export.bundle_writer import BundleContent, write_bundle
from export.training.config import TrainingSettings
from runtime.codec import Codec
from runtime.families.base import Tensor
from runtime.model import Model
from runtime.stream import Limits

LARGEST_LOSS = 0.02  # dB: of previews, of whole streams, and of the mean over cuts, where single ones scatter
HEADROOM = 8.0  # calibration sees few pictures: what comes nearer than this to the largest number stays float32
_CUTS = (1.0, 0.75, 0.55, 0.4, 0.3, 0.2, 0.15, 0.1)  # shares of the stream
_NO_OPERATION = ("Shape", "Cast", "Constant")
_SIDE = 256  # of what is cut out of a picture; FP16 is slow on a CPU

Image = NDArray[np.uint8]


class _Conv(OpRun):
    """Conv through torch: sums in float32, rounded to the type of the input, as engines do."""

    op_domain = ""

    def _run(
        self,
        x: NDArray[Any],
        weight: NDArray[Any],
        bias: NDArray[Any] | None = None,
        auto_pad: str | None = None,
        dilations: Sequence[int] | None = None,
        group: int | None = None,
        kernel_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[NDArray[Any]]:
        top, left, bottom, right = pads or (0, 0, 0, 0)
        given = (torch.from_numpy(np.array(value, np.float32)) for value in (x, weight))
        padded, kernel = next(given), next(given)
        result = F.conv2d(
            F.pad(padded, (left, right, top, bottom)),
            kernel,
            None if bias is None else torch.from_numpy(np.array(bias, np.float32)),
            tuple(strides or (1, 1)),
            0,
            tuple(dilations or (1, 1)),
            group or 1,
        ).numpy()
        with np.errstate(over="ignore"):  # what overflows is what is looked for
            return (result.astype(x.dtype),)


_Conv.__name__ = "Conv"  # the evaluator finds operators by their class names


class Interpreted:
    """An ONNX graph run operator by operator, every result in the type that the graph says."""

    def __init__(self, content: bytes, spec: GraphSpec) -> None:
        """Open *content*."""
        model = onnx.load_from_string(content)
        self._evaluator = ReferenceEvaluator(model, new_ops=[_Conv])
        self._spec = spec

    def run(self, *inputs: Tensor) -> list[Tensor]:
        """Return the outputs in the graph's order."""
        with np.errstate(all="ignore"):
            outputs = self._evaluator.run(None, dict(zip(self._spec.inputs, inputs, strict=True)))
        return list(outputs)

    def largest(self, *inputs: Tensor) -> dict[str, float]:
        """Return the largest magnitude of every float tensor that an operation gives; casts and constants are none."""
        feeds = dict(zip(self._spec.inputs, inputs, strict=True))
        results = self._evaluator.run(None, feeds, intermediate=True)
        return {
            name: float(np.abs(results[name]).max(initial=0.0))
            for node in self._evaluator.proto_.graph.node
            for name in node.output
            if node.op_type not in _NO_OPERATION and results[name].dtype.kind == "f"
        }


class _Substituting(Model):
    """A model that keeps the inputs of every graph, and runs some graphs through an interpreter."""

    def __init__(self, bundle: Bundle, instead: Mapping[str, Interpreted]) -> None:
        self.seen: dict[str, list[tuple[Tensor, ...]]] = defaultdict(list)
        self._instead = instead
        super().__init__(bundle, "auto", 1, Limits())

    def run(self, role: str, *inputs: Source, until: float | None = None, lazily: bool = False) -> Sequence[Any]:
        tensors = tuple(map(np.asarray, inputs))
        self.seen[role].append(tensors)
        if role in self._instead:
            return self._instead[role].run(*tensors)
        return super().run(role, *tensors, until=until, lazily=lazily)


def offer_half(content: BundleContent, settings: TrainingSettings, pictures: list[torch.Tensor]) -> None:
    """Enter into *content* which of its free graphs may run in FP16, and measurements of all: range and loss.

    Args:
        content: all of a bundle; `graphs` gets entries `fp16`, and `measured` one of the same name.
        pictures: uint8 (3, H, W).
    """
    images = [picture[:, :_SIDE, :_SIDE].permute(1, 2, 0).contiguous().numpy() for picture in pictures]
    report: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.open(write_bundle(Path(folder) / "trial", settings.name, "0", settings.family, content))
        truth = _coded(bundle, {}, images)
        for role, spec in bundle.graphs.items():
            if spec.exact or role not in truth.seen:
                continue
            file = bundle.read(spec.file)
            largest = _ranges(Interpreted(file, spec), truth.seen[role])
            kept = kept_in_float32(read_graph(file), largest)
            half = Interpreted(half_graph(file, kept), spec)
            lost = (truth.psnr - _coded(bundle, {role: half}, images, truth.sizes).psnr).mean(axis=0)
            loss = {"preview": float(lost[0]), "whole": float(lost[1]), "cuts": float(lost[1:].mean())}
            widest = max(largest, key=lambda name: largest[name])
            report[role] = {
                "largest": largest[widest],
                "largest_in": widest,
                "largest_in_fp16": max((v for name, v in largest.items() if name not in kept), default=0.0),
                "share_of_range": largest[widest] / LARGEST_HALF,
                "loss_db": loss,
                "largest_by_layer": {name: float(f"{value:.4g}") for name, value in largest.items()},
            }
            if max(loss.values()) <= LARGEST_LOSS:
                content.graphs[role]["fp16"] = {"float32": kept}
    content.measured["fp16"] = report


def kept_in_float32(graph: Graph, largest: Mapping[str, float]) -> list[str]:
    """Return the tensors that a graph in FP16 must still compute in float32, in the order of the file.

    Args:
        largest: magnitudes that were seen, by tensor.
    """
    limit = LARGEST_HALF / HEADROOM
    kept: list[str] = []
    inside: set[str] = set()  # sums of squares and what is made of them
    for node in graph.nodes:
        if node.operator in _NO_OPERATION:
            continue
        if _is_square(node) or not inside.isdisjoint(node.inputs):
            kept += node.outputs
            features = {name for name in node.inputs if name not in graph.constants} - inside
            # The product of a root and a feature is an ordinary feature again.
            if _is_square(node) or not (features and node.operator in ("Mul", "Div")):
                inside.update(node.outputs)
        elif any(largest.get(name, 0.0) > limit for name in (*node.inputs, *node.outputs)):
            kept += node.outputs
    return kept


def _is_square(node: Node) -> bool:
    return node.operator == "Pow" or (node.operator == "Mul" and node.inputs[0] == node.inputs[1])


def _ranges(graph: Interpreted, cases: list[tuple[Tensor, ...]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for case in cases:
        for name, value in graph.largest(*case).items():
            found[name] = max(value, found.get(name, 0.0))
    return found


@dataclass(frozen=True)
class _Coded:
    """What the codec made of pictures: float64 (pictures, preview and cuts) PSNR in dB; cuts; inputs of graphs."""

    psnr: NDArray[np.float64]
    sizes: list[list[int]]
    seen: dict[str, list[tuple[Tensor, ...]]]


def _coded(
    bundle: Bundle, instead: Mapping[str, Interpreted], images: list[Image], sizes: list[list[int]] | None = None
) -> _Coded:
    """Encode and decode *images*; *sizes* are bytes at which to cut, so that different streams compare at the same."""
    model = _Substituting(bundle, instead)
    codec = Codec(model)
    rows, cut_at = [], []
    for index, image in enumerate(images):
        encoding = codec.encode(image)
        length, shortest = len(encoding.stream), int(encoding.value.offsets[0])
        cuts = sizes[index] if sizes is not None else [max(shortest, int(share * length)) for share in _CUTS]
        decoder = codec.decoder()
        decoder.feed(encoding.stream)
        pictures = [decoder.preview(), *(codec.decode(encoding.stream[: max(size, shortest)]).image for size in cuts)]
        rows.append([_psnr(picture, image) for picture in pictures])
        cut_at.append(cuts)
    for role in bundle.graphs:
        model.engine(role).close()
    return _Coded(np.array(rows), cut_at, model.seen)


def _psnr(ours: Image | None, truth: Image) -> float:
    assert ours is not None
    error = np.square(ours.astype(np.float64) - truth).mean()
    return float(10 * np.log10(255.0**2 / max(float(error), 1e-9)))
