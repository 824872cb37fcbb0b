"""Fuzz targets: the modules of `targets`, each with `one_input(data)` and `seeds()`.

`one_input` hands bytes to a part of the product and raises whatever is no error of `engines.errors`, or what its own
checks find. It needs no fuzzer: `tests/fuzz/test_corpus.py` replays the kept inputs, `tests/fuzz/run.py` searches new
ones. Where a module says so, an input's first bytes are no data: they say how the rest is used, among others whether
checksums and hashes are made right, since behind them nothing would ever be reached by chance.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, cast

NAMES = ("stream", "head", "body", "decoder", "manifest", "tables", "onnx")


class Target(Protocol):
    """What every module that is a target is."""

    def one_input(self, data: bytes) -> None:
        """Use *data*; raise if that shows a fault of the product."""
        ...

    def seeds(self) -> Mapping[str, bytes]:
        """Return inputs to begin with, by name."""
        ...


def load(name: str) -> Target:
    """Return the target *name*, one of NAMES."""
    return cast(Target, importlib.import_module(f"targets.{name}"))
