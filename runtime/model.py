"""A bundle opened on this machine: tables, family, engines, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.arrays import read_arrays
from engines.bundle import Bundle
from engines.costs import Costs, cache_folder
from engines.engine import Progress
from engines.exact_graph import read_exact_graph, surroundings
from engines.open import OpenedEngine, open_engine
from engines.proof import prove
from engines.tiles import TILE_SIDE, Source, fits_a_tile, output_windows, run_in_tiles
from runtime.deadline import Clock
from runtime.entropy.choose import hurry, open_coder
from runtime.entropy.plan import Field
from runtime.entropy.tables import Tables
from runtime.errors import BundleError
from runtime.families import FAMILIES
from runtime.families.base import Tensor
from runtime.picture import levels
from runtime.stream import Limits

TABLES = "tables/entropy.npz"
_LARGEST_OUTPUT = (1 << 15) - 1  # of exact graphs
_CLAIM_TOLERANCE = 1e-6  # of log2: claims are made in floats


class EngineUse(NamedTuple):
    """Which back end runs a graph, in which precision, and why: "chosen", or what was wrong with those before it."""

    role: str
    backend: str
    reason: str
    precision: str = "fp32"


class Model:
    """What encoder and decoder share. Engines open at their first use, or all at once by `open_all`."""

    def __init__(
        self,
        bundle: Bundle,
        engine: str,
        threads: int | None,
        limits: Limits,
        coder: str = "auto",
        precision: str = "auto",
        *,
        may_build: bool = False,
        progress: Progress | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Read the tables of *bundle* and make its family; for the rest see `engines.open.open_engine`.

        *clock* is what deadlines are instants of, and what stages are measured by.

        Raises:
            BundleError: the family is unknown, or tables or settings are not as it needs them.
            UsageError, MissingExtra, EngineError: see `runtime.entropy.choose.open_coder`.
        """
        if bundle.family not in FAMILIES:
            raise BundleError(f"bundle {bundle.name} is of family {bundle.family!r}; known: {', '.join(FAMILIES)}")
        self.bundle, self.limits, self.clock = bundle, limits, clock
        self._engine, self._threads, self._precision = engine, threads, precision
        self._may_build, self._progress = may_build, progress
        self._engines: dict[str, OpenedEngine] = {}
        self.tables = _read_tables(bundle)
        self._may_change_coder = coder == "auto"
        self._kernels = cache_folder() / "kernels"
        self.coder = open_coder(self.tables, coder, self._kernels)
        self.family = FAMILIES[bundle.family](bundle.settings, self.tables, self.run, self.plane)
        self.costs = Costs()
        self._costs_path = (
            cache_folder() / "costs" / f"{bundle.bundle_hash[:16]}-{engine}-{precision}-{threads or 'all'}-threads.json"
        )
        self.costs.load(self._costs_path)

    def run(self, role: str, *inputs: Source, until: float | None = None, lazily: bool = False) -> Sequence[Any]:
        """Run the graph of *role*; inputs of large pictures in tiles, where the graph allows.

        Args:
            lazily: of more than a tile, return the graph's only output as `Windows`, which run it where they are looked
                at. That takes no memory, and more time, as tiles overlap.

        Returns:
            float32 (B, C, H, W); what an exact graph gives of more than a tile is int16, half of the memory.

        Raises:
            BundleError: there is no such graph, it gives other tensors than its family takes, or an exact one gives no
                such integers.
            OutOfTime: the run was not over at *until*, an instant on `clock`, and the engine could give it up.
        """
        run, spec = self._runner(role, until), self.bundle.graph(role)

        def integers(*tile: Tensor) -> list[NDArray[np.int16]]:
            return [_integers(role, output) for output in run(*tile)]

        with self.watched(role, inputs):
            if spec.tiling is None or fits_a_tile(inputs, spec.tiling, TILE_SIDE):
                return run(*map(np.asarray, inputs))
            if lazily:
                return [output_windows(run, inputs, spec.tiling)]
            return run_in_tiles(integers if spec.exact else run, inputs, spec.tiling, TILE_SIDE)

    def picture(self, role: str, *inputs: Source, until: float | None = None) -> Tensor | NDArray[np.uint8]:
        """Run the last graph of a picture; what is larger than a tile comes as levels, a quarter of the memory.

        Returns:
            float32, or the levels of that, (B, 3, H, W).

        Raises:
            BundleError, OutOfTime: see `run`; or it gives no such pictures.
        """
        tiling = self.bundle.graph(role).tiling
        x: Tensor | NDArray[np.uint8]
        if tiling is None or fits_a_tile(inputs, tiling, TILE_SIDE):
            (x,) = self.run(role, *inputs, until=until)
        else:
            run = self._runner(role, until)
            with self.watched(role, inputs):
                (x,) = run_in_tiles(lambda *tile: [levels(*run(*tile))], inputs, tiling, TILE_SIDE)
        if x.shape[:2] != (inputs[0].shape[0], 3):
            raise BundleError(f"graph {role!r} gives {x.shape}, not ({inputs[0].shape[0]}, 3, H, W)")
        return x

    def watched(self, role: str, inputs: Sequence[Source]) -> AbstractContextManager[None]:
        """Return what is around every run of the graph of *role* on *inputs*, in tiles or not; for subclasses."""
        return nullcontext()

    def _runner(self, role: str, until: float | None) -> Callable[..., Sequence[Tensor]]:
        """Return what runs the graph of *role* once, if it is over at *until*."""
        engine = self.engine(role)

        def run(*tensors: Tensor) -> Sequence[Tensor]:
            outputs = engine.run(*tensors, within_s=None if until is None else until - self.clock())
            self._check_outputs(role, outputs)
            return outputs

        return run

    def _check_outputs(self, role: str, outputs: Sequence[NDArray[Any]]) -> None:
        """Refuse what the family cannot take: a bundle's graph may give anything."""
        count = 2 if role in self.family.pairs else 1
        if len(outputs) != count or any(one.dtype != np.float32 or one.ndim != 4 for one in outputs):
            found = ", ".join(f"{one.dtype} {one.shape}" for one in outputs)
            raise BundleError(f"graph {role!r} gives {found}; its family takes {count} of float32 (B, C, H, W)")

    def plane(self, field: Field, place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return the elements of *field* that have a trit at *place*, in coding order, and their rows."""
        return self.coder.plane(field, place)

    def hurry(self) -> None:
        """Load the fastest coder, compiling it if it never was; no change if the caller has asked for a certain one."""
        if self._may_change_coder:
            self.coder = hurry(self.tables, self.coder, self._kernels)

    def engine(self, role: str) -> OpenedEngine:
        """Return the engine of *role*, opened and proved."""
        if role not in self._engines:
            self._check_tiling(role)
            self._engines[role] = open_engine(
                self.bundle,
                role,
                self._engine,
                self._threads,
                self._precision,
                may_build=self._may_build,
                progress=self._progress,
            )
        return self._engines[role]

    def _check_tiling(self, role: str) -> None:
        """Make sure that an exact graph gives the same bits in tiles: its own file says how far it sees."""
        spec = self.bundle.graphs.get(role)
        if spec is None or not spec.exact or spec.tiling is None:
            return
        _, reach = surroundings(read_exact_graph(self.bundle.read(spec.file)))
        if spec.tiling.reach < reach:
            raise BundleError(f"graph {role!r} sees {reach} positions far; its tiling claims {spec.tiling.reach}")

    def open_all(self) -> None:
        """Open the engines of all graphs."""
        for role in self.bundle.graphs:
            self.engine(role)

    def engines_report(self) -> list[EngineUse]:
        """Return what runs each graph that was opened, in the order of opening."""
        return [
            EngineUse(role, engine.backend, engine.reason, engine.precision) for role, engine in self._engines.items()
        ]

    def prove(self, role: str) -> dict[str, float]:
        """Prove from its file that no engine can round in an exact graph; return log2 of each layer's largest sum.

        Raises:
            BundleError: there is no such graph, a sum can be too large, an operation is not exact, or the manifest
                claims less than what is found, or other layers.
        """
        spec = self.bundle.graphs.get(role)
        if spec is None or not spec.exact:
            raise BundleError(f"bundle {self.bundle.name} has no exact graph {role!r}")
        try:
            proof = prove(read_exact_graph(self.bundle.read(spec.file)), self.family.input_limits(role))
        except BundleError as fault:
            raise BundleError(f"bundle {self.bundle.name}: graph {role!r}: {fault}") from fault
        claims = spec.accumulator_log2
        if claims is not None and claims.keys() != proof.keys():
            raise BundleError(f"graph {role!r} has layers {', '.join(proof)}; the manifest claims {', '.join(claims)}")
        for layer, bits in proof.items():
            if claims is not None and not bits <= claims[layer] + _CLAIM_TOLERANCE:
                raise BundleError(
                    f"graph {role!r}, layer {layer!r}: sums can reach 2^{bits:.3f}; "
                    f"the manifest claims 2^{claims[layer]:.3f}"
                )
        return proof

    def close(self) -> None:
        """Save the measured costs and free the engines."""
        self.costs.save(self._costs_path)
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()


def _integers(role: str, output: Tensor) -> NDArray[np.int16]:
    """Return the integers that an exact graph gives, as FORMAT.md limits them."""
    if not -_LARGEST_OUTPUT <= output.min() <= output.max() <= _LARGEST_OUTPUT:
        raise BundleError(f"{role} gives a value outside -{_LARGEST_OUTPUT}..{_LARGEST_OUTPUT}")
    return output.astype(np.int16)


def _read_tables(bundle: Bundle) -> Tables:
    try:
        arrays = read_arrays(bundle.read_exact(TABLES))
    except BundleError as fault:
        raise BundleError(f"tables: {fault}") from fault
    return Tables.from_arrays(arrays)
