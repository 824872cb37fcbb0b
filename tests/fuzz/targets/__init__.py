"""Fuzz targets: one module each, with `one_input(data)` and `seeds()`.

`one_input` hands bytes to a part of the product and raises whatever is no error of `engines.errors`, or what its own
checks find. It needs no fuzzer: `tests/fuzz/test_corpus.py` replays the kept inputs, `tests/fuzz/run.py` searches new
ones. The first byte of an input is no data: it says how the rest is used, among others whether checksums and hashes are
made right, since behind them nothing would ever be reached by chance. Inputs stay meaningful as long as it is so.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, cast

NAMES = ("stream", "head", "body", "decoder", "manifest", "tables", "onnx")


class Target(Protocol):
    """What every module of this package is."""

    def one_input(self, data: bytes) -> None:
        """Use *data*; raise if that shows a fault of the product."""
        ...

    def seeds(self) -> Mapping[str, bytes]:
        """Return inputs to begin with, by name."""
        ...


def load(name: str) -> Target:
    """Return the target *name*, one of NAMES."""
    return cast(Target, importlib.import_module(f"targets.{name}"))
