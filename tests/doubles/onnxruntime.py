"""ONNX Runtime with a CUDA and a TensorRT provider that are the CPU's in disguise, and a record of its sessions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as real


def make_onnxruntime(
    providers: Sequence[str] = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
    *,
    left_out: Sequence[str] = (),
    add: float = 0.0,
) -> Any:
    """Return a module.

    Args:
        providers: that it claims to have.
        left_out: that a session leaves out without an error, as when CUDA's libraries are missing.
        add: to every output of a GPU's session.
    """
    sessions: list[Any] = []

    class InferenceSession:
        def __init__(self, model: bytes, options: Any, providers: Sequence[tuple[str, dict[str, str]]]) -> None:
            self.wanted = dict(providers)
            self.active = [name for name in self.wanted if name not in left_out] + ["CPUExecutionProvider"]
            self._session = real.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            self.fallback, self.runs = True, 0
            sessions.append(self)

        def get_providers(self) -> list[str]:
            return list(dict.fromkeys(self.active))

        def disable_fallback(self) -> None:
            self.fallback = False

        def get_inputs(self) -> Any:
            return self._session.get_inputs()

        def get_outputs(self) -> Any:
            return self._session.get_outputs()

        def run(self, names: None, feeds: dict[str, Any], run_options: Any = None) -> list[Any]:
            self.runs += 1
            tensorrt = self.wanted.get("TensorrtExecutionProvider")
            if tensorrt is not None:
                Path(tensorrt["trt_engine_cache_path"], "made.engine").write_bytes(b"engine")
            shift = add if self.active[0] != "CPUExecutionProvider" else 0.0
            return [output + shift for output in self._session.run(names, feeds, run_options)]

    return SimpleNamespace(
        __version__="1.31.1",
        sessions=sessions,
        SessionOptions=real.SessionOptions,
        RunOptions=real.RunOptions,
        ExecutionMode=real.ExecutionMode,
        GraphOptimizationLevel=real.GraphOptimizationLevel,
        InferenceSession=InferenceSession,
        OrtMemoryInfo=real.OrtMemoryInfo,
        OrtAllocatorType=real.OrtAllocatorType,
        OrtMemType=real.OrtMemType,
        OrtArenaCfg=real.OrtArenaCfg,
        create_and_register_allocator=real.create_and_register_allocator,
        get_available_providers=lambda: list(providers),
        preload_dlls=lambda: print("Failed to load libcudart.so.13"),
    )
