"""What a receiver had of each picture of a camera, and what that comes to.

A picture is *due* if the camera took it, whatever its sender made of it: skipped, dropped, late and lost ones count.
It is *in time* if the receiver finished a picture of it by its deadline.
Pictures of one trace share its stalls and are no independent cases, so that shares have no intervals: the table says
over how many films and traces they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import PIL.Image
from readme import markdown

from runtime.evaluate.distortion import psnr
from runtime.picture import Image


@dataclass(frozen=True)
class Row:
    """One picture that was due.

    Attributes:
        film, trace, sender: names.
        number: of the picture.
        status: the server's; "none" if it never answered.
        in_time: see above.
        bytes: of the stream that the answer rests on; 0 without an answer in time.
        margin_ms: left at the answer.
        psnr_db: of the answer; None if it was not in time.
        shown_db: of what a viewer sees then: this answer, or the last one that was in time; None before the first.
        agrees: the classifier says of the answer what it says of the full picture; None without a classifier.
    """

    film: str
    trace: str
    sender: str
    number: int
    status: str
    in_time: bool
    bytes: int
    margin_ms: float | None
    psnr_db: float | None
    shown_db: float | None
    agrees: bool | None

    @property
    def place(self) -> tuple[str, str, int]:
        """What it has in common with other senders' rows."""
        return self.film, self.trace, self.number


@dataclass(frozen=True)
class Summary:
    """A sender over all its rows; shares are 0..1.

    Attributes:
        films, traces: how many; each film runs over each trace.
        due: pictures.
        in_time: share of those due.
        by_preview: share of those in time that the preview network made.
        link_bytes: that went over the link towards the server, per picture due.
        psnr_db: mean over what was in time.
        psnr_common_db: the same, over pictures that every sender had in time.
        psnr_shown_db: mean of what a viewer saw, over pictures due.
        agreement: share of pictures due whose label in time was that of the full picture; None without a classifier.
        agreement_common: the same, over pictures that every sender had in time.
        margin_p1_ms: the first percentile of margins of what was in time.
    """

    sender: str
    films: int
    traces: int
    due: int
    in_time: float
    by_preview: float
    link_bytes: float
    psnr_db: float | None
    psnr_common_db: float | None
    psnr_shown_db: float | None
    agreement: float | None
    agreement_common: float | None
    common: int
    margin_p1_ms: float | None


def psnr_of(image: Image, original: Image) -> float:
    """Return the PSNR of *image*, enlarged to the size of *original* where it is smaller, at most 60 dB."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.shape != original.shape:
        size = (original.shape[1], original.shape[0])
        image = np.array(PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BICUBIC))
    return min(60.0, psnr(image, original))


def summarise(rows: Sequence[Row], link_bytes: Mapping[str, int]) -> list[Summary]:
    """Return a summary of each sender; *link_bytes* are those of all its runs."""
    senders = list(dict.fromkeys(row.sender for row in rows))
    of_sender = {sender: [row for row in rows if row.sender == sender] for sender in senders}
    had = [{row.place for row in own if row.in_time} for own in of_sender.values()]
    common = set.intersection(*had) if had else set()
    return [_summary(sender, own, common, link_bytes[sender]) for sender, own in of_sender.items()]


def table(summaries: Sequence[Summary]) -> str:
    """Return a table in Markdown."""
    head = (
        "sender", "films", "traces", "in time, %", "bytes per picture", "PSNR, dB", "PSNR where all were in time",
        "PSNR of what is shown", "labels, % of all", "labels, % where all were in time",
    )  # fmt: skip
    rows = [
        (
            one.sender,
            str(one.films),
            str(one.traces),
            _percent(one.in_time),
            f"{one.link_bytes:,.0f}",
            _number(one.psnr_db),
            _number(one.psnr_common_db),
            _number(one.psnr_shown_db),
            _percent(one.agreement),
            _percent(one.agreement_common),
        )
        for one in summaries
    ]
    return markdown(head, rows)


def _summary(sender: str, rows: Sequence[Row], common: set[tuple[str, str, int]], link_bytes: int) -> Summary:
    answered = [row for row in rows if row.in_time]
    shared = [row for row in answered if row.place in common]
    classified = any(row.agrees is not None for row in rows)
    margins = [row.margin_ms for row in answered if row.margin_ms is not None]
    return Summary(
        sender=sender,
        films=len({row.film for row in rows}),
        traces=len({row.trace for row in rows}),
        due=len(rows),
        in_time=len(answered) / len(rows),
        by_preview=_share(row.status == "preview" for row in answered),
        link_bytes=link_bytes / len(rows),
        psnr_db=_mean(row.psnr_db for row in answered),
        psnr_common_db=_mean(row.psnr_db for row in shared),
        psnr_shown_db=_mean(row.shown_db for row in rows),
        agreement=_share(bool(row.agrees) for row in rows) if classified else None,
        agreement_common=_share(bool(row.agrees) for row in shared) if classified and shared else None,
        common=len(shared),
        margin_p1_ms=float(np.quantile(margins, 0.01)) if margins else None,
    )


def _mean(values: object) -> float | None:
    found = [value for value in values if value is not None]  # type: ignore[attr-defined]
    return fmean(found) if found else None


def _share(values: object) -> float:
    found = list(values)  # type: ignore[call-overload]
    return sum(found) / len(found) if found else 0.0


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f}"
