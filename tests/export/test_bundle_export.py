from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: export)")

from engines.bundle import Bundle
from export.bundle_writer import BundleContent, write_bundle
from export.families import EXPORTERS
from export.training.checkpoint import Checkpoint, save_checkpoint
from export.training.config import TrainingSettings
from export.training.families import make_family
from export.training.pictures import load_pictures
from export.weights import averaged_weights, load_weights, networks_with
from export.weights import run as export_weights
from runtime import Codec
from runtime.errors import OutputError, UsageError

POST = ("post_low", "post_high")


@pytest.fixture(scope="module")
def weights(tiny_settings: TrainingSettings) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(make_family(tiny_settings).networks.state_dict())


@pytest.fixture(scope="module", params=["cuts", "paper", "direct"])
def bundle(
    request: pytest.FixtureRequest,
    tiny_settings: TrainingSettings,
    weights: dict[str, torch.Tensor],
    pictures_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    pictures = load_pictures([pictures_folder], 64)
    synthesis = request.param
    if synthesis == "direct":
        network = {**tiny_settings.network, "y_channels": 24, "direct_channels": 8}
        tiny_settings, synthesis = replace(tiny_settings, network=network), "cuts"
        weights = dict(make_family(tiny_settings).networks.state_dict())
    networks = networks_with(tiny_settings, weights)
    content = EXPORTERS["dpict"].content(networks, tiny_settings, pictures[:4], synthesis)
    return write_bundle(tmp_path_factory.mktemp("out") / request.param, "tiny", "0.1.0", "dpict", content)


def test_an_exported_bundle_codes_pictures(bundle: Path) -> None:
    """A freshly exported model encodes, and decodes whole and cut, with the networks that its decoder needs."""
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    with Codec.open(bundle, threads=1) as codec:
        stream = codec.encode(image).stream
        picture = codec.decode(stream)
        assert picture.complete and picture.image is not None and picture.image.shape == image.shape
        cut = codec.decode(stream[: len(stream) // 3])
        assert not cut.complete and cut.image is not None
        assert (set(POST) <= set(codec.bundle.graphs)) == (bundle.name == "paper")


def test_the_manifest_proves_the_exact_graph(bundle: Path) -> None:
    """Accumulator bounds are stated and below 2^24, and costs in rate are measured."""
    import json

    manifest = json.loads((bundle / "manifest.json").read_text())
    assert max(manifest["graphs"]["h_s"]["accumulator_log2"].values()) < 24
    assert {"y_bpp", "exact_h_s_cost_percent", "tables_cost_percent"} <= manifest["measured"].keys()
    assert manifest["settings"]["value_gain"] > 0
    assert Bundle.open(bundle).exact_id.hex() == manifest["exact_id"]


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    """Export never replaces a folder that it did not make."""
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a bundle"):
        write_bundle(tmp_path, "tiny", "0.1.0", "dpict", BundleContent(settings={}))
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_weights_of_other_networks_are_refused(
    tiny_settings: TrainingSettings, weights: dict[str, torch.Tensor]
) -> None:
    """Weights whose names or shapes do not fit end in one clear error."""
    fewer = {k: v for k, v in weights.items() if not k.startswith("h_a.")}
    with pytest.raises(UsageError, match="not of these networks"):
        networks_with(tiny_settings, fewer)


def test_a_weights_file_leaves_out_what_the_bundle_holds(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors of its graphs are found there again; with another bundle in its place the file is refused."""
    config = tmp_path / "tiny.toml"
    monkeypatch.setattr("export.weights.load_settings", lambda kind, path: tiny_settings)
    pictures = load_pictures([pictures_folder], 64)
    torch.manual_seed(0)
    family = make_family(tiny_settings)
    tensors = {f"model.{name}": tensor for name, tensor in family.networks.state_dict().items()}
    save_checkpoint(tmp_path / "run", 1, Checkpoint(tensors, "rd", 1))
    whole, _ = averaged_weights(tiny_settings, tmp_path / "run")
    networks = networks_with(tiny_settings, whole)
    content = EXPORTERS["dpict"].content(networks, tiny_settings, pictures[:4], "cuts")
    bundle = write_bundle(tmp_path / "tiny.bundle", "tiny", "1", "dpict", content)
    small, large = tmp_path / "small.bz2", tmp_path / "large.bz2"
    for out, name in ((small, str(bundle)), (large, None)):
        export_weights(argparse.Namespace(config=config, run=tmp_path / "run", bundle=name, leave_out=[], out=out))
    assert small.stat().st_size < 0.7 * large.stat().st_size
    found, steps = load_weights(small)
    assert steps == {"rd": 1}
    expected = networks.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    write_bundle(
        bundle, "tiny", "2", "dpict", EXPORTERS["dpict"].content(networks, tiny_settings, pictures[4:8], "paper")
    )
    with pytest.raises(UsageError, match="in another version of bundle tiny"):
        load_weights(small)


def test_weights_without_what_is_optional(
    tiny_settings: TrainingSettings, weights: dict[str, torch.Tensor], pictures_folder: Path
) -> None:
    """Postprocessing may be absent, but not where it is to ship."""
    few = {k: v for k, v in weights.items() if not k.startswith("post_")}
    networks = networks_with(tiny_settings, few)
    pictures = load_pictures([pictures_folder], 64)
    with pytest.raises(UsageError, match="without post_high, post_low"):
        EXPORTERS["dpict"].content(networks, tiny_settings, pictures[:4], "paper")


def test_an_unreadable_weights_file_is_refused(tmp_path: Path) -> None:
    """A file that is no safetensors file is named."""
    file = tmp_path / "broken.safetensors"
    file.write_bytes(b"nonsense")
    with pytest.raises(UsageError, match=r"broken\.safetensors"):
        load_weights(file)
