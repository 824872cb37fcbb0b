"""JPEG in the place of a codec: what the same client and the same server do with it.

`Jpeg` has the face of `runtime.Codec` that they use: `encode` gives a stream and what its bytes are worth, `decoder`
takes bytes as they come. Two ways to send:

    fitted        one baseline file of the best quality that fits into a share of what the link is measured to carry by
                  the deadline; where no file of full size fits, of half or a quarter of the sides. Cut, it shows
                  nothing, so that the share is less than all: links get slower, too.
    progressive   a progressive file, cut at the deadline; of a quality that is given, or of the best that fits.

Libjpeg-turbo through Pillow, 4:2:0, optimised Huffman tables.
"""

from __future__ import annotations

import bisect
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import PIL.Image

from runtime.deadline import Deadline
from runtime.decoder import Picture
from runtime.encoder import Encoding, Value
from runtime.errors import CutoffError, Incomplete
from runtime.evaluate.peers.jpeg_progressive import ended_prefix
from runtime.picture import Image

EXACT_ID = b"\xff\xd8 JPEG\x00"
_END_OF_IMAGE, _START_OF_SCAN = b"\xff\xd9", b"\xff\xda"
# (scale, quality), by rising size: every one that a search may take.
_LADDER = (
    (0.25, 10),
    (0.25, 25),
    *((0.5, quality) for quality in range(5, 41, 3)),
    *((1.0, quality) for quality in range(6, 96)),
)
# Share of the error left behind each scan of libjpeg's progressive files, measured on photographs; the first scan has
# the means of blocks.
_LEFT_AFTER_SCAN = (0.12, 0.06, 0.054, 0.049, 0.03, 0.021, 0.02, 0.019, 0.017, 0.012)
_FIRST_GUESS_S = 0.01
_SAFETY_S = 0.006  # between the end of decoding and the deadline: as much as the server takes for what follows


@dataclass
class Jpeg:
    """JPEG as a codec.

    Attributes:
        progressive: see above.
        quality: 1 to 95; None for the best that fits.
        share: of the room that a file may take.
        room: bytes that the link is measured to carry by the deadline of a picture that is encoded now; None if that
            is not known.
    """

    progressive: bool
    quality: int | None = None
    share: float = 1.0
    room: Callable[[], int | None] = lambda: None
    bundle: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(name="jpeg", version="1", exact_id=EXACT_ID)
    )
    model: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(
            family=SimpleNamespace(synthesis=("idct",), has_planes=False), hurry=lambda: None
        )
    )

    def __post_init__(self) -> None:
        self._decode_s = _FIRST_GUESS_S

    def encode(self, image: Image) -> Encoding:
        """Encode *image*, uint8 (H, W, 3) or (H, W)."""
        began = time.perf_counter()
        stream = self._file(image)
        if self.progressive:
            ends = scan_ends(stream)
            shares = np.array((*_LEFT_AFTER_SCAN[: len(ends) - 1], _LEFT_AFTER_SCAN[-1]))
            value = Value(np.array(ends, np.int64), shares * float(np.var(image)) * image.size)
        else:
            value = Value(np.array([len(stream)], np.int64), np.zeros(1))
        return Encoding(stream, value, {"total": 1000 * (time.perf_counter() - began)})

    def decoder(self, deadline: Deadline | None = None, *, strict: bool = False) -> JpegDecoder:
        """Return a decoder of one file."""
        return JpegDecoder(self, deadline)

    def warm(self, width: int, height: int) -> None:
        """Run everything once."""
        generator = np.random.default_rng(0)
        image = generator.integers(0, 256, (height, width, 3), np.uint8)
        self.decode(self.encode(image).stream)

    def close(self) -> None:
        """Nothing is held."""

    def decode(self, stream: bytes) -> Image | None:
        """Decode what is there of *stream*; None if it shows nothing."""
        began = time.perf_counter()
        if not self.progressive and not stream.endswith(_END_OF_IMAGE):
            return None
        ended = stream if stream.endswith(_END_OF_IMAGE) else ended_prefix(stream)
        if ended is None:
            return None
        try:
            with PIL.Image.open(io.BytesIO(ended)) as picture:
                image: Image = np.array(picture)
        except (OSError, SyntaxError):  # what Pillow raises for files that it cannot decode
            return None
        self._decode_s = max(time.perf_counter() - began, 0.98 * self._decode_s)
        return image

    @property
    def decode_s(self) -> float:
        """What a decode takes, at most, as far as is known."""
        return self._decode_s

    def _file(self, image: Image) -> bytes:
        room = self.room() if self.quality is None else None
        if room is None:
            return self._save(image, 1.0, self.quality or 75)
        room = int(self.share * room)
        files: dict[int, bytes] = {}

        def size(rung: int) -> int:
            files[rung] = self._save(image, *_LADDER[rung])
            return len(files[rung])

        rung = bisect.bisect_right(range(len(_LADDER)), room, key=size) if room > 0 else 0
        best = max(0, rung - 1)
        return files[best] if best in files else self._save(image, *_LADDER[best])

    def _save(self, image: Image, scale: float, quality: int) -> bytes:
        picture = PIL.Image.fromarray(image)
        if scale != 1:
            size = (round(picture.width * scale), round(picture.height * scale))
            picture = picture.resize(size, PIL.Image.Resampling.BOX)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, progressive=self.progressive, optimize=True, subsampling="4:2:0")
        return buffer.getvalue()


class JpegDecoder:
    """Takes bytes of one file, and shows what they hold by the deadline."""

    def __init__(self, codec: Jpeg, deadline: Deadline | None) -> None:
        self._codec, self._deadline = codec, deadline
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._data += data

    def finish_by(self) -> float | None:
        """Return the latest instant at which `finish` can begin."""
        return None if self._deadline is None else self._deadline.instant - self._codec.decode_s - _SAFETY_S

    def rendering(self) -> SimpleNamespace:
        """Return what the server wants to know of a picture before it is made; its size does not matter here."""
        return SimpleNamespace(pixels=1)

    def may_prepare(self) -> bool:
        """False: there is nothing cheaper than the picture itself that could stand in for it."""
        return False

    def cancel(self) -> None:
        """Nothing is held."""

    def preview(self) -> Image | None:
        """Return the picture so far."""
        return self._codec.decode(bytes(self._data))

    def finish(self) -> Picture:
        """Return the picture; Incomplete if there is none."""
        image = self.preview()
        if image is None:
            raise Incomplete(f"{len(self._data)} bytes of a JPEG file show nothing")
        margin_s = None if self._deadline is None else self._deadline.left_s()
        size, whole = len(self._data), self._data.endswith(_END_OF_IMAGE)
        return Picture(
            image=image,
            bytes_used=size,
            bytes_verified=size,
            bytes_total=size,
            steps=float(whole),
            steps_total=1,
            planes=None,
            complete=whole,
            damaged=False,
            skipped=(),
            missed=margin_s is not None and margin_s < 0,
            margin_ms=None if margin_s is None else 1000 * margin_s,
        )


def finish_together(decoders: Sequence[JpegDecoder]) -> Iterator[tuple[JpegDecoder, Picture | CutoffError]]:
    """Finish one after another; see `runtime.batch`."""
    for decoder in decoders:
        try:
            yield decoder, decoder.finish()
        except CutoffError as fault:
            yield decoder, fault


def scan_ends(stream: bytes) -> list[int]:
    """Return the offsets behind each scan of the progressive file *stream*, the last being its length."""
    begins, position = [], stream.find(_START_OF_SCAN)
    while position >= 0:  # inside of a scan 0xff is always followed by 0x00
        begins.append(position)
        position = stream.find(_START_OF_SCAN, position + 2)
    return [*begins[1:], len(stream)]
