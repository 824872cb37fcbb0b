"""deepfgs: base features, then scalable features of what the base does not say, channel by channel.

    head   z of the base
    body   planes of l_b, each by falling priority; z of the scalable part; channels of l_s in order

One decoder serves both: g_s makes a picture of l_b and as much of l_s as there is, joined by fusion (ffm). The encoder
runs it, too: what is scalable is found by comparing a picture with what the base makes of it. The probabilities of l_s
follow from its z and from all of l_b (mutual entropy model). A channel of l_s that has not begun counts as zero.

Source: DeepFGS (2022), in which l_b comes as a whole. Nothing has put its channels into an order, so that a stream that
ends inside l_b is worth far more if it has the first digits of all channels (DPICT) than if it has some channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.tiles import Source, Windows
from runtime.entropy.plan import Field, Plane, Step, in_array_order, plane_by_priority, trit_planes
from runtime.entropy.tables import MEAN_UNIT, Tables
from runtime.errors import BundleError
from runtime.families.base import Pass, Reconstruction, RunGraph, Tensor
from runtime.families.channels import channels_in_order, channels_known, side_information
from runtime.families.hyperprior import (
    CODES,
    Y_STRIDE,
    Z_STRIDE,
    SymbolsAround,
    compact,
    count_setting,
    sigma_levels,
    total,
    values,
)

FEATURE_LIMIT = (1 << 11) - 1  # features of z of the scalable part are 0..FEATURE_LIMIT
BASE_UNIT = 8  # l_b in the mutual entropy model, in units of 1/8 symbol
BASE_LIMIT = (1 << 10) - 1  # and clipped to this magnitude
_SIDE_GRAPHS = ("h_s_scalable", "mutual")


class DeepFgs:
    """The family in one bundle; see `runtime.families.base.Family`."""

    order = "base: z, planes; scalable: z, channels, each by planes"
    has_planes = False
    stride = Z_STRIDE
    pairs: tuple[str, ...] = ("h_s", "mutual")

    def __init__(
        self, settings: Mapping[str, Any], tables: Tables, run: RunGraph, plane: Plane = plane_by_priority
    ) -> None:
        """Take a bundle's *settings* and *tables*, and the functions that run its graphs and order its planes.

        Raises:
            BundleError: a setting is missing or out of range, or the tables have other channels.
        """
        names = "base_channels", "scalable_channels", "base_z_channels", "scalable_z_channels", "features"
        counts = {name: count_setting("deepfgs", settings, name) for name in names}
        self.base_channels, self.scalable_channels = counts["base_channels"], counts["scalable_channels"]
        self.base_z_channels, self.scalable_z_channels = counts["base_z_channels"], counts["scalable_z_channels"]
        self.features = counts["features"]
        try:
            self.frr, self.ffm, self.mutual = (bool(settings[role]) for role in ("frr", "ffm", "mutual"))
            self.value_gain = float(settings["value_gain"])
            self.preview_share = float(settings["preview_share"])
            # What an error of l_b weighs beside one of l_s, and what is expected of l_s before its z is known.
            self.base_worth = float(settings["base_worth"])
            self.scalable_variance = float(settings["scalable_variance"])
        except (KeyError, TypeError, ValueError, OverflowError) as fault:
            raise BundleError(f"settings of family deepfgs: {fault!r}") from fault
        if not (0 <= self.base_worth < math.inf and 0 <= self.scalable_variance < math.inf):
            raise BundleError("settings of family deepfgs: base_worth and scalable_variance must be numbers from 0 up")
        z_channels = self.base_z_channels + self.scalable_z_channels
        if len(tables.trits) != tables.y_levels + z_channels:
            raise BundleError(f"tables have {len(tables.trits)} models, not {tables.y_levels} + {z_channels}")
        self.synthesis: tuple[str, ...] = ("ffm", "g_s") if self.ffm else ("g_s",)
        self.tables, self.run, self.plane = tables, run, plane
        self.level_of_code = tables.level_of_code(CODES)
        self.trits_left = tables.trits_left()
        self.variance = (tables.deviation / np.float32(MEAN_UNIT)) ** 2

    def analyse(self, x: Source) -> DeepFgsLatents:
        """Run both encoders, the base's decoder between them, and the exact graphs."""
        latents = self.begin(x.shape[2], x.shape[3])
        base, scalable = latents.base, latents.scalable
        l_b = base.checked(self._one("g_a", x), "g_a")
        base.set_z(self._one("h_a", l_b))
        latents.start_base(l_b)
        del l_b
        # From here on the encoder uses what a decoder will know: symbols beyond a table's range are clamped.
        known = self._nothing_known(*base.shape[1:])
        decoded = known[:, : self.base_channels]
        decoded[:] = base.complete() * np.float32(1 / MEAN_UNIT)
        l_s = scalable.checked(self._one("g_a_scalable", x, self._picture_of_base(known)), "g_a_scalable")
        if self.frr:
            l_s = scalable.checked(self._one("frr", l_s, decoded, _means(decoded)), "frr")
        del known, decoded
        scalable.set_z(self._one("h_a_scalable", l_s))
        latents.start_scalable(l_s)
        return latents

    def _one(self, role: str, *inputs: Source) -> Tensor:
        output: Tensor
        (output,) = self.run(role, *inputs)
        return output

    def _nothing_known(self, height: int, width: int) -> Tensor:
        """Return zeros for l_b and l_s in one, float32 (1, C, h, w); they take memory as they are written."""
        return np.zeros((1, self.base_channels + self.scalable_channels, height, width), np.float32)

    def _picture_of_base(self, known: Tensor) -> Source:
        """Return what a decoder makes of l_b alone, float32 (1, 3, H, W); *known* is l_b, and zeros for l_s."""
        fused: Source = known
        if self.ffm:
            l_b, l_s = known[:, : self.base_channels], known[:, self.base_channels :]
            (fused,) = self.run("ffm", l_b, l_s, _means(l_s), lazily=True)
        x_base: Source
        (x_base,) = self.run("g_s", fused, lazily=True)
        return x_base

    def begin(self, height: int, width: int) -> DeepFgsLatents:
        """Return latents of which nothing is known."""
        return DeepFgsLatents(self, height, width)

    def input_limits(self, role: str) -> Mapping[str, NDArray[np.int32]]:
        """Return the largest z that the tables can express; of `mutual`, the limits of features and of l_b."""
        largest = self.tables.largest[self.tables.y_levels :]
        if role == "h_s":
            return {"z_hat": largest[: self.base_z_channels]}
        if role == "h_s_scalable":
            return {"z_hat": largest[self.base_z_channels :]}
        if role == "mutual":
            limits = [FEATURE_LIMIT] * self.features + [BASE_LIMIT] * (self.base_channels if self.mutual else 0)
            return {"side": np.array(limits, np.int32)}
        raise BundleError(f"family deepfgs has no exact graph {role!r}")


class _Part:
    """One of the two latents, and its z: in an encoder with their true values."""

    def __init__(self, family: DeepFgs, shape: tuple[int, int, int], z_shape: tuple[int, int, int], model: int) -> None:
        """Take the shapes, and the model of the first channel of z."""
        self._family, self.shape, self.z_shape = family, shape, z_shape
        self._z_models = np.repeat(model + np.arange(z_shape[0]), z_shape[1] * z_shape[2])
        self.z = Field(self._z_models, family.tables)
        self.field: Field | None = None
        self._mu: NDArray[np.integer] = np.empty(0, np.int16)

    def checked(self, latent: NDArray[Any], role: str) -> NDArray[Any]:
        """Return what a bundle's graph makes, if it has the right shape."""
        if latent.shape != (1, *self.shape):
            raise BundleError(f"{role} gives {latent.shape}, not {(1, *self.shape)}")
        return latent

    def set_z(self, z: Tensor) -> None:
        """Take the z that an encoder is to code, float32."""
        if z.shape != (1, *self.z_shape):
            raise BundleError(f"z is {z.shape}, not {(1, *self.z_shape)}")
        self.z = Field(self._z_models, self._family.tables, np.rint(z.reshape(-1)).astype(np.int32))

    def z_hat(self) -> Tensor:
        """Return z as both sides know it, float32 (1, C, h, w)."""
        return _symbols(self.z).astype(np.float32).reshape(1, *self.z_shape)

    def levels(self, codes: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the sigma level of every element, uint8 (n,), from what an exact graph gives as codes."""
        return sigma_levels(codes, (1, *self.shape), self._family.level_of_code).reshape(-1)

    def start(self, mu: NDArray[Any], levels: NDArray[np.uint8], truth: Tensor | None) -> None:
        """Make the field from what an exact graph says; *truth*, if given, is what the encoder codes."""
        self._mu = compact(self.checked(mu, "an exact graph"))
        symbols = None if truth is None else SymbolsAround(self._mu, truth)
        self.field = Field(levels, self._family.tables, symbols)

    def complete(self, rows: slice = slice(None), columns: slice = slice(None)) -> NDArray[np.int32]:
        """int32 (1, C, h, w): the latent there in units of 1/64, from whole symbols: all of them are known."""
        assert self.field is not None

        def there(elements: NDArray[np.integer]) -> NDArray[Any]:
            return elements.reshape(1, *self.shape)[:, :, rows, columns]

        field, tables = self.field, self._family.tables
        symbols = tables.symbols_at(there(field.nodes)) if field.symbols is None else there(field.symbols)
        whole: NDArray[np.int32] = symbols * np.int32(MEAN_UNIT) + there(self._mu)
        return whole

    def estimate(self, channels: int, out: Tensor) -> None:
        """Write the conditional means of the first *channels* into *out*, float32 (1, C, h, w)."""
        assert self.field is not None
        known = slice(0, channels * self.shape[1] * self.shape[2])
        out.reshape(-1)[known] = values(self._family.tables.mean, self.field.nodes[known], self._mu[known])

    def channels_known(self) -> float:
        """Return how many channels are known, fractional, if they come in order."""
        return 0.0 if self.field is None else channels_known(self.field, self.shape[0], self._family.trits_left)

    def share_known(self) -> float:
        """Return the share of the trits that are known, 1 if there are none."""
        if self.field is None:
            return 0.0
        total = int(self.field.trits.sum(dtype=np.int64))
        left = int(self._family.trits_left.take(self.field.nodes).sum(dtype=np.int64))
        return 1.0 - left / max(1, total)

    def error_left(self) -> float:
        """Return the sum of the variances that the elements' nodes have."""
        assert self.field is not None
        return total(self._family.variance, self.field.nodes)


class DeepFgsLatents:
    """One picture's l_b and l_s, each with its z."""

    def __init__(self, family: DeepFgs, height: int, width: int) -> None:
        self._family = family
        area, z_area = (height // Y_STRIDE, width // Y_STRIDE), (height // Z_STRIDE, width // Z_STRIDE)
        model, z_channels = family.tables.y_levels, family.base_z_channels
        self.base = _Part(family, (family.base_channels, *area), (z_channels, *z_area), model)
        z_shape = (family.scalable_z_channels, *z_area)
        self.scalable = _Part(family, (family.scalable_channels, *area), z_shape, model + z_channels)

    def start_base(self, l_b: Tensor | None) -> None:
        """Run h_s on complete z of the base; *l_b*, if given, is the truth."""
        mu, codes = self._family.run("h_s", self.base.z_hat())
        self.base.start(mu, self.base.levels(codes), l_b)

    def start_scalable(self, l_s: Tensor | None) -> None:
        """Run h_s_scalable and the mutual entropy model on complete z and l_b; *l_s*, if given, is the truth."""
        family = self._family
        (features,) = family.run("h_s_scalable", self.scalable.z_hat())
        if features.shape != (1, family.features, *self.scalable.shape[1:]):
            raise BundleError(f"h_s_scalable gives {features.shape}, which is not {family.features} features")
        if not 0 <= features.min() <= features.max() <= FEATURE_LIMIT:
            raise BundleError(f"h_s_scalable gives a feature outside 0..{FEATURE_LIMIT}")

        def side(rows: slice, columns: slice) -> Tensor:
            here = features[:, :, rows, columns]
            known = [here, self._eighths_of_base(rows, columns)] if family.mutual else [here]
            return np.concatenate(known, axis=1, dtype=np.float32)

        channels = family.features + (family.base_channels if family.mutual else 0)
        mu, codes = family.run("mutual", Windows((1, channels, *features.shape[2:]), side))
        levels = self.scalable.levels(codes)
        del codes
        self.scalable.start(mu, levels, l_s)

    def _eighths_of_base(self, rows: slice, columns: slice) -> NDArray[np.int32]:
        """int32 (1, C, h, w): l_b there, all of it known, as the mutual entropy model is told it."""
        shift = (MEAN_UNIT // BASE_UNIT).bit_length() - 1
        l_b = (self.base.complete(rows, columns) + (1 << shift >> 1)) >> shift
        return l_b.clip(-BASE_LIMIT, BASE_LIMIT)

    def head(self) -> Iterator[Step]:
        """Yield the planes of the base's z."""
        return in_array_order(self.base.z)

    def body(self) -> Iterator[Step]:
        """Yield the planes of l_b, z of the scalable part, and the channels of l_s; exact graphs run in between."""
        family = self._family
        if self.base.field is None:
            self.start_base(None)
        assert self.base.field is not None
        for step in trit_planes(self.base.field, family.plane):
            step.worth = family.base_worth
            yield step
        yield from side_information(self.scalable.z, then=_SIDE_GRAPHS)
        if self.scalable.field is None:
            self.start_scalable(None)
        assert self.scalable.field is not None
        yield from channels_in_order(self.scalable.field, family.scalable_channels, family.plane)

    @property
    def steps(self) -> float:
        """Channels that are known: of l_b as many as its share of known trits, of l_s those that have come."""
        share = self.base.share_known()
        return share * self._family.base_channels + (self.scalable.channels_known() if share == 1.0 else 0.0)

    @property
    def steps_total(self) -> int:
        """Channels of l_b and l_s."""
        return self._family.base_channels + self._family.scalable_channels

    def error_left(self) -> float:
        """Return the sum of the variances that the elements' nodes have, those of the base weighed by its worth.

        Before the scalable part begins, what is expected of it stands for it.
        """
        family = self._family
        base = family.base_worth * self.base.error_left()
        if self.scalable.field is None:
            return base + family.scalable_variance * math.prod(self.scalable.shape)
        return base + self.scalable.error_left()

    def reconstruct(self) -> Reconstruction:
        """Return conditional means plus mu, zero in channels of l_s that have not begun; fusion and g_s to run."""
        family = self._family
        base = family.base_channels
        latents = family._nothing_known(*self.base.shape[1:])
        l_b, l_s = latents[:, :base], latents[:, base:]
        self.base.estimate(base, l_b)
        if self.scalable.field is not None:
            self.scalable.estimate(math.ceil(self.scalable.channels_known()), l_s)
        if not family.ffm:
            return Reconstruction({"latents": latents}, (Pass("g_s", ("latents",), "x_hat"),))
        passes = Pass("ffm", ("l_b", "l_s", "l_s_means"), "fused"), Pass("g_s", ("fused",), "x_hat")
        tensors = {"l_b": l_b, "l_s": l_s, "l_s_means": _means(l_s), "latents": latents}
        return Reconstruction(tensors, passes)


def _means(latent: Tensor) -> Tensor:
    """Return what gates have to know of all of a latent, (1, C, h, w): the means of its channels, (1, C, 1, 1)."""
    means: Tensor = latent.reshape(*latent.shape[:2], -1).mean(axis=2)
    return means[:, :, None, None]


def _symbols(field: Field) -> NDArray[np.int32]:
    """int32 (n,): the symbols of a field that an encoder, or by now a decoder, knows."""
    return field.known_symbols() if field.symbols is None else field.symbols
