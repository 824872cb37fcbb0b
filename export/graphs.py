"""Free graphs: torch networks to ONNX, checked against torch."""

from __future__ import annotations

import io
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from engines.bundle import GraphSpec
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.tiles import everywhere
from runtime.errors import EngineError

OPSET = 18
PICTURE_STRIDE = 64  # what pictures are padded to multiples of: a graph's stride times the pixels of one position
TOLERANCE = 2e-4  # largest difference between ONNX Runtime and torch, relative to the largest output


@dataclass(frozen=True)
class FreeGraph:
    """A network to export: its inputs by name, with an example of each (batch of two) and the stride of the sizes.

    An input whose example is one position large always is; see `engines.tiles`. *ends* names the inputs, if there are
    such, that are the lower and the upper end of what comes out.
    """

    role: str
    network: nn.Module
    inputs: dict[str, Tensor]
    output: str
    stride: int
    ends: tuple[str, str] | None = None


def export_graph(graph: FreeGraph) -> bytes:
    """Return the ONNX file of *graph*: batch, height and width are free, the latter in multiples of the stride.

    Raises:
        EngineError: ONNX Runtime's output differs from torch's by more than TOLERANCE.
    """
    network = graph.network.cpu().eval()
    batch = torch.export.Dim("batch", min=1, max=1024)
    rows, columns = torch.export.Dim("rows", min=1, max=8192), torch.export.Dim("columns", min=1, max=8192)
    stride = graph.stride
    shapes = tuple(
        {0: batch} if everywhere(one.shape) else {0: batch, 2: stride * rows, 3: stride * columns}
        for one in graph.inputs.values()
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        file = Path(folder) / "graph.onnx"
        torch.onnx.export(
            network,
            tuple(graph.inputs.values()),
            file,
            input_names=list(graph.inputs),
            output_names=[graph.output],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        model = onnx.load(file)
    _strip(model)
    _halve(model)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    _check(graph, content)
    return content


def _strip(model: onnx.ModelProto) -> None:
    """Remove what depends on where and how the graph was made, so that the same network gives the same bytes."""
    model.producer_version = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]


def _halve(model: onnx.ModelProto) -> None:
    """Store weights that float16 holds exactly as float16, with a cast that an engine folds when it opens the graph."""
    casts = []
    for index, initializer in enumerate(model.graph.initializer):
        values = numpy_helper.to_array(initializer)
        if values.dtype != np.float32 or values.size < 64 or not np.array_equal(values, values.astype(np.float16)):
            continue
        name = initializer.name
        model.graph.initializer[index].CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def _check(graph: FreeGraph, content: bytes) -> None:
    with torch.no_grad():
        expected = graph.network(*graph.inputs.values()).numpy()
    spec = GraphSpec(graph.role, "", False, tuple(graph.inputs), (graph.output,), None)
    engine = OnnxRuntimeCpu(content, spec, 1)
    (found,) = engine.run(*(value.numpy() for value in graph.inputs.values()))
    difference = float(np.abs(found - expected).max() / max(1e-9, np.abs(expected).max()))
    if not difference <= TOLERANCE:
        raise EngineError(f"graph {graph.role!r}: ONNX Runtime and torch differ by {difference:g} of the largest value")


def known_answers(
    cases: list[dict[str, NDArray[np.float32]]],
) -> bytes:
    """Return a file of known answers: arrays `<case>.<tensor>`, integers as int16 where they fit, and `cases`."""
    arrays: dict[str, NDArray[np.generic]] = {"cases": np.int32(len(cases))}  # type: ignore[dict-item]
    for index, case in enumerate(cases):
        for name, value in case.items():
            whole = bool((value == np.rint(value)).all()) and float(np.abs(value).max()) < 2**15
            arrays[f"{index}.{name}"] = value.astype(np.int16 if whole else np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
