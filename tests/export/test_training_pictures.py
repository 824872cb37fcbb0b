"""Pictures that are trained on: where they come from, patches, and those that are held out."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")

from export.training.pictures import Patches, load_pictures, split_held_out
from runtime.errors import PictureError


def test_pictures_from_tar_and_folder_are_the_same(pictures_folder: Path, tmp_path: Path) -> None:
    """A tar of pictures is as good as the folder."""
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for file in sorted(pictures_folder.glob("*.png")):
            tar.add(file, file.name)
    ours, theirs = load_pictures([tmp_path], 64), load_pictures([pictures_folder], 64)
    assert len(ours) == 8
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_no_pictures_is_one_clear_error(tmp_path: Path) -> None:
    """A folder without pictures is named in the error."""
    with pytest.raises(PictureError, match=str(tmp_path)):
        load_pictures([tmp_path], 64)


def test_patches_are_in_range_and_seeded(pictures_folder: Path) -> None:
    """Patches are float32 in 0..1, and the same seed draws the same ones."""
    pictures = load_pictures([pictures_folder], 64)
    one, two = Patches(pictures, 64, 3, 5), Patches(pictures, 64, 3, 5)
    first, second = one.take(), two.take()
    one.close()
    two.close()
    assert first.shape == (3, 3, 64, 64) and first.dtype == torch.float32
    assert float(first.min()) >= 0 and float(first.max()) <= 1 and float(first.std()) > 0
    assert torch.equal(first, second)


def test_held_out_pictures_are_never_trained_on(pictures_folder: Path) -> None:
    """The split has no picture on both sides and loses none."""
    pictures = load_pictures([pictures_folder], 64)
    held_out, kept = split_held_out(pictures, 3)
    assert len(held_out) == 3 and len(kept) == 5
    assert not {id(p) for p in held_out} & {id(p) for p in kept}
