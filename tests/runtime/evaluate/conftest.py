from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

Image = NDArray[np.uint8]
TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def chelsea() -> Image:
    """A photograph with odd sides: uint8 (300, 451, 3)."""
    data = pytest.importorskip("skimage.data")
    return data.chelsea()


@pytest.fixture(scope="session")
def astronaut() -> Image:
    """A photograph of 512x512: uint8 (512, 512, 3)."""
    data = pytest.importorskip("skimage.data")
    return data.astronaut()


@pytest.fixture(scope="session")
def tiny() -> str:
    """The folder of the golden files' bundle, whose networks run in no time."""
    return str(TESTS / "golden" / "tiny")


@pytest.fixture(scope="session")
def two_pictures(tmp_path_factory: pytest.TempPathFactory, chelsea: Image) -> Path:
    """A folder of two small pictures, one of them grey, and a file that is none."""
    pictures = tmp_path_factory.mktemp("two")
    PIL.Image.fromarray(chelsea[50:226, 100:290]).save(pictures / "colour.png")
    PIL.Image.fromarray(chelsea[50:200, 100:290, 1]).save(pictures / "grey.png")
    (pictures / "README.md").touch()
    return pictures


@pytest.fixture
def folder(tmp_path: Path, two_pictures: Path) -> Path:
    """A copy of `two_pictures`."""
    return shutil.copytree(two_pictures, tmp_path / "pictures")


@pytest.fixture(scope="session")
def twelve_pictures(tmp_path_factory: pytest.TempPathFactory, chelsea: Image) -> Path:
    """A folder of twelve pictures of 48x40."""
    pictures = tmp_path_factory.mktemp("twelve")
    for number in range(12):
        PIL.Image.fromarray(chelsea[100:140, 10 * number : 10 * number + 48]).save(pictures / f"{number:02}.png")
    return pictures


@pytest.fixture
def many(tmp_path: Path, twelve_pictures: Path) -> Path:
    """A copy of `twelve_pictures`."""
    return shutil.copytree(twelve_pictures, tmp_path / "many")


@pytest.fixture(scope="session")
def labelled_colours(tmp_path_factory: pytest.TempPathFactory, classifier_of_colours: bytes) -> Path:
    """A folder with a classifier, its labels, and a labelled folder of pictures in ImageNet's layout."""
    home = tmp_path_factory.mktemp("colours")
    (home / "colours.onnx").write_bytes(classifier_of_colours)
    (home / "labels.txt").write_text("n01 red\nn02 green\nn03 dark_blue\n", encoding="utf-8")
    row, column = np.ogrid[:80, :90]
    for number, wnid in enumerate(("n01", "n02", "n03")):
        of_class = home / "train" / wnid
        of_class.mkdir(parents=True)
        for seed in range(2):
            picture = np.stack([(row * 3 + column * 2 + 40 * seed) % 120] * 3, axis=2).astype(np.uint8)
            picture[..., number] += 90
            PIL.Image.fromarray(picture).save(of_class / f"{wnid}_{seed}.png")
    return home


@pytest.fixture
def colours(tmp_path: Path, labelled_colours: Path) -> Path:
    """A copy of `labelled_colours`."""
    return shutil.copytree(labelled_colours, tmp_path / "colours")
