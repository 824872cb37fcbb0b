"""The progdtd family from training to streams, with tiny networks."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: export)")

from safetensors.torch import save_file

from export.bundle_writer import write_bundle
from export.families import EXPORTERS
from export.networks.entropy import sigma_from_level
from export.training.command import start_from
from export.training.config import StageSettings, TrainingSettings
from export.training.families import make_family
from export.training.finer import refine_step
from export.training.group import Group
from export.training.loop import Run
from export.training.pictures import Patches, cropped, load_pictures
from export.training.progdtd import kept_mask
from export.weights import networks_with
from runtime import Codec
from runtime.errors import BundleError, ConfigurationError, UsageError

CPU = torch.device("cpu")
GROUPS = {"one": [1.0], "three": [0.25, 0.5, 1.0]}


def with_options(settings: TrainingSettings, **options: Any) -> TrainingSettings:
    stages = {name: StageSettings(steps=3, batch=4, warmup_steps=2) for name in ("rd", "dtd", "joint")}
    return dataclasses.replace(settings, family="progdtd", stages=stages, options=options)


@pytest.fixture(scope="module", params=[*GROUPS, "balle"])
def bundle(
    request: pytest.FixtureRequest,
    tiny_settings: TrainingSettings,
    pictures_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    settings = with_options(tiny_settings, groups=GROUPS.get(request.param, [0.5, 1.0]))
    if request.param == "balle":
        settings = dataclasses.replace(settings, backbone="balle", network={"n": 8, "m": 16})
    torch.manual_seed(0)
    weights = dict(make_family(settings).networks.state_dict())
    weights["h_s.layers.6.weight"] *= 30  # trained heads reach far
    pictures = load_pictures([pictures_folder], 64)
    content = EXPORTERS["progdtd"].content(networks_with(settings, weights), settings, pictures[:4], "cuts")
    return write_bundle(tmp_path_factory.mktemp("out") / request.param, "tiny", "0.1.0", "progdtd", content)


@pytest.fixture(scope="module")
def image() -> np.ndarray[Any, np.dtype[np.uint8]]:
    coarse = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((7, 8, 1), np.uint8))


def test_an_exported_bundle_codes_pictures(bundle: Path, image: Any) -> None:
    """A stream decodes whole; at every cut it decodes to no fewer channels than at the cut before."""
    with Codec.open(bundle, threads=1) as codec:
        encoding = codec.encode(image)
        whole = codec.decode(encoding.stream)
        assert whole.complete and whole.steps == whole.steps_total == 16
        assert whole.image is not None and whole.image.shape == image.shape
        before = 0.0
        for size in range(int(encoding.value.offsets[0]), len(encoding.stream), 7):
            picture = codec.decode(encoding.stream[:size])
            assert picture.image is not None and before <= picture.steps <= 16
            before = picture.steps


def test_the_manifest_proves_the_exact_graph(bundle: Path) -> None:
    """h_s gives the sigma code alone, its sums stay below 2^24, and what integers cost is measured."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["graphs"]["h_s"]["outputs"] == ["sigma_code"]
    assert max(manifest["graphs"]["h_s"]["accumulator_log2"].values()) < 24
    assert {"y_bpp", "exact_h_s_cost_percent", "tables_cost_percent"} <= manifest["measured"].keys()
    assert abs(manifest["measured"]["exact_h_s_cost_percent"]) < 2
    assert len(manifest["settings"]["y_variance"]) == 16 and min(manifest["settings"]["y_variance"]) >= 0
    with Codec.open(bundle, threads=1) as codec:
        proof = codec.model.prove("h_s")
    assert proof.keys() == manifest["graphs"]["h_s"]["accumulator_log2"].keys()


def test_groups_are_exact(bundle: Path) -> None:
    """Where groups end decides what a stream says: it stands in an exact file and not in the manifest."""
    plan = json.loads((bundle / "plan.json").read_text())
    expected = {"one": ([16], [8]), "three": ([4, 8, 16], [2, 4, 8]), "balle": ([8, 16], [4, 8])}[bundle.name]
    assert (plan["y_ends"], plan["z_ends"]) == expected
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert "plan.json" in manifest["exact_files"] and "y_ends" not in manifest["settings"]


def test_a_bundle_without_its_groups_is_refused(bundle: Path, tmp_path: Path) -> None:
    """A missing setting is one clear error when the bundle is opened."""
    from engines.bundle import Bundle
    from runtime.model import Model
    from runtime.stream import Limits

    opened = Bundle.open(bundle)
    bare = dataclasses.replace(opened, settings={k: v for k, v in opened.settings.items() if k != "y_ends"})
    with pytest.raises(BundleError, match="y_ends must rise"):
        Model(bare, "auto", 1, Limits())


def test_all_stages_run_and_are_logged(tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path) -> None:
    """All stages train every network, and validation tells the rate with and without groups."""
    settings = with_options(tiny_settings, groups=[0.5, 1.0])
    pictures = load_pictures([pictures_folder], 64)
    torch.manual_seed(1)
    family = make_family(settings)
    before = {k: v.clone() for k, v in family.networks.state_dict().items()}
    run = Run(settings, family.networks, family.stages, tmp_path, CPU, Group())
    assert run.train(pictures, family.validation(pictures[:2], CPU))
    after = run.networks.state_dict()
    for role in ("g_a", "g_s", "h_a", "h_s", "prior", "preview"):
        assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith(f"{role}.")), role
    for stage in ("rd", "dtd", "joint"):
        with (tmp_path / f"{stage}-validation.csv").open() as file:
            (*_, row) = csv.DictReader(file)
        assert float(row["grouped full_bpp"]) > 0 and float(row["z first full_bpp"]) > 0


def test_what_is_dropped_gets_no_gradient(tiny_settings: TrainingSettings, pictures_folder: Path) -> None:
    """With half of the channels kept at most, the last half costs nothing and changes nothing."""
    settings = with_options(tiny_settings, keep_least=0.25, keep_most=0.5)
    torch.manual_seed(2)
    family = make_family(settings)
    patches = Patches(load_pictures([pictures_folder], 64), 64, 4, 0)
    loss, figures = family.stages["dtd"].loss(family.networks, patches.take())
    patches.close()
    loss.backward()
    gradient = family.networks.g_s.enter.weight.grad
    assert gradient[:, :4].abs().sum() > 0 and not gradient[:, 8:].any()
    assert all(bool(value.isfinite()) for value in figures.values())


def test_half_of_a_joint_batch_is_complete(tiny_settings: TrainingSettings, pictures_folder: Path) -> None:
    """Every channel has a gradient, however few are kept of the cut half, whose preview sees none of the others."""
    settings = with_options(tiny_settings, keep_least=0.0, keep_most=0.01)
    torch.manual_seed(2)
    family = make_family(settings)
    patches = Patches(load_pictures([pictures_folder], 64), 64, 4, 0)
    loss, figures = family.stages["joint"].loss(family.networks, patches.take())
    patches.close()
    loss.backward()
    gradient = family.networks.g_s.enter.weight.grad
    assert all(gradient[:, channel].any() for channel in range(16))
    preview = family.networks.preview.enter16.weight.grad
    assert preview[:, 0].any() and not preview[:, 1:].any()
    assert all(bool(value.isfinite()) for value in figures.values())


def test_hyper_channels_arrive_before_their_group(tiny_settings: TrainingSettings) -> None:
    """A cut costs the hyper channels of all groups that have begun, and no others."""
    networks = make_family(with_options(tiny_settings, groups=[0.25, 0.5, 1.0])).networks
    share = torch.tensor([0.05, 0.25, 0.26, 0.5, 0.51, 1.0])
    arrived = networks.arrived_mask(kept_mask(torch.zeros(6, 16, 1, 1), share))
    assert arrived.shape == (6, 8, 1, 1)
    assert arrived[:, :, 0, 0].sum(dim=1).tolist() == [2, 2, 4, 4, 8, 8]


@pytest.mark.parametrize("backbone", ["edge", "balle"])
def test_networks_of_planes_are_a_start(tiny_settings: TrainingSettings, pictures_folder: Path, backbone: str) -> None:
    """Energy falls from channel to channel, and what is complete makes the same picture as before."""
    network = tiny_settings.network if backbone == "edge" else {"n": 8, "m": 16}
    planes = dataclasses.replace(tiny_settings, backbone=backbone, network=network)
    torch.manual_seed(3)
    before = make_family(planes).networks.eval()
    channels = with_options(planes, groups=[0.5, 1.0])
    family = make_family(channels)
    pictures = load_pictures([pictures_folder], 64)
    after = family.networks.eval()
    after.load_state_dict(family.adopt(dict(before.state_dict()), after, pictures), strict=False)
    x = torch.stack([cropped(picture, 64)[0] for picture in pictures])
    with torch.no_grad():
        old, new = before.analyse(x), after.analyse(x)
        energy = new.y.square().mean(dim=(0, 2, 3))
        assert (energy.diff() <= 1e-6 * energy[0]).all() and not torch.equal(old.y, new.y)
        picture = before.g_s_cuts(old.y.round(), torch.zeros_like(old.y))
        assert torch.allclose(after.g_s(new.y.round()), picture, atol=1e-4)
        assert torch.allclose(new.level.sort(dim=1).values, old.level.sort(dim=1).values, atol=1e-3)
        assert torch.allclose(after.prior.bits(new.z_hat).sum(), before.prior.bits(old.z_hat).sum(), rtol=1e-4)


def test_direct_channels_are_left_out_of_a_start(tiny_settings: TrainingSettings, pictures_folder: Path) -> None:
    """Networks that grew by such channels are the same start as before they grew."""
    pictures = load_pictures([pictures_folder], 64)
    larger = {**tiny_settings.network, "y_channels": 24, "direct_channels": 8}
    grows = make_family(dataclasses.replace(tiny_settings, network=larger))
    weights = dict(make_family(tiny_settings).networks.state_dict())
    family = make_family(with_options(tiny_settings, groups=[0.5, 1.0]))
    expected = family.adopt(dict(weights), family.networks, pictures)
    found = family.adopt(grows.adopt(dict(weights), grows.networks, pictures), family.networks, pictures)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_coarser_step_is_for_channels_too(tiny_settings: TrainingSettings) -> None:
    """Whose h_s has levels and no means."""
    torch.manual_seed(0)
    family = make_family(with_options(tiny_settings, groups=[0.5, 1.0]))
    before: Any = family.networks.eval()
    after = copy.deepcopy(before)
    refine_step(after, family.step_roles, 0.5)
    x, z = torch.rand(1, 3, 64, 64), torch.randn(1, 8, 1, 1).round()
    with torch.no_grad():
        y = before.g_a(x)
        assert torch.allclose(after.g_a(x), 0.5 * y, rtol=1e-4, atol=1e-5)
        assert torch.allclose(after.g_s(0.5 * y), before.g_s(y), rtol=1e-4, atol=1e-5)
        (level,), (coarser,) = before.h_s(z), after.h_s(z)
        assert torch.allclose(sigma_from_level(coarser), 0.5 * sigma_from_level(level), rtol=1e-4)


def test_a_start_of_its_own_family_stays_as_it_is(tiny_settings: TrainingSettings, pictures_folder: Path) -> None:
    """Nothing is put into another order that has been trained into one."""
    family = make_family(with_options(tiny_settings, groups=[0.5, 1.0]))
    weights = {k: v + 1 for k, v in family.networks.state_dict().items()}
    assert family.adopt(weights, family.networks, load_pictures([pictures_folder], 64)) is weights


def test_a_start_of_other_shapes_is_one_error(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path
) -> None:
    """Weights of a wider network, or of one without h_s, end the run before it begins and say which they are."""
    family = make_family(with_options(tiny_settings, groups=[0.5, 1.0]))
    pictures = load_pictures([pictures_folder], 64)
    wider = dataclasses.replace(tiny_settings, network={**tiny_settings.network, "width16": 64})
    for name, settings, lost in (("wider", wider, ""), ("without", tiny_settings, "h_s.")):
        weights = {
            k: v for k, v in make_family(settings).networks.state_dict().items() if not (lost and k.startswith(lost))
        }
        save_file(weights, tmp_path / name)
        with pytest.raises(UsageError, match=f"{name} is no start for these networks"):
            start_from(family, tmp_path / name, pictures)


def test_the_same_share_of_both_latents_is_kept() -> None:
    """Shares round up to whole channels, and one channel is always kept."""
    share = torch.tensor([0.0, 0.3, 1.0])
    kept = [kept_mask(torch.zeros(3, channels, 1, 1), share)[:, :, 0, 0].sum(dim=1).tolist() for channels in (10, 4)]
    assert kept == [[1, 3, 10], [1, 2, 4]]


@pytest.mark.parametrize(
    "options",
    [
        {"keep_least": 0.5, "keep_most": 0.5},
        {"keep_most": 1.5},
        {"groups": []},
        {"groups": [0.5]},
        {"groups": [0.01, 1.0]},
        {"groups": [0.5, 0.4, 1.0]},
        {"groups": 4},
        {"share": 0.5},
    ],
)
def test_wrong_options_are_refused(tiny_settings: TrainingSettings, options: dict[str, Any]) -> None:
    """Ranges that are none and groups without channels end before anything is trained."""
    with pytest.raises(ConfigurationError, match="options"):
        make_family(with_options(tiny_settings, **options))
