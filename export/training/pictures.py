"""Training pictures: decoded once, kept in memory as bytes, cropped and augmented on the training device.

Sources are tar files of pictures, folders of pictures, or folders of such tar files, in any mixture.
"""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import PictureError

SUFFIXES = {".png", ".webp", ".jpg", ".jpeg", ".ppm", ".bmp", ".tif", ".tiff"}


def picture_files(sources: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file bytes) of every picture under *sources*, in a fixed order."""
    for source in sources:
        if source.is_dir():
            yield from picture_files(
                sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES | {".tar"} and p.is_file())
            )
        elif source.suffix == ".tar":
            yield from _tar_files(source)
        elif source.is_file():
            yield str(source), source.read_bytes()
        else:
            raise PictureError(f"{source}: no such file or folder")


def _tar_files(source: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(source) as tar:
            for member in sorted(tar.getmembers(), key=lambda m: m.name):
                content = tar.extractfile(member)
                if content is not None and Path(member.name).suffix.lower() in SUFFIXES:
                    yield f"{source.name}/{member.name}", content.read()
    except (OSError, tarfile.TarError, EOFError) as fault:
        raise PictureError(f"{source}: {fault}") from fault


def load_pictures(sources: list[Path], smallest: int) -> list[Tensor]:
    """Decode every picture whose shorter side is at least *smallest*, as uint8 (3, H, W) tensors in one fixed order.

    Raises:
        PictureError: one cannot be read, or there is none of that size.
    """
    pictures = []
    for name, content in picture_files(sources):
        try:
            picture = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as fault:  # all that Pillow raises
            raise PictureError(f"{name}: {fault}") from fault
        if min(picture.shape[:2]) >= smallest:
            pictures.append(torch.from_numpy(picture).permute(2, 0, 1))  # channels stay last in memory
    if not pictures:
        raise PictureError(f"no picture of at least {smallest} pixels a side under {', '.join(map(str, sources))}")
    return pictures


def split_held_out(pictures: list[Tensor], count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return *count* pictures spread evenly over the list, and the others; the same list splits the same way."""
    held_out = evenly(len(pictures), count)
    return [pictures[i] for i in held_out], [p for i, p in enumerate(pictures) if i not in held_out]


def held_out_pictures(sources: list[Path], smallest: int, count: int) -> list[Tensor]:
    """Return the *count* pictures, or as many as there are, that an export calibrates and measures with.

    Raises:
        PictureError: see `load_pictures`; or there are less than two, as half of them measures.
    """
    pictures, _ = split_held_out(load_pictures(sources, smallest), count)
    if len(pictures) < 2:
        raise PictureError(f"{len(pictures)} picture; two are needed at least: one calibrates, another measures")
    return pictures


def evenly(length: int, count: int) -> range:
    """Return *count* places, or as many as there are, spread evenly over a list of *length*."""
    return range(0, length, max(1, length // max(1, count)))[:count]


def cropped_sample(pictures: list[Tensor], count: int, stride: int) -> Iterator[Tensor]:
    """Yield *count* pictures spread evenly over the list, as `cropped` returns them."""
    for place in evenly(len(pictures), count):
        yield cropped(pictures[place], stride)


class Patches:
    """An endless source of augmented patches; the next batch is prepared while the current one is trained on.

    Args:
        pictures: uint8 (3, H, W) each, on the training device.
        patch: side of a patch in pixels; no picture may be smaller.
        batch: patches in a batch.
        seed: of the sampling; a resumed run passes another one so that it does not repeat itself.
    """

    def __init__(self, pictures: list[Tensor], patch: int, batch: int, seed: int) -> None:
        self._pictures, self._patch, self._batch = pictures, patch, batch
        self._random = random.Random(seed)
        self._executor = ThreadPoolExecutor(1)
        self._next: Future[Tensor] = self._executor.submit(self._make)

    def take(self) -> Tensor:
        """Return the next batch, float32 (batch, 3, patch, patch) in 0..1, channels last."""
        ready = self._next.result()
        self._next = self._executor.submit(self._make)
        return ready

    def close(self) -> None:
        """Stop preparing batches."""
        self._executor.shutdown(cancel_futures=True)

    def _make(self) -> Tensor:
        batch = torch.stack([self._one() for _ in range(self._batch)])
        return batch.div_(255.0).contiguous(memory_format=torch.channels_last)

    def _one(self) -> Tensor:
        draw = self._random
        picture = self._pictures[draw.randrange(len(self._pictures))]
        height, width = picture.shape[1:]
        # A random scale of 0.6 to 1 hides what earlier compression left and restores subsampled chroma.
        side = min(round(self._patch / draw.uniform(0.6, 1.0)), height, width)
        top, left = draw.randint(0, height - side), draw.randint(0, width - side)
        crop = picture[:, top : top + side, left : left + side]
        if side != self._patch:
            if crop.is_cuda:
                crop = crop.float()  # only the CPU interpolates bytes
            crop = F.interpolate(crop[None], (self._patch, self._patch), mode="bilinear", antialias=True)[0]
        if draw.random() < 0.5:
            crop = crop.flip(2)
        if draw.random() < 0.5:
            crop = crop.transpose(1, 2)
        return crop.contiguous().float()


def cropped(picture: Tensor, stride: int) -> Tensor:
    """Return uint8 (3, H, W) as float32 (1, 3, H', W') in 0..1, cut to multiples of *stride*."""
    height, width = (size // stride * stride for size in picture.shape[1:])
    return picture[None, :, :height, :width].float().div(255.0)
