"""Pictures of a camera over links that vary, to be answered within half a second: beside the same client with JPEG.

    python benchmarks/stream.py --clip FOLDER --classifier FOLDER --json benchmarks/results/stream.json

Everything is real: client and server are processes, bytes go over a socket through a link that is shaped by a trace,
deadlines are kept or not. All senders meet the same pictures on the same traces, with the same scheduler, estimate of
the link and server; they differ in what is sent:

    cutoff                 the stream, cut by the deadline
    jpeg-50, jpeg-70       the best JPEG file that fits into 50, 70 % of what the link is measured to carry in time
    jpeg-progressive       the best progressive file that fits into all of it, cut by the deadline
    jpeg-progressive-q75   a progressive one of quality 75 (or another), cut by the deadline

A trace's rate walks between 64 and 512 kbit/s and stalls now and then; every sender runs through the whole of it.
What a receiver had is read from the server's store and decoded anew, from the bytes that its answer rests on.
`stream_score` says what is counted.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

import processes
from stream_pictures import film_files, film_pictures, moving_views
from stream_score import Row, psnr_of, summarise, table
from stream_side import OURS, jpeg_of

from runtime import Codec
from runtime.errors import CutoffError
from runtime.evaluate.accuracy.classifier import Classifier, Preparation, prepared
from runtime.evaluate.runs.provenance import processor
from runtime.picture import Image
from runtime.serve.settings import StoreSettings
from runtime.serve.store import Store, StoredFrame
from runtime.shaped_link import Conditions, ShapedLink, varying

SENDERS = (OURS, "jpeg-50", "jpeg-70", "jpeg-progressive", "jpeg-progressive-q75")
_CAMERA = "camera"
_SIDE = str(Path(__file__).parent / "stream_side.py")
_ANSWER_S = {OURS: 0.06}  # the server's time for an answer
_JPEG_ANSWER_S = 0.03
_IN_TIME = ("ok", "preview", "damaged")
_SAME_PICTURE_S = 0.1  # between the source's note and the client's, of when a picture was taken


@dataclass(frozen=True)
class Finding:
    """What a sender brought over a trace: stored frames by the picture's number, and bytes on the link."""

    frames: dict[int, StoredFrame]
    streams: dict[int, bytes]
    link_bytes: int


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="a film, or a folder of them (default: a view over photographs)")
    parser.add_argument("--classifier", type=Path, help="a folder with one .onnx file and labels.txt")
    parser.add_argument("--side", type=int, default=224, help="of the classifier's input")
    parser.add_argument("--senders", nargs="+", default=SENDERS)
    parser.add_argument("--traces", type=int, default=3, help="how many, by their seeds from 1")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each trace")
    parser.add_argument("--low", type=float, default=64.0, help="kbit/s")
    parser.add_argument("--high", type=float, default=512.0, help="kbit/s")
    parser.add_argument("--delay", type=float, default=0.03, help="seconds, one way")
    parser.add_argument("--loss", type=float, default=0.0, help="share of segments")
    parser.add_argument("--deadline", type=float, default=0.5, help="seconds from the picture to the answer")
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--size", default="512x288")
    parser.add_argument("--bundle", default="dpict-edge")
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    parser.add_argument("--folder", type=Path, help="to leave settings, logs and stores in (default: a temporary one)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        report = measure(arguments, folder.resolve())
    print(report["table"], end="")
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(processes.report_text(report))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run every sender over every trace, and return the report."""
    rows: list[Row] = []
    link_bytes = dict.fromkeys(arguments.senders, 0)
    label = _labels(arguments)
    with Codec.open(arguments.bundle, threads=arguments.threads) as codec:
        for film, pictures in _films(arguments):
            originals = [label(picture) for picture in pictures]
            for seed in range(1, arguments.traces + 1):
                for sender in arguments.senders:
                    place = folder / f"{film}-{seed}-{sender}"
                    place.mkdir(parents=True)
                    finding = run(arguments, place, sender, pictures, seed)
                    link_bytes[sender] += finding.link_bytes
                    name = f"seed {seed}"
                    found = list(_rows(film, name, sender, finding, pictures, originals, label, codec))
                    rows += found
                    late = sum(not row.in_time for row in found)
                    print(f"{film}, {name}, {sender}: {late} of {len(found)} not in time", file=sys.stderr)
    summaries = summarise(rows, link_bytes)
    return {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "settings": {key: _plain(value) for key, value in vars(arguments).items() if key not in ("json", "folder")},
        "table": table(summaries),
        "summaries": [asdict(one) for one in summaries],
    }


def run(arguments: argparse.Namespace, folder: Path, sender: str, pictures: NDArray[np.uint8], seed: int) -> Finding:
    """Send *pictures* over a trace, and return what the server has of them."""
    np.save(folder / "pictures.npy", pictures)
    side = (_SIDE, "--codec", sender)
    server = processes.server(
        folder,
        [_CAMERA],
        words=(*side, "serve"),
        settings={
            "decode": {"bundle": arguments.bundle, "threads": arguments.threads, "warm": [arguments.size]},
        },
    )
    trace = varying(seed, arguments.seconds, 1000 * arguments.low, 1000 * arguments.high)
    conditions = Conditions(delay_s=arguments.delay, loss=arguments.loss, seed=seed)
    link = ShapedLink(("127.0.0.1", server.port), trace, conditions)
    taken = folder / "taken.csv"
    with processes.running(server), link.in_thread() as port:
        camera = processes.camera(
            folder,
            _CAMERA,
            port,
            words=(*side, "--pictures", str(folder / "pictures.npy"), "--taken", str(taken), "edge"),
            settings={
                "source": {"fps": arguments.fps},
                "codec": {"bundle": arguments.bundle, "threads": arguments.threads},
                "sending": {
                    "deadline_s": arguments.deadline,
                    "answer_s": _ANSWER_S.get(sender, _JPEG_ANSWER_S),
                },
            },
        )
        try:
            camera.start()
            _wait_for(lambda: taken.exists() and taken.stat().st_size > 0, camera)
            link.rewind()
            before = link.up.sent
            _wait_for(lambda: camera.process is None or camera.process.poll() is not None, camera)
        finally:
            camera.kill()
        sent = link.up.sent - before
        server.stop()
    (folder / "pictures.npy").unlink()
    return Finding(*_stored(folder, taken), sent)


def _stored(folder: Path, taken: Path) -> tuple[dict[int, StoredFrame], dict[int, bytes]]:
    lines = taken.read_text(encoding="ascii").splitlines()
    instants = [(float(when), int(number)) for number, when in (line.split(",") for line in lines)]
    store = Store(StoreSettings(folder=folder / "store"))
    frames: dict[int, StoredFrame] = {}
    streams: dict[int, bytes] = {}
    try:
        for frame in store.frames(_CAMERA, 1_000_000):
            distance, number = min((abs(frame.captured - when), number) for when, number in instants)
            assert distance < _SAME_PICTURE_S and number not in frames
            frames[number], streams[number] = frame, store.stream(frame) or b""
    finally:
        store.close()
    return frames, streams


def _rows(
    film: str,
    trace: str,
    sender: str,
    finding: Finding,
    pictures: NDArray[np.uint8],
    originals: Sequence[int | None],
    label: Callable[[Image], int | None],
    codec: Codec,
) -> Iterator[Row]:
    shown: Image | None = None
    for number, original in enumerate(pictures):
        frame = finding.frames.get(number)
        result = frame.result if frame is not None else None
        in_time = result is not None and result.status in _IN_TIME and (result.margin_ms or 0.0) >= 0
        image = None
        if in_time and result is not None:
            image = _decoded(sender, finding.streams[number][: result.bytes], result.status == "preview", codec)
            shown = image
        yield Row(
            film=film,
            trace=trace,
            sender=sender,
            number=number,
            status=result.status if result is not None else "none",
            in_time=image is not None,
            bytes=result.bytes if result is not None and in_time else 0,
            margin_ms=result.margin_ms if result is not None else None,
            psnr_db=psnr_of(image, original) if image is not None else None,
            shown_db=psnr_of(shown, original) if shown is not None else None,
            agrees=None if originals[number] is None else image is not None and label(image) == originals[number],
        )


def _decoded(sender: str, prefix: bytes, by_preview: bool, codec: Codec) -> Image | None:
    """Return the picture that an answer rested on."""
    jpeg = jpeg_of(sender)
    if jpeg is not None:
        return jpeg.decode(prefix)
    decoder = codec.decoder()
    try:
        decoder.feed(prefix)
        return decoder.preview() if by_preview else decoder.finish().image
    except CutoffError:
        return None


def _films(arguments: argparse.Namespace) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    width, height = map(int, arguments.size.split("x"))
    count = round(arguments.seconds * arguments.fps)
    if arguments.clip is None:
        yield "views", moving_views((width, height), count, arguments.fps)
        return
    for file in film_files(arguments.clip):
        yield file.stem, film_pictures(file, (width, height), count, arguments.fps)


def _labels(arguments: argparse.Namespace) -> Callable[[Image], int | None]:
    """Return what the classifier calls a picture; without one, None for every picture."""
    if arguments.classifier is None:
        return lambda _: None
    (file,) = sorted(arguments.classifier.glob("*.onnx"))
    classes = len((arguments.classifier / "labels.txt").read_text(encoding="utf-8").splitlines())
    side = arguments.side
    preparation = Preparation(side, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    classifier = Classifier(file.read_bytes(), str(file), classes, preparation, arguments.threads)
    return lambda image: classifier.classify(prepared(image, side), 0).label


def _wait_for(condition: Callable[[], bool], program: processes.Program, timeout_s: float = 600.0) -> None:
    ends = time.monotonic() + timeout_s
    while not condition():
        ended = program.process is None or program.process.poll() is not None
        if time.monotonic() > ends or (ended and not condition()):
            raise RuntimeError(f"{program.name} has stopped: {program.said()[-3000:]}")
        time.sleep(0.01)


def _plain(value: object) -> object:
    return value.name if isinstance(value, Path) else value


if __name__ == "__main__":
    main()
