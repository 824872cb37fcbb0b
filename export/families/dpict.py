"""dpict: tables, exact h_s and free graphs from trained networks, and what integers cost in rate."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.bundle import GraphSpec
from engines.onnxruntime_cpu import OnnxRuntimeCpu
from export.bundle_writer import BundleContent, write_bundle
from export.graphs import FreeGraph, export_graph, known_answers
from export.integers import integer_graph
from export.networks.entropy import gaussian_bits, sigma_from_level
from export.tables import CODE_UNIT, make_tables
from export.training.config import TrainingSettings
from export.training.dpict import Dpict
from export.training.pictures import cropped
from runtime.codec import Codec
from runtime.entropy.plan import Field, trit_planes
from runtime.entropy.tables import MEAN_UNIT, TOTAL_BITS, Tables
from runtime.model import TABLES

POST_RANGES = ((2.9, "post_low"), (1.8, "post_high"))  # planes missing at least; DPICT, section 4.1
_STRIDE = 64


def export_dpict(networks: Dpict, settings: TrainingSettings, pictures: list[Tensor], synthesis: str) -> BundleContent:
    """Return the content of a bundle.

    Args:
        pictures: uint8 (3, H, W); activation ranges and the cost of integers are measured on them.
        synthesis: "cuts" ships the g_s trained on random cuts, "paper" the plain one with both postprocessing networks.
    """
    inputs = [cropped(p, _STRIDE) for p in pictures]
    with torch.no_grad():
        latents = [networks.analyse(x) for x in inputs]
    tables = make_tables(networks.prior)
    h_s, proof = integer_graph(networks.h_s, [one.z_hat for one in latents[::2]])
    h_s_file = h_s.SerializeToString(deterministic=True)
    cuts = synthesis == "cuts"
    content = BundleContent(
        settings={
            "y_channels": latents[0].y.shape[1],
            "z_channels": latents[0].z_hat.shape[1],
            "deviation_input": cuts,
            "post": [] if cuts else [list(entry) for entry in POST_RANGES],
            "value_gain": 1.0,
            "preview_share": 1.0,
        },
        files={TABLES: tables.to_bytes(), "graphs/h_s.onnx": h_s_file},
        exact_files=[TABLES, "graphs/h_s.onnx"],
    )
    spec = GraphSpec("h_s", "graphs/h_s.onnx", True, ("z_hat",), ("mu", "sigma_code"), "kat/h_s.npz")
    engine = OnnxRuntimeCpu(h_s_file, spec, 1)
    content.files["kat/h_s.npz"] = _exact_answers(engine, tables, latents[0].z_hat)
    content.graphs["h_s"] = _entry(spec) | {"accumulator_log2": proof}
    for graph in _free_graphs(networks, latents[0].y.shape[1], cuts):
        _add_free_graph(content, graph)
    # One picture in two was not calibrated on: those measure.
    content.measured = _rate_costs(networks, engine, tables, latents[1::2], inputs[1::2])
    with tempfile.TemporaryDirectory() as folder:
        trial = write_bundle(Path(folder) / "trial", settings.name, "0", settings.family, content)
        content.settings |= _measured_errors(trial, pictures[1::4])
    return content


def _entry(spec: GraphSpec) -> dict[str, Any]:
    return {
        "file": spec.file,
        "exact": spec.exact,
        "inputs": list(spec.inputs),
        "outputs": list(spec.outputs),
        "known_answers": spec.known_answers,
    }


def _free_graphs(networks: Dpict, y_channels: int, cuts: bool) -> list[FreeGraph]:
    y, deviation = torch.randn(2, y_channels, 12, 8), torch.rand(2, y_channels, 12, 8)
    x = torch.rand(2, 3, 192, 128)
    latents = {"y_hat": y, "deviation": deviation}
    graphs = [
        FreeGraph("g_a", networks.g_a, {"x": x}, "y", _STRIDE),
        FreeGraph("h_a", networks.h_a, {"y": y}, "z", 4),
        FreeGraph("preview", networks.preview, latents, "x_hat", 4),
    ]
    if cuts:
        graphs.append(FreeGraph("g_s", networks.g_s_cuts, latents, "x_hat", 4))
    else:
        graphs.append(FreeGraph("g_s", networks.g_s, {"y_hat": y}, "x_hat", 4))
        graphs += [FreeGraph(role, getattr(networks, role), {"x": x}, "x_hat", _STRIDE) for _, role in POST_RANGES]
    return graphs


def _add_free_graph(content: BundleContent, graph: FreeGraph) -> None:
    file, answers = f"graphs/{graph.role}.onnx", f"kat/{graph.role}.npz"
    content.files[file] = export_graph(graph)
    generator = np.random.default_rng(0)
    # Integers (of 1/256 for pictures) keep the file small and exact.
    case: dict[str, NDArray[np.float32]] = {}
    for name, example in graph.inputs.items():
        channels = example.shape[1]
        side = _STRIDE if channels == 3 else 4
        low, high = (0, 2) if channels == 3 else (-3, 4)
        case[name] = generator.integers(low, high, (1, channels, side, side)).astype(np.float32)
    with torch.no_grad():
        case[graph.output] = graph.network(*(torch.from_numpy(case[name]) for name in graph.inputs)).numpy()
    content.files[answers] = known_answers([case])
    spec = GraphSpec(graph.role, file, False, tuple(graph.inputs), (graph.output,), answers)
    content.graphs[graph.role] = _entry(spec)


def _exact_answers(engine: OnnxRuntimeCpu, tables: Tables, real: Tensor) -> bytes:
    """Return known answers on real, random and extreme z, in several sizes."""
    generator = np.random.default_rng(0)
    largest = tables.largest[tables.y_levels :]
    channels = len(largest)
    bound = largest[None, :, None, None]
    cases = []
    shapes = ((1, 1), (2, 3), (5, 4))
    inputs = [real[:, :, :4, :6].numpy()]
    inputs += [np.rint(np.clip(generator.normal(0, 3, (1, channels, *s)), -bound, bound)) for s in shapes]
    inputs += [np.where(generator.random((1, channels, 3, 3)) < 0.5, -bound, bound)]
    for z_hat in (z.astype(np.float32) for z in inputs):
        mu, codes = engine.run(z_hat)
        cases.append({"z_hat": z_hat, "mu": mu, "sigma_code": codes})
    return known_answers(cases)


def _rate_costs(
    networks: Dpict, engine: OnnxRuntimeCpu, tables: Tables, latents: list[Any], inputs: list[Tensor]
) -> dict[str, float]:
    """Measure what integers cost: the exact h_s against the trained one, the tables against the Gaussian."""
    level_of_code = tables.level_of_code(1024)
    totals = {"trained": 0.0, "exact": 0.0, "tables": 0.0}
    for one in latents:
        symbols = (one.y - one.mu).round()
        totals["trained"] += float(gaussian_bits(symbols, sigma_from_level(one.level)).sum())
        mu, codes = (torch.from_numpy(np.asarray(t)) for t in engine.run(one.z_hat.numpy()))
        symbols = (one.y - mu / MEAN_UNIT).round()
        totals["exact"] += float(gaussian_bits(symbols, sigma_from_level(codes / CODE_UNIT)).sum())
        levels = level_of_code[codes.numpy().astype(np.int32).reshape(-1)]
        field = Field(levels, tables, symbols.numpy().astype(np.int32).reshape(-1))
        for step in trit_planes(field):
            trits = step.trits()
            totals["tables"] -= float(np.log2(tables.frequencies[step.rows, trits] / 2.0**TOTAL_BITS).sum())
            step.receive(trits)
    pixels = sum(x.shape[2] * x.shape[3] for x in inputs)
    return {
        "y_bpp": totals["tables"] / pixels,
        "exact_h_s_cost_percent": 100 * (totals["exact"] / totals["trained"] - 1),
        "tables_cost_percent": 100 * (totals["tables"] / totals["exact"] - 1),
    }


def _measured_errors(bundle: Path, pictures: list[Tensor]) -> dict[str, float]:
    """Measure the settings `value_gain`, over cuts of held-out pictures, and `preview_share`, on the worst of them.

    Args:
        bundle: the folder of a bundle whose value_gain is 1.
    """
    latent_error = picture_error = worst_preview = 0.0
    with Codec.open(bundle, threads=1) as codec:
        for picture in pictures:
            image = picture.permute(1, 2, 0).contiguous().numpy()
            encoding = codec.encode(image)
            decoder = codec.decoder()
            decoder.feed(encoding.stream)
            floor = _squared_error(decoder.finish().image, image)
            preview_error = _squared_error(decoder.preview(), image) - floor
            worst_preview = max(worst_preview, preview_error / float(encoding.value.squared_error[0]))
            for share in (0.1, 0.25, 0.5):
                size = max(int(encoding.value.offsets[0]), int(len(encoding.stream) * share))
                picture_error += _squared_error(codec.decode(encoding.stream[:size]).image, image) - floor
                latent_error += encoding.value.at(size)
    gain = picture_error / latent_error
    return {"value_gain": gain, "preview_share": worst_preview / gain}


def _squared_error(ours: NDArray[np.uint8] | None, truth: NDArray[np.uint8]) -> float:
    assert ours is not None
    return float(np.square(ours.astype(np.float64) - truth).sum())
