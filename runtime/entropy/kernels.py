"""The compiled coder's inner loops: plain functions of integers and arrays, as numba compiles them.

Nothing here imports numba: `runtime.entropy.compiled` compiles these functions as they stand, or runs them as they are,
slowly, where it cannot. Each stands alone, because a compiled function cannot call a plain one. All arithmetic of the
code is on uint64 and exact; only `lower` of the encoder wraps, on purpose (that is the carry).

Indices are made unsigned before they are used: numba then leaves out the check for negative ones, which takes a fifth
of the time.

The code is that of `runtime.entropy.coder`: an interval of 64 bits, words of 32 bits, frequencies of 24.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_NONE = np.uint64(0)
_TOTAL_BITS = np.uint64(24)
_WORD_BITS = np.uint64(32)
_FULL_WORD = np.uint64(1 << 32)
_WORD_BYTES = np.uint64(4)
_LARGEST_SYMBOL = np.int32(364)  # middle of a row of `digits`


def fill_plane(
    trits_left: NDArray[np.uint8],
    place: int,
    nodes: NDArray[np.int32],
    ranks: NDArray[np.uint16],
    free: NDArray[np.int64],
    chosen: NDArray[np.int32],
    indices: NDArray[np.int64],
    ordered: NDArray[np.int32],
) -> int:
    """Write the elements with at least *place* trits, ordered by rank and then by index: a stable counting sort.

    Args:
        trits_left: uint8 (n,); trits of each element's model.
        nodes: int32 (n,); inner nodes where at least *place* trits are left.
        ranks: uint16 (K,); place of each inner node's priority among the distinct ones, the highest first.
        free: int64, one entry per distinct priority; scratch.
        chosen: int32 (n,); scratch.
        indices, ordered: (n,); the result, elements and their nodes, as far as the count that is returned.
    """
    count = 0
    for i in range(len(nodes)):  # no branch: which elements have a trit is hard to predict
        chosen[count] = i
        count += trits_left[i] >= place
    free[:] = 0
    for j in range(count):
        free[ranks[nodes[chosen[j]]]] += 1
    start = 0
    for rank in range(len(free)):
        members = free[rank]
        free[rank] = start
        start += members
    for j in range(count):
        i = chosen[j]
        node = nodes[i]
        rank = ranks[node]
        k = free[rank]
        free[rank] = k + 1
        indices[k] = i
        ordered[k] = node
    return count


def encode_trits(
    state: NDArray[np.uint64],
    words: NDArray[np.uint32],
    bounds: NDArray[np.uint32],
    first_child: NDArray[np.int32],
    variance: NDArray[np.int64],
    digits: NDArray[np.uint8],
    symbols: NDArray[np.int32],
    indices: NDArray[np.int64],
    parents: NDArray[np.int32],
    rows: NDArray[np.int32],
    nodes: NDArray[np.int32],
) -> int:
    """Code one trit of each of *indices*, move their nodes to the children, and return by how much variance falls.

    Args:
        state: lower end of the interval, its length, number of words written; updated.
        words: the code so far, with room for one word more per trit.
        bounds: uint32 (R, 4); the frequencies of each row, cumulated, from 0 to 2^24.
        first_child: int32 (K,).
        variance: int64 (N,); of every node.
        digits: uint8 (729,); the trit of every symbol from -364 up.
        symbols: int32 (n,); the truth.
        indices, parents, rows: the elements to code, their nodes, and the rows of their trits.
        nodes: int32 (n,); updated.
    """
    lower, length, written = state[0], state[1], state[2]
    fall = np.int64(0)
    for k in range(len(rows)):
        row, node, i = np.uint64(rows[k]), np.uint64(parents[k]), np.uint64(indices[k])
        trit = digits[symbols[i] + _LARGEST_SYMBOL]
        scale = length >> _TOTAL_BITS
        start, end = np.uint64(bounds[row, trit]), np.uint64(bounds[row, trit + 1])
        before = lower
        lower = lower + scale * start
        length = scale * (end - start)
        if lower < before:
            back = np.int64(written) - 1
            while words[back] == 0xFFFFFFFF:
                words[back] = 0
                back -= 1
            words[back] += 1
        if length < _FULL_WORD:
            words[np.int64(written)] = np.uint32(lower >> _WORD_BITS)
            written += np.uint64(1)
            lower = lower << _WORD_BITS
            length = length << _WORD_BITS
        child = first_child[node] + np.int32(trit)
        nodes[i] = child
        fall += variance[node] - variance[child]
    state[0], state[1], state[2] = lower, length, written
    return int(fall)


def decode_trits(
    state: NDArray[np.uint64],
    code: NDArray[np.uint8],
    whole: bool,
    bounds: NDArray[np.uint32],
    first_child: NDArray[np.int32],
    indices: NDArray[np.int64],
    parents: NDArray[np.int32],
    rows: NDArray[np.int32],
    nodes: NDArray[np.int32],
) -> int:
    """Decode trits as long as *code* determines them, move their elements' nodes, and return how many there were.

    The code's value lies between `offset` (the bits that are missing are all 0) and `offset + gap` (all 1) above the
    interval's lower end. A trit is determined if both lie in the same third; what no encoder writes lies in none.

    Args:
        state: offset, length of the interval, gap, bytes taken up (missing ones included); updated.
        code: uint8; the code so far.
        whole: the code ends here, and what is missing is 0.
        bounds, first_child: see `encode_trits`.
        indices, parents, rows: the elements to decode, their nodes, and the rows of their trits.
        nodes: int32 (n,); updated.
    """
    offset, length, gap, taken = state[0], state[1], state[2], state[3]
    known = np.uint64(len(code))
    count = len(rows)
    k = 0
    while k < count:
        row = np.uint64(rows[k])
        scale = length >> _TOTAL_BITS
        low, high, trit = _NONE, scale * np.uint64(bounds[row, 1]), 0
        second, top = scale * np.uint64(bounds[row, 2]), scale << _TOTAL_BITS
        if offset >= high:
            low, high, trit = high, second, 1
        if offset >= second:
            low, high, trit = second, top, 2
        if offset + gap >= high:
            break
        offset -= low
        length = high - low
        nodes[np.uint64(indices[k])] = first_child[np.uint64(parents[k])] + np.int32(trit)
        k += 1
        if length < _FULL_WORD:
            offset, length, gap = offset << _WORD_BITS, length << _WORD_BITS, gap << _WORD_BITS
            shift = _WORD_BITS
            for at in range(taken, taken + _WORD_BYTES):
                shift -= np.uint64(8)
                if np.uint64(at) < known:
                    offset |= np.uint64(code[at]) << shift
                elif not whole:
                    gap |= np.uint64(0xFF) << shift
            taken += _WORD_BYTES
    state[0], state[1], state[2], state[3] = offset, length, gap, taken
    return k
