"""Pieces of HTML: text is escaped here and nowhere else."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from runtime.errors import DataError
from runtime.evaluate.runs.folder import PanelRecord
from runtime.evaluate.shares import Share

_STRONG = ' class="strong"'


def paragraph(text: str, kind: str = "") -> str:
    """Return *text* as a paragraph of the class *kind*."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def heading(text: str, level: int = 3) -> str:
    """Return a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def figure(svg: str, caption: str) -> str:
    """Return *svg*, an inline drawing, with its *caption*."""
    return f'<figure role="img" aria-label="{escape(caption)}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    strong: Callable[[Sequence[str]], bool] | None = None,
    kind: str = "",
) -> str:
    """Return a table; rows for which *strong* holds stand out.

    What follows a bar in a cell is small; "yes" and "no" get their colours. A *kind* of "stacked" puts what is small
    below, one of "words" is for text.
    """
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr{_STRONG if strong is not None and strong(row) else ''}>{''.join(map(_cell, row))}</tr>" for row in rows
    )
    inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="{kind}">{inside}</table></div>'


def share_cell(share: Share) -> str:
    """Return a cell of a table: *share* in percent, and its interval small."""
    return f"{100 * share.value:.1f}|{100 * share.low:.0f} to {100 * share.high:.0f}" if share.n else "-"


def definitions(pairs: Mapping[str, str]) -> str:
    """Return a list of names and what they stand for."""
    inside = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs.items())
    return f"<dl>{inside}</dl>"


def code(lines: Iterable[str]) -> str:
    """Return *lines* as they are."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def warning(text: str) -> str:
    """Return *text* so that nobody overlooks it."""
    return f'<div class="warn">{escape(text)}</div>'


def strips(panels: Sequence[PanelRecord], folder: Path) -> str:
    """Return a strip for each picture: a row for each codec, a column for each cut, captions below the panels."""
    pictures: dict[str, dict[str, dict[str, PanelRecord]]] = {}
    for one in panels:
        pictures.setdefault(one.unit, {}).setdefault(one.codec, {})[one.cut] = one
    return "".join(heading(f"The same picture at rising cuts: {name}") + _strip(rows, folder)
                   for name, rows in pictures.items())  # fmt: skip


def _strip(rows: Mapping[str, Mapping[str, PanelRecord]], folder: Path) -> str:
    cuts = list(dict.fromkeys(cut for row in rows.values() for cut in row))
    head = "<th></th>" + "".join(f"<th>{escape(cut)}</th>" for cut in cuts)
    body = "".join(
        f"<tr><td>{escape(codec)}</td>{''.join(_panel(row.get(cut), folder) for cut in cuts)}</tr>"
        for codec, row in rows.items()
    )
    return f'<table class="strip"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _panel(one: PanelRecord | None, folder: Path) -> str:
    if one is None:
        return "<td></td>"
    try:
        data = base64.b64encode((folder / one.file).read_bytes()).decode()
    except OSError as fault:
        raise DataError(f"{folder / one.file}: cannot be read: {fault.strerror}") from fault
    alt = escape(f"{one.codec} at {one.cut}")
    return f'<td><img alt="{alt}" src="data:image/webp;base64,{data}">{escape(one.caption)}</td>'


def _cell(text: str) -> str:
    kind = f' class="{text}"' if text in ("yes", "no") else ""
    value, _, remark = text.partition("|")
    return f"<td{kind}>{escape(value)}{f' <small>{escape(remark)}</small>' if remark else ''}</td>"
