"""How long before its deadline the server makes an answer: learned from which bytes its answers rest on.

Bytes that arrived and were not used came too late: the answer takes longer than they had left. If all were used, also
the last, which came about as late as seemed allowed, it may take less than that had left; so what rose in bad times
falls again. Too little is worse than too much: it rises quickly and falls slowly. An answer that used nothing, as
too little had come for a picture, says nothing of time.
"""

from __future__ import annotations

_RISE, _FALL = 0.5, 0.02  # share of the difference that one answer makes up for
_LEAST_S = 0.005
_NEAR_S = 0.02  # bytes that arrived so shortly before their time was up were sent as late as seemed allowed


class AnswerTime:
    """An estimate, in seconds. Instants are those of any one clock."""

    def __init__(self, first_s: float) -> None:
        """Begin with *first_s*."""
        self.seconds = first_s
        self._arrivals: dict[int, list[tuple[int, float]]] = {}

    def arrived(self, sequence: int, held: int, at: float) -> None:
        """Note that the server has held *held* bytes of a frame since *at*."""
        self._arrivals.setdefault(sequence, []).append((held, at))

    def forget(self, sequence: int) -> None:
        """Learn nothing of a frame."""
        self._arrivals.pop(sequence, None)

    def answered(self, sequence: int, used: int, due: float, most_s: float) -> None:
        """Note that the answer to a frame rests on its first *used* bytes.

        Args:
            due: its deadline.
            most_s: more than this is not believed: something else went wrong.
        """
        arrivals = self._arrivals.pop(sequence, [])
        unused = [due - at for held, at in arrivals if held > used]
        in_use = [due - at for held, at in arrivals if held <= used]
        if not used:
            return
        if unused and max(unused) > self.seconds:
            self.seconds += _RISE * (min(max(unused), most_s) - self.seconds)
        elif not unused and in_use and min(in_use) < self.seconds + _NEAR_S:
            self.seconds += _FALL * (_LEAST_S - self.seconds)
