"""Weights files and run folders: what is read of them, and what is refused in one line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnx", reason="onnx is not installed (extra: export)")

from safetensors.torch import save_file

from export import weights
from export.training.checkpoint import Checkpoint, save_checkpoint
from export.training.config import StageSettings, TrainingSettings
from export.training.families import make_family
from export.weights import averaged_weights, load_weights, networks_with
from runtime.errors import OutputError, UsageError


@pytest.fixture
def run_folder(tiny_settings: TrainingSettings, tmp_path: Path) -> Path:
    tensors = {f"model.{name}": tensor for name, tensor in make_family(tiny_settings).networks.state_dict().items()}
    save_checkpoint(tmp_path / "run", 1, Checkpoint(tensors, "rd", 1))
    return tmp_path / "run"


@pytest.fixture
def export(
    tiny_settings: TrainingSettings, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """The command on that run."""
    monkeypatch.setattr("export.weights.load_settings", lambda kind, path: tiny_settings)

    def command(*words: str) -> None:
        parser = argparse.ArgumentParser()
        weights.add_arguments(parser)
        weights.run(parser.parse_args(["tiny.toml", "--run", str(run_folder), *words]))

    return command


def test_a_run_in_a_stage_that_the_settings_lack_is_refused(tiny_settings: TrainingSettings, run_folder: Path) -> None:
    """As training does."""
    with pytest.raises(UsageError, match="step-0000001 is in stage 'rd', which the settings do not have"):
        averaged_weights(replace(tiny_settings, stages={"cuts": StageSettings(4)}), run_folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("piece-000.safetensors", "nonsense"),
        ("piece-000.safetensors", None),
        ("state.json", "{"),
        ("state.json", "[]"),
        ("state.json", "{}"),
        ("state.json", '{"stage": "rd", "stage_step": "many"}'),
    ],
)
def test_a_damaged_checkpoint_is_one_line(
    tiny_settings: TrainingSettings, run_folder: Path, file: str, content: str | None
) -> None:
    """Whichever file of it is damaged, the checkpoint is named."""
    damaged = run_folder / "step-0000001" / file
    if content is None:
        damaged.unlink()
    else:
        damaged.write_text(content)
    with pytest.raises(UsageError, match="step-0000001 is damaged: ") as fault:
        averaged_weights(tiny_settings, run_folder)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_are_not_finite_are_named(tiny_settings: TrainingSettings, value: float) -> None:
    """Those, too, that float16 cannot hold."""
    found = {name: tensor.clone() for name, tensor in make_family(tiny_settings).networks.state_dict().items()}
    found["h_a.layers.0.bias"][0] = value
    with pytest.raises(UsageError, match=r"not all values are finite in h_a\.layers\.0\.bias$"):
        networks_with(tiny_settings, found)


def test_an_export_to_a_folder_leaves_nothing(
    export: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, also as `.`, and there is no other file beside it."""
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    for out in (str(tmp_path / "out"), "."):
        with pytest.raises(OutputError, match="is a folder; --out names a file"):
            export("--out", out)
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "x", tmp_path / ("x" * 256)):
        with pytest.raises(OutputError, match=out.name):
            export("--out", str(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out", "run"]
    assert not list((tmp_path / "out").iterdir())


def test_only_what_there_is_can_be_left_out(export: Callable[..., None], tmp_path: Path) -> None:
    """A misspelt role is refused; one of the family that this run lacks is not."""
    with pytest.raises(UsageError, match="there is no g_z to leave out; there are g_a, g_s, g_s_cuts"):
        export("--leave-out", "g_z", "--leave-out", "g_s", "--out", str(tmp_path / "x"))
    export("--leave-out", "g_s", "--leave-out", "post_low", "--out", str(tmp_path / "x"))
    found, steps = load_weights(tmp_path / "x")
    assert steps == {"rd": 1}
    assert not [name for name in found if name.startswith(("g_s.", "post_low."))]


@pytest.mark.parametrize(
    "metadata",
    [
        {"in_bundle": "{}"},
        {"in_bundle": "{", "bundle": "dpict-edge", "bundle_hash": "its own"},
        {"in_bundle": "[]", "bundle": "dpict-edge", "bundle_hash": "its own"},
        {"in_bundle": '{"a": ["g_z", "b"]}', "bundle": "dpict-edge", "bundle_hash": "its own"},
        {"in_bundle": '{"a": 3}', "bundle": "dpict-edge", "bundle_hash": "its own"},
        {"in_bundle": "{}", "bundle": "no such bundle", "bundle_hash": ""},
        {"steps": "{"},
        {"steps": "[1]"},
        {"steps": '{"rd": [1]}'},
    ],
)
def test_metadata_of_another_form_are_refused(tmp_path: Path, metadata: dict[str, Any]) -> None:
    """Whatever is missing or of another type, the file is named."""
    if metadata.get("bundle_hash") == "its own":
        metadata = metadata | {"bundle_hash": weights.Bundle.open("dpict-edge").bundle_hash}
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, file, metadata)
    with pytest.raises(UsageError, match=r"^\S*weights\.safetensors: "):
        load_weights(file)
    save_file({"a": torch.zeros(1)}, file, {"steps": json.dumps({"rd": 3})})
    assert load_weights(file)[1] == {"rd": 3}
