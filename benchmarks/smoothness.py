"""How smoothly quality rises with bytes: the mean PSNR over many cuts must hardly ever fall.

    python benchmarks/smoothness.py PICTURES... --json benchmarks/results/smoothness.json

Every picture is encoded once and cut at 50 log-spaced rates from the longest head segment to the shortest full stream.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from timing import read_pictures

from runtime import Codec


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of PNG files")
    parser.add_argument("--bundle", default="dpict-edge")
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images = read_pictures(arguments.pictures)
    with Codec.open(arguments.bundle) as codec:
        encodings = [codec.encode(image) for image in images]
        pixels = [image.shape[0] * image.shape[1] for image in images]
        lowest = max(8 * float(e.value.offsets[0]) / n for e, n in zip(encodings, pixels, strict=True))
        highest = min(8 * len(e.stream) / n for e, n in zip(encodings, pixels, strict=True))
        rates = np.geomspace(lowest, highest, arguments.cuts)
        psnr = np.zeros(len(rates))
        for encoding, image, count in zip(encodings, images, pixels, strict=True):
            for index, rate in enumerate(rates):
                decoded = codec.decode(encoding.stream[: int(np.ceil(rate * count / 8))]).image
                assert decoded is not None
                error = np.square(decoded.astype(np.float64) - image).mean()
                psnr[index] += 10 * np.log10(255.0**2 / error) / len(images)
    falls = np.maximum.accumulate(psnr) - psnr
    report = {
        "pictures": len(images),
        "bpp": [round(float(r), 4) for r in rates],
        "psnr_db": [round(float(p), 3) for p in psnr],
        "largest_fall_db": round(float(falls.max()), 4),
    }
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
