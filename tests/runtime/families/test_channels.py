"""Channels in order: what the walk yields, and how far a field is known at any trit."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.entropy.plan import Field
from runtime.entropy.tables import Tables
from runtime.families.channels import channels_in_order, channels_known, side_information

CHANNELS, AREA = 5, 7


def field_of(tables: Tables, seed: int = 0) -> Field:
    """Return a field whose third channel has no trits."""
    generator = np.random.default_rng(seed)
    models = generator.integers(len(tables.trits), size=(CHANNELS, AREA))
    models[2] = int(np.flatnonzero(tables.trits == 0)[0])
    return Field(models.reshape(-1), tables, generator.integers(-40, 41, CHANNELS * AREA))


def test_every_channel_is_complete_before_the_next_begins(tiny_tables: Tables) -> None:
    """Steps stay inside a channel, channels rise, and at the end every symbol is known to the whole field."""
    field = field_of(tiny_tables)
    assert field.symbols is not None
    for step in channels_in_order(field, CHANNELS):
        known = int(channels_known(field, CHANNELS, tiny_tables.trits_left()))
        assert len(step.field.nodes) == AREA
        assert np.shares_memory(step.field.nodes, field.nodes[known * AREA : (known + 1) * AREA])
        step.receive(step.trits())
    assert (field.known_symbols() == field.symbols).all()


def test_known_rises_with_every_trit(tiny_tables: Tables) -> None:
    """Each trit counts as much as any other of its channel; one without trits counts once its turn has come."""
    left = tiny_tables.trits_left()
    field = field_of(tiny_tables, 1)
    per_channel = field.trits.reshape(CHANNELS, AREA).sum(axis=1)
    expected = 0.0
    for step in channels_in_order(field, CHANNELS):
        for trit in step.trits():
            channel = int(expected + 1e-9)
            if per_channel[channel] == 0:
                expected = channel = channel + 1
            assert channels_known(field, CHANNELS, left) == pytest.approx(expected)
            step.receive(np.array([trit]))
            expected += 1 / per_channel[channel]
    assert channels_known(field, CHANNELS, left) == CHANNELS


def test_trits_left_count_down_to_the_leaves(tiny_tables: Tables) -> None:
    """A root has all of its model's trits left, a child one less than its parent, a leaf none."""
    left = tiny_tables.trits_left()
    inner = len(tiny_tables.first_child)
    assert (left[tiny_tables.root] == tiny_tables.trits).all()
    assert (left[tiny_tables.first_child] == left[:inner] - 1).all()
    assert not left[inner:].any()


def test_side_information_says_what_follows_it(tiny_tables: Tables) -> None:
    """All of its steps are marked; the last one names the graphs that run before anything else can be decoded."""
    steps = []
    for step in side_information(field_of(tiny_tables), ("h_s",)):
        step.receive(step.trits())
        steps.append(step)
    assert all(step.side for step in steps)
    assert [step.then for step in steps] == [()] * (len(steps) - 1) + [("h_s",)]
