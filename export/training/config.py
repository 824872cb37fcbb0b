"""Settings of a training run: one TOML file per model (see configs/)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runtime.errors import ConfigurationError


@dataclass(frozen=True)
class StageSettings:
    """One stage of training; the family says what a stage trains and on which loss."""

    steps: int
    batch: int = 8
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 200

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with.

        Raises:
            ConfigurationError: a number is out of range.
        """
        if self.steps < 1 or self.warmup_steps < 1:
            raise ConfigurationError("stages: steps and warmup_steps must be at least 1")
        if self.batch < 2 or self.batch % 2:
            raise ConfigurationError(f"stages: batch must be even, as some stages halve it, not {self.batch}")


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that defines a model's weights, apart from the pictures and the machine.

    Attributes:
        network: keyword arguments of the backbone's shape.
        options: what only this family knows; see its file in export/training/.
        distortion_weight: lambda of `loss = bpp + lambda * MSE`, MSE on the scale 0..255. DPICT's loss (equation 5)
            divided by its lambda.
        z_rate_weight: how much a bit of z counts beside a bit of y; above 1 keeps the head segment small.
        patch: side of a training patch in pixels.
        held_out: pictures kept from training, for validation.
        ema: decay of the moving average of weights, which is what is exported.
        gradient_norm: gradients are scaled down to this norm.
    """

    name: str
    family: str
    backbone: str
    stages: dict[str, StageSettings]
    network: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    distortion_weight: float = 0.08
    z_rate_weight: float = 1.0
    patch: int = 256
    held_out: int = 24
    ema: float = 0.9995
    gradient_norm: float = 1.0
    validate_every: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with.

        Raises:
            ConfigurationError: a number is out of range.
        """
        if self.held_out < 1 or self.validate_every < 1 or self.patch < 1:
            raise ConfigurationError("held_out, validate_every and patch must be at least 1")
