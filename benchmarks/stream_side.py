"""Either side of the stream benchmark, as a process: `cutoff edge` or `cutoff serve`, with another source or codec.

    python benchmarks/stream_side.py edge --config edge.toml --codec SENDER --pictures pictures.npy --taken taken.csv
    python benchmarks/stream_side.py serve --config server.toml --codec SENDER

The source plays an array of pictures and notes when each was taken; the codec is the one of the settings, or JPEG.
Everything else is what the two commands do.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from stream_jpeg import Jpeg, finish_together

from runtime.picture import Image

OURS = "cutoff"


class Film:
    """A source that plays pictures, uint8 (N, H, W, 3)."""

    live = False

    def __init__(self, pictures: Image, taken: TextIO) -> None:
        self._pictures, self._taken = pictures, taken
        self._number = 0

    def read(self) -> Image | None:
        """Return the next picture; None at the end."""
        if self._number == len(self._pictures):
            return None
        print(self._number, repr(time.time()), sep=",", file=self._taken, flush=True)
        image = np.array(self._pictures[self._number])
        self._number += 1
        return image

    def close(self) -> None:
        """Nothing is open."""


def jpeg_of(sender: str) -> Jpeg | None:
    """Return the codec of *sender*, and None for ours.

    "jpeg-70" fits into 70 % of the link, "jpeg-progressive" into all of it, "jpeg-progressive-q75" has quality 75.
    """
    if sender == OURS:
        return None
    words = sender.split("-")
    numbers = {word[:1]: int(word.lstrip("q")) for word in words if word.lstrip("q").isdecimal()}
    quality = numbers.get("q")
    share = next((number for sign, number in numbers.items() if sign != "q"), 100) / 100
    return Jpeg("progressive" in words, quality, share)


def main() -> None:
    """Run one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("edge", "serve"))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--codec", required=True)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--taken", type=Path)
    arguments = parser.parse_args()
    jpeg = jpeg_of(arguments.codec)
    if arguments.side == "serve":
        _serve(arguments.config, jpeg)
    else:
        _edge(arguments.config, jpeg, arguments.pictures, arguments.taken)


def _serve(config: Path, jpeg: Jpeg | None) -> None:
    from runtime.serve import app, listen, worker

    if jpeg is not None:
        app.Codec = SimpleNamespace(open=lambda *_, **__: jpeg)  # type: ignore[assignment, misc]
        worker.finish_together = finish_together  # type: ignore[assignment]
    listen.command(config, check_only=False)


def _edge(config: Path, jpeg: Jpeg | None, pictures: Path, taken: Path) -> None:
    from edge_client import client as module
    from edge_client.log import set_up_log
    from edge_client.settings import load_edge_settings

    settings = load_edge_settings(config)
    set_up_log(settings.log.level)
    film = np.load(pictures, mmap_mode="r")
    with open(taken, "w", encoding="ascii") as file:
        module.open_source = lambda *_: Film(film, file)  # type: ignore[assignment]
        if jpeg is not None:
            module.Codec = SimpleNamespace(open=lambda *_, **__: jpeg)  # type: ignore[assignment, misc]
        client = module.Client(settings)
        if jpeg is not None:
            link, sending = client.dispatch.link, settings.sending

            def room() -> int | None:
                """Return what the link carries until a picture that is taken now must be there."""
                now = time.monotonic()
                rate, round_trip_s = link.rate(now), link.round_trip_s
                queued = max(0.0, link.in_flight - rate * round_trip_s)
                return int(rate * (sending.deadline_s - sending.answer_s - round_trip_s / 2) - queued)

            jpeg.room = room
        asyncio.run(client.run())


if __name__ == "__main__":
    main()
