"""`cutoff selfcheck`: does everything that streams rest on work on this machine as it did where the bundles were made?

The compiled coder's machine code is in the cache afterwards, so that no other process has to compile it.

JSON: ok, checks (list of {name, ok, detail}). Exit status 1 if a check failed.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from engines.bundle import Bundle, GraphSpec, shipped_bundles
from engines.known_answers import check_known_answers, known_answers
from engines.numpy_exact import NumpyExact
from runtime.cli.coder_check import check_agreement, check_coder
from runtime.cli.console import print_object
from runtime.cli.options import add_engine_options, add_json, engine_options
from runtime.cli.samples import synthetic_picture
from runtime.codec import Codec
from runtime.entropy.tables import Tables
from runtime.errors import CutoffError, EngineError
from runtime.model import EngineUse, Model
from runtime.picture import Image, image_from_tensor, tensor_from_image
from runtime.stream import Limits

FREE_TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2}  # of a free graph's range of outputs
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
    checks = [_checked("coder: golden words", check_coder), _checked("coder: agreement", check_agreement)]
    for name in arguments.bundles or shipped_bundles():
        checks += check_bundle(name, **engine_options(arguments))
    ok = all(check.ok for check in checks)
    if arguments.json:
        print_object({"ok": ok, "checks": [dataclasses.asdict(check) for check in checks]})
    else:
        for check in checks:
            print(f"{'ok' if check.ok else 'FAILED':<7} {check.name}: {check.detail}")
    return 0 if ok else 1


def check_bundle(
    name: str, engine: str = "auto", threads: int | None = None, precision: str = "auto"
) -> Iterator[Check]:
    """Yield the checks of one bundle; after one that everything rests on has failed, no more."""
    opened: list[Bundle] = []
    models: list[Model] = []

    def open_bundle() -> str:
        opened.append(Bundle.open(name))
        return f"version {opened[0].version}, exact_id {opened[0].exact_id.hex()}"

    def open_tables() -> str:
        models.append(Model(opened[0], engine, threads, Limits(), precision=precision))
        return _described(models[0].tables)

    yield _checked(f"{name}: hashes", open_bundle)
    if not opened:
        return
    yield _checked(f"{name}: tables", open_tables)
    if not models:
        return
    for spec in opened[0].graphs.values():
        yield _checked(f"{name}: graph {spec.role}", partial(check_graph, models[0], spec))
        if spec.exact:
            yield _checked(f"{name}: proof of {spec.role}", partial(check_proof, models[0], spec))
            yield _checked(f"{name}: reference of {spec.role}", partial(check_reference, models[0], spec))
    colour = synthetic_picture(_WIDTH, _HEIGHT)
    yield _checked(f"{name}: colour picture", partial(check_picture, models[0], colour))
    yield _checked(f"{name}: grey picture", partial(check_picture, models[0], colour[..., 1]))
    yield Check(f"{name}: engines", True, described_engines(models[0].engines_report()))


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
    if not share <= FREE_TOLERANCE[engine.precision]:
        raise EngineError(f"outputs differ from the known answers by {share:.2g} of their range on {engine.backend}")
    return f"within {share:.2g} of its range on {engine.backend}"


def check_proof(model: Model, spec: GraphSpec) -> str:
    """Prove from an exact graph's file that no engine can round in it, and that the manifest's claims hold.

    Raises:
        BundleError: a sum can leave the integers that float32 holds, or more than is claimed.
    """
    proof = model.prove(spec.role)
    claimed = "as the manifest claims" if spec.accumulator_log2 is not None else "the manifest claims nothing"
    layer = max(proof, key=lambda name: proof[name])
    return f"sums of {len(proof)} layers stay within 2^{proof[layer]:.4f} ({layer}), {claimed}"


def check_reference(model: Model, spec: GraphSpec) -> str:
    """Run an exact graph in 64-bit integers beside its engine, on the inputs of its known answers.

    Raises:
        EngineError, BundleError: they differ in any bit, or the graph cannot be run.
    """
    engine = model.engine(spec.role)
    reference = NumpyExact(model.bundle.read(spec.file), spec)
    cases = [answer.inputs for answer in known_answers(model.bundle, spec)]
    for case in cases:
        if not all(map(np.array_equal, engine.run(*case), reference.run(*case))):
            raise EngineError(f"{engine.backend} and {reference.backend} give different bits")
    return f"{engine.backend} and {reference.backend} give the same bits on {len(cases)} inputs"


def described_engines(uses: list[EngineUse]) -> str:
    """Return which back end runs which graphs; the reason too where it is not the one that was chosen."""
    graphs: dict[str, list[str]] = {}
    for use in uses:
        where = use.backend if use.precision == "fp32" else f"{use.backend} in FP16"
        engine = where if use.reason == "chosen" else f"{where} ({use.reason})"
        graphs.setdefault(engine, []).append(use.role)
    return "; ".join(f"{', '.join(roles)} on {engine}" for engine, roles in graphs.items())


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
    """Return the span of a graph's known outputs; 1 if they are all the same."""
    outputs = [output for answer in known_answers(bundle, spec) for output in answer.outputs]
    return float(max(output.max() for output in outputs) - min(output.min() for output in outputs)) or 1.0


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
    x = np.asarray(tensors[known.passes[-1].output])
    return image_from_tensor(x, height, width, grey=image.ndim == 2)
