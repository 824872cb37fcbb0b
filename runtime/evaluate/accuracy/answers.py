"""From guesses to figures: accuracy against bytes and deadlines, calibration, and when one may stop.

    Guess, Guess, ... -> accuracy_points, deadline_points, stops, first_correct, calibration

A prefix that shows nothing gives no answer, and no answer is a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from runtime.evaluate.accuracy.guesses import ORIGINAL, Guess
from runtime.evaluate.shares import Share, mean

_TOP = 5
_BINS = 10


@dataclass(frozen=True)
class AccuracyPoint:
    """All pictures of one codec at one cut.

    Attributes:
        codec, cut_bytes: as of `Guess`.
        bytes, bpp: means of what was decoded, or would have been.
        top1, top5: the true class was first, or among the first five.
        agreement: the label was that of the original.
        shown: how many pictures there was something to classify of.
        calibration_error: mean distance of confidence from accuracy over ten bins of confidence, weighted by how many
            answers fall into them, 0..1; not a number if there was nothing to classify.
        encode_ms, decode_ms, classify_ms: medians.

    Source: the expected calibration error of M. P. Naeini et al., AAAI 2015.
    """

    codec: str
    cut_bytes: int | None
    bytes: float
    bpp: float
    top1: Share
    top5: Share
    agreement: Share
    shown: int
    calibration_error: float
    encode_ms: float
    decode_ms: float
    classify_ms: float


@dataclass(frozen=True)
class DeadlinePoint:
    """All pictures of one codec, answered by one deadline over one link.

    Attributes:
        codec: its name.
        link_kbps: bits that arrive in a millisecond, steadily, from the instant at which sending begins.
        deadline_ms: from that instant until the answer.
        top1, top5: as of `AccuracyPoint`, of the answer from the longest cut that arrived, was decoded and classified
            in time.
        answered: how many pictures there was an answer for.
    """

    codec: str
    link_kbps: float
    deadline_ms: float
    top1: Share
    top5: Share
    answered: int


@dataclass(frozen=True)
class Stop:
    """One codec when receiving stops at the first cut whose answer has a confidence of at least *threshold*.

    Attributes:
        bytes: mean of what had been received; of pictures that never get there, the whole stream.
        top1: of the answers then.
        stopped: share of pictures of which less than the whole stream had been received; a cut behind its end is none.
    """

    codec: str
    threshold: float
    bytes: float
    top1: Share
    stopped: Share


@dataclass(frozen=True)
class FirstCorrect:
    """How soon one codec gives a correct answer.

    Attributes:
        bytes: mean over pictures of the first cut with the right label; of pictures that never get it right, the whole
            stream.
        median_bytes: the median likewise.
        ever: share of pictures that get it right at some cut.
    """

    codec: str
    bytes: float
    median_bytes: float
    ever: Share


@dataclass(frozen=True)
class Bin:
    """Answers of one codec, at all cuts, whose confidence lies in a tenth: means, and how many there are.

    Cuts behind the end of a stream all give the same answer, which counts once.
    """

    codec: str
    confidence: float
    accuracy: float
    n: int


def accuracy_points(guesses: Iterable[Guess]) -> list[AccuracyPoint]:
    """Return a point for each codec and cut, as they first come, by rising cut and whole streams last."""
    groups: dict[str, dict[int | None, list[Guess]]] = {}
    for guess in guesses:
        groups.setdefault(guess.codec, {}).setdefault(guess.cut_bytes, []).append(guess)
    return [
        _accuracy_point(codec, cut, cuts[cut])
        for codec, cuts in groups.items()
        for cut in sorted(cuts, key=lambda cut: (cut is None, cut))
    ]


def _accuracy_point(codec: str, cut: int | None, guesses: Sequence[Guess]) -> AccuracyPoint:
    n = len(guesses)
    return AccuracyPoint(
        codec=codec,
        cut_bytes=cut,
        bytes=mean([guess.bytes for guess in guesses]),
        bpp=mean([guess.bpp for guess in guesses]),
        top1=_top(guesses, 1, n),
        top5=_top(guesses, _TOP, n),
        agreement=Share.of(sum(guess.agrees for guess in guesses), n),
        shown=sum(guess.label is not None for guess in guesses),
        calibration_error=_calibration_error(_bins(codec, guesses)),
        encode_ms=median(guess.encode_ms for guess in guesses),
        decode_ms=median(guess.decode_ms for guess in guesses),
        classify_ms=median(guess.classify_ms for guess in guesses),
    )


def deadline_points(
    guesses: Iterable[Guess], links_kbps: Sequence[float], deadlines_ms: Sequence[float]
) -> list[DeadlinePoint]:
    """Return a point for each codec, link and deadline.

    The longest cut answers whose bytes had arrived, and whose decoding and classifying, as long as they really took,
    would have ended by the deadline. Nothing is decoded while bytes arrive, for no codec.
    """
    points = []
    for codec, pictures in _by_picture(guesses).items():
        for link in links_kbps:
            for deadline in deadlines_ms:
                answers = [_last_in_time(cuts, link, deadline) for cuts in pictures.values()]
                answered = [answer for answer in answers if answer is not None]
                n = len(pictures)
                tops = _top(answered, 1, n), _top(answered, _TOP, n)
                points.append(DeadlinePoint(codec, link, deadline, *tops, len(answered)))
    return points


def _last_in_time(cuts: Sequence[Guess], link_kbps: float, deadline_ms: float) -> Guess | None:
    in_time = [
        guess
        for guess in cuts
        if guess.label is not None and 8 * guess.bytes / link_kbps + guess.decode_ms + guess.classify_ms <= deadline_ms
    ]
    return max(in_time, key=lambda guess: guess.bytes, default=None)


def stops(guesses: Iterable[Guess], thresholds: Sequence[float]) -> list[Stop]:
    """Return what comes of stopping at each of *thresholds*, for each codec that has whole streams."""
    found = []
    for codec, pictures in _by_picture(guesses).items():
        for threshold in thresholds:
            ends = [
                next((guess for guess in cuts[:-1] if (guess.confidence or 0.0) >= threshold), cuts[-1])
                for cuts in pictures.values()
            ]
            n = len(ends)
            wholes = [cuts[-1].bytes for cuts in pictures.values()]
            early = Share.of(sum(end.bytes < whole for end, whole in zip(ends, wholes, strict=True)), n)
            found.append(Stop(codec, threshold, mean([end.bytes for end in ends]), _top(ends, 1, n), early))
    return found


def first_correct(guesses: Iterable[Guess]) -> list[FirstCorrect]:
    """Return how soon each codec is right; whoever received could not know it, so that this is a bound for any rule."""
    found = []
    for codec, pictures in _by_picture(guesses).items():
        firsts = [next((guess for guess in cuts if guess.rank == 1), None) for cuts in pictures.values()]
        sizes = [
            cuts[-1].bytes if first is None else first.bytes
            for first, cuts in zip(firsts, pictures.values(), strict=True)
        ]
        ever = Share.of(sum(first is not None for first in firsts), len(firsts))
        found.append(FirstCorrect(codec, mean(sizes), float(median(sizes)), ever))
    return found


def calibration(guesses: Iterable[Guess]) -> list[Bin]:
    """Return the tenths of confidence of every codec that have answers, at all cuts together."""
    groups: dict[str, dict[tuple[str, int], Guess]] = {}
    for guess in guesses:
        groups.setdefault(guess.codec, {}).setdefault((guess.image, guess.bytes), guess)
    return [one for codec, group in groups.items() for one in _bins(codec, list(group.values()))]


def _by_picture(guesses: Iterable[Guess]) -> Mapping[str, Mapping[str, list[Guess]]]:
    """Return the guesses of every codec but the original that has whole streams, by picture, as streams grow."""
    groups: dict[str, dict[str, list[Guess]]] = {}
    for guess in guesses:
        groups.setdefault(guess.codec, {}).setdefault(guess.image, []).append(guess)
    for pictures in groups.values():
        for cuts in pictures.values():
            cuts.sort(key=lambda guess: (guess.cut_bytes is None, guess.cut_bytes))
    return {
        codec: pictures
        for codec, pictures in groups.items()
        if codec != ORIGINAL and all(cuts[-1].cut_bytes is None for cuts in pictures.values())
    }


def _top(guesses: Sequence[Guess], most: int, n: int) -> Share:
    return Share.of(sum(guess.rank is not None and guess.rank <= most for guess in guesses), n)


def _bins(codec: str, guesses: Sequence[Guess]) -> list[Bin]:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for guess in guesses:
        if guess.confidence is not None:
            place = min(int(_BINS * guess.confidence), _BINS - 1)
            bins.setdefault(place, []).append((guess.confidence, guess.rank == 1))
    return [
        Bin(codec, mean([sure for sure, _ in some]), mean([float(right) for _, right in some]), len(some))
        for _, some in sorted(bins.items())
    ]


def _calibration_error(bins: Sequence[Bin]) -> float:
    total = sum(one.n for one in bins)
    return sum(one.n * abs(one.confidence - one.accuracy) for one in bins) / total if total else float("nan")
