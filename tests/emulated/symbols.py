"""Print, as one JSON object, everything that must be the same on every machine; see run.py.

    python tests/emulated/symbols.py STREAMS

Hashes only, of: the latents after several prefixes of every stream in the folder STREAMS, by number of threads, which
hang on every exact graph and every symbol; and the range code that the symbols of every whole stream encode to, where
planes of one latent are all there is. ONNX Runtime's levels of graph optimisation at which an exact graph does not give
its known answers are named in clear.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from engines.bundle import shipped_bundles, stated_exact_id
from engines.known_answers import known_answers
from engines.manifest import GraphSpec
from runtime import Codec
from runtime.entropy.plan import Field, trit_planes
from runtime.families.planes import PlaneLatents
from runtime.stream import Header, Limits

GOLDEN = Path(__file__).parents[1] / "golden"
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
LEVELS_THAT_DIFFER = "levels that differ"
SHARES = (0.0, 0.13, 0.4, 0.77, 1.0)
LATENTS = ("y_hat", "deviation", "latents")  # what families reconstruct element by element; sums may round differently


def main() -> None:
    """Compute and print."""
    streams = {file.name: file.read_bytes() for file in sorted(Path(sys.argv[1]).glob("*.cut"))}
    headers = {name: Header.from_bytes(stream, Limits()) for name, stream in streams.items()}
    found: dict[str, object] = {}
    # Unpacking a bundle takes seconds under emulation: each is opened once.
    for bundle, exact_id in bundles_for({header.exact_id for header in headers.values()}).items():
        for threads in (1, 2):
            with Codec.open(bundle, threads=threads) as codec:
                codec.model.hurry()
                for name, header in headers.items():
                    if header.exact_id == exact_id:
                        found[f"{name}, {threads} threads"] = of_stream(codec, header, streams[name])
                for role, spec in codec.bundle.graphs.items():
                    if spec.exact and threads == 1:
                        found[f"{role} of {codec.bundle.name}"] = {LEVELS_THAT_DIFFER: levels_that_differ(codec, spec)}
    print(json.dumps(found, indent=1, sort_keys=True))


def bundles_for(wanted: set[bytes]) -> dict[str | Path, bytes]:
    """Return the bundles of these exact_ids, with theirs: shipped ones, or the tiny one of the golden files."""
    found: dict[str | Path, bytes] = {}
    for candidate in (GOLDEN / "tiny", *shipped_bundles()):
        if wanted == set(found.values()):
            break
        exact_id = stated_exact_id(candidate)
        if exact_id in wanted:
            found[candidate] = exact_id
    if missing := wanted - set(found.values()):
        raise SystemExit(f"no bundle with exact_id {', '.join(one.hex() for one in missing)}")
    return found


def of_stream(codec: Codec, header: Header, stream: bytes) -> dict[str, str]:
    """Return the hashes of one stream."""
    hashes = {}
    for share in SHARES:
        size = header.body_start + int(share * (len(stream) - header.body_start))
        decoder = codec.decoder()
        decoder.feed(stream[:size])
        tensors = decoder._latents.reconstruct().tensors
        for name in LATENTS:
            if name in tensors:
                hashes[f"{name} after {size} bytes"] = digest(np.asarray(tensors[name], "<f4"))
    latents = decoder._latents
    if isinstance(latents, PlaneLatents):
        encoder = codec.model.coder.encoder()
        field = Field(latents.y.models, codec.model.tables, latents.y.known_symbols())
        for step in trit_planes(field):
            encoder.encode_step(step, len(step))
        hashes["code"] = hashlib.sha256(encoder.finish()).hexdigest()[:16]
    return hashes


def levels_that_differ(codec: Codec, spec: GraphSpec) -> str:
    """Return ONNX Runtime's levels of optimisation at which an exact graph does not give its known answers."""
    import onnxruntime

    differ = []
    for level in LEVELS:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.intra_op_num_threads = 1
        model = codec.bundle.read(spec.file)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for answer in known_answers(codec.bundle, spec):
            outputs = session.run(list(spec.outputs), dict(zip(spec.inputs, answer.inputs, strict=True)))
            if not all(map(np.array_equal, outputs, answer.outputs)):
                differ.append(level)
                break
    return " ".join(differ)


def digest(array: np.ndarray) -> str:
    """Return a hash of *array*."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    main()
