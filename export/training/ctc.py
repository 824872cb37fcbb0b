"""The ctc family in training: context on the networks of dpict, which stay as they are.

Stages:
    crr    the network that changes probabilities: bits of the last planes' trits, through the real tables
    cdr    the network that refines partial latents: their squared error
    cuts   g_s with the remaining deviation as second input, and the preview, on refined partial latents at random cuts

Source: CTC (CVPR 2023); the networks are ours, see `export.networks.edge`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from export.context import FEATURES, with_context
from export.networks.backbones import Backbone
from export.tables import make_tables
from export.training.config import TrainingSettings
from export.training.dpict import MOST_MISSING, PlaneNetworks, drawn_missing
from export.training.draws import uniform
from export.training.grown import grown
from export.training.loop import FamilyTraining, Stage
from export.training.partial import KnownTrits, PartialLatents, TorchTables
from export.training.pictures import cropped
from export.training.precision import autocast
from export.training.validation import TruncationValidation
from runtime.entropy.context import CHANGE_LIMIT, CHANGE_UNIT, FEATURE_BITS, GRID_BITS, LOG_ODDS_UNIT
from runtime.entropy.tables import MOST_TRITS, TOTAL_BITS, Tables
from runtime.errors import ConfigurationError
from runtime.settings import settings_from_dict

_LOG_2 = math.log(2.0)
_MOST_SEGMENTS = 16  # of a plane; family ctc of the runtime takes no more


@dataclass(frozen=True)
class Options:
    """What `options` of a settings file may say.

    Attributes:
        segments: into how many segments, before each of which crr runs, a plane is divided: the least significant
            plane first. Planes beyond the list have no context; an empty list leaves crr out. Training depends on the
            length of the list alone.
        refined: cdr refines latents of which at least so many planes are missing; above 6 it never does.
    """

    segments: tuple[int, ...] = (2, 2, 1)
    refined: float = 0.0


class Ctc(PlaneNetworks):
    """All networks of the family.

    Attributes:
        optional_roles, absent: as of `export.training.dpict.Dpict`.
    """

    optional_roles = ("cdr",)
    absent: frozenset[str] = frozenset()

    def __init__(self, backbone: Backbone, options: Options) -> None:
        super().__init__(backbone)
        self.crr = backbone.crr(features=FEATURES)
        self.cdr = backbone.cdr()
        self.options = options

    def refine(self, known: PartialLatents, missing: float) -> Tensor:
        """Return the estimate of y that g_s is to see."""
        if missing < self.options.refined or missing == 0.0:
            return known.y_hat
        refined: Tensor = self.cdr(known.y_hat, known.deviation, known.lower, known.upper)
        return refined


class ContextTables(TorchTables):
    """Tables with what `runtime.entropy.context` has, on the training device."""

    def __init__(self, tables: Tables, device: torch.device) -> None:
        super().__init__(tables, device)
        context = tables.context
        assert context is not None
        unit = 1 << FEATURE_BITS
        self.features = torch.from_numpy(context.features.astype("float32") / unit).to(device)
        self.slopes = torch.from_numpy(context.slopes(tables.first_child).astype("float32") / unit).to(device)
        likelihood = tables.frequencies.astype("float64") / 2**TOTAL_BITS
        self.own_bits = -torch.from_numpy(likelihood).log2().float().to(device)
        self.log_odds = torch.from_numpy(context.log_odds.astype("float32") / LOG_ODDS_UNIT).to(device)
        self.largest = context.steps / (1 << GRID_BITS)

    def seen(self, known: KnownTrits) -> Tensor:
        """Return what crr sees: float32 (B, features C, h, w)."""
        batch, _, height, width = known.nodes.shape
        return self.features[known.nodes].permute(0, 4, 1, 2, 3).reshape(batch, -1, height, width)

    def bits(self, known: KnownTrits, shift: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bits of the trits that are coming, with the changes that crr asks for, and without any."""
        nodes, trits = known.nodes[known.coming], known.trits[known.coming]
        limit = CHANGE_LIMIT / CHANGE_UNIT
        shift, spread = (t.float()[known.coming].clamp(-limit, limit) for t in (shift, spread))
        tilt, own = self.slopes[nodes], self.log_odds[nodes]
        first, last = (
            (own[:, end] + shift * tilt[:, 2 * end] + spread * tilt[:, 2 * end + 1]).clamp(-self.largest, self.largest)
            for end in range(2)
        )
        logits = torch.stack([first, torch.zeros_like(first), last], dim=1)
        changed = F.cross_entropy(logits, trits, reduction="sum") / _LOG_2
        return changed, self.own_bits[nodes].gather(1, trits[:, None]).sum()


class RateReduction:
    """Stage `crr`: loss = bits of the trits to come, with context less without, over random planes, begun or not.

    As a share of all bits of the plane, so that every plane weighs the same, but little where little of it is to come.
    """

    trains: tuple[str, ...] = ("crr",)
    draws = 3  # per batch: the fixed networks cost more than crr

    def __init__(self, options: Options) -> None:
        self._options = options
        self._tables: ContextTables | None = None
        self._plane_bits: dict[int, Tensor] = {}  # of the last batch that met the plane when nothing of it was known

    def begin(self, networks: Ctc) -> None:
        """Start from the weights as they are: as made, or further trained ones."""

    def loss(self, networks: Ctc, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean share of bits saved, negative, over draws of a plane; and of those that are left."""
        if self._tables is None:
            self._tables = ContextTables(with_context(make_tables(networks.prior)), x.device)
        with torch.no_grad(), autocast(x):
            latents = networks.analyse(x)
        places = list(range(1, len(self._options.segments) + 1))
        shares, left = [], []
        for place in (places[i] for i in torch.randperm(len(places))[: self.draws]):
            # Some of the plane may be known; into how many segments it is divided can then be decided later.
            begun = max(0.0, uniform(-0.5, 0.8))
            known = self._tables.known(latents.y, latents.mu, latents.level, place - begun)
            with autocast(x):
                shift, spread = networks.crr(self._tables.seen(known))
            changed, own = self._tables.bits(known, shift, spread)
            if begun == 0.0:
                self._plane_bits[place] = own
            shares.append((changed - own) / self._plane_bits.get(place, own).clamp_min(1.0))
            left.append(changed.detach() / own.clamp_min(1.0))
        return torch.stack(shares).mean(), {"left": torch.stack(left).mean()}


class DistortionReduction:
    """Stage `cdr`: loss = the share of the latents' squared error that is left, at random cuts."""

    trains: tuple[str, ...] = ("cdr",)

    def __init__(self) -> None:
        self._tables: TorchTables | None = None

    def begin(self, networks: Ctc) -> None:
        """Start from the identity, as the network is made."""

    def loss(self, networks: Ctc, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean share of squared error left, over one cut of each half of the batch."""
        if self._tables is None:
            self._tables = TorchTables(make_tables(networks.prior), x.device)
        with torch.no_grad(), autocast(x):
            latents = networks.analyse(x)
        half = x.shape[0] // 2
        shares = []
        for part in (slice(0, half), slice(half, None)):
            missing = uniform(max(0.1, networks.options.refined), MOST_MISSING)
            known = self._tables.cut(latents.y[part], latents.mu[part], latents.level[part], missing)
            with autocast(x):
                refined = networks.cdr(known.y_hat, known.deviation, known.lower, known.upper)
            y = latents.y[part]
            shares.append((refined.float() - y).square().sum() / (known.y_hat - y).square().sum())
        share = torch.stack(shares).mean()
        return share, {"share": share}


class RefinedCuts:
    """Stage `cuts`: g_s on refined latents, from dpict's g_s on partial ones. Loss: log MSE at random cuts.

    The preview stays as it is: it is for when there is no time, so that cdr does not run before it.
    """

    trains: tuple[str, ...] = ("g_s_cuts",)

    def __init__(self) -> None:
        self._tables: TorchTables | None = None

    def begin(self, networks: Ctc) -> None:
        """Start from the weights as they are."""

    def loss(self, networks: Ctc, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean over one cut of each half of the batch."""
        if self._tables is None:
            self._tables = TorchTables(make_tables(networks.prior), x.device)
        with torch.no_grad(), autocast(x):
            latents = networks.analyse(x)
        half = x.shape[0] // 2
        losses = []
        for part in (slice(0, half), slice(half, None)):
            missing = drawn_missing()
            known = self._tables.cut(latents.y[part], latents.mu[part], latents.level[part], missing)
            with autocast(x):
                with torch.no_grad():
                    refined = networks.refine(known, missing).float()
                x_hat = networks.g_s_cuts(refined, known.deviation)
            losses.append(((x_hat.float() - x[part]).square().mean() * 255.0**2).log())
        log_mse = torch.stack(losses).mean()
        return log_mse, {"log_mse": log_mse}


class ContextValidation:
    """Held-out pictures: by how much crr shrinks each plane, in percent; then PSNR at cuts as dpict measures it."""

    def __init__(self, pictures: list[Tensor], device: torch.device, options: Options) -> None:
        self._pictures = [cropped(picture, 64).to(device) for picture in pictures]
        self._truncation = TruncationValidation(pictures, device, render)
        self._options = options

    def __call__(self, networks: Ctc, stage: str) -> dict[str, float]:
        """Return mean figures over the pictures."""
        if stage != "crr":
            return self._truncation(networks, stage)
        totals = torch.zeros(len(self._options.segments), 2)
        tables = ContextTables(with_context(make_tables(networks.prior)), self._pictures[0].device)
        for x in self._pictures:
            latents = networks.analyse(x)
            for place, segments in enumerate(self._options.segments, start=1):
                for begun in range(segments):
                    known = tables.known(latents.y, latents.mu, latents.level, place - begun / segments)
                    shift, spread = networks.crr(tables.seen(known))
                    after = tables.known(latents.y, latents.mu, latents.level, place - (begun + 1) / segments)
                    now = known.coming & ((after.left < known.left) | (begun + 1 == segments))
                    part = KnownTrits(known.nodes, known.left, known.middle, now, known.trits)
                    totals[place - 1] += torch.stack(tables.bits(part, shift, spread)).cpu()
        percent = 100 * (totals[:, 0] / totals[:, 1] - 1)
        return {f"plane_{place}": float(value) for place, value in enumerate(percent, start=1)}


def render(networks: Ctc, stage: str, known: PartialLatents, missing: float) -> Tensor:
    """Return the picture that the decoder makes of partial latents."""
    x: Tensor = networks.g_s_cuts(networks.refine(known, missing), known.deviation)
    return x


def training(settings: TrainingSettings, backbone: Backbone) -> FamilyTraining:
    """Return the family's networks, its stages in order, and its validation.

    Raises:
        ConfigurationError: an option is unknown or out of range.
    """
    options = settings_from_dict(Options, settings.options, "options")
    if len(options.segments) > MOST_TRITS or not all(1 <= count <= _MOST_SEGMENTS for count in options.segments):
        raise ConfigurationError(
            f"options: segments must be up to {MOST_TRITS} numbers from 1 to {_MOST_SEGMENTS}, not {options.segments}"
        )
    stages: dict[str, Stage] = {
        "crr": RateReduction(options),
        "cdr": DistortionReduction(),
        "cuts": RefinedCuts(),
    }
    return FamilyTraining(
        networks=Ctc(backbone, options),
        stages={name: stage for name, stage in stages.items() if name in settings.stages},
        validation=lambda pictures, device: ContextValidation(pictures, device, options),
        adopt=grown,
    )
