"""What the benchmarks of speed and memory share: pictures, medians, and the machine's name."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from runtime.evaluate.runs.provenance import of_processor, processor

# Of these, the first that a processor has decides how fast networks run: machines of one name differ.
_VECTORS = ("avx512_bf16", "avx512f", "avx2", "sve", "asimd")


def picture_files(paths: list[Path]) -> list[Path]:
    """Return *paths*, folders replaced by the PNG files in them."""
    return [file for path in paths for file in (sorted(path.glob("*.png")) if path.is_dir() else [path])]


def read_pictures(paths: list[Path]) -> list[NDArray[np.uint8]]:
    """Return the pictures in *paths*, uint8 (H, W, 3)."""
    return [np.array(Image.open(file).convert("RGB")) for file in picture_files(paths)]


def median_ms(action: Callable[[], object], repeat: int) -> float:
    """Return the median time that *action* takes, in milliseconds."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the median over *rows* of each of their entries."""
    return {key: round(statistics.median(row[key] for row in rows), 4) for key in rows[0]}


def machine() -> dict[str, str]:
    """Return what times depend on."""
    return {
        "processor": processor(),
        "vectors": next((one for one in _VECTORS if one in of_processor("flags", "Features").split()), ""),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
