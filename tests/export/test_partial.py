from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")

from export.networks.entropy import LOG_STEP, SIGMA_MIN, FactorizedPrior
from export.tables import make_tables
from export.training.partial import TorchTables
from runtime.entropy.plan import Field, trit_planes
from runtime.entropy.tables import MEAN_UNIT

TABLES = make_tables(FactorizedPrior(2))


def latents(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    levels = generator.integers(0, TABLES.y_levels, (1, 4, 8, 8))
    symbols = np.rint(generator.normal(0, SIGMA_MIN * np.exp(LOG_STEP * levels)))
    return levels, symbols


@pytest.mark.parametrize("missing", [0, 1, 2, 3, 5])
def test_whole_planes_are_what_the_runtime_knows(missing: int) -> None:
    """Training sees, at a cut between planes, the very means and deviations that a decoder has there."""
    levels, symbols = latents(missing)
    field = Field(levels.reshape(-1), TABLES, symbols.reshape(-1))
    for step in trit_planes(field):
        if step.place > missing:
            step.receive(step.trits())
    mu = torch.full(levels.shape, 0.25)
    known = TorchTables(TABLES, torch.device("cpu")).cut(
        torch.from_numpy(symbols).float() + mu, mu, torch.from_numpy(levels).float(), float(missing)
    )
    expected = TABLES.mean[field.nodes].reshape(levels.shape) / MEAN_UNIT + 0.25
    np.testing.assert_allclose(known.y_hat.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(known.deviation.numpy().reshape(-1), TABLES.deviation[field.nodes] / MEAN_UNIT)


def test_part_of_a_plane_arrives_by_priority() -> None:
    """Of a plane of which half is missing, the half with the higher priorities is known."""
    levels, symbols = latents(7)
    mu = torch.zeros(levels.shape)
    cut = TorchTables(TABLES, torch.device("cpu")).cut
    y, level = torch.from_numpy(symbols).float(), torch.from_numpy(levels).float()
    before, half, after = (cut(y, mu, level, missing).deviation for missing in (2.0, 1.5, 1.0))
    arrived = (half == after) & (before != after)
    waiting = (half == before) & (before != after)
    field = Field(levels.reshape(-1), TABLES, symbols.reshape(-1))
    for step in trit_planes(field):
        if step.place == 2:
            share = float(arrived.sum()) / len(step)
            priority = np.full(field.nodes.shape, -40000)
            priority[step.indices] = TABLES.priority[step.nodes]
        step.receive(step.trits())
    assert 0.3 < share < 0.7
    assert priority[arrived.numpy().reshape(-1)].min() >= priority[waiting.numpy().reshape(-1)].max()


@pytest.mark.parametrize("missing", [0.0, 0.5, 2.0, 6.0])
def test_a_cut_for_training_the_analysis_is_the_same_cut(missing: float) -> None:
    """Its bits are those of the cells that are known, and gradients pass to y where a trit is known, else to mu."""
    levels, symbols = latents(11)
    y, level = torch.from_numpy(symbols).float().requires_grad_(), torch.from_numpy(levels).float().requires_grad_()
    mu = torch.zeros(levels.shape, requires_grad=True)
    tables = TorchTables(TABLES, torch.device("cpu"))
    cut, known = tables.cut(y, mu, level, missing), tables.known(y, mu, level, missing)
    through = tables.cut_through(y, mu, level, missing)
    torch.testing.assert_close(through.y_hat, cut.y_hat, atol=1e-5, rtol=0)
    torch.testing.assert_close(through.deviation, cut.deviation)
    begun = known.left < tables.trits[level.long()]
    through.y_hat.sum().backward()
    assert y.grad is not None and mu.grad is not None
    assert torch.equal(y.grad, begun.float()) and torch.equal(mu.grad, (~begun).float())
    sigma, half = SIGMA_MIN * torch.exp(LOG_STEP * level), 0.5 * 3.0**known.left
    normal = torch.distributions.Normal(0.0, sigma.double())
    mass = normal.cdf(known.middle + half) - normal.cdf(known.middle - half)
    assert torch.equal(through.bits[~begun], torch.zeros(int((~begun).sum())))
    likely = begun & (mass > 2.0**-20)
    torch.testing.assert_close(through.bits[likely], -mass[likely].log2().float(), atol=0.02, rtol=1e-3)
    (gradient,) = torch.autograd.grad(through.bits.sum(), level)
    assert bool((gradient[begun] != 0).any()) == bool(begun.any())
