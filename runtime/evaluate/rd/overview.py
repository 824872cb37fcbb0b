"""What a run of `cutoff eval rd` comes to: points, curves, and deltas between them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from runtime.evaluate.rd.curves import read_curves
from runtime.evaluate.rd.cuts import Cut
from runtime.evaluate.rd.summary import Curve, DeltaRate, Point, curves_from_points, delta_rate, summarise
from runtime.evaluate.runs.folder import Run


@dataclass(frozen=True)
class RdSummary:
    """Means at every point; curves of bundles, of peers, and published; bundles against all others."""

    points: list[Point]
    bundles: list[Curve]
    peers: list[Curve]
    published: list[Curve]
    deltas: list[DeltaRate]


def summarise_run(run: Run[Cut]) -> RdSummary:
    """Average *run*; published curves are those that were copied into its folder.

    One that bears the name of a codec, or of another file's curve, is told from it by its file.
    """
    points = summarise(run.rows)
    curves = curves_from_points(points)
    of_bundles = {name for name, identity in run.about["codecs"].items() if identity["kind"] == "bundle"}
    bundles = [curve for curve in curves if curve.label in of_bundles]
    peers = [curve for curve in curves if curve.label not in of_bundles]
    files = sorted(run.path / name for name in run.about["files"] if (run.path / name).is_file())
    published: list[Curve] = []
    for file in files:
        others = {curve.label for curve in (*curves, *published)}
        published += [_apart(curve, others, file.name) for curve in read_curves(file)]
    references = [*peers, *(curve for curve in published if curve.has_psnr)]
    deltas = [delta_rate(curve, reference) for curve in bundles for reference in references]
    return RdSummary(points, bundles, peers, published, deltas)


def _apart(curve: Curve, others: Collection[str], file: str) -> Curve:
    return replace(curve, label=f"{curve.label} ({file})") if curve.label in others else curve
