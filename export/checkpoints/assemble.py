"""A checkpoint's networks as those of a family, so that the family's exporter makes a bundle of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from export.checkpoints.origins import Imported
from export.checkpoints.preview import Case, LinearPreview, fit_preview
from export.networks.dense import LevelAlone
from export.tables import make_tables
from export.training.dpict import Dpict
from export.training.partial import TorchTables
from export.training.progdtd import Options, ProgDtd, keep_channels

_MISSING_PLANES = (0.0, 1.0, 2.0, 3.0)
_KEPT_SHARES = (1.0, 0.5, 0.25, 0.1)


class ImportedBackbone:
    """See `export.networks.backbones.HyperpriorBackbone`; the networks are there already."""

    def __init__(self, imported: Imported) -> None:
        self._imported = imported
        last = imported.h_s.layers[-1]
        self.y_channels = int(last.conv.out_channels) // (2 if imported.h_s.mean else 1)  # type: ignore[union-attr, arg-type]
        self.z_channels = int(imported.h_s.median.numel())  # type: ignore[operator]

    def g_a(self) -> nn.Module:
        """Return g_a."""
        return self._imported.networks["g_a"]

    def g_s(self, *, deviation_input: bool) -> nn.Module:
        """Return g_s, which takes y_hat alone."""
        return self._imported.networks["g_s"]

    def h_a(self) -> nn.Module:
        """Return h_a, which gives symbols once they are rounded."""
        return self._imported.networks["h_a"]

    def h_s(self, *, mean: bool = True) -> nn.Module:
        """Return h_s."""
        return self._imported.h_s if mean else LevelAlone(self._imported.h_s)

    def post(self) -> nn.Module:
        """Return nothing that refines."""
        return nn.Identity()

    def preview(self) -> nn.Module:
        """Return a preview that is still to be fitted."""
        return LinearPreview(self.y_channels)


def family_networks(imported: Imported, inputs: list[Tensor]) -> nn.Module:
    """Return the networks that the family's exporter takes.

    Args:
        inputs: float32 (1, 3, H, W) in 0..1, sides multiples of 64; the preview is fitted to them.
    """
    with torch.no_grad():
        return _FAMILIES[imported.family](imported, inputs)


def _dpict(imported: Imported, inputs: list[Tensor]) -> nn.Module:
    networks = Dpict(ImportedBackbone(imported))
    networks.prior = imported.prior
    tables = TorchTables(make_tables(imported.prior), torch.device("cpu"))

    def cases() -> Iterator[Case]:
        for x in inputs:
            latents = networks.analyse(x)
            for missing in _MISSING_PLANES:
                known = tables.cut(latents.y, latents.mu, latents.level, missing)
                yield known.y_hat, x

    fit_preview(networks.preview, cases())
    return networks.eval()


def _progdtd(imported: Imported, inputs: list[Tensor]) -> nn.Module:
    networks = ProgDtd(ImportedBackbone(imported), Options().groups)
    networks.prior = imported.prior

    def cases() -> Iterator[Case]:
        for x in inputs:
            y_hat = networks.analyse(x).y.round()
            for share in _KEPT_SHARES:
                yield keep_channels(y_hat, round(share * y_hat.shape[1])), x

    fit_preview(networks.preview, cases())
    return networks.eval()


_FAMILIES: dict[str, Callable[[Imported, list[Tensor]], nn.Module]] = {"dpict": _dpict, "progdtd": _progdtd}
