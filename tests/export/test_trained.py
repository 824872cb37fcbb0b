"""What a run has not trained is known from its weights, its seed and its stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: export)")

from export.families import EXPORTERS
from export.trained import untrained_roles
from export.training.config import StageSettings, TrainingSettings
from export.training.families import make_family
from export.weights import as_stored
from runtime.errors import UsageError
from runtime.settings import load_settings

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = {"g_a", "h_a", "h_s", "prior", "preview", "g_s_cuts"}


def as_made(settings: TrainingSettings) -> dict[str, torch.Tensor]:
    """Return the weights that a run begins with."""
    torch.manual_seed(settings.seed)
    return {name: tensor.clone() for name, tensor in make_family(settings).networks.state_dict().items()}


def test_what_no_stage_trained_is_named(tiny_settings: TrainingSettings) -> None:
    """Stages count once they have had a step."""
    weights = as_made(tiny_settings)
    assert untrained_roles(tiny_settings, weights, {}, SHIPPED) == sorted(SHIPPED)
    assert untrained_roles(tiny_settings, weights, {"rd": 4, "cuts": 0}, SHIPPED) == ["g_s_cuts", "preview"]
    assert untrained_roles(tiny_settings, weights, {"rd": 4, "cuts": 1}, SHIPPED) == []


def test_what_a_run_began_with_counts_as_trained(tiny_settings: TrainingSettings) -> None:
    """Weights of `--start`, of whichever run, or of a checkpoint made by hand: they are not what the seed makes."""
    settings = replace(tiny_settings, stages={"preview": StageSettings(4)})
    started = {name: tensor + 0.01 for name, tensor in as_made(settings).items()}
    assert untrained_roles(settings, started, {"preview": 1}, SHIPPED) == []
    lacking = started | {k: v for k, v in as_made(settings).items() if k.startswith("g_s_cuts.")}
    assert untrained_roles(settings, lacking, {"preview": 1}, SHIPPED) == ["g_s_cuts"]
    without = {name: tensor for name, tensor in started.items() if not name.startswith("g_s_cuts.")}
    assert untrained_roles(settings, without, {"preview": 1}, SHIPPED) == []


def test_the_rounding_of_a_weights_file_hides_nothing(tiny_settings: TrainingSettings) -> None:
    """Neither what was trained nor what was not; and nobody's random numbers change."""
    weights = {name: as_stored(name, tensor).float() for name, tensor in as_made(tiny_settings).items()}
    before = torch.random.get_rng_state()
    assert untrained_roles(tiny_settings, weights, {"rd": 1}, SHIPPED) == ["g_s_cuts", "preview"]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_roles_that_ship_follow_decoder_and_options(tiny_settings: TrainingSettings) -> None:
    """Postprocessing of the paper's decoder; crr and cdr only where they run; of deepfgs all that there is."""
    networks = make_family(tiny_settings).networks
    ships = {name: EXPORTERS["dpict"].shipped_roles(networks, name) for name in EXPORTERS["dpict"].syntheses}
    assert ships["cuts"] == SHIPPED
    assert ships["paper"] - ships["plain"] == {"post_low", "post_high"} and "g_s_cuts" not in ships["plain"]
    stages = {"crr": StageSettings(1)}
    for options, more in (({"segments": [1]}, {"crr", "cdr"}), ({"segments": [], "refined": 7.0}, set())):
        networks = make_family(replace(tiny_settings, family="ctc", stages=stages, options=options)).networks
        assert EXPORTERS["ctc"].shipped_roles(networks, "") == SHIPPED | more
    settings = replace(tiny_settings, family="deepfgs", stages={"fgs": StageSettings(1)}, options={"ffm": False})
    assert {"frr", "mutual", "preview"} <= EXPORTERS["deepfgs"].shipped_roles(make_family(settings).networks, "")


def test_a_decoder_is_a_choice_of_dpict_alone() -> None:
    """What cannot be chosen is refused, not left out."""
    assert [EXPORTERS[name].synthesis(None) for name in ("dpict", "ctc")] == ["cuts", ""]
    assert EXPORTERS["dpict"].synthesis("plain") == "plain"
    with pytest.raises(UsageError, match="no decoder 'paper' to choose: this family has one decoder"):
        EXPORTERS["progdtd"].synthesis("paper")
    with pytest.raises(UsageError, match="there are cuts, paper, plain"):
        EXPORTERS["dpict"].synthesis("best")


@pytest.mark.parametrize("name", ["dpict-edge", "dpict-paper", "deepfgs-edge", "deepfgs-paper", "progdtd/paper"])
def test_settings_that_need_no_start_train_all_that_ships(name: str) -> None:
    """With one of the decoders that there are, no network of the bundle is as it was made."""
    settings = load_settings(TrainingSettings, CONFIGS / f"{name}.toml")
    with torch.device("meta"):
        family = make_family(settings)
    exporter = EXPORTERS[settings.family]
    trained = {role for stage in family.stages.values() for role in stage.trains}
    assert any(exporter.shipped_roles(family.networks, one) <= trained for one in exporter.syntheses or ("",))
