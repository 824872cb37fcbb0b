"""The made-up clock for deadlines: the same seed gives the same decodes, and answers follow from the time there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from deadline_simulation import simulate
from numpy.typing import NDArray
from PIL import Image

from runtime.evaluate.deadline.decodes import IDLE, NOT_ARRIVED, SYNTHESIS, Decode


@pytest.fixture(scope="module")
def picture(photographs: dict[str, NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("simulation") / "chelsea.png"
    Image.fromarray(photographs["chelsea"]).save(file)
    return file


@pytest.fixture(scope="module")
def decodes(picture: Path) -> Sequence[Decode]:
    return simulate(picture, "dpict-edge", "slow", IDLE, 1, 1)


def test_same_seed_same_decodes(picture: Path, decodes: Sequence[Decode]) -> None:
    """All that a decode depends on is drawn from the seed, to the last digit of its time."""
    assert list(simulate(picture, "dpict-edge", "slow", IDLE, 1, 1)) == list(decodes)


def test_half_the_least_time_makes_no_picture_and_four_times_enough_makes_one_by_synthesis(
    decodes: Sequence[Decode],
) -> None:
    """Stages take their made-up time, and the decoder sees no other."""

    def answers(factor: float, relative_to: str) -> list[Decode]:
        return [
            one
            for one in decodes
            if (one.factor, one.relative_to) == (factor, relative_to) and one.answer != NOT_ARRIVED
        ]

    hopeless, generous = answers(0.5, "minimum"), answers(4.0, "synthesis")
    assert hopeless and not any(one.psnr_db for one in hopeless)
    assert generous and all(one.answer == SYNTHESIS and one.finished_ms <= one.deadline_ms for one in generous)
    assert all(one.synthesis_ms > 71 for one in decodes)  # g_s alone takes about that much in this world
