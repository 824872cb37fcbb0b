"""ONNX files: the reader, and what is made of a graph that it accepts, as far as our own code makes it.

Input: the file.
"""

from __future__ import annotations

import numpy as np
from targets.streams import GOLDEN

from engines.bundle import GraphSpec
from engines.errors import BundleError, EngineError
from engines.exact_graph import read_exact_graph
from engines.numpy_exact import NumpyExact
from engines.onnx_file import read_graph
from engines.proof import prove


def one_input(data: bytes) -> None:
    """Read; prove and run what is an exact graph: proved sums stay below 2^24."""
    try:
        read_graph(data)
        graph = read_exact_graph(data)
    except BundleError:
        return
    inputs, outputs = (tuple(name for name, _ in ports) for ports in (graph.inputs, graph.outputs))
    largest = {name: np.full(channels, 13) for name, channels in graph.inputs}
    try:
        proof = prove(graph, largest)
    except BundleError:
        proof = None
    try:
        engine = NumpyExact(data, GraphSpec("h_s", "", True, inputs, outputs, None))
        results = engine.run(*(np.full((1, limits.size, 2, 3), 13, np.float32) for limits in largest.values()))
    except EngineError:
        return
    if proof is not None:
        assert all(bits < 24 for bits in proof.values())
        assert all(np.abs(result).max(initial=0) < 1 << 24 for result in results)


def seeds() -> dict[str, bytes]:
    """The graphs of the tiny bundle."""
    return {path.stem: path.read_bytes() for path in sorted((GOLDEN / "tiny" / "graphs").glob("*.onnx"))}
