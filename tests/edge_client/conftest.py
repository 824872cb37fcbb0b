"""Fixtures of the client's tests: settings for the tiny bundle, a folder of pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.settings import (
    CodecSettings,
    EdgeSettings,
    ServerSettings,
    SourceSettings,
    StatusSettings,
)
from runtime.image_files import write_image

MISSING = [name for name in ("cv2", "prometheus_client", "websockets") if importlib.util.find_spec(name) is None]
TINY = Path(__file__).parents[1] / "golden" / "tiny"


def pytest_pycollect_makemodule() -> None:
    """Skip this folder where the client cannot be imported: a conftest's own import may not skip."""
    if MISSING:
        pytest.skip(f"{', '.join(MISSING)}: not installed (extra: edge)", allow_module_level=True)


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., EdgeSettings]:
    """Make settings of a client that sends a test pattern with the tiny bundle; tables are replaced by name."""

    def make(url: str, **tables: Any) -> EdgeSettings:
        base = EdgeSettings(
            camera="gate",
            server=ServerSettings(url, "secret", backoff_s=0.01, backoff_most_s=0.2),
            source=SourceSettings("pattern", width=96, height=80, fps=20.0),
            state=tmp_path / "state",
            codec=CodecSettings(str(TINY), coder="constriction", threads=1, budget_s=0.0),
            status=StatusSettings(port=0),
        )
        return replace(base, **tables)

    return make


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three pictures, one of them damaged, and a file that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        image: NDArray[np.uint8] = np.full((40, 48, 3), 60 * number, np.uint8)
        write_image(folder / f"{number}.png", image)
    (folder / "1.png").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("nothing")
    return folder
