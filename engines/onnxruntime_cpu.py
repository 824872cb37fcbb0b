"""ONNX Runtime on the CPU: the back end that is always there."""

from __future__ import annotations

from engines.manifest import GraphSpec
from engines.onnxruntime_options import cpu_settings
from engines.onnxruntime_session import OnnxRuntimeEngine


class OnnxRuntimeCpu(OnnxRuntimeEngine):
    """An engine of one graph; see `engines.engine.Engine`."""

    backend = "cpu"

    def __init__(self, model: bytes, spec: GraphSpec, threads: int) -> None:
        """Open *model*; *threads* CPU threads work on one run.

        Raises:
            EngineError: ONNX Runtime cannot load the graph, or its tensors are not those of *spec*.
        """
        super().__init__(model, spec, cpu_settings(spec, threads))
