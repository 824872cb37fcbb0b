"""The golden files' tiny networks as a model of family progdtd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runtime import Codec
from runtime.entropy.choose import open_coder
from runtime.families.progdtd import ProgDtd
from runtime.model import Model

Y_CHANNELS, Z_CHANNELS = 8, 2
MakeModel = Callable[..., Model]


def tiny_settings(groups: int) -> dict[str, Any]:
    """Settings of the tiny model with one group, or with two of unequal size."""
    ends = {1: {"y_ends": [8], "z_ends": [2]}, 2: {"y_ends": [3, 8], "z_ends": [1, 2]}}[groups]
    return {
        "y_channels": Y_CHANNELS,
        "z_channels": Z_CHANNELS,
        "y_variance": [2.0] * Y_CHANNELS,
        "value_gain": 1.0,
        "preview_share": 0.1,
        **ends,
    }


@pytest.fixture(scope="session")
def make_model(tiny_codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """A function (groups, coder) -> a model whose family is progdtd and whose networks are those of the golden files.

    h_s gives its sigma codes alone, and the preview network takes y_hat alone.
    """
    kernels = tmp_path_factory.mktemp("kernels")

    def make(groups: int, coder: str = "constriction") -> Model:
        model = copy.copy(tiny_codec.model)

        def run(role: str, *inputs: Any, until: float | None = None) -> Any:
            if role == "preview":
                inputs = (*inputs, np.zeros_like(inputs[0]))
            outputs = tiny_codec.model.run(role, *inputs, until=until)
            return outputs[1:] if role == "h_s" else outputs

        model.coder = open_coder(model.tables, coder, kernels)
        model.run = run  # type: ignore[method-assign]
        model.family = ProgDtd(tiny_settings(groups), model.tables, run, model.coder.plane)
        return model

    return make
