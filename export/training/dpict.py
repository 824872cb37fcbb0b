"""The dpict family in training: its networks, and what each stage trains on which loss.

Stages:
    rd    g_a, g_s, h_a, h_s and the prior of z on rate and distortion of the full stream (DPICT, equation 5)
    cuts  a second g_s, and the preview network, on random cuts through the real tables; everything else is fixed
    joint in place of both: all networks but the first g_s at once, half of each batch complete and half of it cut
    preview  the preview network alone
    post  the two postprocessing networks for the first g_s, which is fixed (equation 19)
    multirate  in place of rd: the same networks on partial latents, too (equation 20); an ablation of the paper's
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.networks.backbones import Backbone, HyperpriorBackbone
from export.networks.entropy import FactorizedPrior, add_noise, gaussian_bits, round_through, sigma_from_level
from export.tables import make_tables
from export.training.config import TrainingSettings
from export.training.draws import uniform
from export.training.grown import grown
from export.training.loop import FamilyTraining, Stage
from export.training.partial import PartialLatents, TorchTables
from export.training.percent import EASY, Percent, even_weight
from export.training.precision import autocast
from export.training.preview import PreviewAlone
from export.training.validation import TruncationValidation


@dataclass
class Latents:
    """What the encoder knows of a batch: float32 tensors of y's and z's shapes."""

    y: Tensor
    z_hat: Tensor
    mu: Tensor
    level: Tensor


class PlaneNetworks(nn.Module):
    """What families with trit planes share; `state_dict` names are `<role>.<backbone's names>`."""

    def __init__(self, backbone: HyperpriorBackbone) -> None:
        super().__init__()
        self.g_a = backbone.g_a()
        self.h_a = backbone.h_a()
        self.h_s = backbone.h_s()
        self.prior = FactorizedPrior(backbone.z_channels)
        self.g_s_cuts = backbone.g_s(deviation_input=True)
        self.preview = backbone.preview()

    def analyse(self, x: Tensor) -> Latents:
        """Run g_a, h_a and h_s as the encoder does: z rounded, nothing noisy."""
        y = self.g_a(x).float()
        z_hat = self.h_a(y).float().round()
        mu, level = (t.float() for t in self.h_s(z_hat))
        return Latents(y, z_hat, mu, level)


class Dpict(PlaneNetworks):
    """All networks of the family.

    Attributes:
        optional_roles: what weights may lack.
        absent: those of them that they do lack; networks as they are made stand in for them.
    """

    optional_roles = ("g_s", "post_low", "post_high")
    absent: frozenset[str] = frozenset()

    def __init__(self, backbone: HyperpriorBackbone) -> None:
        super().__init__(backbone)
        self.g_s = backbone.g_s(deviation_input=False)
        self.post_low = backbone.post()
        self.post_high = backbone.post()


class RateDistortion:
    """Stage `rd`: loss = bpp of y and z + lambda * MSE.

    The rate sees noise (equation 4); g_s and h_s see rounded values with straight-through gradients, as at run time.
    """

    trains: tuple[str, ...] = ("g_a", "g_s", "h_a", "h_s", "prior")

    def __init__(self, settings: TrainingSettings) -> None:
        self._settings = settings

    def begin(self, networks: Dpict) -> None:
        """Start from the weights as they are."""

    def loss(self, networks: Dpict, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with autocast(x):
            y = networks.g_a(x).float()
            z = networks.h_a(y).float()
            mu, level = (t.float() for t in networks.h_s(round_through(z)))
        z_bits = networks.prior.bits(add_noise(z)).sum()
        centred = y - mu
        y_bits = gaussian_bits(add_noise(centred), sigma_from_level(level)).sum()
        with autocast(x):
            x_hat = networks.g_s(round_through(centred) + mu)
        mse = (x_hat.float() - x).square().mean() * 255.0**2
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        y_bpp, z_bpp = y_bits / pixels, z_bits / pixels
        settings = self._settings
        loss = y_bpp + settings.z_rate_weight * z_bpp + settings.distortion_weight * mse
        return loss, {"y_bpp": y_bpp, "z_bpp": z_bpp, "mse": mse}


class MultiRate(RateDistortion):
    """Stage `multirate`: rate and distortion of latents of which the last 0 to 3 planes are missing.

    The sum of DPICT's equation 20 is sampled: each half of a batch draws how many planes it misses. A plane's step is
    three times the next one's, so its distortion, about nine times as large, weighs a ninth.
    """

    def loss(self, networks: Dpict, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of both halves' draws, and its parts."""
        with autocast(x):
            y = networks.g_a(x).float()
            z = networks.h_a(y).float()
            mu, level = (t.float() for t in networks.h_s(round_through(z)))
        centred, sigma = y - mu, sigma_from_level(level)
        z_bits = networks.prior.bits(add_noise(z)).sum()
        half = x.shape[0] // 2
        y_bits, errors, weighted = [], [], []
        for part in (slice(0, half), slice(half, None)):
            missing = int(uniform(0, 4))
            cell = 3.0**missing
            noisy = cell * add_noise(centred[part] / cell)
            y_bits.append(gaussian_bits(noisy, sigma[part], cell).sum())
            with autocast(x):
                x_hat = networks.g_s(cell * round_through(centred[part] / cell) + mu[part])
            errors.append((x_hat.float() - x[part]).square().mean() * 255.0**2)
            weighted.append(errors[-1] / 9.0**missing)
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        y_bpp, z_bpp = torch.stack(y_bits).sum() / pixels, z_bits / pixels
        settings = self._settings
        distortion = torch.stack(weighted).mean()
        loss = y_bpp + settings.z_rate_weight * z_bpp + settings.distortion_weight * distortion
        return loss, {"y_bpp": y_bpp, "z_bpp": z_bpp, "mse": torch.stack(errors).mean()}


MOST_MISSING = 3.4  # planes; what is left of a stream then is hardly more than its head segment


def drawn_missing() -> float:
    """Return how many planes a random cut leaves out; one in seven leaves out none."""
    return max(0.0, uniform(-0.5, MOST_MISSING))


class Cuts:
    """Stage `cuts`: g_s with the remaining deviation as second input, and the preview, on random cuts.

    The loss is the mean over cuts of log MSE: a decibel counts the same at every rate.
    """

    trains: tuple[str, ...] = ("g_s_cuts", "preview")

    def __init__(self) -> None:
        self._tables: TorchTables | None = None

    def begin(self, networks: Dpict) -> None:
        """Start from g_s, which ignores the deviation."""
        networks.g_s_cuts.load_state_dict(networks.g_s.state_dict(), strict=False)

    def loss(self, networks: Dpict, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self._tables is None:
            self._tables = TorchTables(make_tables(networks.prior), x.device)
        with torch.no_grad(), autocast(x):
            latents = networks.analyse(x)
        losses, previews = [], []
        half = x.shape[0] // 2
        for part in (slice(0, half), slice(half, None)):
            missing = drawn_missing()
            known = self._tables.cut(latents.y[part], latents.mu[part], latents.level[part], missing)
            with autocast(x):
                x_hat = networks.g_s_cuts(known.y_hat, known.deviation)
                quick = networks.preview(known.y_hat)
            losses.append(((x_hat.float() - x[part]).square().mean() * 255.0**2).log())
            previews.append(((quick.float() - x[part]).square().mean() * 255.0**2).log())
        log_mse, log_preview = torch.stack(losses).mean(), torch.stack(previews).mean()
        return log_mse + log_preview, {"log_mse": log_mse, "log_mse_preview": log_preview}


class RandomCuts:
    """What the preview network sees of pictures: y_hat at a random cut of each half of a batch."""

    def __init__(self) -> None:
        self._tables: TorchTables | None = None

    def __call__(self, networks: Dpict, x: Tensor) -> Tensor:
        """Return y_hat, float32 (B, C, h, w)."""
        if self._tables is None:
            self._tables = TorchTables(make_tables(networks.prior), x.device)
        with autocast(x):
            latents = networks.analyse(x)
        halves = zip(latents.y.chunk(2), latents.mu.chunk(2), latents.level.chunk(2), strict=True)
        cuts = [self._tables.cut(y, mu, level, drawn_missing()) for y, mu, level in halves]
        return torch.cat([cut.y_hat for cut in cuts])


class Joint:
    """Stage `joint`: everything that ships with `cuts`, at once, on complete latents and on random cuts.

    Complete latents have the loss of stage `rd`, cuts that of `Percent`. A percent of rate counts the same in every
    patch, as it does where means are taken over pictures at fixed rates; otherwise busy patches would decide alone.
    """

    trains: tuple[str, ...] = ("g_a", "h_a", "h_s", "prior", "g_s_cuts", "preview")
    draws = 2  # of a cut, per batch

    def __init__(self, settings: TrainingSettings) -> None:
        self._settings = settings
        self._tables: TorchTables | None = None
        self._percent = Percent()

    def begin(self, networks: Dpict) -> None:
        """Start from the weights as they are."""

    def loss(self, networks: Dpict, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of both halves' losses and the preview's, and its parts."""
        if self._tables is None:
            self._tables = TorchTables(make_tables(networks.prior), x.device)
        settings, half = self._settings, x.shape[0] // 2
        pixels = x.shape[2] * x.shape[3]
        with autocast(x):
            y = networks.g_a(x).float()
            z = networks.h_a(y).float()
            mu, level = (t.float() for t in networks.h_s(round_through(z)))
        z_bpp = _sums(networks.prior.bits(add_noise(z))) / pixels
        whole, part = slice(0, half), slice(half, None)
        centred = y[whole] - mu[whole]
        y_bpp = _sums(gaussian_bits(add_noise(centred), sigma_from_level(level[whole]))) / pixels
        chunks = zip(y[part].chunk(self.draws), mu[part].chunk(self.draws), level[part].chunk(self.draws), strict=True)
        cuts = [self._tables.cut_through(*chunk, uniform(0.0, MOST_MISSING)) for chunk in chunks]
        cut_bpp = torch.cat([_sums(cut.bits) for cut in cuts]) / pixels + z_bpp[part]
        y_hat = torch.cat([round_through(centred) + mu[whole], *(cut.y_hat for cut in cuts)])
        deviation = torch.cat([torch.zeros_like(centred), *(cut.deviation for cut in cuts)])
        with autocast(x):
            x_hat = networks.g_s_cuts(y_hat, deviation)
            quick = networks.preview(y_hat[part].detach())
        mse = (x_hat.float() - x).square().mean(dim=(1, 2, 3)) * 255.0**2
        preview = (quick.float() - x[part]).square().mean(dim=(1, 2, 3)) * 255.0**2
        log_preview = torch.stack([each.mean().log() for each in preview.chunk(self.draws)]).mean()
        weight = even_weight(y_bpp)
        distortion = (weight * settings.distortion_weight * mse[whole]).mean()
        complete = (weight * (y_bpp + settings.z_rate_weight * z_bpp[whole])).mean() + distortion
        partial = self._percent(
            self._eased(cut_bpp),
            self._eased(mse[part]),
            complete_bpp=(weight * (y_bpp + z_bpp[whole])).mean(),
            complete_distortion=distortion,
        )
        figures = {
            "y_bpp": y_bpp.mean(),
            "z_bpp": z_bpp[whole].mean(),
            "mse": mse[whole].mean(),
            "log_rate_mse": partial,
            "log_mse_preview": log_preview,
        }
        return complete + partial + log_preview, figures

    def _eased(self, each: Tensor) -> Tensor:
        """Return a figure of each patch in the cuts' half of a batch, raised by a share of its cut's mean."""
        return torch.cat([patches + EASY * patches.mean().detach() for patches in each.chunk(self.draws)])


def _sums(bits: Tensor) -> Tensor:
    """Return the sum over each patch of (B, C, h, w)."""
    return bits.flatten(1).sum(dim=1)


class Post:
    """Stage `post`: both postprocessing networks, each on its range of missing planes.

    Loss: how far the refined partial picture is from that of complete latents (DPICT, equation 19), as a logarithm, so
    that both ranges weigh the same.
    """

    trains: tuple[str, ...] = ("post_low", "post_high")
    ranges = ((2.9, MOST_MISSING + 0.6), (1.8, 2.9))

    def __init__(self) -> None:
        self._tables: TorchTables | None = None

    def begin(self, networks: Dpict) -> None:
        """Start from the identity, as the networks are made."""

    def loss(self, networks: Dpict, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self._tables is None:
            self._tables = TorchTables(make_tables(networks.prior), x.device)
        half = x.shape[0] // 2
        figures = {}
        with torch.no_grad(), autocast(x):
            latents = networks.analyse(x)
            complete = networks.g_s((latents.y - latents.mu).round() + latents.mu).float()
        for role, (low, high), part in zip(self.trains, self.ranges, (slice(0, half), slice(half, None)), strict=True):
            missing = uniform(low, high)
            known = self._tables.cut(latents.y[part], latents.mu[part], latents.level[part], missing)
            with autocast(x):
                with torch.no_grad():
                    partial = networks.g_s(known.y_hat)
                refined = getattr(networks, role)(partial.float())
            figures[role] = (refined.float() - complete[part]).square().mean() * 255.0**2
        loss = torch.stack([mse.log() for mse in figures.values()]).sum()
        return loss, figures


def render(networks: Dpict, stage: str, known: PartialLatents, missing: float) -> Tensor:
    """Return the picture that the decoder of *stage* makes of partial latents."""
    x: Tensor
    if stage in ("cuts", "joint"):
        x = networks.g_s_cuts(known.y_hat, known.deviation)
        return x
    if stage == "preview":
        x = networks.preview(known.y_hat)
        return x
    x = networks.g_s(known.y_hat)
    if stage == "post" and missing >= Post.ranges[1][0]:
        x = (networks.post_low if missing >= Post.ranges[0][0] else networks.post_high)(x)
    return x


def training(settings: TrainingSettings, backbone: Backbone) -> FamilyTraining:
    """Return the family's networks, its stages in order, and its validation."""
    stages: dict[str, Stage] = {
        "rd": RateDistortion(settings),
        "multirate": MultiRate(settings),
        "cuts": Cuts(),
        "joint": Joint(settings),
        "post": Post(),
        "preview": PreviewAlone(RandomCuts()),
    }
    return FamilyTraining(
        networks=Dpict(backbone),
        stages={name: stage for name, stage in stages.items() if name in settings.stages},
        validation=lambda pictures, device: TruncationValidation(pictures, device, render),
        adopt=grown,
        step_roles=("g_a", "g_s", "g_s_cuts", "h_a", "h_s", "preview"),
    )
