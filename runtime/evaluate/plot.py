"""Rate-distortion curves as a picture: PSNR and MS-SSIM in dB over bits per pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from runtime.errors import MissingExtra, OutputError, UsageError
from runtime.evaluate.summary import Curve

_PANELS = (("psnr_db", "PSNR (dB, RGB)"), ("ms_ssim_db", "MS-SSIM (dB)"))


def check_plot(path: Path) -> None:
    """Find out before the work whether a plot can be drawn to *path*.

    Raises:
        MissingExtra: matplotlib is not installed.
        UsageError: the suffix names no picture format that it writes.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as fault:
        raise MissingExtra("a plot needs matplotlib: pip install 'cutoff[eval]'") from fault
    formats = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in formats:
        raise UsageError(f"{path}: a plot ends in {', '.join('.' + name for name in sorted(formats))}")


def write_plot(
    path: Path, bundles: Sequence[Curve], peers: Sequence[Curve], published: Sequence[Curve], title: str
) -> None:
    """Draw *bundles* with bold lines, *peers* with thin and *published* curves with broken ones.

    The rates shown are those of the bundles, or of the peers where there are no bundles.

    Raises:
        OutputError: *path* cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    FigureCanvasAgg(figure)
    highest_bpp = 1.05 * max((float(curve.bpp.max()) for curve in bundles or peers if len(curve.bpp)), default=1.0)
    for place, (attribute, axis_label) in enumerate(_PANELS, start=1):
        axes = figure.add_subplot(1, len(_PANELS), place)
        for number, (curve, style) in enumerate(_styled(bundles, peers, published)):
            known = np.isfinite(getattr(curve, attribute))
            bpp, values = curve.bpp[known], getattr(curve, attribute)[known]
            shown = bpp <= highest_bpp
            axes.plot(bpp[shown], values[shown], style, label=curve.label, color=f"C{number % 10}", markersize=3)
            axes.lines[-1].set_linewidth(2.2 if number < len(bundles) else 1.0)
        axes.set_xlabel("bits per pixel")
        axes.set_ylabel(axis_label)
        axes.set_xlim(0, highest_bpp)
        axes.grid(alpha=0.3)
    figure.legend(handles=figure.axes[0].lines, loc="outside right upper", fontsize="small")
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=150)
    except OSError as fault:
        raise OutputError(f"{path}: cannot be written: {fault.strerror}") from fault


def _styled(
    bundles: Sequence[Curve], peers: Sequence[Curve], published: Sequence[Curve]
) -> Iterator[tuple[Curve, str]]:
    """Yield every curve with matplotlib's short form of its markers and line; the broken lines change every ten."""
    yield from ((curve, "o-") for curve in (*bundles, *peers))
    yield from ((curve, ("--", ":", "-.")[number // 10 % 3]) for number, curve in enumerate(published))
