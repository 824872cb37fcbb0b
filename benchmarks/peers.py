"""Times of encoding and decoding beside CompressAI's mbt2018-mean and JPEG 2000: same pictures, same run, same threads.

    python benchmarks/peers.py PICTURES... --json benchmarks/results/peers.json --readme README.md

Needs torch and CompressAI (`make test` installs both). All codecs take a uint8 array to bytes and back, warm, in one
process, on one picture after the other; the median over pictures of the median over repetitions. cutoff runs with its
compiled coder, the whole stream is decoded. CompressAI is `compress` and `decompress` of its own class, architecture of
quality 4 (or another: --quality) with its range coder in C++, and conversion from and to uint8.

Trained weights are not needed for times, but the range coder's time depends on the rate. So the last layers of g_a and
h_s, whose other weights are random, are set by hand: every channel of y gets the standard deviation that the coder is
told, log-uniform over the channels across a factor of 100, and all of them the one factor with which the bytes are as
many as those of cutoff's whole streams. What the coder alone takes is kept, too.

JPEG 2000 is encoded as the peer of `cutoff eval` is, with the same quality layers, as far as the bytes of cutoff's
stream of that picture; there its last layer ends.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import json
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from readme import markdown, replace_table
from timing import machine, median_ms, medians, read_pictures

from runtime import Codec
from runtime.evaluate.peers.jpeg2000 import LAYER_RATES_BPP, fitting, with_layers

_CHANNELS = {quality: (128, 192) if quality < 5 else (192, 320) for quality in range(1, 9)}
_SPREAD = 100.0  # largest standard deviation of a channel of y by the smallest
_SETTLE_S = 0.05  # threads of the codec before spin no longer


def main() -> None:
    """Measure and print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+", help="pictures, or folders of PNG files")
    parser.add_argument("--bundle", default="dpict-edge")
    parser.add_argument("--quality", type=int, default=4, choices=_CHANNELS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--readme", type=Path, help="file whose table to replace")
    arguments = parser.parse_args()
    images = read_pictures(arguments.pictures)
    with Codec.open(arguments.bundle, coder="compiled") as codec:
        goal_bytes = statistics.mean(len(codec.encode(image).stream) for image in images)
    peer = MeanScale(arguments.quality, images[:: max(1, len(images) // 4)], goal_bytes)
    report = {
        "machine": machine() | {"torch": torch.__version__, "compressai": compressai("version").__version__},
        "pictures": len(images),
        "bundle": arguments.bundle,
        "peer": f"mbt2018-mean, quality {arguments.quality}",
        "threads": {
            str(threads): times(arguments.bundle, peer, images, threads, arguments.repeat)
            for threads in arguments.threads
        },
    }
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    table = peer_table(report["threads"])
    print(table)
    if arguments.readme is not None:
        replace_table(arguments.readme, "peers", "peers.py", table)


def peer_table(by_threads: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return README's table: milliseconds by codec and threads."""
    names = {
        "cutoff": "cutoff, compiled coder",
        "compressai": "CompressAI mbt2018-mean",
        "jpeg2000": "JPEG 2000 (OpenJPEG, many quality layers; always one thread)",
    }
    header = [f"{way}, {n} thread{'s' * (n != '1')}, ms" for way in ("encode", "decode") for n in by_threads]
    sizes = next(iter(by_threads.values()))  # the same by all numbers of threads
    rows = [
        [
            name,
            f"{sizes[codec]['bytes']:,.0f}",
            *(f"{found[codec][f'{way}_ms']:.0f}" for way in ("encode", "decode") for found in by_threads.values()),
        ]
        for codec, name in names.items()
    ]
    ratios = [
        f"{found['times_faster_than_compressai'][way]:.1f}"
        for way in ("encode", "decode")
        for found in by_threads.values()
    ]
    last = ["cutoff is faster than CompressAI, times", "", *ratios]
    return markdown(["codec", "bytes per picture", *header], [*rows, last])


def times(
    bundle: str, peer: MeanScale, images: list[NDArray[np.uint8]], threads: int, repeat: int
) -> dict[str, dict[str, float]]:
    """Return milliseconds and bytes by codec, and how many times faster cutoff is than CompressAI."""
    rows: dict[str, list[dict[str, float]]] = {"cutoff": [], "compressai": [], "jpeg2000": []}
    torch.set_num_threads(threads)
    with Codec.open(bundle, threads=threads, coder="compiled") as codec:
        codec.warm(images[0].shape[1], images[0].shape[0])
        for image in images:
            time.sleep(_SETTLE_S)
            stream = codec.encode(image).stream
            rows["cutoff"].append(
                {
                    "encode_ms": median_ms(lambda image=image: codec.encode(image), repeat),
                    "decode_ms": median_ms(lambda stream=stream: codec.decode(stream), repeat),
                    "bytes": len(stream),
                }
            )
            rows["compressai"].append(peer.times(image, repeat))
            rows["jpeg2000"].append(jpeg2000_times(image, len(stream), repeat))
    found = {codec: medians(those) for codec, those in rows.items()}
    ours, theirs = found["cutoff"], found["compressai"]
    found["times_faster_than_compressai"] = {
        way: round(theirs[f"{way}_ms"] / ours[f"{way}_ms"], 2) for way in ("encode", "decode")
    }
    return found


class MeanScale:
    """CompressAI's mbt2018-mean with weights that give y the statistics of a trained model's, and *goal_bytes*."""

    def __init__(self, quality: int, images: list[NDArray[np.uint8]], goal_bytes: float) -> None:
        torch.manual_seed(0)
        self._net = compressai("models.google").MeanScaleHyperprior(*_CHANNELS[quality]).eval()
        with torch.inference_mode():
            latents = torch.cat([self._net.g_a(_tensor(image)).flatten(2)[0] for image in images], dim=1)
        self._middle, self._deviation = latents.mean(dim=1), latents.std(dim=1).clamp(min=1e-9)
        self._last = [self._net.g_a[-1], self._net.h_s[-1]]
        self._weights = self._last[0].weight.detach().clone(), self._last[0].bias.detach().clone()
        self._net.update(force=True)
        low, high = 1e-3, 1e3
        for _ in range(9):  # bisection: the factor to some percent
            scale = (low * high) ** 0.5
            self._set(scale)
            code = statistics.mean(sum(len(part[0]) for part in self.compress(image)["strings"]) for image in images)
            low, high = (scale, high) if code < goal_bytes else (low, scale)
        self._check(images[0])

    def _set(self, scale: float) -> None:
        """Give channel c of y the standard deviation *scale* times its share, and let h_s say so."""
        channels = len(self._deviation)
        deviations = scale * torch.logspace(0, -1, channels) ** float(np.log10(_SPREAD))
        gain = deviations / self._deviation
        enter, tell = self._last
        weight, bias = self._weights
        with torch.no_grad():
            enter.weight.copy_(weight * gain[:, None, None, None])
            enter.bias.copy_((bias - self._middle) * gain)
            tell.weight.zero_()
            tell.bias.copy_(torch.cat([deviations, torch.zeros(channels)]))  # scales, means

    def compress(self, image: NDArray[np.uint8]) -> Any:
        """Return what CompressAI makes of *image*."""
        with torch.inference_mode():
            return self._net.compress(_tensor(image))

    def decompress(self, code: Any) -> NDArray[np.uint8]:
        """Return the picture, uint8 (H, W, 3)."""
        with torch.inference_mode():
            x_hat = self._net.decompress(code["strings"], code["shape"])["x_hat"][0]
            return x_hat.mul(255).round_().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()

    def _check(self, image: NDArray[np.uint8]) -> None:
        """Make sure that what is timed decodes to what the networks say."""
        with torch.inference_mode():
            expected = self._net(_tensor(image))["x_hat"].clamp(0, 1)
            code = self.compress(image)
            found = self._net.decompress(code["strings"], code["shape"])["x_hat"]
        if not torch.allclose(found, expected, atol=1e-3):
            raise SystemExit("CompressAI decodes something else than it encoded")

    def times(self, image: NDArray[np.uint8], repeat: int) -> dict[str, float]:
        """Return milliseconds: of all, and of the range coder of y alone."""
        code, coder = self.compress(image), self._net.gaussian_conditional
        kept, spent = (coder.compress, coder.decompress), {"compress": 0.0, "decompress": 0.0}

        def timed(name: str, action: Any) -> Any:
            def run(*words: Any, **more: Any) -> Any:
                started = time.perf_counter()
                result = action(*words, **more)
                spent[name] = 1000 * (time.perf_counter() - started)
                return result

            return run

        coder.compress, coder.decompress = (timed(action.__name__, action) for action in kept)
        try:
            return {
                "encode_ms": median_ms(lambda: self.compress(image), repeat),
                "decode_ms": median_ms(lambda: self.decompress(code), repeat),
                "encode_coder_ms": spent["compress"],
                "decode_coder_ms": spent["decompress"],
                "bytes": sum(len(part[0]) for part in code["strings"]),
            }
        finally:
            coder.compress, coder.decompress = kept


def _tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    """Return *image* as float32 (1, 3, H, W) in 0..1, padded to multiples of 64."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255)
    height, width = image.shape[:2]
    return torch.nn.functional.pad(x, (0, -width % 64, 0, -height % 64), mode="replicate")


def jpeg2000_times(image: NDArray[np.uint8], goal_bytes: int, repeat: int) -> dict[str, float]:
    """Return milliseconds of OpenJPEG through Pillow, on one thread, for a codestream that ends at *goal_bytes*."""
    goal_bpp = 8 * goal_bytes / (image.shape[0] * image.shape[1])
    rates = fitting([*(rate for rate in LAYER_RATES_BPP if rate < goal_bpp), goal_bpp])
    code = with_layers(image, rates)
    return {
        "encode_ms": median_ms(lambda: with_layers(image, rates), repeat),
        "decode_ms": median_ms(lambda: np.array(Image.open(io.BytesIO(code))), repeat),
        "bytes": len(code),
    }


def compressai(module: str) -> Any:
    """Return a module of CompressAI, loaded without its package, which would import data sets and plots."""
    if "compressai" not in sys.modules:
        spec = importlib.util.find_spec("compressai")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("CompressAI is not installed; the Makefile says how")
        root = Path(spec.submodule_search_locations[0])
        for name, folder in {"compressai": root, "compressai.models": root / "models"}.items():
            package: Any = ModuleType(name)
            package.__path__ = [str(folder)]
            sys.modules[name] = package
        sys.modules["compressai"].get_entropy_coder = lambda: "ans"  # type: ignore[attr-defined]
        sys.modules["compressai"].available_entropy_coders = lambda: ["ans"]  # type: ignore[attr-defined]
        registry: Any = ModuleType("compressai.registry")
        registry.register_model = registry.register_module = lambda _: lambda one: one
        sys.modules["compressai.registry"] = registry
    return importlib.import_module(f"compressai.{module}")


if __name__ == "__main__":
    main()
