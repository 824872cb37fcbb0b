"""What training refuses, in one line and before anything is trained or lost."""

from __future__ import annotations

import argparse
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")

from safetensors.torch import save_file

from export.training.command import add_arguments, run, start_from
from export.training.config import StageSettings, TrainingSettings
from export.training.families import make_family
from export.training.group import Group
from export.training.loop import Run
from export.training.pictures import held_out_pictures, load_pictures
from runtime.errors import ConfigurationError, PictureError, UsageError


def write_settings(folder: Path, settings: TrainingSettings, **changes: Any) -> Path:
    """Write a settings file of stage rd alone."""
    network = "\n".join(f"{name} = {value}" for name, value in settings.network.items())
    lines = {"patch": 64, "held_out": 2, **changes}
    text = "\n".join(f"{name} = {value}" for name, value in lines.items())
    file = folder / "tiny.toml"
    file.write_text(
        f'name = "tiny"\nfamily = "dpict"\nbackbone = "edge"\n{text}\n[network]\n{network}\n'
        "[stages.rd]\nsteps = 1\nbatch = 2\nwarmup_steps = 1\n"
    )
    return file


def train(*words: object) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args([str(word) for word in words]))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"steps": 0}, "steps and warmup_steps must be at least 1"),
        ({"steps": 1, "warmup_steps": 0}, "steps and warmup_steps must be at least 1"),
        ({"steps": 1, "batch": 1}, "batch must be even"),
        ({"steps": 1, "batch": 5}, "batch must be even"),
    ],
)
def test_stage_that_cannot_be_trained_is_refused(stage: dict[str, int], message: str) -> None:
    """Steps, and patches that can be halved."""
    with pytest.raises(ConfigurationError, match=message):
        StageSettings(**stage)


@pytest.mark.parametrize("field", ["held_out", "validate_every", "patch"])
def test_settings_that_cannot_be_trained_with_are_refused(tiny_settings: TrainingSettings, field: str) -> None:
    """Nothing to validate on, or never, ends before the first step and not at the first validation."""
    with pytest.raises(ConfigurationError, match="must be at least 1"):
        replace(tiny_settings, **{field: 0})


def test_stage_that_the_family_does_not_have_is_refused(tiny_settings: TrainingSettings) -> None:
    """A misspelt stage is not left out."""
    stages = {"rd": StageSettings(1), "jiont": StageSettings(1)}
    with pytest.raises(ConfigurationError, match="family 'dpict' has no stages jiont"):
        make_family(replace(tiny_settings, stages=stages))
    with pytest.raises(ConfigurationError, match="settings without stages"):
        make_family(replace(tiny_settings, stages={}))


def test_pictures_that_are_all_held_out_are_refused(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path
) -> None:
    """Nothing would be left to train on."""
    config = write_settings(tmp_path, tiny_settings, held_out=8)
    with pytest.raises(PictureError, match=r"^8 pictures, of which held_out takes 8: none is left$"):
        train(config, "--pictures", pictures_folder, "--run", tmp_path / "run")


@pytest.mark.parametrize("name", ["broken.png", "broken.tar"])
def test_picture_or_archive_that_is_broken_is_named(tmp_path: Path, name: str) -> None:
    """The file, and what is wrong with it."""
    (tmp_path / name).write_bytes(b"neither a picture nor an archive" * 40)
    with pytest.raises(PictureError, match=name):
        load_pictures([tmp_path], 64)


def test_picture_that_is_broken_in_an_archive_is_named(tmp_path: Path) -> None:
    """By archive and member."""
    (tmp_path / "a.png").write_bytes(b"no picture")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "folder/a.png")
    with pytest.raises(PictureError, match=r"shard\.tar/folder/a\.png"):
        load_pictures([tmp_path / "shard.tar"], 64)


def test_an_export_needs_two_pictures(pictures_folder: Path) -> None:
    """One calibrates, another measures."""
    with pytest.raises(PictureError, match="two are needed at least"):
        held_out_pictures([pictures_folder / "0.png"], 64, 24)
    assert len(held_out_pictures([pictures_folder / "0.png", pictures_folder / "1.png"], 64, 24)) == 2


def test_a_run_of_other_settings_is_not_gone_on_with(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path
) -> None:
    """Neither of other networks nor of other stages."""
    pictures = load_pictures([pictures_folder], 64)

    def train_with(settings: TrainingSettings) -> None:
        family = make_family(settings)
        made = Run(settings, family.networks, family.stages, tmp_path, torch.device("cpu"), Group(), stop=True)
        made.train(pictures, family.validation(pictures[:1], torch.device("cpu")))

    train_with(tiny_settings)
    with pytest.raises(UsageError, match="is of other networks"):
        train_with(replace(tiny_settings, network=dict(tiny_settings.network) | {"width8": 24}))
    with pytest.raises(UsageError, match="is in stage 'rd', which the settings do not have"):
        train_with(replace(tiny_settings, stages={"cuts": StageSettings(4)}))


def test_several_processes_do_not_share_a_gpu(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path
) -> None:
    """The command says what to do instead."""
    config = write_settings(tmp_path, tiny_settings)
    with pytest.raises(UsageError, match="--processes share cores, not a GPU"):
        train(config, "--pictures", pictures_folder, "--processes", 2, "--device", "cuda")


def test_a_start_says_what_it_lacks(tiny_settings: TrainingSettings, tmp_path: Path) -> None:
    """Networks that no weights were found for are named, as they begin as they are made."""
    family = make_family(tiny_settings)
    weights = {k: v.contiguous() for k, v in family.networks.state_dict().items() if not k.startswith(("g_s.", "post"))}
    save_file(weights, tmp_path / "start.safetensors")
    assert start_from(family, tmp_path / "start.safetensors", []) == ["g_s", "post_high", "post_low"]
