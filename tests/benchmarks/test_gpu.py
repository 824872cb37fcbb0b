"""The GPU benchmark: it starts anywhere, and its stand-in for an engine computes what the graphs say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from engines.bundle import Bundle
from engines.engine import Tensor
from engines.half import half_graph
from engines.onnxruntime_cpu import OnnxRuntimeCpu

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The benchmark, as a module."""
    import gpu

    return gpu


def test_without_cuda_it_says_so() -> None:
    """One line and exit status 1, wherever there is no GPU."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=SCRIPT.parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.startswith("cannot measure: onnxruntime ")


@pytest.mark.parametrize("role", ["g_a", "h_a", "h_s", "g_s", "preview"])
def test_torch_as_a_stand_in_gives_what_the_engine_gives(script: ModuleType, role: str) -> None:
    """Exact graphs to the bit, the others to rounding, one in FP16 too."""
    pytest.importorskip("torch", reason="torch is not installed (extra: export)")
    bundle = Bundle.open("dpict-edge")
    spec = bundle.graphs[role]
    channels = {"x": 3, "z_hat": bundle.settings["z_channels"]}
    generator = np.random.default_rng(0)
    inputs: list[Tensor] = []
    for name in spec.inputs:
        side = 64 if name == "x" else 4
        shape = (1, channels.get(name, bundle.settings["y_channels"]), side, side)
        inputs.append(generator.integers(0, 4, shape).astype(np.float32) / (1 if spec.exact else 4))
    content = bundle.read(spec.file)
    expected = OnnxRuntimeCpu(content, spec, 1).run(*inputs)
    found = script.TorchGraph(content, spec, "cpu").run(*inputs)
    if spec.exact:
        assert all(map(np.array_equal, found, expected))
        return
    scale = np.abs(expected[0]).max()
    assert np.abs(found[0] - expected[0]).max() < 1e-4 * scale
    if role == "preview":  # the others take long: a CPU has no FP16
        half = script.TorchGraph(half_graph(content, ()), spec, "cpu").run(*inputs)
        assert 0 < np.abs(half[0] - expected[0]).max() < 1e-2 * scale
