"""Which implementation of the range code runs here; every one reads and writes the same bits.

    constriction   a compiled library; starts at once; has no wheel for Linux on Arm
    compiled       this project's kernels, compiled by numba; several times as fast per trit, plan included
    plain          the same kernels, run by Python; for checks on machines where neither of the others runs

"auto" weighs start against speed. Importing numba and loading the kernels takes about 0.4 s and 145 MB, and what they
save on a picture of 768x512 is about 20 ms, so a process that codes a few pictures is better off with constriction. The
compiled coder is therefore taken where constriction is missing, and by `hurry`, for processes that prepare for much
work (`Codec.warm`). Nothing is ever compiled or loaded later than that: not inside a deadline.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.entropy.compiled import CompiledCoder, load_kernels, plain_kernels
from runtime.entropy.plan import Field, Step
from runtime.entropy.tables import Tables
from runtime.errors import EngineError, MissingExtra, UsageError

CODERS = ("auto", "constriction", "compiled", "plain")


class Encoder(Protocol):
    """Appends trits to one range code."""

    def encode(self, trits: NDArray[np.int32], rows: NDArray[np.int32]) -> None:
        """Append *trits* (0..2), each with the frequencies of its row."""
        ...

    def encode_step(self, step: Step, most: int) -> int:
        """Append the next trits of *step*, at most *most*, and let it receive them.

        Returns:
            By how much the summed variance of the elements fell, in 1/64² squared symbols.
        """
        ...

    @property
    def size_bytes(self) -> int:
        """Length of the code if it ended here."""
        ...

    def finish(self) -> bytes:
        """Return the whole code; nothing may be appended afterwards."""
        ...


class Decoder(Protocol):
    """Decodes as many trits as the bytes so far determine; bytes may arrive in any portions."""

    def extend(self, code: bytes, *, whole: bool = False) -> None:
        """Append bytes of the code; *whole* says that the code ends here as its encoder ended it."""
        ...

    @property
    def bytes_read(self) -> int:
        """How many bytes of the code the trits so far took."""
        ...

    def decode(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the trits of the first n of *rows*, n as large as the bytes so far allow."""
        ...

    def decode_step(self, step: Step, most: int) -> bool:
        """Decode the next trits of *step*, at most *most*, and let it receive them.

        Returns:
            False if the bytes so far end before that.
        """
        ...


class Coder(Protocol):
    """An implementation of the range code over one bundle's tables."""

    name: str

    def encoder(self) -> Encoder:
        """Return an encoder of one code."""
        ...

    def decoder(self) -> Decoder:
        """Return a decoder of one code."""
        ...

    def plane(self, field: Field, place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return what `runtime.entropy.plan.plane_by_priority` returns."""
        ...


def installed_coders() -> tuple[str, ...]:
    """Return the names of the coders whose packages are installed; the first is the one that starts soonest."""
    packages = {"constriction": "constriction", "compiled": "numba"}
    return tuple(name for name, package in packages.items() if importlib.util.find_spec(package) is not None)


def open_coder(tables: Tables, wish: str, folder: Path) -> Coder:
    """Return the coder *wish*, one of CODERS.

    Args:
        folder: where machine code is kept.

    Raises:
        UsageError: there is no such coder.
        MissingExtra: its package is not installed.
        EngineError: no coder can run here, or numba cannot compile.
    """
    if wish not in CODERS:
        raise UsageError(f"no coder is called {wish!r}; known: {', '.join(CODERS)}")
    if wish == "auto":
        wish = _default()
    if wish == "compiled":
        return CompiledCoder(tables, load_kernels(folder))
    if wish == "plain":
        return CompiledCoder(tables, plain_kernels())
    return _constriction(tables)


def hurry(tables: Tables, coder: Coder, folder: Path) -> Coder:
    """Return the coder that is fastest once it is loaded, and load it: *coder* itself, or a compiled one instead."""
    if coder.name == "constriction":
        try:
            loaded = load_kernels(folder)
        except (MissingExtra, EngineError):
            return coder
        if loaded.name == "compiled":
            return CompiledCoder(tables, loaded)
    return coder


def _default() -> str:
    installed = installed_coders()
    if not installed:
        raise EngineError(
            "no range coder can run here: install constriction, or numba (pip install '.[fast]' in the checkout)"
        )
    return installed[0]


def _constriction(tables: Tables) -> Coder:
    try:
        from runtime.entropy.coder import ConstrictionCoder
    except ImportError as fault:
        raise MissingExtra(
            f"the coder 'constriction' needs the package of that name ({fault}): pip install constriction"
        ) from fault
    return ConstrictionCoder(tables)
