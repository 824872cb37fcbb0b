"""The progdtd family in training: double tail drop on a zero-mean hyperprior.

Stages:
    rd     everything, whole latents: a hyperprior as it is usually trained (the paper's "standard"), a start for `dtd`
    dtd    everything, with the tails of latent and hyper latent dropped (ProgDTD, section 3.3)
    joint  in place of dtd: half of each batch complete, half with its tails dropped, weighed in percent
    preview  the preview network alone, on random shares

Source: ProgDTD (CVPR workshops 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from export.networks.backbones import Backbone, HyperpriorBackbone
from export.networks.entropy import FactorizedPrior, add_noise, gaussian_bits, round_through, sigma_from_level
from export.training.config import TrainingSettings
from export.training.loop import FamilyTraining, Stage
from export.training.ordered import ordered_by_energy
from export.training.percent import Percent, even_weight
from export.training.pictures import cropped
from export.training.precision import autocast
from export.training.preview import PreviewAlone
from export.training.validation import CUTS_BPP
from runtime.errors import ConfigurationError
from runtime.settings import settings_from_dict


@dataclass(frozen=True)
class Options:
    """What `options` of a settings file may say.

    Attributes:
        keep_least, keep_most: u1 and u2 of the paper: the share of channels kept is drawn from U(u1, u2) per picture.
        groups: where the stream's groups of channels end, as shares of both latents' channels; the hyper channels of
            a group precede its latent.
    """

    keep_least: float = 0.0
    keep_most: float = 1.0
    groups: tuple[float, ...] = (0.5, 1.0)


@dataclass
class Latents:
    """What the encoder knows of a batch: float32; the level is that of complete hyper latents."""

    y: Tensor
    z_hat: Tensor
    level: Tensor


class ProgDtd(nn.Module):
    """All networks of the family; `state_dict` names are `<role>.<backbone's names>`."""

    def __init__(self, backbone: HyperpriorBackbone, groups: tuple[float, ...]) -> None:
        super().__init__()
        self.g_a = backbone.g_a()
        self.g_s = backbone.g_s(deviation_input=False)
        self.h_a = backbone.h_a()
        self.h_s = backbone.h_s(mean=False)
        self.prior = FactorizedPrior(backbone.z_channels)
        self.preview = backbone.preview()
        self.y_ends, self.z_ends = group_ends(backbone.y_channels, groups), group_ends(backbone.z_channels, groups)

    def analyse(self, x: Tensor) -> Latents:
        """Run g_a, h_a and h_s as the encoder does, z rounded; the level follows from all of z."""
        y = self.g_a(x).float()
        z_hat = self.h_a(y).float().round()
        return Latents(y, z_hat, self.h_s(z_hat)[0].float())

    def grouped_level(self, z_hat: Tensor) -> Tensor:
        """Return the level that a decoder knows: that of a group of y from the hyper channels up to that group."""
        parts = []
        for channels, z_end in self.groups():
            level = self.h_s(keep_channels(z_hat, z_end))[0].float()
            parts.append(level[:, channels])
        return torch.cat(parts, dim=1)

    def arrived_mask(self, y_kept: Tensor) -> Tensor:
        """Return float32 (B, z_channels, 1, 1): 1 for the hyper channels that precede the last channel of *y_kept*."""
        kept = y_kept.sum(dim=(1, 2, 3))
        channels = torch.arange(self.z_ends[-1], device=y_kept.device)
        z_end = torch.full_like(kept, self.z_ends[0])
        for y_end, z_next in zip(self.y_ends[:-1], self.z_ends[1:], strict=True):
            z_end = torch.where(kept > y_end, float(z_next), z_end)
        return (channels[None, :] < z_end[:, None]).float()[:, :, None, None]

    def groups(self) -> list[tuple[slice, int]]:
        """Return for each group its channels of y, and how many hyper channels have arrived by then."""
        parts = [slice(start, end) for start, end in pairwise([0, *self.y_ends])]
        return list(zip(parts, self.z_ends, strict=True))


def group_ends(channels: int, shares: tuple[float, ...]) -> list[int]:
    """Return for each group how many of *channels* there are up to its end."""
    return [round(channels * share) for share in shares]


def keep_channels(t: Tensor, count: int) -> Tensor:
    """Return *t*, (B, C, h, w), with all channels from *count* on set to zero."""
    return torch.cat([t[:, :count], torch.zeros_like(t[:, count:])], dim=1)


class TailDrop:
    """Stages `rd` and `dtd`: loss = bpp of what is kept of y and z + lambda * MSE of the picture made of it.

    Both latents lose the same share of their channels, drawn for each picture (ProgDTD, section 3.3). h_a sees the
    whole latent; what is dropped costs nothing.
    """

    trains: tuple[str, ...] = ("g_a", "g_s", "h_a", "h_s", "prior", "preview")

    def __init__(self, settings: TrainingSettings, least: float, most: float) -> None:
        self._settings, self._least, self._most = settings, least, most

    def begin(self, networks: ProgDtd) -> None:
        """Start from the weights as they are."""

    def loss(self, networks: ProgDtd, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one draw, and its parts."""
        share = torch.empty(len(x), device=x.device).uniform_(self._least, self._most)
        with autocast(x):
            y = networks.g_a(x).float()
            z = networks.h_a(y).float()
        y_kept, z_kept = kept_mask(y, share), kept_mask(z, share)
        with autocast(x):
            level = networks.h_s(round_through(z) * z_kept)[0].float()
        z_bits = (networks.prior.bits(add_noise(z)) * z_kept).sum()
        y_bits = (gaussian_bits(add_noise(y), sigma_from_level(level)) * y_kept).sum()
        y_hat = round_through(y) * y_kept
        with autocast(x):
            x_hat = networks.g_s(y_hat)
            quick = networks.preview(y_hat.detach())
        mse = (x_hat.float() - x).square().mean() * 255.0**2
        preview_mse = (quick.float() - x).square().mean() * 255.0**2
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        y_bpp, z_bpp = y_bits / pixels, z_bits / pixels
        settings = self._settings
        loss = y_bpp + settings.z_rate_weight * z_bpp + settings.distortion_weight * (mse + 0.1 * preview_mse)
        return loss, {"y_bpp": y_bpp, "z_bpp": z_bpp, "mse": mse, "preview_mse": preview_mse}


class Joint:
    """Stage `joint`: half of each batch complete, half of it cut after a random channel, each weighed as it matters.

    Complete latents have the loss of stage `rd`, a cut that of `Percent`: in the sum of squares of `dtd` the few
    channels of the lowest rates outweigh all others. A percent of rate counts the same in every patch, complete or not.
    Scales are those that a stream's groups leave a decoder with, and hyper channels cost what has arrived of them.
    """

    trains: tuple[str, ...] = ("g_a", "g_s", "h_a", "h_s", "prior", "preview")

    def __init__(self, settings: TrainingSettings, options: Options) -> None:
        self._settings, self._options, self._percent = settings, options, Percent()

    def begin(self, networks: ProgDtd) -> None:
        """Start from the weights as they are."""

    def loss(self, networks: ProgDtd, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of both halves' losses and the preview's, and its parts."""
        settings, half = self._settings, x.shape[0] // 2
        whole, part = slice(0, half), slice(half, None)
        share = drawn_share(x[part], self._options)
        with autocast(x):
            y = networks.g_a(x).float()
            z = networks.h_a(y).float()
            level = networks.grouped_level(round_through(z))
        y_bits = gaussian_bits(add_noise(y), sigma_from_level(level))
        z_bits = networks.prior.bits(add_noise(z))
        y_kept = kept_mask(y[part], share)
        z_kept = networks.arrived_mask(y_kept)
        y_hat = torch.cat([round_through(y[whole]), round_through(y[part]) * y_kept])
        with autocast(x):
            x_hat = networks.g_s(y_hat)
            quick = networks.preview(y_hat[part].detach())
        errors = (x_hat.float() - x).square().mean(dim=(1, 2, 3)) * 255.0**2
        log_preview = ((quick.float() - x[part]).square().mean(dim=(1, 2, 3)) * 255.0**2).log().mean()
        pixels = x.shape[2] * x.shape[3]
        y_bpp, z_bpp = (bits[whole].sum(dim=(1, 2, 3)) / pixels for bits in (y_bits, z_bits))
        weight = even_weight(y_bpp)
        distortion = (weight * settings.distortion_weight * errors[whole]).mean()
        complete = (weight * (y_bpp + settings.z_rate_weight * z_bpp)).mean() + distortion
        cut_bits = (y_bits[part] * y_kept).sum(dim=(1, 2, 3)) + (z_bits[part] * z_kept).sum(dim=(1, 2, 3))
        partial = self._percent(
            cut_bits / pixels,
            errors[part],
            complete_bpp=(weight * (y_bpp + z_bpp)).mean(),
            complete_distortion=distortion,
        )
        figures = {
            "y_bpp": y_bpp.mean(),
            "z_bpp": z_bpp.mean(),
            "mse": errors[whole].mean(),
            "log_rate_mse": partial,
            "log_mse_preview": log_preview,
        }
        return complete + partial + log_preview, figures


def drawn_share(x: Tensor, options: Options) -> Tensor:
    """Return a share of channels for each of *x*, (B,): the square of a uniform one, as first channels are dear."""
    return options.keep_least + (options.keep_most - options.keep_least) * torch.rand(len(x), device=x.device).square()


def kept_latents(networks: ProgDtd, x: Tensor, options: Options) -> Tensor:
    """Return y_hat, float32 (B, C, h, w), of which each picture has a random share of its channels."""
    share = torch.empty(len(x), device=x.device).uniform_(options.keep_least, options.keep_most)
    with autocast(x):
        y: Tensor = networks.g_a(x).float()
    return y.round() * kept_mask(y, share)


def kept_mask(t: Tensor, share: Tensor) -> Tensor:
    """Return float32 (B, C, 1, 1): 1 for the first channels of *t*, as many as *share* (B,) of them, rounded up."""
    channels = torch.arange(t.shape[1], device=t.device)
    kept = (share[:, None] * t.shape[1]).ceil().clamp_min(1)
    return (channels[None, :] < kept).float()[:, :, None, None]


class ChannelValidation:
    """PSNR of held-out pictures when the stream is cut after whole channels; rates are ideal ones."""

    def __init__(self, pictures: list[Tensor], device: torch.device, multiple: int = 64) -> None:
        self._pictures = [cropped(picture, multiple).to(device) for picture in pictures]

    def __call__(self, networks: ProgDtd, stage: str) -> dict[str, float]:
        """Return mean figures over the pictures."""
        rows = [self._one(networks, stage, x) for x in self._pictures]
        return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}

    def _one(self, networks: ProgDtd, stage: str, x: Tensor) -> dict[str, float]:
        latents = networks.analyse(x)
        pixels = x.shape[2] * x.shape[3]
        y_hat = latents.y.round()
        z_bits = networks.prior.bits(latents.z_hat).sum(dim=(0, 2, 3))
        figures = {"z_bpp": float(z_bits.sum()) / pixels}
        for name, level, y_ends, z_ends in (
            ("grouped", networks.grouped_level(latents.z_hat), networks.y_ends, networks.z_ends),
            ("z first", latents.level, networks.y_ends[-1:], networks.z_ends[-1:]),
        ):
            bits = gaussian_bits(y_hat, sigma_from_level(level)).sum(dim=(0, 2, 3))
            for first, (z_start, z_end) in zip([0, *y_ends[:-1]], pairwise([0, *z_ends]), strict=True):
                bits[first] += z_bits[z_start:z_end].sum()
            ends = bits.cumsum(0) / pixels
            for cut in CUTS_BPP:
                kept = int((ends <= cut).sum())
                figures[f"{name} psnr_{cut}"] = self._psnr(networks, stage, keep_channels(y_hat, kept), x)
            figures[f"{name} full_bpp"] = float(ends[-1])
        return figures | {"psnr_full": self._psnr(networks, stage, y_hat, x)}

    @staticmethod
    def _psnr(networks: ProgDtd, stage: str, y_hat: Tensor, x: Tensor) -> float:
        x_hat = networks.preview(y_hat) if stage == "preview" else networks.g_s(y_hat)
        mse = float((x_hat.clamp(0, 1) - x).square().mean())
        return 10 * math.log10(1 / max(mse, 1e-10))


def adopted(weights: dict[str, Tensor], networks: nn.Module, pictures: list[Tensor]) -> dict[str, Tensor]:
    """Return weights to start from: of a family with trit planes, its channels by falling energy."""
    planes = any(name.startswith("g_s_cuts.") for name in weights)
    return ordered_by_energy(weights, networks, pictures) if planes else weights


def training(settings: TrainingSettings, backbone: Backbone) -> FamilyTraining:
    """Return the family's networks, its stages in order, and its validation.

    Raises:
        ConfigurationError: an option is unknown or out of range.
    """
    options = settings_from_dict(Options, settings.options, "options")
    if not 0 <= options.keep_least < options.keep_most <= 1:
        raise ConfigurationError(f"options: need 0 <= keep_least < keep_most <= 1, not {options}")
    for channels in (backbone.y_channels, backbone.z_channels):
        ends = group_ends(channels, options.groups)
        if not ends or ends[-1] != channels or not all(a < b for a, b in pairwise([0, *ends])):
            raise ConfigurationError(f"options: groups must rise to 1.0, by a channel or more, not {options.groups}")
    stages: dict[str, Stage] = {
        "rd": TailDrop(settings, 1.0, 1.0),
        "dtd": TailDrop(settings, options.keep_least, options.keep_most),
        "joint": Joint(settings, options),
        "preview": PreviewAlone(lambda networks, x: kept_latents(networks, x, options)),
    }
    return FamilyTraining(
        networks=ProgDtd(backbone, options.groups),
        stages={name: stage for name, stage in stages.items() if name in settings.stages},
        validation=ChannelValidation,
        adopt=adopted,
        step_roles=("g_a", "g_s", "h_a", "h_s", "preview"),
    )
