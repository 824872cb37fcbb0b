"""A bundle opened on this machine: tables, family, engines, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from engines.bundle import Bundle
from engines.costs import Costs, cache_folder
from engines.engine import Engine
from engines.open import open_engine
from runtime.entropy.coder import CoderTables
from runtime.entropy.tables import Tables
from runtime.errors import BundleError
from runtime.families import FAMILIES
from runtime.families.base import Tensor
from runtime.stream import Limits

TABLES = "tables/entropy.npz"


class Model:
    """What encoder and decoder share. Engines open at their first use, or all at once by `open_all`."""

    def __init__(self, bundle: Bundle, backend: str, threads: int | None, limits: Limits) -> None:
        """Read the tables of *bundle* and make its family.

        Raises:
            BundleError: the family is unknown, or tables or settings are not as it needs them.
        """
        if bundle.family not in FAMILIES:
            raise BundleError(f"bundle {bundle.name} is of family {bundle.family!r}; known: {', '.join(FAMILIES)}")
        self.bundle, self.limits = bundle, limits
        self._backend, self._threads = backend, threads
        self._engines: dict[str, Engine] = {}
        self.tables = Tables.from_bytes(bundle.read(TABLES))
        self.coder_tables = CoderTables(self.tables)
        self.family = FAMILIES[bundle.family](bundle.settings, self.tables, self.run)
        self.costs = Costs()
        self._costs_path = (
            cache_folder() / "costs" / f"{bundle.bundle_hash[:16]}-{backend}-{threads or 'all'}-threads.json"
        )
        self.costs.load(self._costs_path)

    def run(self, role: str, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph of *role*."""
        return self.engine(role).run(*inputs)

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
