"""Opening engines: wrong calls and files are refused, and exact graphs prove themselves."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.bundle import Bundle
from engines.errors import BundleError, EngineError, UsageError
from engines.known_answers import known_answers
from engines.open import available_cores, check_known_answers, open_engine

TINY = Path(__file__).parents[1] / "golden" / "tiny"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The tiny bundle."""
    return Bundle.open(TINY)


def changed(bundle: Bundle, path: str, content: bytes) -> Bundle:
    """Return *bundle* with another content of one file, as if it had been verified."""
    return replace(bundle, _files=dict(bundle._files) | {path: content})


def answers_of(bundle: Bundle, path: str) -> dict[str, NDArray[np.generic]]:
    with np.load(io.BytesIO(bundle.read(path)), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def npz(arrays: dict[str, NDArray[np.generic]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


# Opening.


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_exact_graph_gives_the_same_bits_with_any_number_of_threads(bundle: Bundle, threads: int | None) -> None:
    """The integers of an exact graph do not depend on how the work is divided."""
    z = np.random.default_rng(0).integers(-13, 14, (1, 2, 40, 50)).astype(np.float32)
    one, other = open_engine(bundle, "h_s", threads=1).run(z), open_engine(bundle, "h_s", threads=threads).run(z)
    for a, b in zip(one, other, strict=True):
        assert (a == b).all() and (a == np.rint(a)).all()


def test_unknown_back_end_is_refused(bundle: Bundle) -> None:
    """The error lists the back ends."""
    with pytest.raises(UsageError, match="engine 'abacus' is unknown; there are auto, "):
        open_engine(bundle, "h_s", "abacus")


def test_unknown_precision_is_refused(bundle: Bundle) -> None:
    """The error lists the precisions."""
    with pytest.raises(UsageError, match="precision 'int3' is unknown; there are auto, fp32, fp16"):
        open_engine(bundle, "g_a", precision="int3")


def test_unknown_role_is_refused(bundle: Bundle) -> None:
    """The error lists the bundle's graphs."""
    with pytest.raises(
        BundleError, match=r"bundle tiny has no graph 'crr'; it has g_a, g_s, h_a, h_s, post_low, preview"
    ):
        open_engine(bundle, "crr")


def test_graph_that_is_no_graph_is_refused(bundle: Bundle) -> None:
    """What the parser says becomes one of our errors, with the graph's name."""
    with pytest.raises(BundleError, match="graph 'g_a' cannot be opened"):
        open_engine(changed(bundle, "graphs/g_a.onnx", b"nonsense"), "g_a")


def test_graph_with_other_tensors_than_the_manifest_says_is_refused(bundle: Bundle) -> None:
    """Inputs and outputs are those that the codec will use."""
    with pytest.raises(EngineError, match="graph 'g_a' has inputs and outputs"):
        open_engine(changed(bundle, "graphs/g_a.onnx", bundle.read("graphs/h_a.onnx")), "g_a")


def test_exact_graph_with_other_bits_than_its_known_answers_is_refused(bundle: Bundle) -> None:
    """One unit of difference in one number is enough; the error says by how much."""
    answers = answers_of(bundle, "kat/h_s.npz")
    answers["0.mu"] = answers["0.mu"].copy()
    answers["0.mu"][0, 3, 2, 1] += 1
    wrong = changed(bundle, "kat/h_s.npz", npz(answers))
    with pytest.raises(EngineError, match=r"gives other bits on cpu .* \(largest difference 1\)"):
        open_engine(wrong, "h_s")


def test_exact_graph_with_answers_of_another_size_is_refused(bundle: Bundle) -> None:
    """An answer that cannot be compared proves nothing."""
    answers = answers_of(bundle, "kat/h_s.npz")
    answers["0.mu"] = answers["0.mu"][:, :, :-1]
    with pytest.raises(EngineError, match="largest difference inf"):
        open_engine(changed(bundle, "kat/h_s.npz", npz(answers)), "h_s")


def test_answers_that_are_no_numbers_are_refused(bundle: Bundle) -> None:
    """A comparison with NaN is not a match."""
    answers = answers_of(bundle, "kat/h_s.npz")
    answers["0.mu"] = np.full(answers["0.mu"].shape, np.nan, np.float32)
    with pytest.raises(EngineError, match="largest difference inf"):
        open_engine(changed(bundle, "kat/h_s.npz", npz(answers)), "h_s")


@pytest.mark.parametrize("fault", ["garbage", "empty", "no-cases", "no-count", "missing-output"])
def test_known_answers_that_cannot_be_read_are_refused(bundle: Bundle, fault: str) -> None:
    """Answers are read like any other file of a bundle: with one error that names it."""
    answers = answers_of(bundle, "kat/h_s.npz")
    content = {
        "garbage": b"PK\x03\x04nonsense",
        "empty": b"",
        "no-cases": npz(answers | {"cases": np.int32(0)}),  # type: ignore[dict-item]
        "no-count": npz({name: value for name, value in answers.items() if name != "cases"}),
        "missing-output": npz({name: value for name, value in answers.items() if name != "0.mu"}),
    }[fault]
    with pytest.raises(BundleError, match=r"kat/h_s\.npz"):
        open_engine(changed(bundle, "kat/h_s.npz", content), "h_s")


def test_exact_graph_without_known_answers_is_refused(bundle: Bundle) -> None:
    """What cannot be proved is not used."""
    graphs = dict(bundle.graphs) | {"h_s": replace(bundle.graphs["h_s"], known_answers=None)}
    with pytest.raises(BundleError, match="graph 'h_s' has no known answers"):
        open_engine(replace(bundle, graphs=graphs), "h_s")


@pytest.mark.parametrize("name", ["tiny", "dpict-edge"])
def test_every_graph_gives_its_known_answers(name: str) -> None:
    """Exact graphs to the bit, free graphs to rounding: a thousandth of their answers' range, as for selfcheck."""
    bundle = Bundle.open(TINY if name == "tiny" else name)
    for role, graph in bundle.graphs.items():
        difference = check_known_answers(bundle, graph, open_engine(bundle, role, threads=1))
        outputs = [output for answer in known_answers(bundle, graph) for output in answer.outputs]
        spread = max(output.max() for output in outputs) - min(output.min() for output in outputs)
        assert difference == 0.0 if graph.exact else difference <= 1e-3 * spread


def test_cores_are_those_that_the_process_may_use() -> None:
    """At least one, and no more than there are."""
    assert 1 <= available_cores() <= 4096
