"""The commands as they are typed: from a settings file and pictures to a bundle that codes pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: export)")

from safetensors.torch import save_file

from export import bundle
from export.__main__ import main
from export.checkpoints import command
from export.families.dpict import SYNTHESES
from export.training.config import TrainingSettings
from runtime import Codec

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Type a command; return its status, and what it says."""

    def typed(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["export", *map(str, words)])
        try:
            status = main()
        except SystemExit as end:  # of argparse
            assert isinstance(end.code, int)
            status = end.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return typed


@pytest.fixture
def config(tiny_settings: TrainingSettings, tmp_path: Path) -> Path:
    """Settings of one step of everything that ships."""
    return write_settings(tmp_path, tiny_settings, "joint")


def write_settings(folder: Path, settings: TrainingSettings, *stages: str, family: str = "dpict") -> Path:
    """Write a settings file with one step of each stage."""
    network = "\n".join(f"{name} = {value}" for name, value in settings.network.items())
    steps = "".join(f"[stages.{stage}]\nsteps = 1\nbatch = 4\nwarmup_steps = 1\n" for stage in stages)
    head = f'name = "tiny"\nfamily = "{family}"\nbackbone = "edge"\npatch = 64\nheld_out = 2\n'
    file = folder / f"{family}-{'-'.join(stages)}.toml"
    file.write_text(f"{head}[network]\n{network}\n{steps}")
    return file


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what other tests try of an export, and which takes most of its time."""

    def none(content: Any, *_: Any) -> None:
        content.measured["fp16"] = {}

    monkeypatch.setattr(bundle, "offer_half", none)


def test_from_settings_to_a_picture(
    config: Path, pictures_folder: Path, tmp_path: Path, call: Call, quick: None
) -> None:
    """A step of training, its weights in a file, a bundle of that file, a stream."""
    run, file, out = tmp_path / "run", tmp_path / "tiny.safetensors.bz2", tmp_path / "a.bundle"
    pictures = ("--pictures", pictures_folder)
    words = ("train", config, "--run", run, *pictures, "--device", "cpu", "--precision", "float32")
    status, _, said = call(*words)
    assert status == 0, said
    status, told, said = call("weights", config, "--run", run, "--leave-out", "g_s", "--out", file)
    assert (status, json.loads(told)["trained_steps"]) == (0, {"joint": 1}), said
    status, told, said = call("bundle", config, "--weights", file, *pictures, "--version", "1.2.0", "--out", out)
    assert (status, json.loads(told)["bundle"]) == (0, str(out)), said
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    with Codec.open(out, threads=1) as codec:
        assert (codec.bundle.name, codec.bundle.version, codec.bundle.family) == ("tiny", "1.2.0", "dpict")
        picture = codec.decode(codec.encode(image).stream)
        assert picture.complete and picture.image is not None and picture.image.shape == image.shape


def test_networks_that_nobody_trained_do_not_ship(
    tiny_settings: TrainingSettings, pictures_folder: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says which, and that another decoder may be what was trained: here, with a preview, the plain one."""
    settings, run = write_settings(tmp_path, tiny_settings, "rd", "preview"), tmp_path / "run"
    words = ("train", settings, "--run", run, "--pictures", pictures_folder, "--device", "cpu")
    assert call(*words, "--precision", "float32")[0] == 0
    shipped = []

    def refuse(content: Any, *_: Any) -> Any:
        shipped.append(content)
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "held_out_pictures", refuse)
    begin = ("bundle", settings, "--run", run, "--pictures", pictures_folder, "--out", tmp_path / "out")
    for synthesis in (None, "paper"):
        status, _, said = call(*begin, *(("--synthesis", synthesis) if synthesis else ()))
        lacking = "post_high, post_low" if synthesis else "g_s_cuts"
        assert (status, said) == (
            2,
            f"error: {lacking} would ship as made: train a stage that trains them, "
            "or ship another decoder (--synthesis cuts | paper | plain)\n",
        )
    with pytest.raises(KeyboardInterrupt):
        call(*begin, "--synthesis", "plain")
    assert len(shipped) == 1 and set(SYNTHESES) == {"cuts", "paper", "plain"}


@pytest.mark.parametrize(
    ("words", "status", "fault"),
    [
        (("--out", "FOLDER/pictures.txt/x"), 1, "is no folder"),
        (("--out", "FOLDER"), 1, "exists and is not a bundle; nothing was written"),
        (("--out", "FOLDER/" + "x" * 300), 1, "a name of more than 255 bytes"),
        (("--out", "FOLDER/x", "--version", "1 0"), 2, "the bundle's version '1 0' must be letters"),
        (("--out", "FOLDER/x", "--synthesis", "best"), 2, "invalid choice: 'best'"),
        (("--out", "FOLDER/x", "--run", "a", "--weights", "b"), 2, "not allowed with argument --run"),
    ],
)
def test_a_bundle_that_cannot_be_is_refused_first(
    config: Path, tmp_path: Path, call: Call, words: tuple[str, ...], status: int, fault: str
) -> None:
    """Neither weights nor pictures, which are not there, are looked for."""
    (tmp_path / "pictures.txt").write_text("none")
    words = tuple(word.replace("FOLDER", str(tmp_path)) for word in words)
    found, _, said = call("bundle", config, "--pictures", tmp_path / "none", *words)
    assert found == status and fault in said.replace("\n", " ")
    assert sorted(path.name for path in tmp_path.iterdir()) == [config.name, "pictures.txt"]


def test_a_choice_of_decoder_where_there_is_none_is_refused(
    tiny_settings: TrainingSettings, tmp_path: Path, call: Call
) -> None:
    """It would make no difference."""
    settings = write_settings(tmp_path, tiny_settings, "crr", family="ctc")
    words = ("--synthesis", "paper", "--pictures", tmp_path / "none", "--out", tmp_path / "x")
    status, _, said = call("bundle", settings, *words)
    assert (status, said) == (2, "error: no decoder 'paper' to choose: this family has one decoder\n")


def test_an_import_that_cannot_be_written_is_refused_first(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is that of --out, of which .bundle alone is no part; nothing is calibrated before it is known to do."""
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    names = []

    def destination(out: Path, name: str, version: str, family: str) -> None:
        names.append(name)
        raise KeyboardInterrupt

    class Imported:
        family = "dpict"

    monkeypatch.setattr(command, "networks_of", lambda state: Imported())
    begin = ("import", tmp_path / "a.safetensors", "--pictures", tmp_path / "none", "--out")
    status, _, said = call(*begin, tmp_path / "a.safetensors" / "x")
    assert status == 1 and "is no folder" in said
    status, _, said = call(*begin, tmp_path / "my model")
    assert (status, said.partition(" must")[0]) == (2, "error: the bundle's name 'my model'")
    monkeypatch.setattr(command, "destination", destination)
    monkeypatch.chdir(tmp_path)
    for out in ("v1.2", "v1.2.bundle", "."):
        with pytest.raises(KeyboardInterrupt):
            call(*begin, out)
    assert names == ["v1.2", "v1.2", tmp_path.name]
