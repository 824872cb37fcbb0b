from __future__ import annotations

import argparse
import csv
import json
import math
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")

from export.networks.backbones import make_backbone
from export.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from export.training.command import add_arguments, settings_of
from export.training.config import TrainingSettings
from export.training.families import make_family
from export.training.group import Group
from export.training.loop import Run
from export.training.percent import Percent
from export.training.pictures import Patches, load_pictures, split_held_out
from export.training.precision import autocast
from runtime.errors import ConfigurationError, PictureError, UsageError
from runtime.settings import load_settings

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[2] / "configs"
PROGRAMS = ("edge.toml", "server.toml")  # settings of the client and the server, which their own tests read
MODELS = sorted(path for path in CONFIGS.rglob("*.toml") if path.name not in PROGRAMS)


def make_run(settings: TrainingSettings, folder: Path, pictures: list[torch.Tensor]) -> tuple[Run, object]:
    torch.manual_seed(settings.seed)
    family = make_family(settings)
    run = Run(settings, family.networks, family.stages, folder, CPU, Group())
    return run, family.validation(pictures[:2], CPU)


def test_all_stages_run_and_are_logged(tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path) -> None:
    """A run goes through its stages in order, changes what a stage trains and nothing else, and logs validation."""
    pictures = load_pictures([pictures_folder], 64)
    run, validate = make_run(tiny_settings, tmp_path, pictures)
    before = {k: v.clone() for k, v in run.networks.state_dict().items()}
    assert run.train(pictures, validate)
    after = run.networks.state_dict()
    for role in ("g_a", "g_s", "h_a", "h_s", "prior", "g_s_cuts", "preview", "post_low", "post_high"):
        names = [k for k in before if k.startswith(f"{role}.")]
        assert any(not torch.equal(before[k], after[k]) for k in names), role
    with (tmp_path / "rd-validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert float(rows[0]["full_bpp"]) > 0 and float(rows[0]["psnr_0.1"]) > 0


def test_a_stopped_run_resumes_where_it_was(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path
) -> None:
    """Stopping saves weights, moving average and optimiser; the next run goes on from that step."""
    pictures = load_pictures([pictures_folder], 64)
    run, validate = make_run(tiny_settings, tmp_path, pictures)
    run.stop = True
    assert not run.train(pictures, validate)
    first = newest_checkpoint(tmp_path)
    assert first is not None
    tensors, state = load_checkpoint(first)
    assert (state["stage"], state["stage_step"]) == ("rd", 1)
    assert any(name.startswith("adam.exp_avg.g_a") for name in tensors)
    again, validate = make_run(tiny_settings, tmp_path, pictures)
    again.stop = True
    assert not again.train(pictures, validate)
    second = newest_checkpoint(tmp_path)
    assert second is not None and json.loads((second / "state.json").read_text())["stage_step"] == 2


@pytest.mark.filterwarnings("ignore")  # torch asks tensors for gradients that it says not to ask for
def test_compiled_networks_train_as_plain_ones_do(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compilation changes neither names nor values of weights; validation, of pictures of any size, is not compiled."""
    captured: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        captured.append(len(list(graph.graph.nodes)))
        return graph.forward  # what inductor makes of a graph needs a C++ compiler, and is torch's own business

    compile_plainly = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: compile_plainly(network, backend=backend))
    torch.compiler.reset()
    pictures = load_pictures([pictures_folder], 64)
    settings = replace(tiny_settings, stages={"rd": replace(tiny_settings.stages["rd"], steps=2)}, validate_every=1)
    plain, compiled = (make_run(settings, tmp_path / name, pictures) for name in ("plain", "compiled"))
    compiled[0].compiled = True
    for run, validate in (plain, compiled):
        torch.manual_seed(1)
        assert run.train(pictures, validate)
    assert captured
    expected = plain[0].networks.state_dict()
    found = compiled[0].networks.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)


def test_batch_of_the_command_replaces_that_of_the_settings(pictures_folder: Path) -> None:
    """Every stage takes as many patches as asked for, of which some stages cut one half."""
    config = CONFIGS / "dpict-edge.toml"
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args([str(config), "--pictures", str(pictures_folder), "--batch", "3"])
    with pytest.raises(UsageError, match="--batch must be an even number"):
        settings_of(arguments)
    settings = settings_of(parser.parse_args([str(config), "--pictures", str(pictures_folder), "--batch", "6"]))
    assert {stage.batch for stage in settings.stages.values()} == {6}


def test_fixed_networks_stay_fixed_in_cuts(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path
) -> None:
    """The second g_s is trained while everything that makes streams stays as it is."""
    torch.manual_seed(0)
    family = make_family(tiny_settings)
    stage = family.stages["cuts"]
    stage.begin(family.networks)
    family.networks.requires_grad_(False)
    for role in stage.trains:
        getattr(family.networks, role).requires_grad_(True)
    patches = Patches(load_pictures([pictures_folder], 64), 64, 4, 0)
    loss, _ = stage.loss(family.networks, patches.take())
    patches.close()
    loss.backward()
    touched = {name.partition(".")[0] for name, p in family.networks.named_parameters() if p.grad is not None}
    assert touched == {"g_s_cuts", "preview"}


def test_joint_training_reaches_all_that_ships(tiny_settings: TrainingSettings, pictures_folder: Path) -> None:
    """Everything but DPICT's own decoder."""
    torch.manual_seed(0)
    settings = replace(tiny_settings, stages={"joint": tiny_settings.stages["rd"]})
    family = make_family(settings)
    stage = family.stages["joint"]
    stage.begin(family.networks)
    patches = Patches(load_pictures([pictures_folder], 64), 64, 4, 0)
    loss, _ = stage.loss(family.networks, patches.take())
    patches.close()
    loss.backward()
    touched = {name.partition(".")[0] for name, p in family.networks.named_parameters() if p.grad is not None}
    assert touched == {"g_a", "h_a", "h_s", "prior", "g_s_cuts", "preview"}


def test_cuts_weigh_rate_and_distortion_as_complete_latents_do() -> None:
    """Where a cut has the complete stream's rate and error, its loss falls in the same direction as that one's."""
    rate, mse, distortion_weight = 1.25, 12.0, 0.05
    bpp, error = (torch.full((2,), value, requires_grad=True) for value in (rate, mse))
    percent = Percent()
    complete = {"complete_bpp": torch.tensor(rate), "complete_distortion": torch.tensor(distortion_weight * mse)}
    percent(bpp, error, **complete).backward()
    torch.testing.assert_close(error.grad / bpp.grad, torch.full((2,), distortion_weight))
    before = percent(bpp, error, **complete)  # one odd batch changes the weight by a hundredth of the way
    after = percent(bpp, error, complete_bpp=torch.tensor(rate), complete_distortion=torch.tensor(0.0))
    c = distortion_weight * mse / rate
    torch.testing.assert_close(before - after, torch.tensor(0.01 * c * math.log(mse)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_networks_compute_in_the_precision_that_was_chosen(dtype: torch.dtype) -> None:
    """bfloat16 is what torch begins with; float32 is for processors that lack it."""
    before = torch.get_autocast_dtype("cpu")
    assert before == torch.bfloat16
    torch.set_autocast_dtype("cpu", dtype)
    try:
        x = torch.ones(2, 2)
        with autocast(x):
            assert (x @ x).dtype == dtype
    finally:
        torch.set_autocast_dtype("cpu", before)


def test_checkpoints_are_kept_whole_and_few(tmp_path: Path) -> None:
    """Only the newest two checkpoints stay, each readable; a half-written one is never the newest."""
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"w": torch.full((3,), float(step))}, {"stage": "rd"})
    (tmp_path / "step-0000009").mkdir()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "step-0000003"
    assert load_checkpoint(newest)[0]["w"].tolist() == [3.0] * 3
    assert not (tmp_path / "step-0000001").exists()


def test_pictures_from_tar_and_folder_are_the_same(pictures_folder: Path, tmp_path: Path) -> None:
    """A tar of pictures is as good as the folder."""
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for file in sorted(pictures_folder.glob("*.png")):
            tar.add(file, file.name)
    ours, theirs = load_pictures([tmp_path], 64), load_pictures([pictures_folder], 64)
    assert len(ours) == 8
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_no_pictures_is_one_clear_error(tmp_path: Path) -> None:
    """A folder without pictures is named in the error."""
    with pytest.raises(PictureError, match=str(tmp_path)):
        load_pictures([tmp_path], 64)


def test_patches_are_in_range_and_seeded(pictures_folder: Path) -> None:
    """Patches are float32 in 0..1, and the same seed draws the same ones."""
    pictures = load_pictures([pictures_folder], 64)
    one, two = Patches(pictures, 64, 3, 5), Patches(pictures, 64, 3, 5)
    first, second = one.take(), two.take()
    one.close()
    two.close()
    assert first.shape == (3, 3, 64, 64) and first.dtype == torch.float32
    assert float(first.min()) >= 0 and float(first.max()) <= 1 and float(first.std()) > 0
    assert torch.equal(first, second)


def test_held_out_pictures_are_never_trained_on(pictures_folder: Path) -> None:
    """The split has no picture on both sides and loses none."""
    pictures = load_pictures([pictures_folder], 64)
    held_out, kept = split_held_out(pictures, 3)
    assert len(held_out) == 3 and len(kept) == 5
    assert not {id(p) for p in held_out} & {id(p) for p in kept}


@pytest.mark.parametrize("config", MODELS, ids=lambda p: p.stem)
def test_shipped_settings_are_valid(config: Path) -> None:
    """Every settings file that ships names a family, a backbone and stages that exist."""
    settings = load_settings(TrainingSettings, config)
    family = torch.device("meta")
    with family:
        assert list(make_family(settings).stages) == list(settings.stages)


def test_unknown_family_is_refused(tiny_settings: TrainingSettings) -> None:
    """A family that does not exist is named with those that do."""
    with pytest.raises(ConfigurationError, match=r"'jpeg'.*dpict"):
        make_family(TrainingSettings("x", "jpeg", "edge", {}))
    assert make_backbone("edge", dict(tiny_settings.network)).y_channels == 16
