"""Tables: the file and every way to refuse one; what export puts into them against numeric integration."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from loading import module_at
from numpy.typing import NDArray

from runtime.entropy.tables import MEAN_UNIT, TOTAL_BITS, Tables
from runtime.errors import BundleError

Arrays = dict[str, NDArray[Any]]
KINDS = {
    "trits": "|u1",
    "root": "<i4",
    "first_child": "<i4",
    "frequencies": "<u4",
    "priority": "<i2",
    "mean": "<i2",
    "deviation": "<u2",
    "sigma_thresholds": "<i4",
}


def arrays_of(tables: Tables) -> Arrays:
    return {name: getattr(tables, name).copy() for name in KINDS}


def table_file(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


# The file.


def test_file_gives_the_same_tables_and_the_same_bytes(tiny_tables: Tables) -> None:
    """Writing is the inverse of reading, and always writes the same."""
    content = tiny_tables.to_bytes()
    again = Tables.from_bytes(content)
    for name in KINDS:
        assert (getattr(again, name) == getattr(tiny_tables, name)).all()
    assert again.to_bytes() == content == tiny_tables.to_bytes()


def test_file_holds_little_endian_arrays_by_name(tiny_tables: Tables) -> None:
    """The file is an archive of one .npy per array, with the types of the format."""
    with np.load(io.BytesIO(tiny_tables.to_bytes()), allow_pickle=False) as file:
        assert {name: file[name].dtype.str for name in file.files} == KINDS


def test_big_endian_file_reads_as_well_or_is_refused(tiny_tables: Tables) -> None:
    """A file in another byte order never gives other numbers."""
    arrays = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays_of(tiny_tables).items()}
    try:
        read = Tables.from_bytes(table_file(arrays))
    except BundleError:
        return
    assert (read.frequencies == tiny_tables.frequencies).all() and (read.mean == tiny_tables.mean).all()


@pytest.mark.parametrize("name", KINDS)
def test_missing_array_is_refused(tiny_tables: Tables, name: str) -> None:
    """Every array must be there."""
    arrays = arrays_of(tiny_tables)
    del arrays[name]
    with pytest.raises(BundleError, match=name):
        Tables.from_bytes(table_file(arrays))


@pytest.mark.parametrize("name", KINDS)
def test_array_of_another_type_is_refused(tiny_tables: Tables, name: str) -> None:
    """No array is converted."""
    arrays = arrays_of(tiny_tables)
    arrays[name] = arrays[name].astype(np.float64)
    with pytest.raises(BundleError, match=f"{name} must be"):
        Tables.from_bytes(table_file(arrays))


@pytest.mark.parametrize("name", KINDS)
def test_array_of_other_dimensions_is_refused(tiny_tables: Tables, name: str) -> None:
    """One dimension too many is not flattened, one too few is not an accident."""
    for shape in ((1, -1, 1), ()):
        arrays = arrays_of(tiny_tables)
        arrays[name] = arrays[name].reshape(shape) if shape else arrays[name].reshape(-1)[0]
        with pytest.raises(BundleError, match="tables: "):
            Tables.from_bytes(table_file(arrays))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"PK\x03\x04" + bytes(100),
        lambda content: content[:-30],
        lambda content: content[: len(content) // 2],
        lambda content: bytes(1000),
        lambda content: b"\x93NUMPY" + content,
        lambda content: content.replace(b"'descr': '<i4'", b"'descr': '|O4'"),
    ],
    ids=["empty", "no-archive", "no-end", "half", "zeros", "npy", "objects"],
)
def test_unreadable_file_is_refused(tiny_tables: Tables, damage: Callable[[bytes], bytes]) -> None:
    """Whatever the archive reader raises becomes one error that names the tables."""
    with pytest.raises(BundleError, match="tables: "):
        Tables.from_bytes(damage(tiny_tables.to_bytes()))


def test_pickled_array_is_refused(tiny_tables: Tables) -> None:
    """An array of objects is never unpickled."""
    arrays = arrays_of(tiny_tables) | {"root": np.array([print] * len(tiny_tables.root), dtype=object)}
    with pytest.raises(BundleError, match="tables: "):
        Tables.from_bytes(table_file(arrays))


def test_golden_tables_are_what_their_generator_makes(tiny_tables: Tables, golden_folder: Path) -> None:
    """Exact arithmetic gives the tables on file, on every machine."""
    made = module_at(golden_folder / "tiny_bundle.py").make_tables()
    for name in KINDS:
        assert (getattr(made, name) == getattr(tiny_tables, name)).all()


# Tables that contradict themselves: one test per fault.


def refused(tables: Tables, match: str, **changes: Callable[[NDArray[Any]], NDArray[Any] | None]) -> None:
    """Expect that tables with *changes* are refused; a change edits its array in place or returns another."""
    arrays = arrays_of(tables)
    for name, change in changes.items():
        changed = change(arrays[name])
        arrays[name] = arrays[name] if changed is None else changed
    with pytest.raises(BundleError, match=match):
        Tables(**arrays)


def put(index: Any, value: Any) -> Callable[[NDArray[Any]], None]:
    """Return a change that puts *value* at *index*."""

    def change(array: NDArray[Any]) -> None:
        array[index] = value

    return change


def test_zero_frequency_is_refused(tiny_tables: Tables) -> None:
    """A trit that cannot be coded would stop an encoder."""
    refused(tiny_tables, "a frequency is zero", frequencies=put(3, [0, 1 << 23, 1 << 23]))


def test_frequencies_with_another_sum_are_refused(tiny_tables: Tables) -> None:
    """A row sums to 2^24, not nearly."""
    refused(tiny_tables, "a row's sum is wrong", frequencies=put(0, [1, 1, (1 << 24) - 1]))


def test_frequencies_whose_sum_wraps_are_refused(tiny_tables: Tables) -> None:
    """The sum is not taken in 32 bits."""
    refused(tiny_tables, "a row's sum is wrong", frequencies=put(0, [1 << 31, 1 << 31, 1 << 24]))


@pytest.mark.parametrize("name", ["frequencies", "priority", "deviation", "root"])
def test_array_one_entry_short_is_refused(tiny_tables: Tables, name: str) -> None:
    """Lengths agree with one another."""
    refused(tiny_tables, f"{name} ", **{name: lambda array: array[:-1]})


def test_child_before_its_parent_is_refused(tiny_tables: Tables) -> None:
    """Trees have no cycles."""
    refused(tiny_tables, "a child precedes its parent", first_child=put(10, 10))


@pytest.mark.parametrize("child", [-1, -(1 << 31)])
def test_negative_child_is_refused(tiny_tables: Tables, child: int) -> None:
    """Nodes are not counted from the end."""
    refused(tiny_tables, "a child precedes its parent", first_child=put(0, child))


def test_child_out_of_range_is_refused(tiny_tables: Tables) -> None:
    """The third child exists as well."""
    refused(tiny_tables, "a child is out of range", first_child=put(-1, len(tiny_tables.mean) - 2))


@pytest.mark.parametrize("root", [-1, 1 << 20])
def test_root_out_of_range_is_refused(tiny_tables: Tables, root: int) -> None:
    """Every model begins at a node that exists."""
    refused(tiny_tables, "a root is out of range", root=put(2, root))


def test_tree_of_another_depth_than_its_trits_is_refused(tiny_tables: Tables) -> None:
    """A model's digits end at a leaf, not before and not behind."""
    for trits in (0, 1, 3):
        refused(tiny_tables, "wrong depth", trits=put(2, trits))


def test_tree_with_one_shorter_branch_is_refused(tiny_tables: Tables) -> None:
    """Every path is walked, not only the first child's."""
    inner = len(tiny_tables.first_child)
    refused(tiny_tables, "wrong depth|not its symbol", first_child=put(int(tiny_tables.root[2]), inner - 1))


def test_model_of_more_trits_than_means_can_express_is_refused(tiny_tables: Tables) -> None:
    """Seven digits would reach beyond int16, and their powers would beyond memory."""
    refused(tiny_tables, "more than 6 trits", trits=put(5, 7))
    refused(tiny_tables, "more than 6 trits", trits=put(5, 255))


def test_leaf_whose_mean_is_another_symbol_is_refused(tiny_tables: Tables) -> None:
    """A complete symbol reconstructs to within half a unit of itself."""
    refused(tiny_tables, "a leaf's mean is not its symbol", mean=put(-1, 1))
    refused(tiny_tables, "a leaf's mean is not its symbol", mean=lambda mean: -mean)


def test_leaf_with_deviation_is_refused(tiny_tables: Tables) -> None:
    """Of a complete symbol nothing is left."""
    refused(tiny_tables, "a leaf's deviation", deviation=put(-1, 1))


def test_thresholds_that_do_not_rise_are_refused(tiny_tables: Tables) -> None:
    """Every sigma code has one level."""
    refused(tiny_tables, "do not rise", sigma_thresholds=put(1, int(tiny_tables.sigma_thresholds[0])))


def test_fewer_models_than_levels_are_refused(tiny_tables: Tables) -> None:
    """Every level is a model."""
    refused(tiny_tables, "fewer models", sigma_thresholds=lambda _: np.arange(99, dtype=np.int32))


# What the properties say.


def test_level_counts_the_thresholds_that_a_code_reaches(tiny_tables: Tables) -> None:
    """A code on a threshold belongs to the level above it."""
    expected = [sum(code >= t for t in tiny_tables.sigma_thresholds.tolist()) for code in range(1024)]
    assert tiny_tables.level_of_code(1024).tolist() == expected
    assert tiny_tables.y_levels == 6 == max(expected) + 1


def test_largest_symbol_follows_from_the_trits(tiny_tables: Tables) -> None:
    """L balanced digits reach from -(3^L - 1)/2 to (3^L - 1)/2."""
    assert tiny_tables.largest.tolist() == [{0: 0, 1: 1, 2: 4, 3: 13, 4: 40}[t] for t in tiny_tables.trits.tolist()]


# What export computes, against numeric integration.


@pytest.fixture(scope="module")
def export_tables() -> ModuleType:
    """`export.tables`, which needs torch."""
    pytest.importorskip("torch", reason="export needs torch")
    import export.tables

    return export.tables


@pytest.fixture(scope="module")
def level_tables(export_tables: ModuleType) -> Tables:
    """Tables of all sigma levels, with a factorized prior of three channels that was never trained."""
    import torch

    from export.networks.entropy import FactorizedPrior

    torch.manual_seed(0)
    tables: Tables = export_tables.make_tables(FactorizedPrior(3))
    return tables


def sigma_of(level: int) -> float:
    from export.networks.entropy import LOG_STEP, SIGMA_MIN

    return float(SIGMA_MIN * math.exp(LOG_STEP * level))


def scales_of(sigma: float) -> list[tuple[float, float]]:
    """Return the standard deviations of the Gaussians that a level is a mixture of, and their shares."""
    places, weights = np.polynomial.hermite_e.hermegauss(9)
    return list(zip(sigma * np.exp(-0.06 + 0.25 * places), weights / weights.sum(), strict=True))


class Conditional:
    """What a level stands for, given that it rounds, clamped to a model's range, to one of *symbols*: by quadrature.

    A level is a mixture of nine Gaussians of mean 0, whose scales lie around *sigma*.
    """

    def __init__(self, sigma: float, symbols: range, largest: int) -> None:
        low = -math.inf if symbols[0] == -largest else symbols[0] - 0.5
        high = math.inf if symbols[-1] == largest else symbols[-1] + 0.5
        # Beyond 30 sigma there is nothing that would count.
        low, high = max(low, -30 * sigma), max(min(high, 30 * sigma), -30 * sigma)
        self.mass = 0.0
        if low < high:
            nodes, weights = np.polynomial.legendre.leggauss(40)
            edges = np.linspace(low, high, 161)
            half = np.diff(edges)[:, None] / 2
            x = edges[:-1, None] + half * (nodes + 1)
            density = np.zeros_like(x)
            for scale, share in scales_of(sigma):
                density += share * np.exp(-0.5 * (x / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
            density *= half * weights
            self.mass = float(density.sum())
        if self.mass > 0:
            self.mean = float((density * x).sum()) / self.mass
            self.variance = float((density * (x - self.mean) ** 2).sum()) / self.mass


def nodes_of(tables: Tables, model: int) -> list[tuple[int, range]]:
    """Return (node, symbols) of all inner nodes of *model*, from the root down."""
    largest = int(tables.largest[model])
    found = [(int(tables.root[model]), range(-largest, largest + 1))]
    for node, symbols in found:
        third = len(symbols) // 3
        if third > 1:
            child = int(tables.first_child[node])
            found += [(child + t, symbols[t * third : (t + 1) * third]) for t in range(3)]
    return found


@pytest.mark.parametrize("level", [12, 20, 33, 47])
def test_rows_of_a_level_agree_with_numeric_integration(level_tables: Tables, level: int) -> None:
    """Means, deviations and frequencies of every likely node are the integrals, to their units."""
    sigma, largest = sigma_of(level), int(level_tables.largest[level])
    checked = 0
    for node, symbols in nodes_of(level_tables, level):
        whole = Conditional(sigma, symbols, largest)
        if whole.mass < 1e-7:
            continue
        assert level_tables.mean[node] == pytest.approx(MEAN_UNIT * whole.mean, abs=0.501)
        assert level_tables.deviation[node] == pytest.approx(MEAN_UNIT * math.sqrt(whole.variance), abs=0.501)
        third = len(symbols) // 3
        for trit in range(3):
            part = Conditional(sigma, symbols[trit * third : (trit + 1) * third], largest)
            assert level_tables.frequencies[node, trit] == pytest.approx(2**TOTAL_BITS * part.mass / whole.mass, abs=4)
        checked += 1
    assert checked >= 1


@pytest.mark.parametrize("level", [20, 33])
def test_priority_is_the_fall_of_error_per_bit(level_tables: Tables, level: int) -> None:
    """The priority is log2 of -dD/dR in 1/64 octaves; a complete symbol stands for itself."""
    sigma, largest = sigma_of(level), int(level_tables.largest[level])
    for node, symbols in nodes_of(level_tables, level):
        whole = Conditional(sigma, symbols, largest)
        if whole.mass < 1e-6:
            continue
        third = len(symbols) // 3
        left, bits = 0.0, 0.0
        for trit in range(3):
            inside = symbols[trit * third : (trit + 1) * third]
            part = Conditional(sigma, inside, largest)
            share = part.mass / whole.mass
            if share:
                left += share * (part.variance + (0 if third > 1 else (part.mean - inside[0]) ** 2))
                bits -= share * math.log2(share)
        fall = whole.variance - left
        if fall < 1e-9:  # far out the symbol itself is a worse guess than the mean
            assert level_tables.priority[node] < -1000
        else:
            assert level_tables.priority[node] == pytest.approx(64 * math.log2(fall / bits), abs=0.6)


def test_levels_cover_their_scales(level_tables: Tables, export_tables: ModuleType) -> None:
    """A level reaches six sigma and more, as long as six trits can; one that is never sent is all but surely 0."""
    for level in range(level_tables.y_levels):
        sigma, largest = sigma_of(level), int(level_tables.largest[level])
        if largest == 0:
            assert math.erfc(0.5 / sigma / math.sqrt(2)) < export_tables.NEVER_SENT
        else:
            assert largest == 364 or largest + 0.5 >= export_tables.COVERAGE * sigma


def test_frequencies_cost_next_to_nothing(level_tables: Tables) -> None:
    """Coding with the tables takes at most 0.03 % (or 1e-5 bit) more than the probabilities themselves would."""
    from scipy import stats

    for level in range(level_tables.y_levels):
        largest = int(level_tables.largest[level])
        edges = np.arange(-largest, largest + 2) - 0.5
        edges[0], edges[-1] = -np.inf, np.inf
        mass = sum(share * np.diff(stats.norm(scale=scale).cdf(edges)) for scale, share in scales_of(sigma_of(level)))
        ideal = -sum(float(p) * math.log2(p) for p in mass if p > 0)
        spent = 0.0
        for node, symbols in nodes_of(level_tables, level) if largest else []:
            thirds = mass[symbols[0] + largest : symbols[-1] + largest + 1].reshape(3, -1).sum(axis=1)
            spent -= float(thirds @ np.log2(level_tables.frequencies[node] / 2.0**TOTAL_BITS))
        assert spent <= ideal * 1.0003 + 1e-5 or largest == 0


def test_prior_rows_are_its_probabilities(level_tables: Tables, export_tables: ModuleType) -> None:
    """z's tables hold the factorized prior's own probabilities, down to rounding."""
    import torch

    from export.networks.entropy import FactorizedPrior

    torch.manual_seed(0)
    prior = FactorizedPrior(3)
    for channel in range(3):
        model = level_tables.y_levels + channel
        largest = int(level_tables.largest[model])
        edges = torch.arange(-largest, largest + 2, dtype=torch.float32) - 0.5
        with torch.no_grad():
            logits = prior.cumulative_logits(edges.expand(3, 1, -1))[channel, 0].double()
        cumulative = torch.sigmoid(logits)
        cumulative[0], cumulative[-1] = 0.0, 1.0
        mass = np.diff(cumulative.numpy())
        for node, symbols in nodes_of(level_tables, model):
            thirds = mass[symbols[0] + largest : symbols[-1] + largest + 1].reshape(3, -1).sum(axis=1)
            if thirds.sum() > 1e-3:
                expected = 2**TOTAL_BITS * thirds / thirds.sum()
                assert np.abs(level_tables.frequencies[node] - expected).max() < 2**TOTAL_BITS * 1e-4


def test_thresholds_that_fall_by_more_than_int32_holds_are_refused(tiny_tables: Tables) -> None:
    """Their difference would seem to be positive."""
    falling = np.array([2_000_000_000, -2_000_000_000, 320, 450, 600], np.int32)
    refused(tiny_tables, "do not rise", sigma_thresholds=lambda _: falling)
