"""Large inputs in tiles: a graph that sees only the surroundings of a place is run on one part after the other.

A tile is read with as much around it as the graph can see, and the middle of its result is kept. No seam can show:
convolutions see the same neighbours as in one run, and zeros beyond the picture's edge only. Exact graphs give the
same bits either way.

What goes in need not exist as a whole: `Windows` are made tile by tile, as a picture's float32 values take four times
the memory of its bytes. An input that is one position large holds everywhere, and every tile is given all of it: so
what a network has to know of the whole picture, such as a mean, is found before the tiles are run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.engine import Tensor
from engines.errors import BundleError
from engines.manifest import Tiling

TILE_SIDE = 2048  # pixels; larger pictures go through the networks in tiles, to bound the memory of feature maps

Run = Callable[..., Sequence[NDArray[Any]]]


class Source(Protocol):
    """What a graph can be given: a tensor, or windows of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, H, W)."""
        ...

    def __array__(self) -> NDArray[np.float32]:
        """Return all of it."""
        ...

    def __getitem__(self, window: tuple[slice, ...], /) -> Tensor:
        """Return a part; of the four slices the first two are whole."""
        ...


@dataclass(frozen=True)
class Windows:
    """A float32 tensor that is made where it is looked at; see `Source`.

    Attributes:
        shape: (B, C, H, W).
        make: (rows, columns) -> all of B and C there, C-contiguous; both slices have start and stop and lie inside.
    """

    shape: tuple[int, ...]
    make: Callable[[slice, slice], Tensor]

    def __getitem__(self, window: tuple[slice, ...]) -> Tensor:
        return self.make(window[2], window[3])

    def __array__(self, dtype: object = None, copy: object = None) -> NDArray[np.float32]:
        return self.make(slice(0, self.shape[2]), slice(0, self.shape[3]))


@dataclass(frozen=True)
class _Span:
    """Positions of the input along one axis: which are read, and which of them give the result that is kept."""

    read: slice
    keep: slice

    def kept_of_result(self, scale: Fraction) -> slice:
        """Return where the kept part lies in the result of what was read."""
        start = self.read.start
        return slice(int((self.keep.start - start) * scale), int((self.keep.stop - start) * scale))

    def place(self, scale: Fraction) -> slice:
        """Return where it belongs in the whole output."""
        return slice(int(self.keep.start * scale), int(self.keep.stop * scale))


def everywhere(shape: Sequence[Any]) -> bool:
    """True for the shape (B, C, H, W) of an input that is one position large."""
    return tuple(shape[2:]) == (1, 1)


def fits_a_tile(inputs: Sequence[Source], tiling: Tiling, side_pixels: int) -> bool:
    """True if `run_in_tiles` makes one run of *inputs*."""
    return max(inputs[0].shape[2:]) <= _side(tiling, side_pixels)


def _side(tiling: Tiling, side_pixels: int) -> int:
    return max(1, side_pixels // (tiling.pixels * tiling.multiple)) * tiling.multiple


def is_large(inputs: Sequence[Source], tiling: Tiling | None) -> bool:
    """True for inputs that are more of a picture than half a tile: so is the last tile of most pictures, too."""
    return tiling is not None and inputs[0].shape[2] * inputs[0].shape[3] * tiling.pixels**2 > TILE_SIDE**2 // 2


def run_in_tiles(run: Run, inputs: Sequence[Source], tiling: Tiling, side_pixels: int) -> Sequence[NDArray[Any]]:
    """Return what *run* gives for *inputs*: in one run where they are no larger than a tile.

    Args:
        run: takes and returns float32 (B, C, H, W); inputs have the height and width of the first, in multiples of
            `tiling.multiple`, or are one position large; outputs have a fixed ratio of them. What it returns may have
            any type of values.
        side_pixels: height and width of a tile, without its surroundings, in pixels of the picture.

    Raises:
        BundleError: the outputs are no fixed ratio of the inputs.
    """
    if fits_a_tile(inputs, tiling, side_pixels):
        return run(*map(np.asarray, inputs))
    height, width = inputs[0].shape[2:]
    side = _side(tiling, side_pixels)
    outputs: list[NDArray[Any]] = []
    for rows in _spans(height, side, tiling):
        for columns in _spans(width, side, tiling):
            parts = run(*(_part(one, rows.read, columns.read) for one in inputs))
            scales = [_scale(part, rows.read, columns.read) for part in parts]
            if not outputs:
                sizes = [(int(height * scale), int(width * scale)) for scale in scales]
                outputs = [
                    np.empty((*part.shape[:2], *size), part.dtype) for part, size in zip(parts, sizes, strict=True)
                ]
            for output, part, scale in zip(outputs, parts, scales, strict=True):
                kept = part[:, :, rows.kept_of_result(scale), columns.kept_of_result(scale)]
                place = output[:, :, rows.place(scale), columns.place(scale)]
                if kept.shape != place.shape:
                    raise BundleError(
                        f"a tile gives {kept.shape}, not {place.shape}; the graph does not fit its tiling"
                    )
                place[:] = kept
    return outputs


def output_windows(run: Run, inputs: Sequence[Source], tiling: Tiling) -> Windows:
    """Return the only output that *run* gives for *inputs*, made where it is looked at.

    What is looked at twice, such as the surroundings of tiles, is made twice. For the arguments see `run_in_tiles`; a
    first run on the smallest input tells the output's shape.

    Raises:
        BundleError: the output is no fixed ratio of the inputs.
    """
    height, width = inputs[0].shape[2:]
    corner = slice(0, tiling.multiple)
    (first,) = run(*(_part(one, corner, corner) for one in inputs))
    scale = _scale(first, corner, corner)

    def make(rows: slice, columns: slice) -> Tensor:
        down, across = _span_of(rows, height, scale, tiling), _span_of(columns, width, scale, tiling)
        (part,) = run(*(_part(one, down.read, across.read) for one in inputs))
        top, left = (int(scale * span.read.start) for span in (down, across))
        made = part[:, :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        if made.shape[2:] != (rows.stop - rows.start, columns.stop - columns.start):
            raise BundleError(f"a tile gives {part.shape}; the graph does not fit its tiling")
        return np.ascontiguousarray(made)

    return Windows((*first.shape[:2], int(height * scale), int(width * scale)), make)


def _span_of(wanted: slice, size: int, scale: Fraction, tiling: Tiling) -> _Span:
    """Return which positions of the input, of *size* along this axis, give the *wanted* part of the output."""
    multiple = tiling.multiple
    start = int(wanted.start / scale) // multiple * multiple
    stop = min(size, -(-wanted.stop // (scale * multiple)) * multiple)
    return _span(slice(start, stop), size, tiling)


def _part(one: Source, rows: slice, columns: slice) -> Tensor:
    return np.asarray(one) if everywhere(one.shape) else np.ascontiguousarray(one[:, :, rows, columns])


def _scale(part: NDArray[Any], rows: slice, columns: slice) -> Fraction:
    """Return by how much *part* is larger than the rows and columns that it was made of."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    if part.ndim != 4 or part.shape[2] * width != part.shape[3] * height:
        raise BundleError(f"a tile of {height}x{width} gives {part.shape}; the graph does not fit its tiling")
    return Fraction(part.shape[2], height)


def _spans(size: int, side: int, tiling: Tiling) -> Iterator[_Span]:
    """Yield the spans of one axis, in order."""
    for start in range(0, size, side):
        yield _span(slice(start, min(start + side, size)), size, tiling)


def _span(keep: slice, size: int, tiling: Tiling) -> _Span:
    around = -(-tiling.reach // tiling.multiple) * tiling.multiple
    return _Span(slice(max(0, keep.start - around), min(size, keep.stop + around)), keep)
