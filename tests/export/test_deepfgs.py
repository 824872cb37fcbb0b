"""The deepfgs family from training to streams, with tiny networks."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: export)")

from safetensors.torch import save_file

from export.bundle_writer import write_bundle
from export.families import EXPORTERS
from export.networks.backbones import make_backbone
from export.networks.cost import macs_per_pixel
from export.networks.entropy import LOG_STEP
from export.networks.separation import pooled
from export.training.command import start_from
from export.training.config import StageSettings, TrainingSettings
from export.training.deepfgs import DeepFgs, Options, channel_weight, drawn_channels
from export.training.families import make_family
from export.training.group import Group
from export.training.loop import Run
from export.training.pictures import Patches, cropped, load_pictures
from export.weights import networks_with
from runtime import Codec
from runtime.errors import ConfigurationError, UsageError

CPU = torch.device("cpu")
BASE, SCALABLE = 6, 12
ABLATIONS: dict[str, dict[str, Any]] = {
    "all": {},
    "without frr": {"frr": False},
    "without ffm": {"ffm": False},
    "without mutual": {"mutual": False},
}
ENCODE_MACS, DECODE_MACS = 40_000, 30_000


def with_options(settings: TrainingSettings, **options: Any) -> TrainingSettings:
    return dataclasses.replace(
        settings,
        family="deepfgs",
        distortion_weight=0.002,
        stages={"fgs": StageSettings(steps=3, batch=4, warmup_steps=2)},
        options={"base_channels": BASE, "scalable_channels": SCALABLE, **options},
    )


def test_every_ablation_can_begin_with_weights_of_all_parts(tiny_settings: TrainingSettings) -> None:
    """What a part would have to be made anew for is left as it is made; all else is taken."""
    weights = make_family(with_options(tiny_settings)).networks.state_dict()
    for options in ABLATIONS.values():
        family = make_family(with_options(tiny_settings, **options))
        own = {name: tensor.clone() for name, tensor in family.networks.state_dict().items()}
        family.networks.load_state_dict(family.adopt(weights, family.networks, []), strict=False)
        for name, tensor in family.networks.state_dict().items():
            taken = name in weights and not (options == {"mutual": False} and name.startswith("mutual."))
            assert torch.equal(tensor, weights[name] if taken else own[name]), name


@pytest.mark.parametrize("options", ABLATIONS.values(), ids=ABLATIONS.keys())
def test_networks_of_planes_are_a_start(
    tiny_settings: TrainingSettings, pictures_folder: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    """The base is what they make of a picture with a coarser step, and with what is scalable it is their picture."""
    torch.manual_seed(3)
    before = make_family(tiny_settings).networks.eval()  # a transform and its inverse, as long as it is not trained
    weights = dict(before.state_dict())
    family = make_family(with_options(tiny_settings, scalable_channels=16, **options))
    pictures = load_pictures([pictures_folder], 64)
    after = family.networks.eval()
    found = family.adopt(weights, after, pictures)
    parts = {name.partition(".")[0] for name in after.load_state_dict(found, strict=False).missing_keys}
    assert parts == set(after.roles) & {"frr", "ffm"}
    x = torch.stack([cropped(picture, 64)[0] for picture in pictures])
    with torch.no_grad():
        old, new = before.analyse(x), after.analyse(x)
        known = torch.zeros_like(old.y)
        strongest = old.y.square().mean(dim=(0, 2, 3)).topk(BASE).indices
        known[:, strongest] = 4 * (old.y[:, strongest] / 4).round()
        whole = after.synthesis(new.base.decoded, new.scalable.decoded)
        reached = [error(new.x_base, x), error(whole, x)]
        wanted = [error(before.g_s_cuts(y, torch.zeros_like(y)), x) for y in (known, old.y.round())]
        assert reached == pytest.approx(wanted, rel=0.05)
        energy = new.scalable.latent.square().mean(dim=(0, 2, 3))
        assert (energy.diff() <= 0.2 * energy[:-1]).all()
        z_hat = torch.randn_like(old.z_hat).round()
        rest = [channel for channel in range(16) if channel not in strongest]
        outputs = zip(
            before.h_s(z_hat),
            after.h_s(z_hat),
            after.mutual(after.h_s_scalable(z_hat), known[:, strongest]),
            strict=True,
        )
        for role, (told, of_base, of_scalable) in zip(("mu", "level"), outputs, strict=True):
            coarser = told[:, strongest] / 4 if role == "mu" else told[:, strongest] - math.log(4) / LOG_STEP
            assert torch.allclose(of_base.sort(dim=1).values, coarser.sort(dim=1).values, atol=1e-3)
            varying = of_scalable[:, of_scalable.std(dim=(0, 2, 3)) > 0]
            assert torch.allclose(varying.sort(dim=1).values, told[:, rest].sort(dim=1).values, atol=1e-3)
    for name, lost in (("no prior", "prior."), ("no scales", "h_s.")):
        save_file({k: v for k, v in weights.items() if not k.startswith(lost)}, tmp_path / name)
        with pytest.raises(UsageError, match=f"{name} is no start for these networks"):
            start_from(family, tmp_path / name, pictures)


def error(picture: torch.Tensor, x: torch.Tensor) -> float:
    return float((picture - x).square().mean())


@pytest.fixture(scope="module", params=["all", "bare"])
def bundle(
    request: pytest.FixtureRequest,
    tiny_settings: TrainingSettings,
    pictures_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    bare = {"frr": False, "ffm": False, "mutual": False}
    settings = with_options(tiny_settings, **(bare if request.param == "bare" else {}))
    torch.manual_seed(0)
    weights = dict(make_family(settings).networks.state_dict())
    for name in ("h_s.layers.7.weight", "mutual.layers.3.weight"):
        weights[name] *= 30  # trained heads reach far
    gates = {name: value for name, value in weights.items() if name.startswith(("frr.", "ffm."))}
    weights |= {name: torch.randn_like(value) * 0.1 for name, value in gates.items()}  # factors other than 1
    pictures = load_pictures([pictures_folder], 64)
    content = EXPORTERS["deepfgs"].content(networks_with(settings, weights), settings, pictures[:4], "cuts")
    return write_bundle(tmp_path_factory.mktemp("out") / request.param, "tiny", "0.1.0", "deepfgs", content)


@pytest.fixture(scope="module")
def image() -> np.ndarray[Any, np.dtype[np.uint8]]:
    coarse = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((7, 8, 1), np.uint8))


def test_an_exported_bundle_codes_pictures(bundle: Path, image: Any) -> None:
    """A stream decodes whole; at every cut it decodes to no fewer channels than at the cut before."""
    with Codec.open(bundle, threads=1) as codec:
        encoding = codec.encode(image)
        whole = codec.decode(encoding.stream)
        assert whole.complete and whole.steps == whole.steps_total == BASE + SCALABLE
        assert whole.image is not None and whole.image.shape == image.shape
        before = 0.0
        for size in range(int(encoding.value.offsets[0]), len(encoding.stream), 7):
            picture = codec.decode(encoding.stream[:size])
            assert picture.image is not None and before <= picture.steps <= BASE + SCALABLE
            before = picture.steps


def test_the_manifest_proves_the_exact_graphs(bundle: Path) -> None:
    """All sums stay below 2^24, proved anew from the files, and what integers cost is measured."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    exact = ("h_s", "h_s_scalable", "mutual")
    with Codec.open(bundle, threads=1) as codec:
        for role in exact:
            claims = manifest["graphs"][role]["accumulator_log2"]
            assert codec.model.prove(role).keys() == claims.keys() and max(claims.values()) < 24
    assert {f"graphs/{role}.onnx" for role in exact} <= set(manifest["exact_files"])
    measured = manifest["measured"]
    assert abs(measured["exact_h_s_cost_percent"]) < 2 and abs(measured["exact_mutual_cost_percent"]) < 2
    assert manifest["settings"]["base_worth"] > 0 and manifest["settings"]["scalable_variance"] > 0


def test_every_graph_may_be_run_in_parts(bundle: Path) -> None:
    """Gates, too: they are given the means of all of a latent."""
    graphs = json.loads((bundle / "manifest.json").read_text())["graphs"]
    assert {role for role, graph in graphs.items() if "tiling" not in graph} == set()
    assert (graphs.keys() >= {"frr", "ffm"}) == (bundle.name != "bare")
    if bundle.name != "bare":
        assert graphs["ffm"]["inputs"] == ["l_b", "l_s", "l_s_means"]
        assert graphs["frr"]["inputs"] == ["l_s", "l_b", "l_b_means"]
        assert graphs["ffm"]["tiling"]["reach"] == graphs["frr"]["tiling"]["reach"] == 2


def test_tiles_give_the_same_picture(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network of both directions in tiles of 64 pixels: the same symbols, but for those that were a tie."""
    image = np.random.default_rng(5).integers(0, 256, (17, 11, 3), dtype=np.uint8).repeat(12, axis=0).repeat(16, axis=1)
    with Codec.open(bundle, threads=1) as codec:
        stream = codec.encode(image).stream
        whole = codec.decode(stream).image
        for place in ("runtime.model.TILE_SIDE", "runtime.encoder.TILE_SIDE"):
            monkeypatch.setattr(place, 64)
        tiled = codec.decode(stream).image
        assert whole is not None and tiled is not None
        assert np.abs(tiled.astype(np.int16) - whole).max() <= 1
        again = codec.encode(image).stream
        assert abs(len(again) / len(stream) - 1) < 0.01
        picture = codec.decode(again)
        assert picture.complete and picture.image is not None
        assert np.abs(picture.image.astype(np.float32) - whole).mean() < 0.1


def test_what_the_mutual_model_is_given_is_exact(bundle: Path) -> None:
    """Whether probabilities of l_s depend on l_b decides what a stream says: it stands in an exact file."""
    plan = json.loads((bundle / "plan.json").read_text())
    assert plan == {"mutual": bundle.name == "all"}
    assert "plan.json" in json.loads((bundle / "manifest.json").read_text())["exact_files"]


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_stage_trains_every_network_that_there_is(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path, ablation: str
) -> None:
    """One stage changes all roles, and validation tells rates and PSNR."""
    settings = with_options(tiny_settings, **ABLATIONS[ablation])
    pictures = load_pictures([pictures_folder], 64)
    torch.manual_seed(1)
    family = make_family(settings)
    before = {k: v.clone() for k, v in family.networks.state_dict().items()}
    run = Run(settings, family.networks, family.stages, tmp_path, CPU, Group())
    assert run.train(pictures, family.validation(pictures[:2], CPU))
    after = run.networks.state_dict()
    roles = family.stages["fgs"].trains
    expected = {"g_a", "h_a", "h_s", "prior", "g_a_scalable", "h_a_scalable", "h_s_scalable", "mutual"}
    expected |= {"prior_scalable", "g_s", "preview", "frr", "ffm"}
    assert set(roles) == expected - {ablation.removeprefix("without ")} | {"mutual"}
    for role in roles:
        assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith(f"{role}.")), role
    with (tmp_path / "fgs-validation.csv").open() as file:
        (*_, row) = csv.DictReader(file)
    assert float(row["full_bpp"]) > float(row["base_bpp"]) > float(row["z_bpp"]) > 0
    assert float(row["psnr_base"]) > 0 and float(row["psnr_full"]) > 0


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_gradient_reaches_every_parameter(
    tiny_settings: TrainingSettings, pictures_folder: Path, ablation: str
) -> None:
    """No weight is unused or cut off, whatever is left out."""
    settings = with_options(tiny_settings, **ABLATIONS[ablation])
    torch.manual_seed(3)
    family = make_family(settings)
    networks = family.networks
    for parameter in networks.parameters():
        if not bool(parameter.any()):  # a last layer that starts at zero hides what is before it
            torch.nn.init.normal_(parameter, std=0.1)
    patches = Patches(load_pictures([pictures_folder], 64), 64, 4, 0)
    loss, figures = family.stages["fgs"].loss(networks, patches.take())
    patches.close()
    loss.backward()
    missing = [name for name, p in networks.named_parameters() if p.grad is None]
    assert missing == []
    assert all(bool(value.isfinite()) for value in figures.values())


def test_what_has_not_arrived_gets_no_gradient(tiny_settings: TrainingSettings, pictures_folder: Path) -> None:
    """If no picture has a scalable channel, none costs anything, and the decoder learns nothing about them."""
    settings = with_options(tiny_settings, partial_base=1.0)
    torch.manual_seed(2)
    family = make_family(settings)
    patches = Patches(load_pictures([pictures_folder], 64), 64, 4, 0)
    loss, figures = family.stages["fgs"].loss(family.networks, patches.take())
    patches.close()
    loss.backward()
    gradient = family.networks.g_s.enter.weight.grad
    assert gradient[:, :BASE].abs().sum() > 0 and not gradient[:, BASE:].any()
    assert figures["scalable_bpp"].item() == figures["z_scalable_bpp"].item() == 0 < figures["base_bpp"].item()


def test_the_scalable_encoder_starts_with_what_the_base_lacks(tiny_settings: TrainingSettings) -> None:
    """Before training, l_s of a picture that the base renders exactly is a constant: the transform of nothing."""
    backbone = make_backbone("edge", dict(tiny_settings.network)).with_latents(SCALABLE)
    encoder = backbone.g_a_scalable()
    x, other = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        nothing, difference = encoder(x, x), encoder(x, other)
    assert float(nothing.std(dim=(2, 3)).max()) < 1e-4
    assert float(difference.std(dim=(2, 3)).mean()) > 0.1


def test_scalable_channels_start_as_corrections_of_the_base(tiny_settings: TrainingSettings) -> None:
    """Before training, fusion is the identity, and g_s takes the sum of the transforms of both latents."""
    settings = with_options(tiny_settings)
    networks = make_family(settings).networks
    l_b, l_s = torch.randn(1, BASE, 4, 4), torch.zeros(1, SCALABLE, 4, 4)
    l_s[:, :BASE] = l_b
    with torch.no_grad():
        once, twice = networks.synthesis(2 * l_b, 0 * l_s), networks.synthesis(l_b, l_s)
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=0)


def test_a_batch_spreads_over_all_numbers_of_channels() -> None:
    """Every picture draws from a share of the range of its own; over many batches all numbers come, ends included."""
    torch.manual_seed(0)
    drawn = torch.stack([drawn_channels(4, 7, CPU) for _ in range(400)])
    assert sorted(drawn.unique().tolist()) == list(range(8))
    assert (drawn.sort(dim=1).values // 2 == torch.arange(4)).all()


def test_weights_are_those_of_the_paper() -> None:
    """w(j) = floor(j / 8), the wide one floor(j^2 / 64); other numbers of channels are scaled to 192."""
    kept = torch.tensor([0, 7, 8, 100, 192])
    assert channel_weight(kept, 192, wide=False).tolist() == [0, 0, 1, 12, 24]
    assert channel_weight(kept, 192, wide=True).tolist() == [0, 0, 1, 156, 576]
    assert channel_weight(torch.tensor([48, 96]), 96, wide=False).tolist() == [12, 24]


def test_weights_of_exact_networks_are_rounded_least(tiny_settings: TrainingSettings) -> None:
    """What becomes a table is not rounded in a weights file, what becomes an exact graph to float16, the rest more."""
    settings = with_options(tiny_settings)
    torch.manual_seed(0)
    weights = make_family(settings).networks.state_dict()
    kept = networks_with(settings, weights).state_dict()
    for role in ("prior", "prior_scalable", "h_s", "h_s_scalable", "mutual", "g_s"):
        names = [name for name in weights if name.startswith(f"{role}.")]
        half = {name: weights[name].half().float() for name in names}
        as_they_are = all(torch.equal(kept[name], weights[name]) for name in names)
        as_halves = all(torch.equal(kept[name], half[name]) for name in names)
        assert (as_they_are, as_halves) == (role.startswith("prior"), role not in ("prior", "prior_scalable", "g_s"))


def test_the_edge_backbone_stays_in_its_budget() -> None:
    """Encoding costs at most 40,000 multiply-accumulates per pixel, decoding 30,000, a preview a tenth of g_s."""
    with torch.device("meta"):
        networks = DeepFgs(make_backbone("edge", {}), Options())
        x = torch.empty(1, 3, 128, 128)
        l_b, l_s = torch.empty(1, 96, 8, 8), torch.empty(1, 192, 8, 8)
        z, both = torch.empty(1, 96, 2, 2), torch.empty(1, 288, 8, 8)
        inputs: dict[str, tuple[Any, ...]] = {
            "g_a": (x,),
            "h_a": (l_b,),
            "h_s": (z,),
            "ffm": (l_b, l_s, pooled(l_s)),
            "g_s": (both,),
            "g_a_scalable": (x, x),
            "frr": (l_s, l_b, pooled(l_b)),
            "h_a_scalable": (l_s,),
            "h_s_scalable": (z,),
            "mutual": (torch.empty(1, 96, 8, 8), l_b),
            "preview": (both,),
        }
        macs = {role: macs_per_pixel(getattr(networks, role), *one, pixels=128**2) for role, one in inputs.items()}
    assert sum(macs.values()) - macs["preview"] <= ENCODE_MACS
    assert sum(macs[role] for role in ("h_s", "h_s_scalable", "mutual", "ffm", "g_s")) <= DECODE_MACS
    assert macs["preview"] <= 0.1 * macs["g_s"]


def test_the_paper_backbone_trains(tiny_settings: TrainingSettings, pictures_folder: Path) -> None:
    """At a small width all networks of the paper's backbone fit together, and the loss has a gradient everywhere."""
    settings = with_options(dataclasses.replace(tiny_settings, backbone="paper", network={"n": 16, "post_width": 16}))
    torch.manual_seed(0)
    family = make_family(settings)
    patches = Patches(load_pictures([pictures_folder], 64), 64, 2, 0)
    loss, _ = family.stages["fgs"].loss(family.networks, patches.take())
    patches.close()
    loss.backward()
    assert bool(loss.isfinite())
    assert [name for name, p in family.networks.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    "options", [{"base_channels": 0}, {"scalable_channels": -1}, {"partial_base": 1.5}, {"fusion": True}]
)
def test_wrong_options_are_refused(tiny_settings: TrainingSettings, options: dict[str, Any]) -> None:
    """No channels, shares that are none and unknown names end before anything is trained."""
    with pytest.raises(ConfigurationError, match="options"):
        make_family(with_options(tiny_settings, **options))
