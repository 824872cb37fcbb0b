"""A bundle opened on this machine: tables, family, engines, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engines.bundle import Bundle
from engines.costs import Costs, cache_folder
from engines.engine import Engine
from engines.open import open_engine
from runtime.entropy.choose import hurry, open_coder
from runtime.entropy.plan import Field
from runtime.entropy.tables import Tables
from runtime.errors import BundleError
from runtime.families import FAMILIES
from runtime.families.base import Tensor
from runtime.stream import Limits

TABLES = "tables/entropy.npz"


class Model:
    """What encoder and decoder share. Engines open at their first use, or all at once by `open_all`."""

    def __init__(self, bundle: Bundle, backend: str, threads: int | None, limits: Limits, coder: str = "auto") -> None:
        """Read the tables of *bundle* and make its family.

        Raises:
            BundleError: the family is unknown, or tables or settings are not as it needs them.
            UsageError, MissingExtra, EngineError: see `runtime.entropy.choose.open_coder`.
        """
        if bundle.family not in FAMILIES:
            raise BundleError(f"bundle {bundle.name} is of family {bundle.family!r}; known: {', '.join(FAMILIES)}")
        self.bundle, self.limits = bundle, limits
        self._backend, self._threads = backend, threads
        self._engines: dict[str, Engine] = {}
        self.tables = Tables.from_bytes(bundle.read(TABLES))
        self._may_change_coder = coder == "auto"
        self._kernels = cache_folder() / "kernels"
        self.coder = open_coder(self.tables, coder, self._kernels)
        self.family = FAMILIES[bundle.family](bundle.settings, self.tables, self.run, self.plane)
        self.costs = Costs()
        self._costs_path = (
            cache_folder() / "costs" / f"{bundle.bundle_hash[:16]}-{backend}-{threads or 'all'}-threads.json"
        )
        self.costs.load(self._costs_path)

    def run(self, role: str, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph of *role*."""
        return self.engine(role).run(*inputs)

    def plane(self, field: Field, place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return the elements of *field* that have a trit at *place*, in coding order, and their rows."""
        return self.coder.plane(field, place)

    def hurry(self) -> None:
        """Load the fastest coder, compiling it if it never was; no change if the caller has asked for a certain one."""
        if self._may_change_coder:
            self.coder = hurry(self.tables, self.coder, self._kernels)

    def engine(self, role: str) -> Engine:
        """Return the engine of *role*, opened and proved."""
        if role not in self._engines:
            self._engines[role] = open_engine(self.bundle, role, self._backend, self._threads)
        return self._engines[role]

    def open_all(self) -> None:
        """Open the engines of all graphs."""
        for role in self.bundle.graphs:
            self.engine(role)

    def close(self) -> None:
        """Save the measured costs and free the engines."""
        self.costs.save(self._costs_path)
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
