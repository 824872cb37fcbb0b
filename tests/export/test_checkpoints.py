"""Checkpoints of others: the same outputs as the original's, one clear error for whatever does not fit, and bundles."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from loading import module_at

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: export)")

from safetensors.torch import save_file

from export.checkpoints import command
from export.checkpoints.origins import networks_of
from export.checkpoints.read import read_checkpoint
from export.networks.dense import DenseHyperSynthesis
from export.networks.entropy import LOG_STEP, SIGMA_MIN
from runtime import Codec
from runtime.errors import UsageError

N, M = 12, 16
TOLERANCE = 1e-4
ORIGINS = {
    "bmshj2018-hyperprior": "scale_hyperprior",
    "mbt2018-mean": "mean_scale_hyperprior",
    "dpict": "dpict",
    "dpict-authors": "dpict_authors",
    "progdtd": "progdtd",
}


@pytest.fixture(scope="module")
def originals() -> ModuleType:
    """The module with the original networks."""
    return module_at(Path(__file__).parent / "originals.py")


@pytest.fixture(scope="module")
def make(originals: ModuleType) -> Callable[[str], Any]:
    """A function that makes an original whose latents and scales are as varied as those of a trained one."""

    def made(origin: str) -> Any:
        torch.manual_seed(0)
        net = getattr(originals, ORIGINS[origin])(N, M).eval()
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name.endswith("gamma"):
                    parameter.add_(0.02 * torch.rand_like(parameter))
                elif name.endswith("quantiles"):
                    parameter.add_(0.3 * torch.rand_like(parameter))
                elif name.endswith("bias") and parameter.dim() == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
            # Layers as drawn make latents of next to nothing.
            x = torch.rand(1, 3, 256, 256)
            for place, deviation in enumerate((4.0, 2.0)):
                role = originals.ROLES[origin][place]
                found = (net.get_submodule(role).weight, originals.latents(net, x)[place])
                found[0].mul_(deviation / float(found[1].std()))
            last = net.get_submodule(originals.ROLES[origin][2])
            last.weight.mul_(0.5 / float(originals.latents(net, x)[4].std()))
            last.bias[:M].add_(1.0)
        return net

    return made


@pytest.mark.parametrize("origin", ORIGINS)
def test_networks_agree_with_the_original(make: Callable[[str], Any], originals: ModuleType, origin: str) -> None:
    """g_a, h_a, h_s, g_s and the prior give what the original gives, up to 1e-4 of the largest value."""
    net = make(origin)
    imported = networks_of(net.state_dict())
    assert imported.origin == origin.removesuffix("-authors")
    torch.manual_seed(1)
    x = torch.rand(1, 3, 128, 192)
    with torch.no_grad():
        y, z_hat, z_bits, mu, sigma = originals.latents(net, x)
        ours_y = imported.networks["g_a"](x)
        symbols = imported.networks["h_a"](y).round()
        ours_mu, level = imported.h_s(symbols)
        ours_sigma = SIGMA_MIN * torch.exp(level * LOG_STEP)
        picture = imported.networks["g_s"]((y - mu).round() + mu)
        bits = imported.prior.bits(symbols)
        median = imported.h_s.median
        pairs = {
            "y": (ours_y, y),
            "z": (symbols + median, z_hat),
            "mu": (ours_mu, mu),
            "sigma": (ours_sigma, sigma),
            "x": (picture, originals.synthesis(net, (y - mu).round() + mu)),
            "bits": (bits.clamp_max(20), z_bits.clamp_max(20)),
        }
    assert float(z_hat.std()) > 0.3 and float(sigma.std()) > 0.01
    for name, (ours, theirs) in pairs.items():
        scale = max(1.0, float(theirs.abs().max()))
        assert float((ours - theirs).abs().max()) < TOLERANCE * scale, name


@pytest.mark.parametrize("origin", ["mbt2018-mean", "progdtd"])
def test_an_imported_checkpoint_codes_pictures(
    make: Callable[[str], Any], origin: str, pictures_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command makes a bundle that encodes, decodes whole and cut, proves its h_s, and pays at most 1.5 % for it."""
    file = tmp_path / "checkpoint.pth.tar"
    prefix = "model." if origin == "progdtd" else ""
    state = {f"{prefix}{name}": value for name, value in make(origin).state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, file)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = tmp_path / "imported"
    command.run(parser.parse_args([str(file), "--pictures", str(pictures_folder), "--out", str(out)]))
    report = json.loads(capsys.readouterr().out)
    assert report["origin"] == origin and report["exact_h_s_cost_percent"] < 1.5
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    with Codec.open(out, threads=1) as codec:
        assert codec.bundle.family == ("progdtd" if origin == "progdtd" else "dpict")
        assert max(codec.model.prove("h_s").values()) < 24
        stream = codec.encode(image).stream
        assert codec.decode(stream).complete
        cut = codec.decode(stream[: len(stream) // 2])
        assert not cut.complete and cut.image is not None
        decoder = codec.decoder()
        decoder.feed(stream)
        preview = decoder.preview()
        assert preview is not None and preview.shape == image.shape


def test_names_of_older_compressai_are_known(make: Callable[[str], Any]) -> None:
    """Matrices, biases and factors of the prior were attributes once."""
    state = make("mbt2018-mean").state_dict()
    single = {"matrices.": "_matrix", "biases.": "_bias", "factors.": "_factor"}
    old = dict(state)
    for ours, theirs in single.items():
        for name in [name for name in old if name.startswith(f"entropy_bottleneck.{ours}")]:
            old[name.replace(ours, theirs)] = old.pop(name)
    assert old.keys() != state.keys()
    z = torch.randn(1, N, 4, 4).round()
    new, older = networks_of(state), networks_of(old)
    assert torch.equal(new.prior.bits(z), older.prior.bits(z))


def test_tensors_of_ctc_itself_are_left_out(make: Callable[[str], Any]) -> None:
    """CRR and CDR have no place in family dpict; that is said, not hidden."""
    left_out = networks_of(make("dpict").state_dict()).left_out
    assert sorted(left_out) == ["CDR2.bias", "CDR2.weight", "CRR1.bias", "CRR1.weight"]


@pytest.mark.parametrize("origin", ORIGINS)
def test_everything_that_does_not_fit_is_listed(make: Callable[[str], Any], origin: str) -> None:
    """One error names what is missing, what is unknown, and what has another shape."""
    state = dict(make(origin).state_dict())
    beginning = "hyper_analysis.model" if origin == "progdtd" else "h_a"
    missing = next(name for name in state if name.startswith(beginning) and name.endswith("bias"))
    del state[missing]
    other = next(name for name in state if name.startswith(beginning) and name.endswith("weight"))
    state[other] = state[other][:1]
    state["surprise.weight"] = torch.zeros(3)
    with pytest.raises(UsageError) as fault:
        networks_of(state)
    for part in (f"{missing} is missing", f"{other} is (1, ", "surprise.weight is unknown"):
        assert part in str(fault.value)


def test_checkpoints_of_other_models_are_refused() -> None:
    """The error says which are known and how the names begin."""
    with pytest.raises(UsageError, match=r"mbt2018-mean.*conv1\.weight"):
        networks_of({"conv1.weight": torch.zeros(1)})


# Reading.


def test_safetensors_and_wrappers_are_read(tmp_path: Path) -> None:
    """Both formats give the same tensors, without the prefixes of wrappers and as float32."""
    tensors = {"module.g_a.0.weight": torch.ones(2, dtype=torch.float16), "module.n": torch.tensor([3])}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save({"state_dict": tensors, "epoch": 1}, tmp_path / "a.pth")
    for file in ("a.safetensors", "a.pth"):
        found = read_checkpoint(tmp_path / file)
        assert found.keys() == {"g_a.0.weight", "n"}
        assert found["g_a.0.weight"].dtype == torch.float32 and found["n"].dtype == torch.int64


class _MakesFolder:
    """What makes *folder* when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    """Nothing in a checkpoint is executed."""
    file, folder = tmp_path / "evil.pth", tmp_path / "was-here"
    torch.save({"state_dict": {"g_a.0.weight": _MakesFolder(folder)}}, file)
    with pytest.raises(UsageError, match="nothing of a checkpoint is run"):
        read_checkpoint(file)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"a": torch.tensor([1.0, float("nan")])}, "not all values are finite in a"),
        ({"a": torch.tensor([float("inf")])}, "not all values are finite in a"),
        ({"epoch": 3}, "no state dict; it holds epoch"),
        ([torch.zeros(1)], "holds a list"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any, fault: str) -> None:
    """Each ends in one error that names the file and what was found."""
    file = tmp_path / "a.pth"
    torch.save(content, file)
    with pytest.raises(UsageError, match=fault):
        read_checkpoint(file)


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors", "broken.pth", "broken.safetensors"])
def test_unreadable_files_are_refused(tmp_path: Path, name: str) -> None:
    """A file that is not there or is garbage is named."""
    (tmp_path / "broken.pth").write_bytes(b"nonsense")
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match=name):
        read_checkpoint(tmp_path / name)


def test_dense_layers_are_those_of_h_s(make: Callable[[str], Any]) -> None:
    """h_s of every origin is the network that has an exact form."""
    assert all(isinstance(networks_of(make(origin).state_dict()).h_s, DenseHyperSynthesis) for origin in ORIGINS)
