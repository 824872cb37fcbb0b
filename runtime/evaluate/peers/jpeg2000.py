"""JPEG 2000 as a peer: OpenJPEG through Pillow, quality layers in LRCP order, cut at whole layers.

One codestream carries all layers. Of a prefix, the layers that are all there are decoded, and what lies behind them is
left out: a partial layer in this order often makes the picture worse. Where layers end is read from the packet headers
in the prefix, so that the stream needs no extra markers and the decoder nothing but the prefix.

Where streams will be cut at the same bytes of every picture, layers end there: bytes behind the last whole layer are of
no use, and every layer takes some for its packet headers.

Source: ISO/IEC 15444-1, annexes A (markers), B (packets, B.10 their headers).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.features
import PIL.Image

from runtime.errors import MissingExtra
from runtime.evaluate.codecs import Delivery, ProgressiveCodec, cut_stream
from runtime.evaluate.peers.saving import saved
from runtime.picture import Image

# 38 layers, dense where curves are steep; every rate at which codecs are usually compared ends one.
LAYER_RATES_BPP = (
    *(0.025 * i for i in range(1, 21)),
    *(0.5 + 0.05 * i for i in range(1, 11)),
    *(1 + 0.125 * i for i in range(1, 9)),
)
_ALLOCATION = (0.998, -0.0003)  # OpenJPEG overshoots by this much at most: asked for less, a layer fits into its rate
_MOST_TRIES = 12  # of layers that end at given bytes; three to six are needed
_MOST_RESOLUTIONS = 6
_LONGEST_SIDE = 1 << 15  # of OpenJPEG's precincts; longer pictures have several, and `_Layout` reads only one
_SIZ, _COD, _SOT, _SOD = 0xFF51, 0xFF52, 0xFF90, 0xFF93
_END_OF_CODESTREAM = b"\xff\xd9"
_SOT_BYTES, _PSOT, _COD_LAYERS = 12, 6, 6  # length of SOT with its marker; offsets of fields from the marker


class Jpeg2000(ProgressiveCodec):
    """Irreversible JPEG 2000 with the layers of `LAYER_RATES_BPP`, or those that end at given cuts in their place."""

    name = "jpeg2000"

    def __init__(self, cuts: Sequence[int] = ()) -> None:
        """Take *cuts*, in bytes, rising; MissingExtra if Pillow has no OpenJPEG."""
        self._cuts = tuple(cuts)
        if not PIL.features.check("jpg_2000"):
            raise MissingExtra("jpeg2000 needs a Pillow with OpenJPEG, such as: pip install --force-reinstall pillow")

    def identity(self) -> Mapping[str, Any]:
        """Return library and settings."""
        library = f"OpenJPEG {PIL.features.version('jpg_2000')}"
        layers = "at the run's cuts, and above" if self._cuts else len(LAYER_RATES_BPP)
        return {"kind": "peer", "library": library, "layers": layers, "progression": "LRCP"}

    def encode(self, image: Image) -> bytes:
        """Encode *image*, uint8 (H, W, 3) or (H, W); PictureError if a side has more than 32,768 pixels."""
        return with_layers(image, self._rates(image))

    def deliver(self, image: Image, budgets: Sequence[int | None]) -> list[Delivery | None]:
        """Encode *image* once, and cut the stream at *budgets*; the search for rates is not timed."""
        rates = self._rates(image)
        return cut_stream(lambda image: with_layers(image, rates), image, budgets)

    def decode(self, data: bytes) -> Image | None:
        """Decode the whole layers of the prefix *data*; None while there is none."""
        whole = whole_layers(data)
        if whole is None:
            return None
        with PIL.Image.open(io.BytesIO(whole)) as picture:
            return np.array(picture)

    def _rates(self, image: Image) -> list[float]:
        """Return the bits per pixel to ask for."""
        return fitting(LAYER_RATES_BPP) if not self._cuts else _rates_for(image, self._cuts)


def fitting(rates_bpp: Sequence[float]) -> list[float]:
    """Return what to ask OpenJPEG for so that layers end at *rates_bpp* or little before."""
    factor, offset = _ALLOCATION
    return [factor * rate + offset for rate in rates_bpp]


def with_layers(image: Image, rates_bpp: Sequence[float]) -> bytes:
    """Return the codestream of *image*, uint8 (H, W, 3) or (H, W), with a layer for each of the rising *rates_bpp*.

    Raises:
        PictureError: a side has more than 32,768 pixels.
    """
    sample_bits = 8 * (3 if image.ndim == 3 else 1)
    return saved(
        image,
        "JPEG2000",
        _LONGEST_SIDE,
        no_jp2=True,
        irreversible=True,
        mct=int(image.ndim == 3),
        progression="LRCP",
        num_resolutions=min(_MOST_RESOLUTIONS, min(image.shape[:2]).bit_length()),
        quality_mode="rates",
        quality_layers=[sample_bits / rate for rate in rates_bpp],
    )


def _rates_for(image: Image, cuts: Sequence[int]) -> list[float]:
    """Return the bits per pixel to ask for so that a layer ends at each of *cuts*, in bytes, or little before.

    Above them layers are as usual; of a cut at more than the last of these, the whole stream is what fits. OpenJPEG
    often ends a layer some bytes behind what it was asked for: it is asked for so much less, until all fit. A cut at
    which there is no room for a layer gets none.
    """
    byte_bpp = 8 / (image.shape[0] * image.shape[1])
    asked = {cut: float(cut) for cut in cuts if cut * byte_bpp < LAYER_RATES_BPP[-1]}
    for _ in range(_MOST_TRIES):
        highest = max(asked, default=0) * byte_bpp
        above = [rate for rate in LAYER_RATES_BPP if rate > highest]
        rates = [byte_bpp * size for size in asked.values()] + fitting(above)
        stream = with_layers(image, rates)
        ends = _Layout.read(stream).layer_ends(stream)
        over = {cut: max(0, end - cut) for cut, end in zip(asked, ends, strict=False)}
        if not any(over.values()):
            break
        asked = {cut: size - over[cut] for cut, size in asked.items() if size > over[cut]}
    return rates


def whole_layers(prefix: bytes) -> bytes | None:
    """Return a codestream of the layers that are all there in *prefix*, or None while there is none."""
    try:
        layout = _Layout.read(prefix)
        ends = list(layout.layer_ends(prefix))
    except (struct.error, IndexError):  # the prefix ends inside the main header
        return None
    if not ends:
        return None
    stream = bytearray(prefix[: ends[-1]] + _END_OF_CODESTREAM)
    struct.pack_into(">H", stream, layout.cod + _COD_LAYERS, len(ends))
    struct.pack_into(">I", stream, layout.sot + _PSOT, ends[-1] - layout.sot)
    return bytes(stream)


@dataclass(frozen=True)
class _Layout:
    """What the main header says, of a codestream as `with_layers` makes it: one tile, one precinct a resolution.

    Attributes:
        cod, sot, data: offsets of the marker segments COD and SOT, and of the first packet.
        layers: number of quality layers.
        packets: for each resolution, the grids of code blocks of its bands: (columns, rows); equal for all components.
        components: number of components.
    """

    cod: int
    sot: int
    data: int
    layers: int
    packets: tuple[tuple[tuple[int, int], ...], ...]
    components: int

    @classmethod
    def read(cls, prefix: bytes) -> _Layout:
        """Read the main header; struct.error or IndexError if it is not all there."""
        offsets: dict[int, int] = {}
        position = 2
        while _SOD not in offsets:
            (marker,) = struct.unpack_from(">H", prefix, position)
            offsets[marker] = position
            position += 2 if marker == _SOD else 2 + struct.unpack_from(">H", prefix, position + 2)[0]
        width, height = struct.unpack_from(">II", prefix, offsets[_SIZ] + 6)
        (components,) = struct.unpack_from(">H", prefix, offsets[_SIZ] + 38)
        cod = offsets[_COD]
        scod, progression, layers = struct.unpack_from(">BBH", prefix, cod + 4)
        decompositions, block_width, block_height, style = struct.unpack_from(">4B", prefix, cod + 9)
        assert (scod, progression, style) == (0, 0, 0)  # no precincts or packet markers, LRCP, plain code blocks
        blocks = (block_width + 2, block_height + 2)
        packets = tuple(_block_grids(width, height, decompositions, r, blocks) for r in range(decompositions + 1))
        return cls(cod, offsets[_SOT], position, layers, packets, components)

    def layer_ends(self, prefix: bytes) -> Iterator[int]:
        """Yield the offset behind each layer that is all there."""
        bands = [[[_Band(*grid) for grid in grids] for _ in range(self.components)] for grids in self.packets]
        position = self.data
        for layer in range(self.layers):
            for resolution in bands:
                for packet in resolution:
                    try:
                        position = _packet_end(prefix, position, packet, layer)
                    except IndexError:
                        return
            if position > len(prefix):
                return
            yield position


def _block_grids(
    width: int, height: int, decompositions: int, resolution: int, blocks: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Return (columns, rows) of code blocks of each band that is not empty; *blocks* are exponents of their size."""
    level = decompositions - max(0, resolution - 1)
    half = 1 << (level - 1) if level else 0
    offsets = ((0, 0),) if resolution == 0 else ((half, 0), (0, half), (half, half))
    sizes = [((width - x + (1 << level) - 1) >> level, (height - y + (1 << level) - 1) >> level) for x, y in offsets]
    return tuple((-(-w >> blocks[0]), -(-h >> blocks[1])) for w, h in sizes if w > 0 and h > 0)


@dataclass
class _Band:
    """What packet headers have said of one band's code blocks."""

    columns: int
    rows: int
    inclusion: _TagTree = field(init=False)
    zero_planes: _TagTree = field(init=False)
    length_bits: dict[int, int] = field(default_factory=dict)  # by block, once included

    def __post_init__(self) -> None:
        self.inclusion = _TagTree(self.columns, self.rows)
        self.zero_planes = _TagTree(self.columns, self.rows)


def _packet_end(data: bytes, position: int, bands: list[_Band], layer: int) -> int:
    """Return where the packet at *position* ends (which may be beyond *data*); IndexError if its header is cut."""
    bits = _Bits(data, position)
    body = 0
    if bits.read(1):
        for band in bands:
            for block in range(band.columns * band.rows):
                body += _block_bytes(bits, band, block, layer)
    return bits.aligned() + body


def _block_bytes(bits: _Bits, band: _Band, block: int, layer: int) -> int:
    """Return how many bytes the packet has of *block* (B.10.4 to B.10.7)."""
    if block in band.length_bits:
        if not bits.read(1):
            return 0
    else:
        if not band.inclusion.below(bits, block, layer + 1):
            return 0
        planes = 1
        while not band.zero_planes.below(bits, block, planes):
            planes += 1
        band.length_bits[block] = 3
    passes = _coding_passes(bits)
    while bits.read(1):
        band.length_bits[block] += 1
    return bits.read(band.length_bits[block] + passes.bit_length() - 1)


def _coding_passes(bits: _Bits) -> int:
    """Return the number of coding passes (table B.4)."""
    for width, most, first in ((1, 1, 1), (1, 1, 2), (2, 3, 3), (5, 31, 6)):
        value = bits.read(width)
        if value < most:
            return first + value
    return 37 + bits.read(7)


class _TagTree:
    """A tag tree (B.10.2) as it is decoded: nodes know a lower bound, and in time their value."""

    def __init__(self, columns: int, rows: int) -> None:
        self._columns = columns
        self._sizes = [(columns, rows)]
        while self._sizes[-1] != (1, 1):
            width, height = self._sizes[-1]
            self._sizes.append((-(-width // 2), -(-height // 2)))
        self._bound = [[0] * (width * height) for width, height in self._sizes]
        self._known = [[False] * (width * height) for width, height in self._sizes]

    def below(self, bits: _Bits, leaf: int, threshold: int) -> bool:
        """Read as much as tells whether the value of *leaf* is below *threshold*."""
        row, column = divmod(leaf, self._columns)
        bound, known = 0, False
        for level in reversed(range(len(self._sizes))):
            node = (row >> level) * self._sizes[level][0] + (column >> level)
            bound, known = max(bound, self._bound[level][node]), self._known[level][node]
            while bound < threshold and not known:
                known = bool(bits.read(1))
                bound += not known
            self._bound[level][node], self._known[level][node] = bound, known
        return known and bound < threshold


class _Bits:
    """Bits of a packet header; the byte after FF has only seven (B.10.1)."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._position = data, position
        self._byte, self._left = 0, 0

    def read(self, count: int) -> int:
        """Return the next *count* bits; IndexError behind the end of the data."""
        value = 0
        for _ in range(count):
            if not self._left:
                self._left = 7 if self._byte == 0xFF else 8
                self._byte = self._data[self._position]
                self._position += 1
            self._left -= 1
            value = value << 1 | (self._byte >> self._left & 1)
        return value

    def aligned(self) -> int:
        """Return where the header ends; an FF at its end has a stuffed byte behind it."""
        return self._position + (self._byte == 0xFF)
