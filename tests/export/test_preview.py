"""Stage `preview`, which every family has that trains networks of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from export.training.config import TrainingSettings
from export.training.dpict import MOST_MISSING, drawn_missing
from export.training.families import make_family
from export.training.pictures import Patches, load_pictures


@pytest.mark.parametrize("family", ["dpict", "progdtd", "deepfgs"])
def test_the_preview_learns_alone(tiny_settings: TrainingSettings, pictures_folder: Path, family: str) -> None:
    """A hundred steps make its pictures better; no other network gets a gradient."""
    torch.manual_seed(0)
    settings = replace(tiny_settings, family=family, stages={"preview": tiny_settings.stages["rd"]})
    made = make_family(settings)
    stage, networks = made.stages["preview"], made.networks
    stage.begin(networks)
    patches = Patches(load_pictures([pictures_folder], 64), 64, 4, 0)
    optimiser = torch.optim.Adam(networks.preview.parameters(), 1e-3)
    losses = []
    for _ in range(100):
        loss, figures = stage.loss(networks, patches.take())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(figures["log_mse_preview"].detach()))
    patches.close()
    touched = {name.partition(".")[0] for name, p in networks.named_parameters() if p.grad is not None}
    assert touched == set(stage.trains) == {"preview"}
    assert sum(losses[-20:]) < sum(losses[:20])


@pytest.mark.parametrize("family", ["dpict", "progdtd", "deepfgs"])
def test_what_is_validated_is_the_preview(tiny_settings: TrainingSettings, pictures_folder: Path, family: str) -> None:
    """Figures of the stage follow the network that it trains."""
    torch.manual_seed(0)
    settings = replace(tiny_settings, family=family, stages={"preview": tiny_settings.stages["rd"]})
    made = make_family(settings)
    validate = made.validation(load_pictures([pictures_folder], 64)[:1], torch.device("cpu"))
    with torch.no_grad():
        before = validate(made.networks, "preview")["psnr_full"]
        for parameter in made.networks.preview.parameters():
            parameter.zero_()
        assert abs(validate(made.networks, "preview")["psnr_full"] - before) > 0.1


def test_one_cut_in_seven_or_eight_leaves_nothing_out() -> None:
    """Half a plane of the draw's range stands for complete latents."""
    torch.manual_seed(0)
    missing = [drawn_missing() for _ in range(4000)]
    assert 0.11 < missing.count(0.0) / len(missing) < 0.15
    assert min(missing) >= 0.0 and 3.3 < max(missing) <= MOST_MISSING
