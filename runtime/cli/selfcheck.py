"""`cutoff selfcheck`: does everything that streams rest on work on this machine as it did where the bundles were made?

JSON: ok, checks (list of {name, ok, detail}). Exit status 1 if a check failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from engines.bundle import Bundle, GraphSpec, shipped_bundles
from engines.open import check_known_answers
from runtime.cli.console import print_object
from runtime.cli.options import add_engine_options, add_json
from runtime.cli.samples import synthetic_picture
from runtime.codec import Codec
from runtime.entropy.coder import CoderTables, TritDecoder, TritEncoder
from runtime.entropy.tables import MEAN_UNIT, Tables
from runtime.errors import CutoffError, EngineError
from runtime.model import Model
from runtime.picture import Image, image_from_tensor, tensor_from_image
from runtime.stream import Limits

FREE_TOLERANCE = 1e-3  # of a free graph's range of outputs
_GOLDEN_CODE = (
    "02ffffffd5aceb58fed1d7bd07c1a4b1d2760247000002fbd70c608546be3276669ba9b0bfd1a5a3045386a3d24002350af02543"
    "f90000dda903977aa6a29d8af4b3c6b63b7714421d395effc0a7272989b922400c0000404d010abaa8e4e90acfd2612a04f97074"
)  # the format: may never change
_WIDTH, _HEIGHT = 200, 136


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, whether it is as it should be, and what was found."""

    name: str
    ok: bool
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "bundles", nargs="*", metavar="BUNDLE", help="names or folders (default: all that come with cutoff)"
    )
    add_engine_options(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run all checks and print them."""
    checks = [_checked("coder: golden words", check_coder)]
    for name in arguments.bundles or shipped_bundles():
        checks += check_bundle(name, arguments.engine, arguments.threads)
    ok = all(check.ok for check in checks)
    if arguments.json:
        print_object({"ok": ok, "checks": [dataclasses.asdict(check) for check in checks]})
    else:
        for check in checks:
            print(f"{'ok' if check.ok else 'FAILED':<7} {check.name}: {check.detail}")
    return 0 if ok else 1


def check_bundle(name: str, backend: str = "auto", threads: int | None = None) -> Iterator[Check]:
    """Yield the checks of one bundle; after one that everything rests on has failed, no more."""
    opened: list[Bundle] = []
    models: list[Model] = []

    def open_bundle() -> str:
        opened.append(Bundle.open(name))
        return f"version {opened[0].version}, exact_id {opened[0].exact_id.hex()}"

    def open_tables() -> str:
        models.append(Model(opened[0], backend, threads, Limits()))
        return _described(models[0].tables)

    yield _checked(f"{name}: hashes", open_bundle)
    if not opened:
        return
    yield _checked(f"{name}: tables", open_tables)
    if not models:
        return
    for spec in opened[0].graphs.values():
        yield _checked(f"{name}: graph {spec.role}", partial(check_graph, models[0], spec))
    colour = synthetic_picture(_WIDTH, _HEIGHT)
    yield _checked(f"{name}: colour picture", partial(check_picture, models[0], colour))
    yield _checked(f"{name}: grey picture", partial(check_picture, models[0], colour[..., 1]))


def check_coder() -> str:
    """Code a fixed sequence of trits, compare with the golden words, and decode it, whole and cut.

    Raises:
        EngineError: the coder's words or trits are other ones.
    """
    tables = _golden_tables()
    rows, trits = _golden_trits()
    encoder = TritEncoder(CoderTables(tables))
    encoder.encode(trits, rows)
    code = encoder.finish()
    if code.hex() != _GOLDEN_CODE:
        raise EngineError(f"the coder wrote {code.hex()}, not {_GOLDEN_CODE}; streams would not be portable")
    for length in (len(code), len(code) // 2):
        decoder = TritDecoder(CoderTables(tables))
        decoder.extend(code[:length], whole=length == len(code))
        found = decoder.decode(rows)
        least = len(trits) if length == len(code) else len(trits) // 4
        if len(found) < least or not np.array_equal(found, trits[: len(found)]):
            raise EngineError(f"the coder does not decode {length} bytes of its own code")
    return f"{len(trits)} trits in {len(code)} bytes"


def check_graph(model: Model, spec: GraphSpec) -> str:
    """Open a graph and compare its outputs with its known answers: exact ones bit by bit, free ones with tolerance.

    Raises:
        EngineError, BundleError: it cannot be opened, or differs.
    """
    engine = model.engine(spec.role)
    difference = check_known_answers(model.bundle, spec, engine)
    if spec.exact:
        return f"bit-identical on {engine.backend}"
    share = difference / _output_range(model.bundle, spec)
    if not share <= FREE_TOLERANCE:
        raise EngineError(f"outputs differ from the known answers by {share:.2g} of their range on {engine.backend}")
    return f"within {share:.2g} of its range on {engine.backend}"


def check_picture(model: Model, image: Image) -> str:
    """Encode *image* and decode it, whole and cut.

    Raises:
        EngineError: the decoder arrives at another picture than the encoder's own latents give.
        StreamError, Incomplete: the stream is not as it should be.
    """
    codec = Codec(model)
    stream = codec.encode(image).stream
    whole, cut = codec.decode(stream), codec.decode(stream[: 2 * len(stream) // 3])
    if not whole.complete or whole.image is None or whole.image.shape != image.shape:
        raise EngineError("a whole stream does not decode completely")
    difference = np.abs(whole.image.astype(np.int32) - _picture_of_encoder(model, image)).max()
    if difference > 1:
        raise EngineError(f"decoder and encoder disagree by {difference} grey levels; symbols were lost")
    if cut.complete or cut.damaged or cut.image is None or not 0 < cut.steps < whole.steps:
        raise EngineError(f"a cut stream decodes to {cut.steps} of {whole.steps} steps")
    return f"{len(stream)} bytes; {cut.steps:.2f} of {cut.steps_total} steps in the first {cut.bytes_used}"


def _checked(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except CutoffError as fault:
        return Check(name, False, str(fault))


def _described(tables: Tables) -> str:
    return f"{len(tables.trits)} models, {len(tables.first_child)} rows"


def _output_range(bundle: Bundle, spec: GraphSpec) -> float:
    """Return the span of a graph's known outputs."""
    assert spec.known_answers is not None, "there were known answers to compare with"
    with np.load(io.BytesIO(bundle.read(spec.known_answers)), allow_pickle=False) as answers:
        outputs = [answers[f"{case}.{name}"] for case in range(int(answers["cases"])) for name in spec.outputs]
    return float(max(output.max() for output in outputs) - min(output.min() for output in outputs))


def _picture_of_encoder(model: Model, image: Image) -> Image:
    """Return the picture that the encoder's own symbols give."""
    latents = model.family.analyse(tensor_from_image(image, model.family.stride))
    for step in chain(latents.head(), latents.body()):
        step.receive(step.trits())
    known = latents.reconstruct()
    tensors = dict(known.tensors)
    for one in known.passes:
        (tensors[one.output],) = model.run(one.role, *(tensors[name] for name in one.inputs))
    height, width = image.shape[:2]
    return image_from_tensor(tensors[known.passes[-1].output], height, width, grey=image.ndim == 2)


def _golden_tables() -> Tables:
    """Return tables of one model with two trits: its root is row 0, the root's children are rows 1 to 3."""
    frequencies = [[1 << 20, 13 << 20, 2 << 20], [1, (1 << 24) - 2, 1], [5592405, 5592406, 5592405], [9 << 20, 7, 0]]
    frequencies[3][2] = (1 << 24) - sum(frequencies[3])
    means = np.concatenate([np.zeros(4), MEAN_UNIT * np.arange(-4, 5)])  # leaves give their symbols
    return Tables(
        trits=np.array([2], np.uint8),
        root=np.array([0], np.int32),
        first_child=np.array([1, 4, 7, 10], np.int32),
        frequencies=np.array(frequencies, np.uint32),
        priority=np.zeros(4, np.int16),
        mean=means.astype(np.int16),
        deviation=np.zeros(13, np.uint16),
        sigma_thresholds=np.empty(0, np.int32),
    )


def _golden_trits() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return 120 rows of the golden tables, and trits to code with them."""
    number = np.arange(120, dtype=np.int32)
    return number * 7 % 4, number**2 // 3 % 3
