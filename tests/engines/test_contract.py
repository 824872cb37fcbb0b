"""The contract of an engine: every back end does the same. Those that need a GPU run on doubles of their libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.backends import BACKENDS, OpenSettings
from engines.bundle import Bundle
from engines.engine import Engine
from engines.errors import EngineError
from engines.open import open_engine

TINY = Path(__file__).parents[1] / "golden" / "tiny"
Z = np.arange(-4, 4, dtype=np.float32).reshape(1, 2, 2, 2)
Y = np.arange(128, dtype=np.float32).reshape(1, 8, 4, 4) / 16
EXACT = ("cpu", "cuda", "tensorrt", "numpy-int64")
FREE = ("cpu", "cuda", "tensorrt", "tensorrt-ep")
Install = Callable[..., Any]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The tiny bundle."""
    return Bundle.open(TINY)


@pytest.fixture
def opened(bundle: Bundle, onnxruntime: Install, tensorrt: Install) -> Iterator[Callable[[str, str], Engine]]:
    """Opens a graph on a back end, beneath all checks and fallbacks, and closes it in the end."""
    onnxruntime()
    tensorrt()
    engines: list[Engine] = []

    def get(backend: str, role: str) -> Engine:
        spec = bundle.graphs[role]
        engines.append(BACKENDS[backend].open(bundle.read(spec.file), spec, OpenSettings(1, may_build=True)))
        return engines[-1]

    yield get
    for engine in engines:
        engine.close()


@pytest.fixture(params=EXACT)
def exact(request: pytest.FixtureRequest, opened: Callable[[str, str], Engine]) -> Engine:
    """The exact graph on every back end in turn."""
    return opened(request.param, "h_s")


@pytest.fixture(params=FREE)
def free(request: pytest.FixtureRequest, opened: Callable[[str, str], Engine]) -> Engine:
    """A free graph on every back end in turn."""
    return opened(request.param, "h_a")


def test_exact_engine_gives_its_outputs_in_order(exact: Engine) -> None:
    """h_s gives mu and sigma_code, float32, one per latent, in the order of the manifest."""
    mu, codes = exact.run(Z)
    assert mu.shape == codes.shape == (1, 8, 8, 8)
    assert mu.dtype == codes.dtype == np.float32
    assert codes.min() >= 0 and codes.max() <= 1023 and mu.min() < 0


def test_exact_engine_gives_the_same_bits_as_the_cpu(exact: Engine, bundle: Bundle) -> None:
    """One graph, one result."""
    expected = open_engine(bundle, "h_s", "cpu", threads=1).run(Z)
    assert all(map(np.array_equal, exact.run(Z), expected))


def test_free_engine_gives_what_the_cpu_gives(free: Engine, bundle: Bundle) -> None:
    """To rounding."""
    (expected,) = open_engine(bundle, "h_a", "cpu", threads=1).run(Y)
    (found,) = free.run(Y)
    assert found.dtype == np.float32 and np.allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_same_input_gives_the_same_output_again(exact: Engine) -> None:
    """A run leaves nothing behind, does not touch its input, and its result is the caller's."""
    given = Z.copy()
    first = exact.run(given)
    copies = [output.copy() for output in first]
    exact.run(Z[:, :, :1, :1].copy())
    exact.run(-given)
    for _ in range(3):
        for one, other in zip(copies, exact.run(given), strict=True):
            assert (one == other).all()
    assert all(map(np.array_equal, first, copies)) and (given == Z).all()


def test_any_size_runs(exact: Engine) -> None:
    """Height and width are free."""
    for height, width in ((1, 1), (1, 7), (5, 3)):
        mu, _ = exact.run(np.zeros((1, 2, height, width), np.float32))
        assert mu.shape == (1, 8, 4 * height, 4 * width)


def test_any_batch_runs(free: Engine) -> None:
    """Free graphs take several pictures at once, and each comes out as alone."""
    together = free.run(np.concatenate([Y, -Y]))[0]
    assert np.allclose(together, np.concatenate([free.run(Y)[0], free.run(-Y)[0]]), atol=1e-5)


def test_inputs_need_not_lie_in_order(free: Engine) -> None:
    """A view with strides of its own is read as what it is."""
    view = np.ascontiguousarray(Y.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not view.flags.c_contiguous
    assert np.allclose(free.run(view)[0], free.run(Y)[0])


def test_every_place_is_computed_alike(exact: Engine) -> None:
    """A graph of 1x1 layers gives the same numbers wherever its input stands."""
    mu, codes = exact.run(np.tile(Z[:, :, :1, :1], (1, 1, 6, 9)))
    for output in (mu, codes):
        blocks = output.reshape(8, 6, 4, 9, 4).transpose(1, 3, 0, 2, 4).reshape(54, -1)
        assert (blocks == blocks[0]).all()


@pytest.mark.parametrize("inputs", [(), (Z, Z)])
def test_wrong_number_of_inputs_is_refused(exact: Engine, inputs: tuple[NDArray[np.float32], ...]) -> None:
    """The error names graph and numbers."""
    with pytest.raises(EngineError, match=f"graph 'h_s' takes 1 inputs, not {len(inputs)}"):
        exact.run(*inputs)


@pytest.mark.parametrize("value", [Z.astype(np.float64), Z.astype(np.int32), Z[0], Z[None]])
def test_wrong_type_or_dimensions_are_refused(exact: Engine, value: NDArray[np.float32]) -> None:
    """Nothing is converted."""
    with pytest.raises(EngineError, match=r"z_hat must be float32 \(B, (C|2), H, W\), not \w+ \("):
        exact.run(value)


def test_wrong_channels_are_refused(exact: Engine) -> None:
    """What the device says becomes one of our errors, with the graph's name."""
    with pytest.raises(EngineError, match="graph 'h_s'"):
        exact.run(np.zeros((1, 3, 2, 2), np.float32))


def test_engine_works_after_a_wrong_call(exact: Engine) -> None:
    """An error is the call's, not the engine's."""
    expected = exact.run(Z)
    with pytest.raises(EngineError):
        exact.run(np.zeros((1, 3, 2, 2), np.float32))
    assert all(map(np.array_equal, exact.run(Z), expected))


@pytest.mark.parametrize("backend", sorted({*EXACT, *FREE}))
def test_engine_is_named_and_can_be_closed(
    backend: str, opened: Callable[[str, str], Engine], bundle: Bundle, gpu: Any
) -> None:
    """Reports name the back end; after closing, nothing is left on the device."""
    role = "h_s" if backend in EXACT else "h_a"
    spec = bundle.graphs[role]
    engine = BACKENDS[backend].open(bundle.read(spec.file), spec, OpenSettings(1, may_build=True))
    engine.run(Z if role == "h_s" else Y)
    assert engine.backend == backend
    engine.close()
    assert gpu.live == set()


@pytest.mark.parametrize("backend", [name for name, backend in BACKENDS.items() if backend.accelerator])
def test_on_hardware(backend: str, cache: Path) -> None:
    """Where the real library and a GPU are, every graph of the shipped bundle opens, runs and proves itself."""
    missing = BACKENDS[backend].missing()
    if missing is not None:
        pytest.skip(f"{backend} is not here: {missing}")
    shipped = Bundle.open("dpict-edge")
    for role, spec in shipped.graphs.items():
        if spec.exact and backend not in EXACT:
            continue
        engine = open_engine(shipped, role, backend, may_build=True)
        channels = 3 if spec.inputs == ("x",) else shipped.settings["z_channels" if spec.exact else "y_channels"]
        side = 256 if channels == 3 else 16
        inputs = [np.ones((1, channels, side, side), np.float32) for _ in spec.inputs]
        for _ in range(3):
            engine.run(*inputs)
        assert engine.backend == backend, engine.reason
        engine.close()
