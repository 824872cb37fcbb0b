"""The training loop: stages one after the other, resumed by default, the same on CPU and CUDA.

    pictures -> Patches -> stage.loss -> Adam -> moving average -> checkpoint, CSV, validation

Nothing here knows a family: a family brings networks, stages and a validation.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from export.training.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, save_checkpoint
from export.training.config import StageSettings, TrainingSettings
from export.training.group import Group
from export.training.pictures import Patches
from runtime.errors import UsageError


class Stage(Protocol):
    """What one stage trains, and on which loss."""

    trains: tuple[str, ...]  # roles whose weights change

    def begin(self, networks: Any) -> None:
        """Prepare weights when the stage starts afresh."""

    def loss(self, networks: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, (B, 3, H, W) in 0..1, and scalars for the log."""
        ...


Validation = Callable[[Any, str], dict[str, float]]  # networks, stage name -> figures
# weights that a run is to start from, networks, training pictures -> weights for these networks
Adopt = Callable[[dict[str, Tensor], nn.Module, list[Tensor]], dict[str, Tensor]]


def as_they_are(weights: dict[str, Tensor], networks: nn.Module, pictures: list[Tensor]) -> dict[str, Tensor]:
    """Return *weights*."""
    return weights


@dataclass(frozen=True)
class FamilyTraining:
    """What a family brings.

    Attributes:
        networks: all of them, as they are made.
        stages: in order.
        validation: made from held-out pictures and a device.
        adopt: what to make of weights that a run starts from, which may be another family's.
        step_roles: networks that know how large y is; none where the quantisation step cannot be changed.
    """

    networks: nn.Module
    stages: dict[str, Stage]
    validation: Callable[[list[Tensor], torch.device], Validation]
    adopt: Adopt = as_they_are
    step_roles: tuple[str, ...] = ()


@dataclass
class Run:
    """A run on disk: checkpoints, `STAGE-log.csv` and `STAGE-validation.csv` of each stage in *folder*."""

    settings: TrainingSettings
    networks: nn.Module
    stages: dict[str, Stage]
    folder: Path
    device: torch.device
    group: Group
    save_every_s: float = 240.0
    stop_after_s: float = math.inf
    compiled: bool = False  # networks are compiled by torch.compile, which takes minutes before the first step
    stop: bool = False  # set from outside (a signal): save and stop after the current step

    def train(self, pictures: list[Tensor], validate: Validation) -> bool:
        """Train all stages from where the newest checkpoint stands; return False when stopped by `stop_after_s`.

        Raises:
            UsageError: the newest checkpoint is damaged, or of other networks or stages.
        """
        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.networks.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compiled:
            for network in self.networks.children():
                network.compile()
        position = _Position(next(iter(self.stages)), 0)
        tensors: dict[str, Tensor] = {}
        newest = newest_checkpoint(self.folder)
        if newest is not None:
            checkpoint = load_checkpoint(newest)
            tensors, position = checkpoint.tensors, _Position(checkpoint.stage, checkpoint.stage_step)
            self._adopt(newest, tensors, position)
        names = list(self.stages)
        for name in names[names.index(position.stage) :]:
            resumed = tensors if name == position.stage and position.step else {}
            trainer = _StageTrainer(self, name, position.step if resumed else 0, resumed)
            if not trainer.run(pictures, validate, started):
                return False
            following = names[names.index(name) + 1 :]
            if not following:
                break
            self._save(following[0], 0, {}, trainer.total_step)
        return True

    def _adopt(self, checkpoint: Path, tensors: dict[str, Tensor], position: _Position) -> None:
        try:
            if position.stage not in self.stages:
                raise UsageError(f"{checkpoint} is in stage {position.stage!r}, which the settings do not have")
            self.networks.load_state_dict(_part(tensors, "model."))
        except RuntimeError as fault:
            raise UsageError(f"{checkpoint} is of other networks: {str(fault).splitlines()[-1].strip()}") from fault

    def _save(self, stage: str, step: int, extra: dict[str, Tensor], total_step: int) -> None:
        if not self.group.leads:
            return
        tensors = {f"model.{k}": v for k, v in self.networks.state_dict().items()} | extra
        save_checkpoint(self.folder, total_step, Checkpoint(tensors, stage, step))


@dataclass(frozen=True)
class _Position:
    stage: str
    step: int


class _StageTrainer:
    """One stage of a run: optimiser, schedule, moving average, log."""

    def __init__(self, run: Run, name: str, step: int, resumed: dict[str, Tensor]) -> None:
        self.run_, self.name, self.step = run, name, step
        self.stage = run.stages[name]
        self.settings: StageSettings = run.settings.stages[name]
        earlier = list(run.stages)[: list(run.stages).index(name)]
        self.offset = sum(run.settings.stages[s].steps for s in earlier)
        torch.manual_seed(self._seed())
        networks = run.networks
        if not resumed:
            self.stage.begin(networks)
        networks.requires_grad_(False)
        self.parameters: dict[str, nn.Parameter] = {}
        for role in self.stage.trains:
            module = getattr(networks, role).requires_grad_(True)
            self.parameters.update({f"{role}.{k}": p for k, p in module.named_parameters()})
        self.optimiser = torch.optim.Adam(list(self.parameters.values()), lr=0.0, betas=(0.9, 0.99), eps=1e-8)
        self.average = {k: p.detach().clone() for k, p in self.parameters.items()}
        if resumed:
            self._resume(resumed)

    @property
    def total_step(self) -> int:
        return self.offset + self.step

    def run(self, pictures: list[Tensor], validate: Validation, started: float) -> bool:
        """Train to the stage's last step; True if it was reached before the run's time was up."""
        run, settings = self.run_, self.settings
        patches = Patches(pictures, run.settings.patch, settings.batch, self._seed())
        saved = time.monotonic()
        meters: dict[str, list[float]] = {}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        with Progress(*columns, refresh_per_second=1, disable=not run.group.leads) as progress:
            task = progress.add_task(self.name, total=settings.steps, completed=self.step, figures="")
            while self.step < settings.steps:
                for key, value in self._one(patches.take()).items():
                    meters.setdefault(key, []).append(value)
                progress.update(task, completed=self.step)
                if self.step % 100 == 0:
                    figures = {k: sum(v) / len(v) for k, v in meters.items()}
                    meters.clear()
                    self._log("log.csv", {"seconds": round(time.monotonic() - started, 1), **figures})
                    progress.update(task, figures=" ".join(f"{k} {v:.4g}" for k, v in figures.items()))
                if self.step % run.settings.validate_every == 0 or self.step == settings.steps:
                    self._validate(validate)
                if time.monotonic() - saved > run.save_every_s:
                    self._save()
                    saved = time.monotonic()
                if run.group.any(run.stop or time.monotonic() - started > run.stop_after_s):
                    break
        patches.close()
        self._save()
        if self.step < settings.steps:
            return False
        self._swap_average()
        return True

    def _one(self, x: Tensor) -> dict[str, float]:
        settings = self.settings
        progress = self.step / settings.steps
        rate = settings.final_learning_rate + 0.5 * (settings.learning_rate - settings.final_learning_rate) * (
            1 + math.cos(math.pi * progress)
        )
        self.optimiser.param_groups[0]["lr"] = rate * min(1.0, (self.step + 1) / settings.warmup_steps)
        x = x.to(self.run_.device, memory_format=torch.channels_last)
        loss, figures = self.stage.loss(self.run_.networks, x)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.run_.group.average_gradients(list(self.parameters.values()))
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), self.run_.settings.gradient_norm)
        if bool(torch.isfinite(norm)):  # a batch that overflowed must not destroy the weights
            self.optimiser.step()
        self.step += 1
        decay = min(self.run_.settings.ema, self.step / (self.step + 20))
        torch._foreach_lerp_(list(self.average.values()), [p.data for p in self.parameters.values()], 1 - decay)
        return {"loss": float(loss.detach()), "norm": float(norm)} | {k: float(v.detach()) for k, v in figures.items()}

    def _seed(self) -> int:
        """A resumed run, and each process of a group, draws other patches, cuts and noise."""
        return self.run_.settings.seed + 7919 * self.total_step + 104729 * self.run_.group.rank

    def _validate(self, validate: Validation) -> None:
        if not self.run_.group.leads:
            return
        self._swap_average()
        self.run_.networks.eval()
        # Compiled code is for patches of one size; each held-out picture would be compiled for anew.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            self._log("validation.csv", validate(self.run_.networks, self.name))
        self.run_.networks.train()
        self._swap_average()

    def _swap_average(self) -> None:
        for name, parameter in self.parameters.items():
            kept = parameter.data.clone()
            parameter.data.copy_(self.average[name])
            self.average[name].copy_(kept)

    def _save(self) -> None:
        extra = {f"average.{k}": v for k, v in self.average.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                extra[f"adam.{key}.{name}"] = value
        self.run_._save(self.name, self.step, extra, self.total_step)

    def _resume(self, tensors: dict[str, Tensor]) -> None:
        device = self.run_.device
        for name, parameter in self.parameters.items():
            self.average[name].copy_(tensors[f"average.{name}"])
            state = {
                key: tensors[f"adam.{key}.{name}"].to(device if key != "step" else "cpu")
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{key}.{name}" in tensors
            }
            if state:
                self.optimiser.state[parameter] = state

    def _log(self, file: str, figures: dict[str, float]) -> None:
        """Append a row; each stage has its own columns, hence its own file."""
        if not self.run_.group.leads:
            return
        path = self.run_.folder / f"{self.name}-{file}"
        fresh = not path.exists()
        with path.open("a", newline="") as handle:
            writer = csv.writer(handle)
            if fresh:
                writer.writerow(["step", *figures])
            writer.writerow([self.step, *(f"{v:.6g}" for v in figures.values())])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
