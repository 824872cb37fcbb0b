"""`cutoff demo`: what the codec is for, on real photographs.

Every picture is encoded once. Its stream is cut at several sizes and decoded at several deadlines; every result is
written as a picture, and all of them side by side as a strip. `table.csv` holds the figures that are printed.
`--live` adds a camera that sends to a server over a poor link, and `--serve` leaves that running with its page.

JSON: folder, rows (list of objects with the columns of the table); frames, of the live part.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from runtime.cli.console import note, print_object, print_table, warn
from runtime.cli.live import Live, Seen, check_extras, summary
from runtime.cli.options import (
    add_bundle,
    add_engine_options,
    add_json,
    engine_options,
    positive_number,
    positive_numbers,
)
from runtime.cli.samples import photographs
from runtime.cli.strip import Panel, strip_of
from runtime.codec import Codec
from runtime.deadline import Deadline
from runtime.decoder import Picture
from runtime.encoder import Encoding
from runtime.errors import MissingExtra, OutputError, UsageError
from runtime.evaluate.distortion import psnr
from runtime.evaluate.pictures import find_pictures
from runtime.image_files import read_image, write_image
from runtime.picture import Image
from runtime.whole_files import write_whole

DEFAULT_BPP = (0.05, 0.1, 0.2, 0.4)
_SHARES_OF_WHOLE = (0.5, 0.75, 1.0, 1.5)  # default deadlines, as shares of what a whole decode takes here
_TIMED_RUNS = 3


@dataclass(frozen=True)
class Row:
    """A line of the table: what a cut or a deadline made of a picture; without one if no picture could be made."""

    picture: str
    cut: str
    bytes: int
    bpp: float
    psnr_db: float | None
    steps: float
    steps_total: int
    ms: float
    skipped: str
    missed: bool

    def written(self) -> tuple[str, ...]:
        """Return the line as it is printed."""
        return (
            self.picture,
            self.cut,
            str(self.bytes),
            f"{self.bpp:.3f}",
            "-" if self.psnr_db is None else f"{self.psnr_db:.2f}",
            f"{self.steps:.2f}/{self.steps_total}",
            f"{self.ms:.1f}",
            self.skipped or "-",
            "yes" if self.missed else "no",
        )


class Cut(NamedTuple):
    """A cut to show: its label, the end of its file's name, the prefix's length, and the deadline if there is one."""

    label: str
    file: str
    size_bytes: int
    deadline_ms: float | None


_COLUMNS = ("picture", "cut", "bytes", "bpp", "psnr_db", "steps", "ms", "skipped", "missed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "pictures",
        type=Path,
        nargs="*",
        metavar="PICTURE",
        help="picture files or folders of them (default: the photographs that come with scikit-image)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results; needed without --serve")
    parser.add_argument(
        "--points",
        type=positive_numbers,
        default=DEFAULT_BPP,
        metavar="BPP,...",
        help=f"where to cut, in bits per pixel (default: {','.join(map(str, DEFAULT_BPP))})",
    )
    parser.add_argument(
        "--deadlines-ms",
        type=positive_numbers,
        metavar="T,...",
        help="deadlines for the whole stream (default: 0.5 to 1.5 times what a whole decode takes here)",
    )
    live = parser.add_argument_group("live", "a camera that sends to a server over a link of 64 to 512 kbit/s")
    live.add_argument("--live", action="store_true", help="show this, too, and print a table of its frames")
    live.add_argument("--serve", action="store_true", help="show nothing else, and stay up, with a page to look at")
    live.add_argument("--source", type=Path, metavar="CLIP", help="film, or folder of pictures, that the camera sees")
    live.add_argument("--seconds", type=positive_number, default=15.0, metavar="S", help="how long (default: 15)")
    live.add_argument("--port", type=int, default=0, help="of the page (default: any that is free)")
    live.add_argument("--classifier", type=Path, metavar="ONNX", help="an ImageNet classifier that names what is seen")
    live.add_argument("--labels", type=Path, metavar="FILE", help="its classes: a line 'wnid name' for each")
    add_bundle(parser)
    add_engine_options(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show every picture, and print the table; then, or instead, a camera and a server."""
    live = Live(
        arguments.bundle,
        arguments.source,
        arguments.classifier,
        arguments.labels,
        arguments.port,
        engine_options(arguments),
    )
    if arguments.serve:
        return _serve(live)
    if arguments.out is None:
        raise UsageError("--out is needed: the folder for the results")
    rows = _show_pictures(arguments)
    frames = _show_live(live, arguments.seconds) if arguments.live else []
    if arguments.json:
        content = {"folder": str(arguments.out), "rows": [dataclasses.asdict(row) for row in rows]}
        if arguments.live:
            content["frames"] = [dataclasses.asdict(frame) for frame in frames]
        print_object(content)
        return 0
    print_table(_COLUMNS, [row.written() for row in rows])
    print(f"\npictures, a strip of each, and table.csv are in {arguments.out}")
    if frames:
        print()
        print_table(Seen.COLUMNS, [frame.written() for frame in frames], text=(1, 6))
        print(f"\n{summary(frames)}")
    return 0


def _serve(live: Live) -> int:
    check_extras()
    with live.running() as session:
        try:
            print(f"look at {session.address}/ ; end with Ctrl-C", flush=True)
            session.wait(None)
        except KeyboardInterrupt:
            note("ending")
    return 0


def _show_live(live: Live, seconds: float) -> list[Seen]:
    """Return what came of the frames of *seconds*; none, with a warning, where the packages it needs are missing."""
    try:
        check_extras()
    except MissingExtra as fault:
        warn(f"no live part: {fault}")
        return []
    with live.running() as session:
        note(f"a camera sends for {seconds:g} s; look at {session.address}/ meanwhile")
        session.wait(seconds)
        session.end_camera()
        return session.frames()


def _show_pictures(arguments: argparse.Namespace) -> list[Row]:
    make_folder(arguments.out)
    rows = []
    with Codec.open(arguments.bundle, **engine_options(arguments)) as codec:
        for name, original in _pictures(arguments.pictures):
            note(f"{name}: {original.shape[1]}x{original.shape[0]}")
            rows += show(codec, name, original, arguments.out, arguments.points, arguments.deadlines_ms)
    write_whole(arguments.out / "table.csv", csv_of(rows).encode(errors="surrogateescape"))
    return rows


def show(
    codec: Codec,
    name: str,
    original: Image,
    folder: Path,
    points: Sequence[float] = DEFAULT_BPP,
    deadlines_ms: Sequence[float] | None = None,
) -> list[Row]:
    """Encode *original*, decode it at every point and deadline, write the pictures, and return the table's rows.

    Raises:
        OutputError: a file cannot be written.
    """
    height, width = original.shape[:2]
    codec.warm(width, height)
    encoding = codec.encode(original)
    write_whole(folder / f"{name}.cut", encoding.stream)
    rows, panels = [], [Panel("original", original)]
    cuts = [*_byte_cuts(encoding, width * height, points), *_deadline_cuts(codec, encoding.stream, deadlines_ms)]
    for cut in cuts:
        deadline = None if cut.deadline_ms is None else Deadline.after_ms(cut.deadline_ms)
        picture = codec.decode(encoding.stream[: cut.size_bytes], deadline)
        row = _row(name, cut, original, picture)
        rows.append(row)
        if picture.image is not None:
            write_image(folder / f"{name}-{cut.file}.png", picture.image)
            panels.append(Panel(f"{cut.label}: {row.bytes} bytes, {row.written()[4]} dB", picture.image))
    write_image(folder / f"{name}-strip.png", strip_of(panels))
    return rows


def csv_of(rows: Sequence[Row]) -> str:
    """Return the table as CSV with a header line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{v:.4f}" if isinstance(v, float) else v for key, v in dataclasses.asdict(row).items()})
    return text.getvalue()


def make_folder(folder: Path) -> None:
    """Make *folder* unless it is there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise OutputError(f"{folder}: cannot be made: {fault.strerror}") from fault


def _pictures(paths: Sequence[Path]) -> Iterator[tuple[str, Image]]:
    """Yield the pictures at *paths* by name, or scikit-image's if there are none; equal names get a number."""
    if not paths:
        yield from photographs().items()
        return
    names: set[str] = set()
    for file in find_pictures(paths).values():
        numbered = (f"{file.stem}-{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([file.stem], numbered) if name not in names)
        names.add(name)
        yield name, read_image(file)


def _byte_cuts(encoding: Encoding, pixels: int, points: Sequence[float]) -> Iterator[Cut]:
    """Yield the cuts at *points* that hold the head segment and are shorter than the stream, then the whole stream."""
    whole = len(encoding.stream)
    for bpp in points:
        size_bytes = int(bpp * pixels / 8)
        if int(encoding.value.offsets[0]) <= size_bytes < whole:
            yield Cut(f"{bpp:g} bpp", f"{bpp:g}-bpp", size_bytes, None)
    yield Cut("whole", "whole", whole, None)


def _deadline_cuts(codec: Codec, stream: bytes, deadlines_ms: Sequence[float] | None) -> Iterator[Cut]:
    """Yield a decode of the whole stream by each deadline; None means shares of what it takes here."""
    if deadlines_ms is None:
        whole_ms = _whole_decode_ms(codec, stream)
        deadlines_ms = [float(f"{share * whole_ms:.2g}") for share in _SHARES_OF_WHOLE]
    for number, deadline_ms in enumerate(deadlines_ms, 1):
        yield Cut(f"{deadline_ms:g} ms", f"deadline-{number}", len(stream), deadline_ms)


def _whole_decode_ms(codec: Codec, stream: bytes) -> float:
    durations = []
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        codec.decode(stream)
        durations.append(1000 * (time.perf_counter() - started))
    return median(durations)


def _row(name: str, cut: Cut, original: Image, picture: Picture) -> Row:
    decibels = None if picture.image is None else psnr(picture.image, original)
    return Row(
        picture=name,
        cut=cut.label,
        bytes=picture.bytes_used,
        bpp=8 * picture.bytes_used / (original.shape[0] * original.shape[1]),
        psnr_db=None if decibels == float("inf") else decibels,
        steps=picture.steps,
        steps_total=picture.steps_total,
        ms=picture.timings["total"],
        skipped=" ".join(picture.skipped),
        missed=picture.missed,
    )
