"""A tiny dpict model and pictures to train and export it on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from export.training.config import TrainingSettings

WITHOUT_TORCH = importlib.util.find_spec("torch") is None
TINY = {
    "y_channels": 16,
    "z_channels": 8,
    "width8": 16,
    "width16": 32,
    "hyper_width": 8,
    "analysis_blocks8": 1,
    "analysis_blocks16": 1,
    "synthesis_blocks8": 1,
    "synthesis_blocks16": 1,
    "post_blocks8": 1,
}


def pytest_pycollect_makemodule() -> None:
    """Skip this folder where nothing can be trained or exported: a conftest's own import may not skip."""
    if WITHOUT_TORCH:
        pytest.skip("torch: not installed (extra: export)", allow_module_level=True)


@pytest.fixture(scope="session")
def tiny_settings() -> TrainingSettings:
    """Settings of a training that takes no time."""
    from export.training.config import StageSettings, TrainingSettings

    stages = {name: StageSettings(steps=4, batch=4, warmup_steps=2) for name in ("rd", "multirate", "cuts", "post")}
    return TrainingSettings(
        name="tiny",
        family="dpict",
        backbone="edge",
        stages=stages,
        network=TINY,
        patch=64,
        held_out=2,
        validate_every=2,
    )


@pytest.fixture(scope="session")
def pictures_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight smooth pictures to train on, 140x128."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for index in range(8):
        coarse = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((140, 128), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder
