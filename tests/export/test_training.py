from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")

from safetensors.torch import save_file

from export.networks.backbones import make_backbone
from export.networks.entropy import sigma_from_level
from export.training.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, save_checkpoint
from export.training.command import add_arguments, settings_of, start_from
from export.training.command import run as train
from export.training.config import StageSettings, TrainingSettings
from export.training.dpict import Joint
from export.training.draws import uniform
from export.training.families import make_family
from export.training.finer import refine_step
from export.training.group import Group
from export.training.loop import Run
from export.training.percent import Percent
from export.training.pictures import Patches, cropped, load_pictures
from export.training.precision import autocast
from runtime.errors import ConfigurationError, CutoffError, PictureError, UsageError
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


def stopped_at_once(settings: TrainingSettings, folder: Path, pictures: list[torch.Tensor]) -> Path:
    """Train a step, from where the run stands, and return its checkpoint."""
    run, validate = make_run(settings, folder, pictures)
    run.stop = True
    assert not run.train(pictures, validate)
    newest = newest_checkpoint(folder)
    assert newest is not None
    return newest


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
    first = stopped_at_once(tiny_settings, tmp_path, pictures)
    stopped = load_checkpoint(first)
    assert (stopped.stage, stopped.stage_step) == ("rd", 1)
    assert any(name.startswith("adam.exp_avg.g_a") for name in stopped.tensors)
    second = stopped_at_once(tiny_settings, tmp_path, pictures)
    assert json.loads((second / "state.json").read_text())["stage_step"] == 2


def test_a_run_does_not_go_on_from_a_damaged_checkpoint(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path
) -> None:
    """It says which folder that is, and leaves everything as it was."""
    pictures = load_pictures([pictures_folder], 64)
    stopped = stopped_at_once(tiny_settings, tmp_path, pictures)
    piece = stopped / "piece-000.safetensors"
    piece.write_bytes(piece.read_bytes()[:-1])
    before = sorted(tmp_path.rglob("*"))
    again, validate = make_run(tiny_settings, tmp_path, pictures)
    with pytest.raises(UsageError, match=f"{stopped} is damaged: "):
        again.train(pictures, validate)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_draws_what_it_has_not_drawn_yet(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cuts and noise are other ones in each process and behind each start, and the same in the same place."""
    pictures = load_pictures([pictures_folder], 64)

    def first_draw(folder: Path, rank: int = 0) -> float:
        run, validate = make_run(tiny_settings, folder, pictures)
        run.group.rank, run.stop = rank, True
        drawn: list[float] = []
        stage = run.stages["rd"]
        loss = stage.loss

        def recorded(networks: Any, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            drawn.append(uniform(0.0, 1.0))
            return loss(networks, x)

        monkeypatch.setattr(stage, "loss", recorded)
        run.train(pictures, validate)
        return drawn[0]

    begun = first_draw(tmp_path / "one")
    assert first_draw(tmp_path / "two") == begun
    assert first_draw(tmp_path / "one") != begun
    assert first_draw(tmp_path / "three", rank=1) != begun


def test_patches_of_one_cut_are_weighed_among_each_other(tiny_settings: TrainingSettings) -> None:
    """What a deep cut of the same batch costs or leaves changes nothing for a shallow one."""
    stage = Joint(tiny_settings)
    shallow = torch.tensor([0.5, 1.5])
    eased = stage._eased(torch.cat([shallow, 1000.0 * shallow]))
    torch.testing.assert_close(eased, torch.cat([shallow + 0.1, 1000.0 * (shallow + 0.1)]))


def test_a_signal_to_the_command_reaches_all_its_processes(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path
) -> None:
    """Whoever stops a run knows one process only; all of them end, and what was trained is saved."""
    network = "\n".join(f"{name} = {value}" for name, value in tiny_settings.network.items())
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\nfamily = "dpict"\nbackbone = "edge"\npatch = 64\nheld_out = 2\n'
        f"[network]\n{network}\n[stages.rd]\nsteps = 1000000\nbatch = 2\n"
    )
    words = ["--pictures", pictures_folder, "--run", tmp_path / "run", "--processes", "2", "--precision", "float32"]
    command = [sys.executable, "-m", "export", "train", tmp_path / "tiny.toml", *words]
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE) as process:
        try:
            for _ in range(1200):
                if (tmp_path / "run" / "rd-log.csv").exists() or process.poll() is not None:
                    break
                time.sleep(0.1)
            process.terminate()
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, said.decode()
    assert newest_checkpoint(tmp_path / "run") is not None


def test_a_fault_in_several_processes_is_one_line(tmp_path: Path) -> None:
    """What is wrong with the input is said once, as by a single process."""
    words = [CONFIGS / "dpict-edge.toml", "--pictures", tmp_path / "none", "--run", tmp_path / "run"]
    command = [sys.executable, "-m", "export", "train", *map(str, words), "--processes", "2"]
    said = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert said.returncode == PictureError.exit_status
    assert said.stderr.splitlines()[-1] == f"error: {tmp_path / 'none'}: no such file or folder"
    assert said.stderr.count("error:") == 1 and "Traceback" not in said.stderr


def test_a_signal_before_the_first_step_is_one_line(tmp_path: Path) -> None:
    """Processes that still read pictures have nothing to save: the command says so, without a traceback."""
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\nfamily = "dpict"\nbackbone = "edge"\n[stages.rd]\nsteps = 1\nbatch = 2\n'
    )
    pipe = tmp_path / "endless.tar"
    os.mkfifo(pipe)
    words = [tmp_path / "tiny.toml", "--pictures", pipe, "--run", tmp_path / "run", "--processes", "2"]
    command = [sys.executable, "-m", "export", "train", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            writer = None
            while writer is None and process.poll() is None:
                with suppress(OSError):  # nobody reads yet
                    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                time.sleep(0.1)
            process.terminate()
            _, said = process.communicate(timeout=60)
            if writer is not None:
                os.close(writer)
        finally:
            process.kill()
    assert process.returncode == CutoffError.exit_status
    assert said.decode().splitlines()[-1:] == ["error: stopped before the first step"], said.decode()
    assert b"Traceback" not in said
    assert not (tmp_path / "run").exists()


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
    with pytest.raises(ConfigurationError, match="batch must be even, as some stages halve it, not 3"):
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


def test_a_finer_step_changes_the_scale_of_y_and_nothing_else(tiny_settings: TrainingSettings) -> None:
    """y, mu and sigma are larger by the factor; z and what pictures are made of stay as they are."""
    torch.manual_seed(0)
    family = make_family(tiny_settings)
    before: Any = family.networks.eval()
    after = copy.deepcopy(before)
    refine_step(after, family.step_roles, 1.5)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        y, finer = before.g_a(x), after.g_a(x)
        assert torch.allclose(finer, 1.5 * y, rtol=1e-4, atol=1e-5)
        assert torch.allclose(after.h_a(finer), before.h_a(y), rtol=1e-4, atol=1e-5)
        z = torch.randn(1, 8, 1, 1).round()
        (mu, level), (finer_mu, finer_level) = before.h_s(z), after.h_s(z)
        assert torch.allclose(finer_mu, 1.5 * mu, rtol=1e-4, atol=1e-5)
        assert torch.allclose(sigma_from_level(finer_level), 1.5 * sigma_from_level(level), rtol=1e-4)
        deviation = torch.rand_like(y)
        for role, inputs in (("g_s", (y,)), ("g_s_cuts", (y, deviation)), ("preview", (y,))):
            made = getattr(after, role)(*(1.5 * one for one in inputs))
            assert torch.allclose(made, getattr(before, role)(*inputs), rtol=1e-4, atol=1e-5), role


@pytest.mark.parametrize(
    ("changes", "factor", "message"),
    [
        ({}, 0.0, "any positive number"),
        ({}, math.nan, "any positive number"),
        ({"backbone": "paper", "network": {"n": 8}}, 1.5, "--finer is for networks of dpict"),
        ({"family": "ctc", "stages": {"crr": StageSettings(1)}}, 1.5, "--finer is for networks of dpict"),
    ],
)
def test_a_step_that_cannot_be_is_refused(
    tiny_settings: TrainingSettings, changes: dict[str, Any], factor: float, message: str
) -> None:
    family = make_family(replace(tiny_settings, **changes))
    with pytest.raises(UsageError, match=message):
        refine_step(family.networks, family.step_roles, factor)


def test_a_finer_step_needs_weights_to_change(pictures_folder: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    config = str(CONFIGS / "dpict-edge.toml")
    with pytest.raises(UsageError, match="--start, which is missing"):
        train(parser.parse_args([config, "--pictures", str(pictures_folder), "--finer", "1.5"]))


DIRECT = {"y_channels": 24, "direct_channels": 8}


def test_direct_channels_carry_what_the_networks_have_no_room_for(
    tiny_settings: TrainingSettings, pictures_folder: Path
) -> None:
    """Untrained networks are a block transform; direct channels are the next ones of the same."""
    x = cropped(load_pictures([pictures_folder], 64)[0], 64)
    errors = {}
    for name, more in (("without", {}), ("with", DIRECT)):
        torch.manual_seed(0)
        networks: Any = make_family(replace(tiny_settings, network={**tiny_settings.network, **more})).networks
        with torch.no_grad():
            y = networks.g_a(x)
            errors[name] = float((networks.g_s(y) - x).square().mean())
    assert y.shape[1] == 24
    assert errors["with"] < 0.8 * errors["without"]


@pytest.mark.parametrize(
    ("network", "message"),
    [({"direct_channels": 16}, "direct_channels"), ({"y_channels": 65, "direct_channels": 1}, "four times")],
)
def test_direct_channels_have_limits(tiny_settings: TrainingSettings, network: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_family(replace(tiny_settings, network={**tiny_settings.network, **network}))


def test_networks_grow_by_direct_channels(tiny_settings: TrainingSettings, pictures_folder: Path) -> None:
    """What there was of y stays; what is new makes the picture better, and its scales are about right."""
    torch.manual_seed(0)
    pictures = load_pictures([pictures_folder], 64)
    small: Any = make_family(tiny_settings).networks.eval()
    family = make_family(replace(tiny_settings, network={**tiny_settings.network, **DIRECT}))
    large: Any = family.networks.eval()
    large.load_state_dict(family.adopt(dict(small.state_dict()), large, pictures))
    with torch.no_grad():
        x = torch.cat([cropped(picture, 64)[:, :, :64, :64] for picture in pictures])
        old, new = small.analyse(x), large.analyse(x)
        assert torch.allclose(new.y[:, :16], old.y, atol=1e-4)
        assert torch.equal(new.z_hat, old.z_hat)
        assert torch.allclose(new.mu[:, :16], old.mu, atol=1e-4) and not new.mu[:, 16:].any()
        assert torch.allclose(new.level[:, :16], old.level, atol=1e-3)
        for role in ("g_s", "g_s_cuts"):
            deviation = [] if role == "g_s" else [torch.zeros_like(new.y)]
            after = getattr(large, role)(new.y, *deviation)
            before = getattr(small, role)(old.y, *(one[:, :16] for one in deviation))
            assert float((after - x).square().mean()) < 0.8 * float((before - x).square().mean()), role
        found = new.y[:, 16:].square().mean(dim=(0, 2, 3)).sqrt()
        expected = sigma_from_level(new.level[:, 16:]).square().mean(dim=(0, 2, 3)).sqrt()
        assert ((found / expected).log().abs() < 1.0).all()


def test_networks_without_g_s_on_cuts_cannot_grow(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path
) -> None:
    """Which a command says in one clear error."""
    weights = make_family(tiny_settings).networks.state_dict()
    save_file({k: v for k, v in weights.items() if not k.startswith("g_s_cuts.")}, tmp_path / "start")
    family = make_family(replace(tiny_settings, network={**tiny_settings.network, **DIRECT}))
    with pytest.raises(UsageError, match="start is no start for these networks: it has no 'g_s_cuts'"):
        start_from(family, tmp_path / "start", load_pictures([pictures_folder], 64))


def test_networks_that_have_direct_channels_do_not_grow(tiny_settings: TrainingSettings) -> None:
    family = make_family(replace(tiny_settings, network={**tiny_settings.network, **DIRECT}))
    weights = dict(family.networks.state_dict())
    assert family.adopt(weights, family.networks, []) is weights


@pytest.mark.parametrize("more", [{"analysis_depthwise8": 2, "synthesis_depthwise8": 1}, {"analysis_blocks16": 2}])
def test_deeper_networks_begin_as_those_that_they_start_from(
    tiny_settings: TrainingSettings, tmp_path: Path, more: dict[str, int]
) -> None:
    """Blocks that the weights of --start have not change next to nothing, and are trained."""
    torch.manual_seed(0)
    small: Any = make_family(tiny_settings).networks.eval()
    save_file(small.state_dict(), tmp_path / "start")
    settings = replace(tiny_settings, network={**tiny_settings.network, **more})
    family = make_family(settings)
    large: Any = family.networks.eval()
    start_from(family, tmp_path / "start", [])
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 64)
        old, new = small.g_a(x), large.g_a(x)
        assert not torch.equal(new, old)
        assert float((new - old).abs().max()) < 0.05 * float(old.std())
        assert float((large.g_s(old) - small.g_s(old)).abs().max()) < 0.02


def test_cuts_weigh_rate_and_distortion_as_complete_latents_do() -> None:
    """Where a cut has the complete stream's rate and error, its loss falls in the same direction as that one's."""
    rate, mse, distortion_weight = 1.25, 12.0, 0.05
    bpp, error = (torch.full((2,), value, requires_grad=True) for value in (rate, mse))
    percent = Percent()
    complete = {"complete_bpp": torch.tensor(rate), "complete_distortion": torch.tensor(distortion_weight * mse)}
    percent(bpp, error, **complete).backward()
    torch.testing.assert_close(error.grad / bpp.grad, torch.full((2,), distortion_weight))
    for _ in range(100):
        before = percent(bpp, error, **complete)
    # After many batches an odd one changes the weight by a hundredth of the way.
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
        save_checkpoint(tmp_path, step, Checkpoint({"w": torch.full((3,), float(step))}, "rd", step))
    (tmp_path / "step-0000009").mkdir()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "step-0000003"
    assert load_checkpoint(newest).tensors["w"].tolist() == [3.0] * 3
    assert not (tmp_path / "step-0000001").exists()


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
