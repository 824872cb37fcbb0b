"""The wheel: what is in it, that it says the right version, and that it works where the sources are not."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = {"engines", "runtime", "edge_client"}


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run *command* without the checkout on Python's path."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def index_can_be_reached(folder: Path) -> bool:
    """Return whether pip finds a small package on its index."""
    found = run(sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", folder, "iniconfig", cwd=folder)
    return found.returncode == 0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    if importlib.util.find_spec("hatchling"):
        built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    else:
        if not index_can_be_reached(folder):
            pytest.skip("hatchling is not installed, and the package index cannot be reached")
        built = run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, ROOT, cwd=folder)
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("cutoff-*.whl")
    return file


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """Paths of all files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Any:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(f"{wheel.name.rsplit('-', 3)[0]}.dist-info/METADATA").decode())


def test_wheel_holds_the_listed_packages_and_nothing_else(names: set[str]) -> None:
    """No tests, no training code, no stray folder."""
    tops = {name.partition("/")[0] for name in names}
    assert tops == PACKAGES | {f"cutoff-{PROJECT['version']}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".partial"))]


def test_wheel_holds_every_module(names: set[str]) -> None:
    """What the checkout imports, the wheel can import; every package is typed."""
    for package in PACKAGES:
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        assert files <= names
        assert f"{package}/py.typed" in names
    assert "runtime/evaluate/report/style.css" in names
    page = {path.relative_to(ROOT).as_posix() for path in (ROOT / "runtime" / "serve" / "page").iterdir()}
    assert "runtime/serve/page/index.html" in page and page <= names


def test_wheel_holds_the_shipped_bundles_byte_by_byte(wheel: Path) -> None:
    """The trained bundles travel in the wheel, whole and unchanged."""
    bundles = sorted((ROOT / "engines" / "bundles").glob("*.bundle"))
    assert bundles
    with zipfile.ZipFile(wheel) as archive:
        for bundle in bundles:
            assert archive.read(f"engines/bundles/{bundle.name}") == bundle.read_bytes()


def test_wheel_is_licensed_private_and_has_the_command(wheel: Path, metadata: Any) -> None:
    """Licence, classifier against uploads, and console script are in the metadata."""
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Private :: Do Not Upload" in metadata.get_all("Classifier")
    information = f"cutoff-{PROJECT['version']}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        assert "cutoff = runtime.cli.main:main" in archive.read(f"{information}/entry_points.txt").decode()
        assert "Apache License" in archive.read(f"{information}/licenses/LICENSE").decode()


def test_core_needs_no_heavy_library(metadata: Any) -> None:
    """Without extras there are numpy, one of two coders, ONNX Runtime, Pillow, and a TOML reader for old Pythons."""
    required = {
        re.match(r"[\w.-]+", line).group()  # type: ignore[union-attr]
        for line in metadata.get_all("Requires-Dist")
        if "extra ==" not in line
    }
    assert required == {"numpy", "constriction", "numba", "onnxruntime", "pillow", "tomli"}


def test_version_is_the_newest_in_the_changelog(metadata: Any) -> None:
    """A release is described before it is made."""
    versions = re.findall(r"^## +\[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions and versions[0] == PROJECT["version"] == metadata["Version"]


# Where the sources are not.


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with nothing but the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("installed")
    assert run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder).returncode == 0
    python = folder / "venv" / "bin" / "python"
    pip = run(sys.executable, "-m", "pip", "--python", python, "install", "-q", wheel, cwd=folder)
    if pip.returncode != 0 and not index_can_be_reached(folder):
        pytest.skip("the package index cannot be reached, so that the wheel cannot be installed")
    assert pip.returncode == 0, pip.stderr
    return folder


def test_installed_wheel_encodes_and_decodes_a_photograph(installed: Path) -> None:
    """`cutoff encode` and `cutoff decode` do the main job outside the checkout."""
    from PIL import Image
    from skimage import data

    photograph = data.astronaut()[:256, 100:420]
    Image.fromarray(photograph).save(installed / "photograph.png")
    cutoff, cache = installed / "venv" / "bin" / "cutoff", str(installed / "cache")

    encode = run(
        cutoff, "encode", "photograph.png", "-o", "photograph.cut", "--json", cwd=installed, CUTOFF_CACHE=cache
    )
    assert encode.returncode == 0, encode.stderr
    encoded = json.loads(encode.stdout)
    size = (installed / "photograph.cut").stat().st_size
    assert (encoded["bytes"], encoded["width"], encoded["height"]) == (size, 320, 256)

    errors = {}
    for limit in (size // 4, size):
        name = f"decoded-{limit}.png"
        decode = run(
            cutoff,
            *("decode", "photograph.cut", "-o", name, "--bytes", str(limit), "--json"),
            cwd=installed,
            CUTOFF_CACHE=cache,
        )
        assert decode.returncode == 0, decode.stderr
        decoded = json.loads(decode.stdout)
        assert decoded["bytes_used"] <= limit and decoded["bytes_total"] == size
        assert decoded["complete"] == (limit == size) and not decoded["damaged"]
        with Image.open(installed / name) as image:
            picture = np.asarray(image)
        assert picture.shape == photograph.shape
        errors[limit] = float(np.square(picture.astype(float) - photograph).mean())
    assert errors[size] < errors[size // 4] < float(np.square(photograph.astype(float) - 128).mean())


def test_installed_wheel_is_what_was_tested(installed: Path) -> None:
    """The command ran the installed code; training code is not there."""
    python = installed / "venv" / "bin" / "python"
    code = (
        "import importlib.util, runtime, engines.bundle as b;"
        "print(runtime.__file__, b.SHIPPED, importlib.util.find_spec('export'), importlib.util.find_spec('torch'))"
    )
    where = run(python, "-c", code, cwd=installed)
    assert where.returncode == 0, where.stderr
    module, bundles, export, torch = where.stdout.split()
    assert Path(module).is_relative_to(installed) and Path(bundles).is_relative_to(installed)
    assert export == torch == "None"
