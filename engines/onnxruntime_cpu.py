"""ONNX Runtime on the CPU.

Exact graphs run with basic optimisation only and without reduced-precision paths; their integers then come out the same
on every machine, whatever the number of threads. Free graphs run fully optimised.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from engines.engine import Tensor
from engines.errors import EngineError
from engines.manifest import GraphSpec


def _import_onnxruntime() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # must be set before the import
    import onnxruntime

    return onnxruntime


class OnnxRuntimeCpu:
    """An engine of one graph; see `engines.engine.Engine`."""

    backend = "onnxruntime-cpu"

    def __init__(self, model: bytes, spec: GraphSpec, threads: int) -> None:
        """Open *model*; *threads* CPU threads work on one run.

        Raises:
            EngineError: ONNX Runtime cannot load the graph, or its tensors are not those of *spec*.
        """
        ort = _import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if spec.exact:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as fault:  # the binding's exceptions share no base class
            raise EngineError(f"graph {spec.role!r} cannot be opened by ONNX Runtime: {fault}") from fault
        found = tuple(i.name for i in self._session.get_inputs()), tuple(o.name for o in self._session.get_outputs())
        if found != (spec.inputs, spec.outputs):
            raise EngineError(f"graph {spec.role!r} has inputs and outputs {found}, not {(spec.inputs, spec.outputs)}")
        self._spec = spec

    def run(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph; see `Engine.run`."""
        if len(inputs) != len(self._spec.inputs):
            raise EngineError(f"graph {self._spec.role!r} takes {len(self._spec.inputs)} inputs, not {len(inputs)}")
        for name, value in zip(self._spec.inputs, inputs, strict=True):
            if value.dtype != np.float32 or value.ndim != 4:
                found = f"{value.dtype} {value.shape}"
                raise EngineError(f"graph {self._spec.role!r}: {name} must be float32 (B, C, H, W), not {found}")
        try:
            outputs: Sequence[Tensor] = self._session.run(None, dict(zip(self._spec.inputs, inputs, strict=True)))
        except Exception as fault:  # as above
            raise EngineError(f"graph {self._spec.role!r} failed in ONNX Runtime: {fault}") from fault
        return outputs

    def close(self) -> None:
        """Free the session."""
        del self._session
