"""What each part of DPICT is worth (CVPR 2022, section 4.3): real streams, one part replaced or left out at a time.

    python benchmarks/ablation_dpict.py PICTURES... --bundle FOLDER --csv benchmarks/results/ablation-dpict.csv

The bundle holds the plain g_s and both postprocessing networks (`python -m export bundle --synthesis paper`). Variants:

    priority          the bundle as it is
    without post      no postprocessing networks
    raster            trits of a plane in the order of the array
    reverse priority  trits of a plane by rising priority
    bit planes        binary digits in place of ternary ones, by priority, no postprocessing

What has no postprocessing is to be compared with `without post`; both orders are measured without it, too.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from runtime import Codec
from runtime.entropy.coder import CoderTables, TritDecoder, TritEncoder
from runtime.entropy.plan import Field, Plane, plane_by_priority
from runtime.entropy.tables import MEAN_UNIT, TOTAL_BITS, Tables
from runtime.evaluate.bundles import BundleCodec
from runtime.evaluate.codecs import ProgressiveCodec
from runtime.evaluate.pictures import find_pictures
from runtime.evaluate.rd.cuts import Cut, measure
from runtime.evaluate.rd.summary import curves_from_points, delta_rate, summarise
from runtime.evaluate.texts import text_of
from runtime.families.dpict import Dpict
from runtime.families.planes import PlaneLatents
from runtime.image_files import read_image
from runtime.picture import Image, image_from_tensor, padded_size, tensor_from_image
from runtime.stream import Header, StreamParser, write_stream

POINTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)


def raster(field: Field, place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Order a plane as the array is."""
    indices = np.flatnonzero(field.trits >= place)
    return indices, field.nodes[indices]


def reverse(field: Field, place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Order a plane by rising priority."""
    indices, rows = plane_by_priority(field, place)
    return indices[::-1].copy(), rows[::-1].copy()


class TritVariant(BundleCodec):
    """The bundle's codec with another order of trits, or without postprocessing."""

    def __init__(self, name: str, bundle: Path, plane: Plane | None, *, post: bool) -> None:
        codec = Codec.open(bundle)
        family = codec.model.family
        assert isinstance(family, Dpict)
        family.plane = plane or family.plane
        family.post = family.post if post else ()
        super().__init__(codec, name, {})


@dataclass(frozen=True)
class BitTables:
    """The sigma levels' symbols as binary digits: a complete tree of depth `bits[level]` for each level.

    Nodes of all levels lie one behind the other, breadth first; arrays as in `Tables`. A symbol s is coded as
    s + 2^(bits - 1). Rows have a third digit of frequency 1, which never comes: the coder takes rows of three.
    """

    bits: NDArray[np.uint8]
    root: NDArray[np.int64]
    first_child: NDArray[np.int32]
    frequencies: NDArray[np.uint32]
    priority: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.uint16]

    @property
    def row_frequencies(self) -> NDArray[np.uint32]:
        """What the coder takes rows from."""
        return self.frequencies

    @classmethod
    def of(cls, tables: Tables) -> BitTables:
        """Return binary tables of the distributions that the ternary ones stand for."""
        parts = [_bit_tree(*_leaves(tables, level)) for level in range(tables.y_levels)]
        sizes = np.array([len(part[0]) for part in parts])
        root = np.cumsum(sizes) - sizes
        columns = [np.concatenate([part[column] for part in parts]) for column in range(5)]
        first_child = np.concatenate([part[0] + start for part, start in zip(parts, root, strict=True)])
        bits = np.array([int(np.log2(size + 1)) - 1 for size in sizes], np.uint8)
        rounded = np.minimum(np.rint(columns[4] * MEAN_UNIT), 65535).astype(np.uint16)
        return cls(bits, root, first_child.astype(np.int32), columns[1].astype(np.uint32), *columns[2:4], rounded)


def _leaves(tables: Tables, level: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return values and probabilities of a level's symbols."""
    nodes, mass = tables.root[level : level + 1].astype(np.int64), np.ones(1)
    for _ in range(int(tables.trits[level])):
        mass = (mass[:, None] * tables.frequencies[nodes] / 2.0**TOTAL_BITS).reshape(-1)
        nodes = (tables.first_child[nodes, None] + np.arange(3)).reshape(-1)
    return np.arange(len(mass)) - (len(mass) - 1) / 2, mass


def _bit_tree(values: NDArray[np.float64], mass: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return first children, frequencies, priorities, means and deviations of one level's nodes."""
    bits = int(np.ceil(np.log2(len(values) + 1))) if len(values) > 1 else 0
    size = 1 << bits
    full, numbers = np.full(size, 1e-300), np.arange(size) - size // 2
    full[numbers.searchsorted(values)] = np.maximum(mass, 1e-300)
    means, deviations, children, frequencies, priorities = [], [], [], [], []
    for depth in range(bits + 1):
        p = full.reshape(1 << depth, -1)
        v = numbers.reshape(1 << depth, -1)
        weight = p.sum(1)
        mean = (p * v).sum(1) / weight
        # The spread of y inside a symbol's cell is left out, here as in the differences that make priorities.
        variance = (p * (v - mean[:, None]) ** 2).sum(1) / weight
        means.append(mean)
        deviations.append(np.sqrt(variance))
        if depth == bits:
            children.append(np.zeros(1 << depth))
            frequencies.append(np.full((1 << depth, 3), 1.0))
            priorities.append(np.zeros(1 << depth))
            continue
        halves = p.reshape(1 << depth, 2, -1)
        parts = halves.sum(2)
        half_values = v.reshape(1 << depth, 2, -1)
        half_means = (halves * half_values).sum(2) / parts
        left = (halves * (half_values - half_means[:, :, None]) ** 2).sum((1, 2)) / weight
        share = parts / weight[:, None]
        entropy = -(share * np.log2(share)).sum(1)
        priorities.append((variance - left) / np.maximum(entropy, 1e-30))
        children.append((2 << depth) - 1 + 2.0 * np.arange(1 << depth))
        one = np.clip(np.rint(share[:, :1] * 2**TOTAL_BITS), 1, 2**TOTAL_BITS - 2)
        frequencies.append(np.concatenate([one, 2**TOTAL_BITS - 1 - one, np.ones_like(one)], axis=1))
    return tuple(np.concatenate(column) for column in (children, frequencies, priorities, means, deviations))


class BitVariant(ProgressiveCodec):
    """The bundle's networks with bit planes for y; head segment, header and frames are those of every stream."""

    def __init__(self, name: str, bundle: Path) -> None:
        self.name = name
        self.model = Codec.open(bundle).model
        family = self.model.family
        assert isinstance(family, Dpict)
        self.family, self.tables = family, BitTables.of(family.tables)
        # The coder asks for nothing but frequencies, children and deviations.
        self.rows = CoderTables(self.tables)  # type: ignore[arg-type]

    def encode(self, image: Image) -> bytes:
        """Encode *image*."""
        latents = self.family.analyse(tensor_from_image(image, self.family.stride))
        head = self.model.coder.encoder()
        for step in latents.head():
            head.encode_step(step, len(step))
        assert latents.y is not None and latents.y.symbols is not None
        levels, body = latents.y.models, TritEncoder(self.rows)
        shifted = latents.y.symbols + (1 << self.tables.bits[levels].astype(np.int64)) // 2
        nodes = self.tables.root[levels]
        for place in range(int(self.tables.bits.max()), 0, -1):
            indices = self._plane(levels, nodes, place)
            digits = (shifted[indices] >> (place - 1) & 1).astype(np.int32)
            body.encode(digits, nodes[indices].astype(np.int32))
            nodes[indices] = self.tables.first_child[nodes[indices]] + digits
        codes = head.finish(), body.finish()
        height, width = image.shape[:2]
        header = Header(
            exact_id=self.model.bundle.exact_id,
            width=width,
            height=height,
            grey=image.ndim == 2,
            trimmed=False,
            head_bytes=len(codes[0]),
            body_bytes=len(codes[1]),
        )
        return write_stream(header, *codes)

    def decode(self, data: bytes) -> Image | None:
        """Decode the prefix *data*; None while it ends before its head segment does."""
        parser = StreamParser(self.model.limits)
        parser.feed(data)
        if parser.header is None or parser.head is None:
            return None
        header = parser.header
        height, width = padded_size(header.height, header.width, self.family.stride)
        latents = self.family.begin(height, width)
        coder = self.model.coder.decoder()
        coder.extend(parser.head, whole=True)
        for step in latents.head():
            coder.decode_step(step, len(step))
        next(latents.body(), None)  # runs h_s
        nodes = self._decode_body(latents, bytes(parser.body))
        mu = latents.mu
        assert mu is not None
        y_hat = (self.tables.mean[nodes] + mu / MEAN_UNIT).astype(np.float32)
        (x,) = self.model.run("g_s", y_hat.reshape(1, self.family.y_channels, height // 16, width // 16))
        return image_from_tensor(x, header.height, header.width, grey=header.grey)

    def _decode_body(self, latents: PlaneLatents, body: bytes) -> NDArray[np.int64]:
        assert latents.y is not None
        levels = latents.y.models
        nodes = self.tables.root[levels]
        coder = TritDecoder(self.rows)
        coder.extend(body)
        for place in range(int(self.tables.bits.max()), 0, -1):
            indices = self._plane(levels, nodes, place)
            digits = coder.decode(nodes[indices].astype(np.int32))
            known = indices[: len(digits)]
            nodes[known] = self.tables.first_child[nodes[known]] + digits
            if len(digits) < len(indices):
                break
        return nodes

    def _plane(self, levels: NDArray[np.integer], nodes: NDArray[np.int64], place: int) -> NDArray[np.int64]:
        indices = np.flatnonzero(self.tables.bits[levels] >= place)
        return indices[np.argsort(-self.tables.priority[nodes[indices]], kind="stable")]


def main() -> None:
    """Measure, print a table, and write a row for every picture and cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of them")
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a dpict bundle with postprocessing")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    bundle = arguments.bundle
    variants: list[ProgressiveCodec] = [
        TritVariant("priority", bundle, None, post=True),
        TritVariant("without post", bundle, None, post=False),
        TritVariant("raster", bundle, raster, post=False),
        TritVariant("reverse priority", bundle, reverse, post=False),
        BitVariant("bit planes", bundle),
    ]
    cuts: list[Cut] = []
    for name, path in track(list(find_pictures(arguments.pictures).items()), "pictures"):
        image = read_image(path)
        for variant in variants:
            cuts += measure(variant, name, image, POINTS)[0]
    points = summarise(cuts)
    for variant in variants:
        own = [point for point in points if point.codec == variant.name]
        print(f"{variant.name:17}", " ".join(f"{point.psnr_db:6.2f}" for point in own if point.psnr_db is not None))
    if arguments.csv is not None:
        with arguments.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["codec", "target_bpp", "bpp", "psnr_db", "ms_ssim", "pictures"])
            for point in points:
                target = "full" if point.target_bpp is None else point.target_bpp
                row = [
                    round(value, 5) if value is not None else "" for value in (point.bpp, point.psnr_db, point.ms_ssim)
                ]
                writer.writerow([point.codec, target, *row, point.n])
    curves = curves_from_points(points)
    for curve in curves[1:]:
        percent = text_of(delta_rate(curve, curves[1]).percent, "+.1f")
        print(f"BD-rate of {curve.label} against without post: {percent} %")


if __name__ == "__main__":
    main()
