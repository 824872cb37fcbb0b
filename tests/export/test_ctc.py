"""ctc from training to bundle, with tiny networks."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: export)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: export)")

from export.bundle_writer import write_bundle
from export.context import with_context
from export.families import EXPORTERS
from export.networks.entropy import FactorizedPrior
from export.tables import SCALE_BIAS, SCALE_SPREAD, make_tables
from export.training.config import StageSettings, TrainingSettings
from export.training.ctc import ContextTables, Ctc
from export.training.families import make_family
from export.training.group import Group
from export.training.loop import Run
from export.training.pictures import load_pictures
from export.weights import networks_with
from runtime import Codec
from runtime.entropy.context import LOG_ODDS_UNIT
from runtime.errors import ConfigurationError
from runtime.families import ctc as runtime_ctc

CPU = torch.device("cpu")
CONTEXT = {"context_width": 32, "context_layers": 1, "refine_width": 16, "refine_blocks": 1}


@pytest.fixture(scope="module")
def ctc_settings(tiny_settings: TrainingSettings) -> TrainingSettings:
    return replace(
        tiny_settings,
        family="ctc",
        network=tiny_settings.network | CONTEXT,
        stages={name: StageSettings(steps=3, batch=4, warmup_steps=1) for name in ("crr", "cdr", "cuts")},
        options={"segments": [2, 1]},
    )


@pytest.fixture(scope="module")
def networks(ctc_settings: TrainingSettings) -> Ctc:
    torch.manual_seed(3)
    networks = networks_with(ctc_settings, dict(make_family(ctc_settings).networks.state_dict()))
    assert isinstance(networks, Ctc)
    return networks


@pytest.fixture(scope="module")
def pictures(pictures_folder: Path) -> list[torch.Tensor]:
    return load_pictures([pictures_folder], 64)


@pytest.fixture(scope="module")
def bundle(
    ctc_settings: TrainingSettings,
    networks: Ctc,
    pictures: list[torch.Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    content = EXPORTERS["ctc"].content(networks, ctc_settings, pictures[:4], "cuts")
    return write_bundle(tmp_path_factory.mktemp("out") / "ctc", "tiny", "0.1.0", "ctc", content)


def test_all_stages_run_and_touch_their_networks_alone(
    ctc_settings: TrainingSettings, pictures: list[torch.Tensor], tmp_path: Path
) -> None:
    """crr, cdr and g_s are trained; the networks of dpict stay as they are, bit for bit."""
    torch.manual_seed(ctc_settings.seed)
    family = make_family(ctc_settings)
    run = Run(ctc_settings, family.networks, family.stages, tmp_path, CPU, Group())
    before = {k: v.clone() for k, v in family.networks.state_dict().items()}
    assert run.train(pictures, family.validation(pictures[:2], CPU))
    after = family.networks.state_dict()
    changed = {k.partition(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"crr", "cdr", "g_s_cuts"}
    with (tmp_path / "crr-validation.csv").open() as file:
        assert list(csv.DictReader(file).fieldnames or ()) == ["step", "plane_1", "plane_2"]
    with (tmp_path / "cuts-validation.csv").open() as file:
        assert "psnr_0.25" in (csv.DictReader(file).fieldnames or ())


def test_no_change_costs_next_to_nothing() -> None:
    """Without an opinion of crr, rounding log-odds to the grid costs less than a thousandth of the rate."""
    tables = with_context(make_tables(FactorizedPrior(2)))
    context = tables.context
    assert context is not None
    nodes = np.arange(len(tables.first_child), dtype=np.int32)
    rows = context.rows(context.slopes(tables.first_child), nodes, np.zeros((2, len(nodes)), np.int32))
    odds = np.exp(context.log_odds / LOG_ODDS_UNIT)
    ours = np.stack([odds[:, 0], np.ones(len(odds)), odds[:, 1]], axis=1)
    ours, grid = ours / ours.sum(axis=1, keepdims=True), context.grid[rows] / 2**24
    extra, bits = (ours * np.log2(ours / grid)).sum(axis=1), -(ours * np.log2(ours)).sum(axis=1)
    assert extra.sum() < 0.001 * bits.sum()
    assert (extra < 0.002).all()


def test_a_change_is_that_of_the_distribution() -> None:
    """A small shift and spread give the probabilities that the shifted, spread mixture of Gaussians has."""
    tables = with_context(make_tables(FactorizedPrior(2)))
    level = 30
    root = tables.root[[level]]
    known = ContextTables(tables, CPU)
    shift, spread = torch.tensor([0.05]), torch.tensor([0.04])
    own, tilt = known.log_odds[root], known.slopes[root]
    ends = [own[:, e] + shift * tilt[:, 2 * e] + spread * tilt[:, 2 * e + 1] for e in range(2)]
    found = torch.stack([ends[0], torch.zeros(1), ends[1]], dim=1).softmax(dim=1)[0]
    sigma = float(np.exp(np.log(64 / 0.11) / 63 * level) * 0.11)
    edge = 3 ** (int(tables.trits[level]) - 1) / 2
    places, weights = (torch.from_numpy(t).float() for t in np.polynomial.hermite_e.hermegauss(20))
    scales = sigma * torch.exp(0.04 + SCALE_BIAS + SCALE_SPREAD * places)
    normal = torch.distributions.Normal(0.05 * sigma, scales)
    below, above = (normal.cdf(torch.tensor(end)) @ weights / weights.sum() for end in (-edge, edge))
    expected = torch.stack([below, above - below, 1 - above])
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_refined_latents_stay_where_they_can_be(networks: Ctc, pictures: list[torch.Tensor]) -> None:
    """cdr never leaves the interval that the trits allow, whatever its weights, and complete symbols do not move."""
    tables = ContextTables(with_context(make_tables(networks.prior)), CPU)
    x = torch.stack([p[:, :64, :64] for p in pictures[:2]]).float() / 255
    with torch.no_grad():
        latents = networks.analyse(x)
        networks.cdr.leave.weight.mul_(1000)
        for missing in (0.0, 0.5, 1.0, 2.3):
            known = tables.cut(latents.y, latents.mu, latents.level, missing)
            refined = networks.cdr(known.y_hat, known.deviation, known.lower, known.upper)
            assert bool(((refined >= known.lower) & (refined <= known.upper)).all())
            assert torch.equal(refined, known.y_hat) == (missing == 0.0)
        networks.cdr.leave.weight.div_(1000)


def test_an_exported_bundle_codes_pictures(bundle: Path) -> None:
    """Every coder makes the same stream; every cut decodes; cdr runs where latents are incomplete, and only there."""
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    streams = set()
    for coder in ("constriction", "compiled"):
        with Codec.open(bundle, threads=1, coder=coder) as codec:
            stream = codec.encode(image).stream
            streams.add(stream)
            picture = codec.decode(stream)
            assert picture.complete and picture.steps == picture.steps_total and "cdr" not in picture.timings
            before = 0.0
            start = int(codec.encode(image).value.offsets[0])
            for size in range(start, len(stream), max(1, (len(stream) - start) // 50)):
                cut = codec.decode(stream[:size])
                assert cut.image is not None and before <= cut.steps <= picture.steps_total and not cut.damaged
                assert "cdr" in cut.timings
                before = cut.steps
    assert len(streams) == 1


def test_the_manifest_proves_crr(bundle: Path) -> None:
    """Both exact graphs are proved from their files, and what context saves is measured."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert sorted(manifest["exact_files"]) == ["graphs/crr.onnx", "graphs/h_s.onnx", "plan.json", "tables/entropy.npz"]
    with Codec.open(bundle, threads=1) as codec:
        for role in ("h_s", "crr"):
            assert max(codec.model.prove(role).values()) < 24
    assert {"context_saves_percent", "exact_crr_cost_percent"} <= manifest["measured"].keys()
    assert abs(manifest["measured"]["exact_crr_cost_percent"]) < 0.1


def test_cdr_is_stated_and_tried_as_it_is_used(bundle: Path) -> None:
    """Tiles overlap by what its one block sees; known answers lie between a lower and an upper end, not all at one."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["graphs"]["cdr"]["tiling"] == {"pixels": 16, "multiple": 4, "reach": 1}
    with np.load(bundle / "kat" / "cdr.npz") as case:
        lower, refined, upper = (case[f"0.{name}"] for name in ("lower", "refined", "upper"))
    assert (lower < upper).all() and (lower <= refined).all() and (refined <= upper).all()
    assert ((lower < refined) & (refined < upper)).mean() > 0.2


def test_what_options_leave_out_is_not_in_the_bundle(
    ctc_settings: TrainingSettings, networks: Ctc, pictures: list[torch.Tensor], tmp_path: Path
) -> None:
    """Without segments and refinement the bundle codes as one of dpict does."""
    settings = replace(ctc_settings, options={"segments": [], "refined": 7.0})
    plain = networks_with(settings, dict(networks.state_dict()))
    content = EXPORTERS["ctc"].content(plain, settings, pictures[:4], "cuts")
    assert set(content.graphs) == {"g_a", "h_a", "h_s", "g_s", "preview"}
    out = write_bundle(tmp_path / "plain", "tiny", "0.1.0", "ctc", content)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with Codec.open(out, threads=1) as codec:
        assert codec.decode(codec.encode(image).stream).complete


def test_wrong_segments_are_refused(ctc_settings: TrainingSettings) -> None:
    """Before a network is trained: a plane has 1 to 16 segments, as the runtime takes them, of six planes at most."""
    most = runtime_ctc._MOST_SEGMENTS
    assert make_family(replace(ctc_settings, options={"segments": [most]})).networks
    for segments in ([0], [1] * 7, [2, most + 1]):
        with pytest.raises(ConfigurationError, match="segments must be up to 6 numbers from 1 to 16"):
            make_family(replace(ctc_settings, options={"segments": segments}))
