"""Every figure of README from real pictures, by one command; what was stopped goes on where it ended.

    python benchmarks/figures.py --kodak FOLDER --classify FOLDER [--curves FILE...] --out figures --readme README.md

    figures/rd, accuracy, deadline    the runs of `cutoff eval`, in full
    figures/report.html               the report of all three
    docs/*.png                        its figures
    benchmarks/results/               what the reports come to, as JSON; rows of rate and distortion; smoothness
    README.md                         tables between comments

`--classify` holds pictures with labels as `cutoff eval accuracy` takes them, one classifier (*.onnx) and labels.txt.
Nothing else should run on the machine: times are measured. `--few` takes a handful of pictures, to try it out; then
neither README nor kept results are written.

    python benchmarks/figures.py --kept rd accuracy deadline --readme README.md

writes those tables from the kept results, and measures nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from readme import markdown, replace_table

from engines.bundle import shipped_bundles

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DEADLINE_BUNDLE = "dpict-edge"  # one is enough: families differ in costs, not in how time is kept
TABLE_POINTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
_AT_ITS_RATE = 0.99  # of the column's rate: what has less is not said to be at it
TABLE_CUTS = (512, 768, 1024, 2048, 4096, 8192)


def main() -> None:
    """Measure, draw, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kodak", type=Path, help="folder of the Kodak pictures, or others")
    parser.add_argument("--classify", type=Path, help="folder of labelled pictures and a classifier")
    parser.add_argument("--curves", type=Path, nargs="*", default=[], help="CSV files of published curves")
    parser.add_argument("--bundle", action="append", help="default: all that ship")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--readme", type=Path, help="file whose tables to replace")
    parser.add_argument("--few", action="store_true", help="a handful of pictures and decodes")
    parser.add_argument("--kept", nargs="+", choices=TABLES, help="write these tables from kept results, and no more")
    arguments = parser.parse_args()
    if arguments.kept is not None:
        write_tables({name: json.loads((RESULTS / f"{name}.json").read_text()) for name in arguments.kept},
                     arguments.readme)  # fmt: skip
        return
    if arguments.kodak is None or arguments.classify is None:
        parser.error("--kodak and --classify are needed, or --kept")
    codecs = arguments.bundle or list(shipped_bundles())
    arguments.out.mkdir(parents=True, exist_ok=True)
    reports = {name: evaluate(name, arguments.out, words) for name, words in runs(arguments, codecs).items()}
    kept = arguments.out / "few" if arguments.few else RESULTS
    kept.mkdir(exist_ok=True)
    for name, report in reports.items():
        (kept / f"{name}.json").write_text(json.dumps(report, separators=(",", ":")) + "\n", encoding="utf-8")
    keep_rows(arguments.out / "rd" / "rows.csv", kept / "kodak-rd.csv")
    call(ROOT / "benchmarks" / "smoothness.py", few(arguments)[0], "--json", kept / "smoothness.json")
    drawn = kept if arguments.few else ROOT / "docs"
    runtime("eval", "report", arguments.out, "-o", arguments.out / "report.html", "--figures", drawn)
    write_tables(reports, None if arguments.few else arguments.readme)


def write_tables(reports: Mapping[str, dict[str, Any]], readme: Path | None) -> None:
    """Print the table of each report, and put it into *readme*."""
    for name, report in reports.items():
        table = TABLES[name](report)
        print(table)
        if readme is not None:
            replace_table(readme, name, "figures.py", table)


def runs(arguments: argparse.Namespace, codecs: Sequence[str]) -> dict[str, list[str | Path]]:
    """Return the words of each report."""
    (classifier,) = arguments.classify.glob("*.onnx")
    labels = arguments.classify / "labels.txt"
    most = ["--most", "3"] if arguments.few else []
    trials = (
        ["--repeats", "1", "--calibration", "10", "--most", "1"]
        if arguments.few
        else ["--repeats", "14", "--calibration", "200", "--most", "2"]
    )
    curves = ["--curves", *arguments.curves] if arguments.curves else []
    bundles = [word for name in codecs for word in ("--bundle", name)]
    punctual = DEADLINE_BUNDLE if DEADLINE_BUNDLE in codecs else codecs[0]
    return {
        "rd": [*bundles, "--images", arguments.kodak, "--peers", "jpeg-progressive,jpeg2000,webp,avif", *curves, *most],
        "accuracy": [*bundles, "--images", arguments.classify, "--classifier", classifier, "--labels", labels,
                     "--peers", "jpeg-progressive,jpeg2000", *most],
        "deadline": ["--bundle", punctual, "--threads", "2", "--images", arguments.kodak, *trials],
    }  # fmt: skip


def few(arguments: argparse.Namespace) -> list[Path]:
    """Return what the other benchmarks take: all pictures, or the first."""
    return [min(arguments.kodak.glob("*.png"))] if arguments.few else [arguments.kodak]


def keep_rows(rows: Path, kept: Path) -> None:
    """Copy a CSV file with numbers of five digits, which are plenty."""
    with rows.open(newline="", encoding="utf-8") as source, kept.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([_five(cell) for cell in row] for row in csv.reader(source))


def _five(cell: str) -> str:
    return f"{float(cell):.5g}" if "." in cell and cell.replace(".", "", 1).isdigit() else cell


def evaluate(report: str, out: Path, words: Sequence[str | Path]) -> dict[str, Any]:
    """Run `cutoff eval` and return its object."""
    printed = runtime("eval", report, *words, "--out", out / report, "--json")
    found: dict[str, Any] = json.loads(printed)
    return found


def runtime(*words: str | Path) -> str:
    """Run the command line in its own process, its notes on stderr, and return what it prints."""
    return call("-m", "runtime", *words)


def call(*words: str | Path) -> str:
    """Run Python with *words* and return what it prints; end with its status if that is not 0."""
    print("$ python", *words, file=sys.stderr)
    done = subprocess.run([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def rd_table(report: dict[str, Any]) -> str:
    """Return PSNR at fixed bits per pixel, and BD-rate against JPEG 2000.

    Where streams end before the cut, or files fit below it, the mean rate stands in brackets.
    """
    found = {(point["codec"], point["target_bpp"]): point for point in report["points"]}
    rates = {delta["codec"]: delta for delta in report["bd_rate"] if delta["reference"] == "jpeg2000"}
    rows = []
    for codec in dict.fromkeys(codec for codec, _ in found):
        cells = [_psnr(found.get((codec, target)), target) for target in TABLE_POINTS]
        percent = rates.get(codec, {}).get("percent")
        rows.append([codec, *cells, "" if percent is None else f"{percent:+.1f} %"])
    return markdown(["PSNR, dB, at bpp", *map(str, TABLE_POINTS), "BD-rate against JPEG 2000"], rows, numbers=False)


def _psnr(point: dict[str, Any] | None, target_bpp: float) -> str:
    if point is None or point["psnr_db"] is None or point["nothing_to_show"]:
        return ""
    text, bpp = f"{point['psnr_db']:.2f}", point["bpp"]
    return f"{text} ({bpp:.{2 if bpp >= 0.1 else 3}f})" if bpp < _AT_ITS_RATE * target_bpp else text


def accuracy_table(report: dict[str, Any]) -> str:
    """Return top-1 in percent, with its interval, at fixed bytes."""
    found = {(point["codec"], point["cut_bytes"]): point["top1"] for point in report["points"]}
    rows = [
        [codec, *(_share(found.get((codec, cut))) for cut in (*TABLE_CUTS, None))]
        for codec in dict.fromkeys(codec for codec, _ in found)
    ]
    return markdown(["top-1, %, at bytes", *map(str, TABLE_CUTS), "whole stream"], rows, numbers=False)


def _share(share: dict[str, Any] | None) -> str:
    if share is None:
        return ""
    return f"{100 * share['value']:.1f} ({100 * share['low']:.0f} to {100 * share['high']:.0f})"


def deadline_table(report: dict[str, Any]) -> str:
    """Return what was to be reached and what was."""
    keys = ("codec", "load", "figure", "wanted", "measured")
    rows = [
        [*(goal[key] for key in keys), str(goal["n"]), "yes" if goal["reached"] else "no"] for goal in report["goals"]
    ]
    header = ["bundle", "load", "figure", "wanted", "measured", "decodes", "reached"]
    return markdown(header, rows, numbers=False)


TABLES: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "rd": rd_table,
    "accuracy": accuracy_table,
    "deadline": deadline_table,
}


if __name__ == "__main__":
    main()
