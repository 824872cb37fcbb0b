"""The deepfgs family in training: base features, scalable features that are given the base, one decoder for both.

Stages:
    fgs   everything, each picture with the first j channels of l_s that it drew (information rearrangement, equation 6)
    preview  the preview network alone, on random parts

Source: DeepFGS (2022).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.networks.backbones import Backbone
from export.networks.entropy import FactorizedPrior, add_noise, gaussian_bits, round_through, sigma_from_level
from export.networks.separation import Fusion, Mutual, RedundancyRemoval, ScalableHyperSynthesis, pooled
from export.tables import make_tables
from export.training.config import TrainingSettings
from export.training.draws import uniform
from export.training.loop import FamilyTraining, Stage
from export.training.partial import TorchTables
from export.training.percent import even_weight
from export.training.pictures import cropped
from export.training.precision import autocast
from export.training.preview import PreviewAlone
from export.training.progdtd import keep_channels
from export.training.separated import separated
from runtime.errors import ConfigurationError
from runtime.settings import settings_from_dict

_PAPER_CHANNELS = 192  # of l_s; the weights of the loss are stated for it
_MOST_MISSING = 2.5  # planes of l_b; what is left of a stream then is hardly more than its head segment
_PREVIEW_WEIGHT = 0.05  # gradients of all networks share one limit
_CUTS_BPP = (0.15, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Options:
    """What `options` of a settings file may say.

    Attributes:
        base_channels, scalable_channels: of l_b and l_s; they take the place of the backbone's y_channels.
        frr, ffm, mutual: redundancy removal, fusion, mutual entropy model; without ffm the decoder takes l_b and l_s
            as they are, without mutual l_s is coded given its own z alone (table 1 of the paper).
        wide: the weight of a picture grows with the square of its channels (section 6.4.1); needs a smaller lambda.
        partial_base: share of the pictures that have lost some planes of l_b and all of l_s, for streams that end in
            l_b. The paper has none: it sends l_b as a whole.
    """

    base_channels: int = 96
    scalable_channels: int = 192
    frr: bool = True
    ffm: bool = True
    mutual: bool = True
    wide: bool = False
    partial_base: float = 0.0


@dataclass
class Part:
    """One of the two latents of a batch, and its hyper latent: float32 tensors; mu and level are those of rounded z."""

    latent: Tensor
    z: Tensor
    mu: Tensor
    level: Tensor

    @property
    def decoded(self) -> Tensor:
        """What a decoder knows of the latent when all of it is there; gradients pass."""
        return round_through(self.latent - self.mu) + self.mu

    def noisy_bits(self, prior: FactorizedPrior) -> tuple[Tensor, Tensor]:
        """Return the bits of every element of the latent and of z, with noise in place of rounding."""
        return gaussian_bits(add_noise(self.latent - self.mu), sigma_from_level(self.level)), prior.bits(
            add_noise(self.z)
        )

    def bits(self, prior: FactorizedPrior) -> tuple[Tensor, Tensor]:
        """Return the bits of every element of the latent and of z as they are coded."""
        symbols = (self.latent - self.mu).round()
        return gaussian_bits(symbols, sigma_from_level(self.level)), prior.bits(self.z.round())


@dataclass
class Latents:
    """What the encoder knows of a batch."""

    base: Part
    scalable: Part
    x_base: Tensor  # what g_s makes of the base alone


class DeepFgs(nn.Module):
    """All networks of the family; `state_dict` names are `<role>.<networks' names>`."""

    def __init__(self, backbone: Backbone, options: Options) -> None:
        super().__init__()
        self.base_channels, self.scalable_channels = base, scalable = options.base_channels, options.scalable_channels
        below, above, both = (backbone.with_latents(*c) for c in ((base,), (scalable,), (base, scalable)))
        self.g_a, self.h_a, self.h_s = below.g_a(), below.h_a(), below.h_s()
        self.prior = FactorizedPrior(below.z_channels)
        self.g_a_scalable, self.h_a_scalable = above.g_a_scalable(), above.h_a()
        width = above.hyper_width
        self.h_s_scalable = ScalableHyperSynthesis(above.z_channels, width)
        self.mutual = Mutual(width, base if options.mutual else 0, scalable)
        self.prior_scalable = FactorizedPrior(above.z_channels)
        self.g_s = both.g_s(deviation_input=False)
        self.preview = both.preview()
        self.frr = RedundancyRemoval(base, scalable) if options.frr else None
        self.ffm = Fusion(base, scalable) if options.ffm else None

    def fuse(self, l_b: Tensor, l_s: Tensor) -> Tensor:
        """Return what g_s takes: l_b and l_s, (B, C, h, w) each, zeros in l_s where nothing arrived."""
        fused: Tensor = torch.cat([l_b, l_s], dim=1) if self.ffm is None else self.ffm(l_b, l_s, pooled(l_s))
        return fused

    def synthesis(self, l_b: Tensor, l_s: Tensor) -> Tensor:
        """Return the picture, float32."""
        x: Tensor = self.g_s(self.fuse(l_b, l_s)).float()
        return x

    def analyse(self, x: Tensor) -> Latents:
        """Run everything that an encoder runs; nothing noisy, gradients pass through what is rounded."""
        l_b = self.g_a(x).float()
        z_b = self.h_a(l_b).float()
        mu, level = (t.float() for t in self.h_s(round_through(z_b)))
        base = Part(l_b, z_b, mu, level)
        known = base.decoded
        x_base = self.synthesis(known, torch.zeros_like(known[:, :1]).expand(-1, self.scalable_channels, -1, -1))
        l_s = self.g_a_scalable(x, x_base).float()
        if self.frr is not None:
            l_s = self.frr(l_s, known, pooled(known)).float()
        z_s = self.h_a_scalable(l_s).float()
        mu, level = (t.float() for t in self.mutual(self.h_s_scalable(round_through(z_s)), known))
        return Latents(base, Part(l_s, z_s, mu, level), x_base)

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the networks that there are."""
        return tuple(name for name, _ in self.named_children())


class Rearrangement:
    """Stage `fgs`: (2 R(l_b) + lambda D(l_b) + R(l_s[:j]) + lambda w(j) D(l_b, l_s[:j])) / 2, equation 6, halved.

    A patch weighs one over the rate of its base, so that easy ones count as much as busy ones. The rate sees noise;
    networks see rounded values with straight-through gradients, as at run time.
    """

    def __init__(self, settings: TrainingSettings, options: Options, roles: tuple[str, ...]) -> None:
        self._settings, self._options, self.trains = settings, options, roles
        self._tables: TorchTables | None = None

    def begin(self, networks: DeepFgs) -> None:
        """Start from the weights as they are."""

    def loss(self, networks: DeepFgs, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one draw, and its parts."""
        with autocast(x):
            latents = networks.analyse(x)
        base, scalable = latents.base, latents.scalable
        kept, partial = self._draw(networks, x)
        l_b, l_s, mask = self._known(latents, kept, partial)
        with autocast(x):
            x_hat = networks.synthesis(l_b, l_s)
            quick = networks.preview(torch.cat([l_b, l_s], dim=1).detach())
        base_bits, z_bits = base.noisy_bits(networks.prior)
        scalable_bits, z_scalable_bits = scalable.noisy_bits(networks.prior_scalable)
        parts = {
            "base_bpp": base_bits,
            "scalable_bpp": scalable_bits * mask,
            "z_bpp": z_bits,
            "z_scalable_bpp": z_scalable_bits * mask[:, :1],  # nobody sends it alone
        }
        pixels = x.shape[2] * x.shape[3]
        bpp = {name: bits.sum(dim=(1, 2, 3)) / pixels for name, bits in parts.items()}
        rate = 2 * bpp["base_bpp"] + bpp["scalable_bpp"]
        z_rate = 2 * bpp["z_bpp"] + bpp["z_scalable_bpp"]
        channels = channel_weight(kept, networks.scalable_channels, wide=self._options.wide)
        base_mse, mse = _squared_error(latents.x_base, x), _squared_error(x_hat, x)
        # A decibel of a hopeless picture counts as much as one of the base alone; its whole error would drown the rest.
        channels[:partial] = (base_mse[:partial] / mse[:partial]).detach()
        settings = self._settings
        distortion = settings.distortion_weight * (base_mse + channels * mse)
        weight = even_weight(bpp["base_bpp"])
        loss = (weight * (rate + settings.z_rate_weight * z_rate + distortion)).mean() / 2
        preview_log_mse = _squared_error(quick.float(), x).log().mean()
        figures = {name: each.mean() for name, each in bpp.items()}
        figures |= {
            "base_mse": base_mse.mean(),
            "weighted_mse": (channels * mse).mean(),
            "preview_log_mse": preview_log_mse,
        }
        # Nothing but the preview network learns from its part.
        return loss + _PREVIEW_WEIGHT * preview_log_mse, figures

    def seen(self, networks: DeepFgs, x: Tensor) -> Tensor:
        """Return what the preview network sees of pictures of which random parts have arrived: both latents, joined."""
        with autocast(x):
            latents = networks.analyse(x)
        l_b, l_s, _ = self._known(latents, *self._draw(networks, x))
        return torch.cat([l_b, l_s], dim=1)

    def _draw(self, networks: DeepFgs, x: Tensor) -> tuple[Tensor, int]:
        """Return how many scalable channels each picture keeps; and how many pictures, the first, lack part of l_b."""
        kept = drawn_channels(len(x), networks.scalable_channels, x.device)
        partial = round(self._options.partial_base * len(x))
        kept[:partial] = 0
        return kept, partial

    def _known(self, latents: Latents, kept: Tensor, partial: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what arrived of l_b and of l_s; and 1 where a channel of l_s is kept, float32 (B, C, 1, 1)."""
        channels = torch.arange(latents.scalable.latent.shape[1], device=kept.device)
        mask = (channels < kept[:, None]).float()[:, :, None, None]
        l_b = latents.base.decoded
        if partial:
            l_b = torch.cat([self._partly_known(latents.base, partial), l_b[partial:]])
        return l_b, latents.scalable.decoded * mask, mask

    def _partly_known(self, base: Part, pictures: int) -> Tensor:
        """Return l_b of the first *pictures* as a decoder knows it when the stream ends inside l_b."""
        if self._tables is None:
            self._tables = TorchTables(make_tables(), base.latent.device)
        latent, mu, level = (t[:pictures].detach() for t in (base.latent, base.mu, base.level))
        return self._tables.cut(latent, mu, level, uniform(0.0, _MOST_MISSING)).y_hat


def drawn_channels(pictures: int, channels: int, device: torch.device) -> Tensor:
    """Return int64 (pictures,): how many scalable channels each picture keeps, 0 to *channels*, spread over a batch."""
    places = torch.randperm(pictures, device=device) + torch.rand(pictures, device=device)
    return (places / pictures * (channels + 1)).long().clamp_max(channels)


def channel_weight(kept: Tensor, channels: int, *, wide: bool) -> Tensor:
    """Return w of equation 6, float32, for *kept* of *channels* scalable channels; section 6.4.1 has the wide one."""
    j = kept.float() * (_PAPER_CHANNELS / channels)
    return (j.square() / 64 if wide else j / 8).floor()


def _squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return float32 (B,): the mean squared error of each picture, on the scale 0..255."""
    return (x_hat - x).square().mean(dim=(1, 2, 3)) * 255.0**2


class ChannelValidation:
    """PSNR of held-out pictures when the stream is cut after whole channels; rates are ideal ones.

    A cut below the rate of a picture's base counts as the base: runs whose bases differ in rate do not compare there.
    """

    def __init__(self, pictures: list[Tensor], device: torch.device, multiple: int = 64) -> None:
        self._pictures = [cropped(picture, multiple).to(device) for picture in pictures]

    def __call__(self, networks: DeepFgs, stage: str) -> dict[str, float]:
        """Return mean figures over the pictures."""
        rows = [self._one(networks, stage, x) for x in self._pictures]
        return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}

    def _one(self, networks: DeepFgs, stage: str, x: Tensor) -> dict[str, float]:
        latents = networks.analyse(x)
        base, scalable = latents.base, latents.scalable
        pixels = x.shape[2] * x.shape[3]
        l_b, l_s = base.decoded, scalable.decoded
        bits, z_bits = base.bits(networks.prior)
        base_bpp = float(bits.sum() + z_bits.sum()) / pixels
        bits, z_scalable_bits = scalable.bits(networks.prior_scalable)
        ends = base_bpp + (bits.sum(dim=(0, 2, 3)).cumsum(0) + z_scalable_bits.sum()) / pixels
        figures = {
            "z_bpp": float(z_bits.sum()) / pixels,
            "z_scalable_bpp": float(z_scalable_bits.sum()) / pixels,
            "base_bpp": base_bpp,
            "full_bpp": float(ends[-1]),
            "psnr_base": self._psnr(networks, stage, l_b, keep_channels(l_s, 0), x),
        }
        for cut in _CUTS_BPP:
            kept = int((ends <= cut).sum())
            figures[f"psnr_{cut}"] = self._psnr(networks, stage, l_b, keep_channels(l_s, kept), x)
        return figures | {"psnr_full": self._psnr(networks, stage, l_b, l_s, x)}

    @staticmethod
    def _psnr(networks: DeepFgs, stage: str, l_b: Tensor, l_s: Tensor, x: Tensor) -> float:
        quick = stage == "preview"
        x_hat = networks.preview(torch.cat([l_b, l_s], dim=1)) if quick else networks.synthesis(l_b, l_s)
        mse = float((x_hat.clamp(0, 1) - x).square().mean())
        return 10 * math.log10(1 / max(mse, 1e-10))


def training(settings: TrainingSettings, backbone: Backbone) -> FamilyTraining:
    """Return the family's networks, its stage, and its validation.

    Raises:
        ConfigurationError: an option is unknown or out of range.
    """
    options = settings_from_dict(Options, settings.options, "options")
    if options.base_channels < 1 or options.scalable_channels < 1:
        raise ConfigurationError(f"options: base_channels and scalable_channels must be at least 1, not {options}")
    if not 0 <= options.partial_base <= 1:
        raise ConfigurationError(f"options: partial_base must be 0 to 1, not {options.partial_base}")
    networks = DeepFgs(backbone, options)
    rearrangement = Rearrangement(settings, options, networks.roles)
    stages: dict[str, Stage] = {"fgs": rearrangement, "preview": PreviewAlone(rearrangement.seen)}
    return FamilyTraining(
        networks=networks,
        stages={name: stage for name, stage in stages.items() if name in settings.stages},
        validation=ChannelValidation,
        adopt=adopted,
    )


def adopted(weights: dict[str, Tensor], networks: nn.Module, pictures: list[Tensor]) -> dict[str, Tensor]:
    """Return weights to start from: of a family with trit planes, its channels as base and as what is scalable."""
    planes = any(name.startswith("g_s_cuts.") for name in weights)
    return separated(weights, networks, pictures) if planes else without_other_mutual(weights, networks)


def without_other_mutual(weights: dict[str, Tensor], networks: nn.Module) -> dict[str, Tensor]:
    """Return *weights*, without those of a mutual entropy model that sees other channels: that begins as it is made."""
    ours = networks.state_dict()
    mutual = {name for name in weights if name.startswith("mutual.")}
    if all(name in ours and ours[name].shape == weights[name].shape for name in mutual):
        return weights
    return {name: tensor for name, tensor in weights.items() if name not in mutual}
