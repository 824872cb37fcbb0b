"""What integers cost in rate, and what a finished bundle loses and gains, measured by running it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from export.bundle_writer import BundleContent, write_bundle
from export.exact_h_s import SigmaCode
from export.networks.entropy import gaussian_bits, sigma_from_level
from export.training.config import TrainingSettings
from runtime.codec import Codec
from runtime.entropy.plan import Field, Step, trit_planes
from runtime.entropy.tables import TOTAL_BITS, Tables
from runtime.families.hyperprior import CODES


class RateCosts:
    """Bits of a latent of several pictures: as trained, with an exact graph's scales, and through the tables."""

    def __init__(self, tables: Tables, code: SigmaCode) -> None:
        """Take the tables, and how the codes that index them are read."""
        self._tables, self._code, self._level_of_code = tables, code, tables.level_of_code(CODES)
        self.trained = self.exact = self.tables = 0.0

    def add_trained(self, symbols: Tensor, level: Tensor) -> None:
        """Count *symbols* under the scales that the trained networks give, as real-valued levels."""
        self.trained += float(gaussian_bits(symbols, sigma_from_level(level)).sum())

    def add_exact(self, symbols: Tensor, codes: Tensor) -> None:
        """Count *symbols* under the scales that an exact graph gives, as codes: of the Gaussian, and of the tables."""
        self.exact += float(gaussian_bits(symbols, self._code.sigma(codes)).sum())
        levels = self._level_of_code[codes.numpy().astype(np.int32).reshape(-1)]
        for step in trit_planes(Field(levels, self._tables, symbols.numpy().astype(np.int32).reshape(-1))):
            self.tables += step_bits(step, self._tables)
            step.receive(step.trits())

    @property
    def exact_percent(self) -> float:
        """What the exact graph costs against the trained one."""
        return 100 * (self.exact / self.trained - 1)


def tables_percent(*costs: RateCosts) -> float:
    """Return what tables cost against the Gaussian, over all *costs*."""
    return 100 * (sum(one.tables for one in costs) / sum(one.exact for one in costs) - 1)


def pixels_of(inputs: list[Tensor]) -> int:
    """Return how many pixels the pictures, (1, 3, H, W) each, have together."""
    return sum(x.shape[2] * x.shape[3] for x in inputs)


def step_bits(step: Step, tables: Tables) -> float:
    """Return the ideal length of a step's trits under the tables' integer frequencies; an encoder's step only."""
    trits = step.trits()
    return -float(np.log2(tables.row_frequencies[step.rows, trits] / 2.0**TOTAL_BITS).sum())


def measured_errors(content: BundleContent, settings: TrainingSettings, pictures: list[Tensor]) -> dict[str, float]:
    """Return the settings `value_gain`, over cuts of *pictures*, and `preview_share`, on the worst of them.

    Args:
        content: all of a bundle; its value_gain and preview_share are 1.
        pictures: uint8 (3, H, W).
    """
    latent_error = picture_error = worst_preview = 0.0
    with tempfile.TemporaryDirectory() as folder:
        trial = write_bundle(Path(folder) / "trial", settings.name, "0", settings.family, content)
        with Codec.open(trial, threads=1) as codec:
            for picture in pictures:
                image = picture.permute(1, 2, 0).contiguous().numpy()
                encoding = codec.encode(image)
                decoder = codec.decoder()
                decoder.feed(encoding.stream)
                floor = _squared_error(decoder.finish().image, image)
                preview_error = _squared_error(decoder.preview(), image) - floor
                worst_preview = max(worst_preview, preview_error / float(encoding.value.squared_error[0]))
                for share in (0.1, 0.25, 0.5):
                    size = max(int(encoding.value.offsets[0]), int(len(encoding.stream) * share))
                    picture_error += _squared_error(codec.decode(encoding.stream[:size]).image, image) - floor
                    latent_error += encoding.value.at(size)
    gain = picture_error / latent_error
    return {"value_gain": gain, "preview_share": worst_preview / gain}


def _squared_error(ours: NDArray[np.uint8] | None, truth: NDArray[np.uint8]) -> float:
    assert ours is not None
    return float(np.square(ours.astype(np.float64) - truth).sum())
