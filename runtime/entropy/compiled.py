"""The range coder and the walk over the tables as machine code: bit for bit the code of `runtime.entropy.coder`.

`runtime.entropy.kernels` holds the loops; this file compiles them with numba, once per process and at a moment that the
caller chooses, and keeps the machine code in a folder of cutoff's own. Measured on one core of an EPYC 9005: 0.8 s to
compile, 0.2 s to load what was compiled before, 0.2 s to import numba, 145 MB of memory; then 9 ns per trit to encode
and 7 to decode, ordering and walk included (35 and 39 with constriction and numpy).

Which trits a prefix determines is answered in the same pass that decodes them: the state holds the code's value with
all missing bits 0, and how much larger it would be with all of them 1. Both are one number as long as no bit is
missing, and bytes that arrive later are filled in where they were missing.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.entropy import kernels
from runtime.entropy.plan import Field, Step
from runtime.entropy.tables import MOST_TRITS, Tables
from runtime.errors import EngineError, MissingExtra

_BEGIN_LENGTH = (1 << 64) - 1
_STATE_BYTES, _WORD_BYTES = 8, 4
_LARGEST_SYMBOL = (3**MOST_TRITS - 1) // 2
_NO_CODE = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Kernels:
    """The functions of `runtime.entropy.kernels`, ready to run.

    Attributes:
        name: "compiled", or "plain" if Python runs them as they stand.
        stored: the machine code was written to, or read from, the folder.
    """

    name: str
    stored: bool
    fill_plane: Callable[..., int]
    encode_trits: Callable[..., int]
    decode_trits: Callable[..., int]


def plain_kernels() -> Kernels:
    """Return the kernels uncompiled: thousands of times slower, for machines where nothing else runs."""
    wrapping = np.errstate(over="ignore")  # a carry of the encoder is an overflow
    functions = kernels.fill_plane, kernels.encode_trits, kernels.decode_trits
    return Kernels("plain", False, *(wrapping(function) for function in functions))


_loaded: dict[Path, Kernels] = {}  # machine code of this process; nothing that a caller could change
_loading = threading.Lock()


def load_kernels(folder: Path) -> Kernels:
    """Compile the kernels, or load them from *folder* where they were compiled before.

    A folder that cannot be written costs the compilation once per process, nothing else.

    Raises:
        MissingExtra: numba is not installed.
        EngineError: numba cannot compile them here.
    """
    with _loading:
        if folder not in _loaded:
            _loaded[folder] = _compile(folder)
        return _loaded[folder]


def _compile(folder: Path) -> Kernels:
    try:
        import numba
    except ImportError as fault:
        raise MissingExtra(
            f"the compiled coder needs numba ({fault}): pip install '.[fast]' in the checkout"
        ) from fault
    settings: Any = numba.config
    if settings.DISABLE_JIT:
        return plain_kernels()
    kept = settings.CACHE_DIR  # process-wide, but looked at only when a function is decorated
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # where it cannot write, numba would take a folder beside the sources
            pass
        settings.CACHE_DIR = str(folder)
        functions = [compiler(cache=True) for compiler in _compilers(numba)]
        return Kernels("compiled", _is_below(folder, functions), *functions)
    except Exception:  # a folder or files that cannot be used; whatever else is wrong will show again
        try:
            return Kernels("compiled", False, *(compiler(cache=False) for compiler in _compilers(numba)))
        except Exception as fault:  # numba's and LLVM's errors have no common base
            raise EngineError(f"numba {numba.__version__} cannot compile the coder here: {fault!r}") from fault
    finally:
        settings.CACHE_DIR = kept


def _compilers(numba: Any) -> list[Callable[..., Callable[..., int]]]:
    """Return for each kernel the function that compiles it, for exactly the types that the classes below pass."""
    types = numba.types
    u8, u16, u32, u64 = (types.Array(getattr(types, f"uint{bits}"), 1, "C") for bits in (8, 16, 32, 64))
    i32, i64 = types.int32[::1], types.int64[::1]
    bounds = types.uint32[:, ::1]
    signatures = {
        kernels.fill_plane: (u8, types.int64, i32, u16, i64, i32, i64, i32),
        kernels.encode_trits: (u64, u32, bounds, i32, i64, u8, i32, i64, i32, i32, i32),
        kernels.decode_trits: (u64, u8, types.boolean, bounds, i32, i64, i32, i32, i32),
    }

    def compiled(function: Any, arguments: Any, *, cache: bool) -> Any:
        return numba.njit(types.int64(*arguments), cache=cache, nogil=True)(function)

    return [partial(compiled, function, arguments) for function, arguments in signatures.items()]


def _is_below(folder: Path, functions: list[Any]) -> bool:
    return all(Path(function.stats.cache_path).is_relative_to(folder) for function in functions)


class CompiledCoder:
    """A bundle's tables in the form that the kernels take; see `runtime.entropy.choose.Coder`."""

    def __init__(self, tables: Tables, loaded: Kernels) -> None:
        self.name = loaded.name
        self.tables, self.kernels = tables, loaded
        frequencies = tables.row_frequencies
        self.bounds = np.zeros((len(frequencies), 4), np.uint32)
        np.cumsum(frequencies, axis=1, dtype=np.uint32, out=self.bounds[:, 1:])
        self.first_child = np.ascontiguousarray(tables.first_child)
        self.variance = tables.deviation.astype(np.int64) ** 2
        # -1 - p, not -p: the lowest int16 has no negative
        distinct, ranks = np.unique(-1 - tables.priority, return_inverse=True)
        self._ranks = ranks.reshape(-1).astype(np.uint16)
        self._priorities = len(distinct)
        symbols = np.arange(-_LARGEST_SYMBOL, _LARGEST_SYMBOL + 1)
        # As in Step.trits; row p - 1 for place p.
        self.digits = np.array([(symbols + 1093) // 3**p % 3 for p in range(MOST_TRITS)], np.uint8)

    def encoder(self) -> CompiledEncoder:
        """Return an encoder of one code."""
        return CompiledEncoder(self)

    def decoder(self) -> CompiledDecoder:
        """Return a decoder of one code."""
        return CompiledDecoder(self)

    def plane(self, field: Field, place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return what `runtime.entropy.plan.plane_by_priority` returns."""
        elements = len(field.nodes)
        indices, ordered = np.empty(elements, np.int64), np.empty(elements, np.int32)
        free, chosen = np.empty(self._priorities, np.int64), np.empty(elements, np.int32)
        count = self.kernels.fill_plane(field.trits, place, field.nodes, self._ranks, free, chosen, indices, ordered)
        return indices[:count], ordered[:count]


class CompiledEncoder:
    """Appends trits to one range code."""

    def __init__(self, coder: CompiledCoder) -> None:
        self._coder = coder
        self._state = np.array([0, _BEGIN_LENGTH, 0], np.uint64)
        self._words = np.empty(1 << 12, np.uint32)

    def encode(self, trits: NDArray[np.integer], rows: NDArray[np.int32]) -> None:
        """Append *trits* (0..2), each with the frequencies of its row."""
        count = len(rows)
        # Elements of their own, whose nodes mean nothing.
        parents, nodes = np.zeros(count, np.int32), np.empty(count, np.int32)
        symbols = np.asarray(trits, np.int32) - np.int32(1)
        rows = np.ascontiguousarray(rows, np.int32)
        self._run(1, symbols, np.arange(count, dtype=np.int64), parents, rows, nodes)

    def encode_step(self, step: Step, most: int) -> int:
        """Append the next trits of *step*, at most *most*, and let it receive them; see `TritEncoder.encode_step`."""
        window = step.next_window(most)
        symbols = step.field.symbols
        assert symbols is not None, "only an encoder knows the symbols"
        elements = step.indices[window], step.nodes[window], step.rows[window]
        fall = self._run(step.place, symbols, *elements, step.field.nodes)
        step.received = window.stop
        return fall

    def _run(
        self,
        place: int,
        symbols: NDArray[np.int32],
        indices: NDArray[np.int64],
        parents: NDArray[np.int32],
        rows: NDArray[np.int32],
        nodes: NDArray[np.int32],
    ) -> int:
        needed = int(self._state[2]) + len(rows)
        if needed > len(self._words):
            larger = np.empty(2 * needed, np.uint32)
            larger[: len(self._words)] = self._words
            self._words = larger
        coder = self._coder
        return int(
            coder.kernels.encode_trits(
                self._state,
                self._words,
                coder.bounds,
                coder.first_child,
                coder.variance,
                coder.digits[place - 1],
                symbols,
                indices,
                parents,
                rows,
                nodes,
            )
        )

    @property
    def size_bytes(self) -> int:
        """Length of the code if it ended here."""
        return _WORD_BYTES * (int(self._state[2]) + len(self._end()[1]))

    def finish(self) -> bytes:
        """Return the whole code."""
        carry, end = self._end()
        code = self._words[: int(self._state[2])].astype(">u4").tobytes()
        if carry:
            code = (int.from_bytes(code, "big") + 1).to_bytes(len(code), "big")
        return code + b"".join(word.to_bytes(_WORD_BYTES, "big") for word in end)

    def _end(self) -> tuple[bool, list[int]]:
        """Return whether the end carries into the words before, and the words that name a point inside the interval.

        Whatever follows the last of them, the point stays inside.
        """
        lower, length = int(self._state[0]), int(self._state[1])
        if length == _BEGIN_LENGTH:
            return False, []
        point = lower + (1 << 32) - 1
        word = point >> 32 & 0xFFFFFFFF
        inside = (lower + length) >> 32 & 0xFFFFFFFF != word
        return point >> 64 > 0, [word] if inside else [word, 0]


class CompiledDecoder:
    """Decodes as many trits as the bytes so far determine; bytes may arrive in any portions."""

    def __init__(self, coder: CompiledCoder) -> None:
        self._coder = coder
        self._code = bytearray()
        self._whole = False
        # Eight bytes are taken up and none of them is known: the gap is everything.
        self._state = np.array([0, _BEGIN_LENGTH, _BEGIN_LENGTH, _STATE_BYTES], np.uint64)

    def extend(self, code: bytes, *, whole: bool = False) -> None:
        """Append bytes of the code; *whole* says that the code ends here as its encoder ended it."""
        known, taken = len(self._code), int(self._state[3])
        missing = code[: max(0, taken - known)]
        self._code += code
        self._whole = self._whole or whole
        left = 0 if self._whole else 8 * max(0, taken - len(self._code))
        if missing:
            below = 8 * (taken - known - len(missing))
            self._state[0] = int(self._state[0]) + (int.from_bytes(missing, "big") << below)
        self._state[2] = (1 << left) - 1

    @property
    def bytes_read(self) -> int:
        """How many bytes of the code the trits so far took."""
        return min(len(self._code), int(self._state[3]))

    def decode(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the trits of the first n of *rows*, n as large as the bytes so far allow."""
        rows = np.ascontiguousarray(rows, np.int32)
        parents, children = np.zeros(len(rows), np.int32), np.empty(len(rows), np.int32)
        count = self._run(np.arange(len(rows), dtype=np.int64), parents, rows, children)
        return children[:count] - self._coder.first_child[:1]

    def decode_step(self, step: Step, most: int) -> bool:
        """Decode the next trits of *step*, at most *most*, and let it receive them; see `TritDecoder.decode_step`."""
        window = step.next_window(most)
        rows = step.rows[window]
        count = self._run(step.indices[window], step.nodes[window], rows, step.field.nodes)
        step.received += count
        return count == len(rows)

    def _run(
        self,
        indices: NDArray[np.int64],
        parents: NDArray[np.int32],
        rows: NDArray[np.int32],
        nodes: NDArray[np.int32],
    ) -> int:
        coder = self._coder
        code = np.frombuffer(self._code, np.uint8) if self._code else _NO_CODE
        return int(
            coder.kernels.decode_trits(
                self._state, code, self._whole, coder.bounds, coder.first_child, indices, parents, rows, nodes
            )
        )
