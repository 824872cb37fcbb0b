"""Range coding of trits: constriction's queue coder with one three-symbol model per table row.

The code is the concatenation of big-endian 32-bit words. A decoder may hold any prefix of it, down to single bytes, and
hands out exactly those trits that no continuation of the prefix could change: a trit is trusted while decoding with the
missing bits all 0 and all 1 agrees. What a cut costs is therefore less than the coder's 64 bits of state.

constriction computes floor(cumulative * scale) + index from floats; for float64 `frequency - 1`, whose sum is exactly
2^24 - 3, scale is 1 and every value is an integer, so the integers of the tables are what is used.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from runtime.entropy.plan import Field, Step, plane_by_priority
from runtime.entropy.tables import Tables

_queue = constriction.stream.queue
_MODEL = constriction.stream.model.Categorical(perfect=False)
_CHUNK = 1 << 13  # trits per call into the coder: well under a millisecond
_STATE_WORDS = 2  # what the coder reads ahead
_PADDING_WORDS = 2 + _STATE_WORDS


class CoderTables:
    """A bundle's frequencies in the form the coder takes; made once per bundle."""

    def __init__(self, tables: Tables) -> None:
        self._weights = tables.row_frequencies.astype(np.float64) - 1.0
        self._first_child = tables.first_child
        self._variance = tables.deviation.astype(np.int64) ** 2

    def of(self, rows: NDArray[np.int32]) -> NDArray[np.float64]:
        """float64 (n, 3): the weights of *rows*."""
        return self._weights.take(rows, axis=0)

    def fall_of_variance(self, nodes: NDArray[np.int32], trits: NDArray[np.int32]) -> int:
        """Return the variance of *nodes* less that of their children *trits*, summed, in 1/64² squared symbols."""
        return int(self._variance[nodes].sum() - self._variance[self._first_child[nodes] + trits].sum())


class ConstrictionCoder:
    """See `runtime.entropy.choose.Coder`."""

    def __init__(self, tables: Tables) -> None:
        self.name = "constriction"
        self._tables = CoderTables(tables)

    def encoder(self) -> TritEncoder:
        """Return an encoder of one code."""
        return TritEncoder(self._tables)

    def decoder(self) -> TritDecoder:
        """Return a decoder of one code."""
        return TritDecoder(self._tables)

    def plane(self, field: Field, place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return `plane_by_priority(field, place)`."""
        return plane_by_priority(field, place)


class TritEncoder:
    """Appends trits to one range code."""

    def __init__(self, tables: CoderTables) -> None:
        self._tables = tables
        self._coder = _queue.RangeEncoder()

    def encode(self, trits: NDArray[np.int32], rows: NDArray[np.int32]) -> None:
        """Append *trits* (int32, 0..2), each with the frequencies of its row."""
        for start in range(0, len(rows), _CHUNK):
            window = slice(start, start + _CHUNK)
            self._coder.encode(np.ascontiguousarray(trits[window]), _MODEL, self._tables.of(rows[window]))

    def encode_step(self, step: Step, most: int) -> int:
        """Append the next trits of *step*, at most *most*, and let it receive them.

        Returns:
            By how much the summed variance of the elements fell, in 1/64² squared symbols.
        """
        window = step.next_window(most)
        trits = step.trits(window)
        self.encode(trits, step.rows[window])
        step.receive(trits)
        return self._tables.fall_of_variance(step.nodes[window], trits)

    @property
    def size_bytes(self) -> int:
        """Length of the code if it ended here."""
        return 4 * int(self._coder.num_words())

    def finish(self) -> bytes:
        """Return the whole code."""
        return np.asarray(self._coder.get_compressed()).astype(">u4").tobytes()


class TritDecoder:
    """Decodes as many trits as the bytes so far determine; bytes may arrive in any portions."""

    def __init__(self, tables: CoderTables) -> None:
        self._tables = tables
        self._code = bytearray()
        self._whole = False
        self._invalid = False  # the whole code is none that an encoder writes; nothing behind that point is decoded
        self._coder: Any = None  # over the complete words so far; None when it has to be made anew
        self._stalled = True
        # An encoder of the trusted trits: it knows how many words they span, and where another decoder must start.
        self._follower = _queue.RangeEncoder()

    def extend(self, code: bytes, *, whole: bool = False) -> None:
        """Append bytes of the code; *whole* says that the code ends here as its encoder ended it."""
        self._code += code
        self._whole = self._whole or whole
        self._coder = None
        self._stalled = False

    @property
    def bytes_read(self) -> int:
        """How many bytes of the code the trits so far took; not known of a whole code."""
        return 4 * (int(self._follower.pos()[0]) + _STATE_WORDS)

    def decode(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the trits of the first n of *rows*, n as large as the bytes so far allow."""
        if self._stalled or self._invalid or len(rows) == 0:
            return np.empty(0, np.int32)
        portions = []
        done = 0
        while done < len(rows) and not (self._stalled or self._invalid):
            window = rows[done : done + _CHUNK]
            trits = self._decode_inside(window)
            if trits is None:
                trits = self._decode_at_end(window)
            portions.append(trits)
            done += len(trits)
        return np.concatenate(portions)

    def decode_step(self, step: Step, most: int) -> bool:
        """Decode the next trits of *step*, at most *most*, and let it receive them.

        Returns:
            False if the bytes so far end before that.
        """
        rows = step.rows[step.next_window(most)]
        trits = self.decode(rows)
        step.receive(trits)
        return len(trits) == len(rows)

    def _decode_inside(self, rows: NDArray[np.int32]) -> NDArray[np.int32] | None:
        """Decode all of *rows* from complete words, or return None if that needs words beyond the last one."""
        words = len(self._code) // 4
        if self._coder is None:
            if words < _STATE_WORDS and not self._whole:
                return None
            self._coder = self._decoder_over(np.frombuffer(self._code, ">u4", words).astype(np.uint32))
        weights = self._tables.of(rows)
        if self._whole:
            return self._decode_whole(weights)
        try:
            trits: NDArray[np.int32] = self._coder.decode(_MODEL, weights)
        except AssertionError:  # past the last word the coder raises, or goes on with symbols of its own making
            self._coder = None
            return None
        ahead = self._follower.clone()
        ahead.encode(trits, _MODEL, weights)
        if ahead.pos()[0] + _STATE_WORDS > words:
            self._coder = None
            return None
        self._follower = ahead
        return trits

    def _decode_whole(self, weights: NDArray[np.float64]) -> NDArray[np.int32]:
        """Decode all of *weights*, or what lies before the point where the code is none that an encoder writes."""
        portions = []
        done, size = 0, len(weights)
        while done < len(weights):
            before = self._coder.clone()
            try:
                portions.append(self._coder.decode(_MODEL, weights[done : done + size]))
            except AssertionError:
                self._coder = before
                if size == 1:
                    self._invalid = True
                    break
                size //= 2
            else:
                done += len(portions[-1])
        return np.concatenate(portions) if portions else np.empty(0, np.int32)

    def _decode_at_end(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Decode what every continuation of the last, partly known words agrees on."""
        lowest, highest = (self._decoder_over(self._padded(byte)) for byte in (0x00, 0xFF))
        agreed = []
        done, size = 0, min(256, len(rows))
        while done < len(rows):
            weights = self._tables.of(rows[done : done + size])
            kept = lowest.clone(), highest.clone()
            try:
                low, high = lowest.decode(_MODEL, weights), highest.decode(_MODEL, weights)
            except AssertionError:  # no encoder writes this continuation: it is beyond what can be trusted
                if size == 1:
                    self._stalled = True
                    break
                lowest, highest = kept
                size //= 2
                continue
            differs = np.flatnonzero(low != high)
            if len(differs):
                agreed.append(low[: differs[0]])
                self._stalled = True
                break
            agreed.append(low)
            done += len(low)
            size = min(2 * size, _CHUNK)
        trits = np.concatenate(agreed) if agreed else np.empty(0, np.int32)
        if len(trits):
            self._follower.encode(trits, _MODEL, self._tables.of(rows[: len(trits)]))
        return trits

    def _padded(self, byte: int) -> NDArray[np.uint32]:
        """Return the words so far, the partial one and some more filled with *byte*."""
        filling = bytes([byte]) * (-len(self._code) % 4 + 4 * _PADDING_WORDS)
        return np.frombuffer(bytes(self._code) + filling, ">u4").astype(np.uint32)

    def _decoder_over(self, words: NDArray[np.uint32]) -> Any:
        """Return a decoder of *words* that stands behind the trusted trits."""
        decoder = _queue.RangeDecoder(words)
        if not self._follower.is_empty():
            decoder.seek(*self._follower.pos())
        return decoder
