"""Print, as one JSON object, everything that must be the same on every machine; see run.py.

    python tests/emulated/symbols.py STREAMS

Hashes only, of: what h_s gives for the z of every stream in the folder STREAMS, by number of threads and by ONNX
Runtime's level of graph optimisation; the nodes of all latents after several prefixes of every stream; and the range
code that the symbols of every whole stream encode to. Levels that do not give what the runtime uses are named in clear.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from engines.bundle import shipped_bundles, stated_exact_id
from runtime import Codec
from runtime.entropy.plan import Field, trit_planes
from runtime.stream import Header, Limits

GOLDEN = Path(__file__).parents[1] / "golden"
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
SHARES = (0.0, 0.13, 0.4, 0.77, 1.0)


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
        hashes[f"nodes after {size} bytes"] = digest(decoder._latents.y.nodes)
    latents = decoder._latents
    z_hat = latents.z.known_symbols().astype(np.float32).reshape(1, *latents._z_shape)
    outputs = codec.model.run("h_s", z_hat)
    for name, output in zip(("mu", "sigma code"), outputs, strict=True):
        hashes[name] = digest(output.astype(np.int32))
    hashes["levels that differ"] = " ".join(
        level for level in LEVELS if not all(map(np.array_equal, at_level(codec, level, z_hat), outputs))
    )
    encoder = codec.model.coder.encoder()
    field = Field(latents.y.models, codec.model.tables, latents.y.known_symbols())
    for step in trit_planes(field):
        encoder.encode_step(step, len(step))
    hashes["code"] = hashlib.sha256(encoder.finish()).hexdigest()[:16]
    return hashes


def at_level(codec: Codec, level: str, z_hat: np.ndarray) -> list[np.ndarray]:
    """Return what h_s gives when ONNX Runtime optimises its graph to *level*."""
    import onnxruntime

    spec = codec.bundle.graphs["h_s"]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(codec.bundle.read(spec.file), options, providers=["CPUExecutionProvider"])
    return session.run(list(spec.outputs), dict(zip(spec.inputs, [z_hat], strict=True)))


def digest(array: np.ndarray) -> str:
    """Return a hash of the integers of *array*."""
    return hashlib.sha256(np.ascontiguousarray(array, "<i4").tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    main()
