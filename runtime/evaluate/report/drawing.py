"""How figures look: one style for all, and a drawing as SVG text or a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import MissingExtra, OutputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PALETTE = 64  # colours of a PNG file: lines are few, edges blend into white
_INK, _SOFT, _LINE = "#1c2733", "#5d6b7a", "#d9dfe6"
_BUNDLES = ("#0b5fa5", "#cf4a1c", "#2a8a4a", "#8a3ea8", "#b58900", "#007f86", "#a3195b", "#5a6b00")
_PEERS = ("#4a5560", "#9aa5b0", "#c9b27c", "#3fa39b", "#b079b8", "#86a13c", "#d08c8c", "#6f8fb8")
_STYLE: Any = {  # typed by matplotlib with all of its names
    "font.size": 9.5,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Line:
    """How a codec's curve is drawn, in every figure alike."""

    colour: str
    width: float
    dashes: str
    marker: str

    def options(self) -> dict[str, Any]:
        """Return it as arguments of `Axes.plot`."""
        return {
            "color": self.colour,
            "linewidth": self.width,
            "linestyle": self.dashes,
            "marker": self.marker,
            "markersize": 3.4,
        }


def lines_for(bundles: Sequence[str], peers: Sequence[str], published: Sequence[str] = ()) -> dict[str, Line]:
    """Return a line for each name, all of which differ: bundles bold, peers thin, published curves broken."""
    found = {name: Line(_BUNDLES[i % len(_BUNDLES)], 2.2, "-", "o") for i, name in enumerate(bundles)}
    found |= {name: Line(_PEERS[i % len(_PEERS)], 1.2, "-", "s") for i, name in enumerate(peers)}
    dashes = ("--", ":", "-.")
    for i, name in enumerate(published):
        found[name] = Line(_PEERS[i % len(_PEERS)], 1.0, dashes[i // len(_PEERS) % len(dashes)], "")
    return found


def require_matplotlib() -> None:
    """Find out whether figures can be drawn; MissingExtra if not."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as fault:
        raise MissingExtra("a report needs matplotlib: pip install '.[eval]' in the checkout") from fault


def drawn(size: tuple[float, float], draw: Callable[[Figure], None]) -> Figure:
    """Return a figure of *size* in inches, filled by *draw*; call it inside `styled` contexts only through here."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        return figure


def svg_of(figure: Figure, name: str) -> str:
    """Return *figure* as SVG text to stand inside HTML; *name* tells its inner names from those of others."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name, "svg.id": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def write_figure(figure: Figure, path: Path) -> None:
    """Write *figure* to *path*, whose suffix names the format; PNG with a palette, a third of the size.

    Raises:
        OutputError: it cannot be written.
    """
    import matplotlib
    import PIL.Image

    try:
        with matplotlib.rc_context(_STYLE):
            if path.suffix.lower() != ".png":
                figure.savefig(path)
                return
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", dpi=120)
        with PIL.Image.open(drawn) as picture:
            few = picture.convert("RGB").quantize(_PALETTE, dither=PIL.Image.Dither.NONE)
        few.save(path, optimize=True)
    except OSError as fault:
        raise OutputError(f"{path}: cannot be written: {fault.strerror or fault}") from fault


def shared_legend(figure: Figure, columns: int = 5) -> None:
    """Put one legend for all panels below them."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(columns, len(handles)))
