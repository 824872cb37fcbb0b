"""A table of variants for a model card, from a run of `cutoff eval rd` over their bundles.

    cutoff eval rd --bundle A --bundle B ... --images KODAK --out RUN
    python benchmarks/ablation_table.py RUN --reference A --csv benchmarks/results/ablation-NAME.csv

PSNR (dB) at fixed bits per pixel, the whole streams, and the BD-rate of each against the reference (PSNR, 0.1 to
1.0 bpp as far as both reach). A cut at which some picture has nothing to show yet stands as their number.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from runtime.evaluate.rd.cuts import Cut
from runtime.evaluate.rd.summary import Point, curves_from_points, delta_rate, summarise
from runtime.evaluate.runs.rows import read_rows


def main() -> None:
    """Print the table, and keep its points."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--reference", required=True, help="what the others are compared with")
    parser.add_argument("--csv", type=Path, help="where to keep the points")
    arguments = parser.parse_args()
    points = summarise(read_rows(Cut, arguments.run / "rows.csv"))
    print(table(points, arguments.reference), end="")
    if arguments.csv is not None:
        keep(points, arguments.csv)


def table(points: list[Point], reference: str) -> str:
    """Return the table."""
    targets = sorted({point.target_bpp for point in points if point.target_bpp is not None})
    curves = {curve.label: curve for curve in curves_from_points(points)}
    lines = [
        f"| variant | {' | '.join(f'{target:g}' for target in targets)} | whole | BD-rate |",
        f"| --- |{' --- |' * (len(targets) + 2)}",
    ]
    for name in dict.fromkeys(point.codec for point in points):
        mine = {point.target_bpp: point for point in points if point.codec == name}
        rate = delta_rate(curves[name], curves[reference]).percent if name != reference else 0.0
        whole = mine.get(None)  # files made for each rate have none
        cells = [_cell(mine.get(target), whole) for target in targets]
        cells += [
            "" if whole is None else f"{whole.psnr_db:.2f} at {whole.bpp:.3f}",
            "" if rate is None else f"{rate:+.1f} %",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(point: Point | None, whole: Point | None) -> str:
    if point is None or point.psnr_db is None or point.bpp is None or point.target_bpp is None:
        return ""
    if point.nothing_to_show:
        return f"{point.nothing_to_show} show nothing"
    ended = whole is not None and whole.bpp is not None and whole.bpp < point.target_bpp
    return "" if ended else f"{point.psnr_db:.2f}"


def keep(points: list[Point], path: Path) -> None:
    """Write the points to *path*."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["variant", "target_bpp", "bpp", "psnr_db", "ms_ssim", "pictures"])
        for one in points:
            numbers = (one.bpp, one.psnr_db, one.ms_ssim)
            rounded = ["" if number is None else round(number, 5) for number in numbers]
            writer.writerow([one.codec, "" if one.target_bpp is None else one.target_bpp, *rounded, one.n])


if __name__ == "__main__":
    main()
