"""Graphs as parts of a bundle."""

from __future__ import annotations

import io

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnx", reason="onnx is not installed (extra: export)")

from export.bundle_writer import BundleContent
from export.families.content import add_exact_graph
from export.integers import MU, SIGMA_CODE, IntegerInput, integer_graph
from export.networks.backbones import make_backbone


def test_known_answers_lie_within_the_proof() -> None:
    """An input as it comes may go beyond what was proved: what is kept of it does not, on either side."""
    torch.manual_seed(0)
    h_s = make_backbone("edge", {"y_channels": 4, "z_channels": 2, "width8": 8, "width16": 8, "hyper_width": 4}).h_s()
    given = IntegerInput("z_hat", np.zeros(2, np.int64), np.array([3.0, 5.0]))
    real = torch.tensor([[[[9.0, -9.0, 2.0]], [[7.0, -7.0, 4.0]]]])
    model, proof = integer_graph("h_s", h_s.eval(), given, (MU, SIGMA_CODE), [real])
    content = BundleContent(settings={})
    add_exact_graph(content, "h_s", model, proof, given, real)
    with np.load(io.BytesIO(content.files["kat/h_s.npz"])) as answers:
        inputs = [answers[f"{case}.z_hat"] for case in range(int(answers["cases"]))]
    assert inputs[0].tolist() == [[[[3, -3, 2]], [[5, -5, 4]]]]
    assert all((np.abs(one) <= given.limit[None, :, None, None]).all() for one in inputs)
