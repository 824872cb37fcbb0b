"""Every network of a bundle on a GPU: latency of each, pictures per second, and whether exact graphs keep their bits.

    python benchmarks/gpu.py --bundle dpict-edge --json benchmarks/results/gpu.json

With onnxruntime-gpu the graphs run as they do in the codec, on its CUDA provider. Where only torch is installed, they
run through torch on CUDA instead, operator by operator, as a stand-in: exactness and the order of magnitude are then
meant, not the speed that an engine reaches. In either case: FP32 and FP16, also where the bundle does not offer it;
batches of 1 and 8; 768x512 and 1920x1080; times from numpy to numpy, copies included, as medians. Exact graphs run with
batch 1 and are compared bit by bit with the CPU, at the sizes that pictures have, with TF32 off and on.

Entropy coding runs on the CPU and is not in the figures: `pictures_per_second` is what the networks of one direction
allow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import machine

from engines.bundle import Bundle, GraphSpec
from engines.half import half_graph
from engines.known_answers import known_answers
from engines.onnx_file import Constant, Node, read_graph
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from engines.onnxruntime_options import CUDA, cuda_settings
from engines.onnxruntime_session import OnnxRuntimeEngine, import_onnxruntime
from engines.proving import prove_size
from runtime.cli.exercise import RecordingModel, exercise
from runtime.cli.samples import synthetic_picture
from runtime.codec import Codec
from runtime.errors import EngineError

Run = Callable[..., Sequence[NDArray[np.float32]]]
SIZES = ((768, 512), (1920, 1080))
BATCHES = (1, 8)


def main() -> int:
    """Measure, print, and write JSON; without a GPU say so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="dpict-edge")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--through", choices=("auto", "onnxruntime", "torch"), default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    backend = _backend(arguments.through)
    if isinstance(backend, str):
        print(f"cannot measure: {backend}", file=sys.stderr)
        return 1
    bundle = Bundle.open(arguments.bundle)
    report: dict[str, Any] = {
        "bundle": bundle.name,
        "through": backend.name,
        "gpu": backend.gpu,
        **machine(),
        "sizes": {},
    }
    for width, height in SIZES:
        report["sizes"][f"{width}x{height}"] = measure(bundle, backend, width, height, arguments.repeat)
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")
    return 0


def measure(bundle: Bundle, backend: Backend, width: int, height: int, repeat: int) -> dict[str, Any]:
    """Return figures of all graphs at one picture size."""
    model = RecordingModel(bundle, "cpu", None)
    with Codec(model) as codec:
        image = synthetic_picture(width, height)
        stream = codec.encode(image).stream
        directions = {"encoder": set(model.seen)}
        model.seen.clear()
        codec.decode(stream)
        directions["decoder"] = set(model.seen)
        exercise(codec, image)
    found: dict[str, Any] = {"exact": {}}
    for batch in BATCHES:
        for precision in ("fp32", "fp16"):
            times = {}
            for role, inputs in model.seen.items():
                spec = bundle.graphs[role]
                if spec.exact and (batch > 1 or precision == "fp16"):
                    continue
                run = _opened(bundle, backend, spec, precision)
                if run is not None:
                    times[role] = _median_ms(run, [np.repeat(value, batch, axis=0) for value in inputs], repeat)
            found[f"batch {batch}, {precision}"] = {"ms": times, **_rates(times, found, batch, directions)}
    for role, inputs in model.seen.items():
        if bundle.graphs[role].exact:
            found["exact"][role] = _exactness(bundle, backend, bundle.graphs[role], inputs)
    return found


def _rates(
    times: Mapping[str, float], found: Mapping[str, Any], batch: int, directions: Mapping[str, set[str]]
) -> dict[str, Any]:
    """Return pictures per second of both directions; exact graphs count once per picture, as measured with batch 1."""
    single: Mapping[str, float] = found.get("batch 1, fp32", {}).get("ms", times)
    rates = {}
    for name, roles in directions.items():
        per_picture = [times[role] / batch if role in times else single[role] for role in roles]
        rates[name] = round(1000 / sum(per_picture), 1)
    return {"pictures_per_second": rates}


def _opened(bundle: Bundle, backend: Backend, spec: GraphSpec, precision: str) -> Run | None:
    model = bundle.read(spec.file)
    if precision == "fp16":
        model = half_graph(model, spec.float32_in_fp16 or ())
    return backend.open(model, spec, tf32=not spec.exact)


def _exactness(
    bundle: Bundle, backend: Backend, spec: GraphSpec, inputs: Sequence[NDArray[np.float32]]
) -> dict[str, Any]:
    """Return whether the bits are the CPU's, on known answers and at this size, with TF32 off and on."""
    model = bundle.read(spec.file)
    reference = OnnxRuntimeCpu(model, spec, 1)
    result: dict[str, Any] = {}
    for label, tf32 in (("tf32_off", False), ("tf32_on", True)):
        engine = _AsEngine(backend.open(model, spec, tf32=tf32), backend.name)
        try:
            for answer in known_answers(bundle, spec):
                if not all(map(np.array_equal, engine.run(*answer.inputs), answer.outputs)):
                    raise EngineError("known answers differ")
            prove_size(bundle, spec, engine, reference, inputs)
            result[label] = "bit-identical"
        except EngineError as fault:
            result[label] = str(fault)
    return result


class _AsEngine:
    def __init__(self, run: Run, backend: str) -> None:
        self.run, self.backend = run, backend

    def close(self) -> None: ...


class Backend:
    """A way to the GPU: its name, the GPU's, and how a graph is opened."""

    def __init__(self, name: str, gpu: str, opened: Callable[[bytes, GraphSpec, bool], Run]) -> None:
        self.name, self.gpu, self._opened = name, gpu, opened

    def open(self, model: bytes, spec: GraphSpec, *, tf32: bool) -> Run:
        """Return a function from numpy inputs to numpy outputs."""
        return self._opened(model, spec, tf32)


def _backend(through: str) -> Backend | str:
    """Return a way to the GPU, or why there is none."""
    reasons = []
    if through in ("auto", "onnxruntime"):
        ort = import_onnxruntime()
        if CUDA in ort.get_available_providers():
            return Backend(f"onnxruntime {ort.__version__}", _gpu_name(), _open_onnxruntime)
        reasons.append(f"onnxruntime {ort.__version__} is built without CUDA")
    if through in ("auto", "torch"):
        try:
            import torch
        except ModuleNotFoundError:
            reasons.append("torch is not installed")
        else:
            if torch.cuda.is_available():
                return Backend(f"torch {torch.__version__}", torch.cuda.get_device_name(), _open_torch)
            reasons.append(f"torch {torch.__version__} finds no CUDA")
    return "; ".join(reasons)


def _open_onnxruntime(model: bytes, spec: GraphSpec, tf32: bool) -> Run:
    settings = cuda_settings(spec, 1)
    name, options = settings.providers[0]
    chosen = type(settings)(
        [(name, {**options, "use_tf32": str(int(tf32))})], 1, settings.optimisation, settings.entries
    )
    return OnnxRuntimeEngine(model, spec, chosen).run


def _open_torch(model: bytes, spec: GraphSpec, tf32: bool) -> Run:
    graph = TorchGraph(model, spec, "cuda")

    def run(*inputs: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        return graph.run(*inputs)

    return run


class TorchGraph:
    """A graph run by torch, one operator after another; those that bundles' graphs consist of."""

    def __init__(self, model: bytes, spec: GraphSpec, device: str) -> None:
        import torch

        self._torch, self._spec, self._device = torch, spec, device
        self._graph = read_graph(model)
        self._constants = {name: self._constant(value) for name, value in self._graph.constants.items()}

    def _constant(self, constant: Constant) -> Any:
        kinds = {1: np.float32, 7: np.int64, 10: np.float16}
        values = np.frombuffer(constant.raw(), kinds[constant.data_type]).reshape(constant.shape).copy()
        # Sizes are computed on the CPU, where reshapes need them.
        return self._torch.from_numpy(values).to("cpu" if constant.data_type == 7 else self._device)

    def run(self, *inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the outputs in the graph's order."""
        torch = self._torch
        values = dict(self._constants)
        with torch.inference_mode():
            for name, value in zip(self._spec.inputs, inputs, strict=True):
                values[name] = torch.from_numpy(value).to(self._device)
            for node in self._graph.nodes:
                values[node.outputs[0]] = self._operator(node, [values[name] if name else None for name in node.inputs])
            return [values[name].cpu().numpy() for name in self._spec.outputs]

    def _operator(self, node: Node, x: list[Any]) -> Any:
        torch, given = self._torch, node.attributes
        simple = {
            "Add": torch.add,
            "Sub": torch.sub,
            "Mul": torch.mul,
            "Sqrt": torch.sqrt,
            "Reciprocal": torch.reciprocal,
            "Sigmoid": torch.sigmoid,
            "Relu": torch.relu,
            "Abs": torch.abs,
            "Floor": torch.floor,
            "Round": torch.round,
        }
        if node.operator in simple:
            return simple[node.operator](*x)
        if node.operator == "Conv":
            pads: Any = given.get("pads", (0, 0, 0, 0))
            assert pads[:2] == pads[2:], "padding on both sides alike"
            strides, dilations, groups = (
                given.get("strides", (1, 1)),
                given.get("dilations", (1, 1)),
                given.get("group", 1),
            )
            bias = x[2] if len(x) > 2 else None
            return torch.nn.functional.conv2d(x[0], x[1], bias, strides, pads[:2], dilations, groups)
        if node.operator == "Div":
            return x[0] // x[1] if x[0].dtype == torch.int64 else x[0] / x[1]
        if node.operator == "LeakyRelu":
            return torch.nn.functional.leaky_relu(x[0], given.get("alpha", 0.01))
        if node.operator == "Clip":
            return torch.clamp(x[0], x[1], x[2])
        if node.operator == "DepthToSpace":
            assert given.get("mode") == b"CRD"
            return torch.nn.functional.pixel_shuffle(x[0], given["blocksize"])
        if node.operator == "Cast":
            return x[0].to({1: torch.float32, 7: torch.int64, 10: torch.float16}[given["to"]])  # type: ignore[index]
        if node.operator == "Shape":
            sizes = list(x[0].shape)[given.get("start", 0) : given.get("end")]  # type: ignore[misc]
            return torch.tensor(sizes, dtype=torch.int64)
        if node.operator == "Concat":
            return torch.cat(x, given["axis"])
        if node.operator == "Reshape":
            return x[0].reshape([x[0].shape[i] if size == 0 else size for i, size in enumerate(x[1].tolist())])
        if node.operator == "Squeeze":
            return x[0].squeeze() if len(x) == 1 else x[0].squeeze(tuple(x[1].tolist()))
        if node.operator == "Transpose":
            return x[0].permute(given["perm"])
        raise EngineError(f"operator {node.operator} is not one that is run through torch")


def _median_ms(run: Run, inputs: list[NDArray[np.float32]], repeat: int) -> float:
    times = []
    for index in range(repeat + 5):
        started = time.perf_counter()
        run(*inputs)
        if index >= 5:
            times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times), 3)


def _gpu_name() -> str:
    from engines.cuda_driver import open_driver

    return open_driver().device().name


if __name__ == "__main__":
    sys.exit(main())
