"""The command line: `bench`, `selfcheck` and `bundles`."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import rehash, unpacked
from commands import printed, refusal, run
from numpy.typing import NDArray

from engines.bundle import Bundle
from engines.open import open_engine
from runtime import Codec
from runtime.cli.bench import TimedModel, ideal_code
from runtime.cli.coder_check import check_agreement, check_coder
from runtime.cli.main import main
from runtime.cli.selfcheck import check_graph
from runtime.entropy.choose import installed_coders
from runtime.image_files import read_image
from runtime.model import Model
from runtime.stream import Limits, StreamParser

Image = NDArray[np.uint8]
Capture = pytest.CaptureFixture[str]
TINY = Path(__file__).parents[1] / "golden" / "tiny"


def test_bench_prints_the_documented_keys(capsys: Capture, small: Path) -> None:
    result = printed(capsys, "bench", small, "--repeats", "1", "--threads", "2")
    assert set(result["entropy"]) == {"encode_ns_per_trit", "decode_ns_per_trit", "overhead_pct"}
    assert all(value > 0 for value in result["entropy"].values())
    assert set(result["networks_ms"]) == set(Bundle.open("dpict-edge").graphs)
    assert all(value > 0 for value in result["networks_ms"].values())
    assert (result["width"], result["height"], result["threads"]) == (150, 100, 2)
    assert 50 < result["peak_mb"] < 10_000
    assert result["encode_ms"] > 0 < result["decode_ms"]


def test_range_code_is_close_to_its_ideal_length(codec: Codec, photographs: dict[str, Image], stream: bytes) -> None:
    """On a photograph of 451x300 the coder's two endings alone are 0.05 % of the stream."""
    trits, bits = ideal_code(codec.model, photographs["chelsea"])
    parser = StreamParser()
    parser.feed(stream)
    assert parser.header is not None
    code_bits = 8 * (parser.header.head_bytes + parser.header.body_bytes)
    assert trits > 100_000
    assert bits < code_bits < 1.002 * bits


def test_bench_without_json_names_every_key(capsys: Capture, small: Path) -> None:
    printed = run(capsys, "bench", small, "--repeats", "1")
    for key in ("entropy.encode_ns_per_trit", "entropy.overhead_pct", "networks_ms.g_s", "peak_mb"):
        assert key in printed


@pytest.mark.parametrize("coder", ["constriction", "compiled"])
def test_bench_measures_the_coder_that_is_asked_for(capsys: Capture, small: Path, coder: str) -> None:
    pytest.importorskip("constriction" if coder == "constriction" else "numba")
    assert printed(capsys, "bench", small, "--repeats", "1", "--coder", coder)["coder"] == coder


def test_selfcheck_of_the_shipped_bundles(capsys: Capture) -> None:
    result = printed(capsys, "selfcheck", "--threads", "2")
    assert result["ok"] is True
    names = {check["name"] for check in result["checks"]}
    assert {
        "coder: golden words",
        "coder: agreement",
        "dpict-edge: hashes",
        "dpict-edge: tables",
        "dpict-edge: graph h_s",
    } <= names
    assert all(set(check) == {"name", "ok", "detail"} and check["ok"] for check in result["checks"])


def test_selfcheck_finds_a_changed_file(capsys: Capture, tmp_path: Path) -> None:
    folder = unpacked("dpict-edge", tmp_path / "changed")
    graph = folder / Bundle.open("dpict-edge").graphs["g_s"].file
    content = bytearray(graph.read_bytes())
    content[1000] ^= 1
    graph.write_bytes(content)
    assert main(["selfcheck", str(folder), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is False
    (failed,) = (check for check in result["checks"] if not check["ok"])
    assert failed["name"] == f"{folder}: hashes"
    assert "SHA-256" in failed["detail"]


def test_selfcheck_finds_a_network_with_other_outputs(capsys: Capture, tmp_path: Path) -> None:
    """Whose hashes are right: the known answers are what it is held against."""
    folder = unpacked("dpict-edge", tmp_path / "changed")
    bundle = Bundle.open(folder)
    answers_path = bundle.graphs["g_s"].known_answers
    assert answers_path is not None
    with np.load(folder / answers_path) as file:
        answers = {name: file[name] for name in file.files}
    answers[f"0.{bundle.graphs['g_s'].outputs[0]}"][..., 0, 0] += 0.1
    np.savez(folder / answers_path, **answers)
    rehash(folder)
    assert main(["selfcheck", str(folder), "--threads", "2", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["name"] for check in checks if not check["ok"]] == [f"{folder}: graph g_s"]


def test_golden_words_of_the_coder() -> None:
    """Every coder that is installed is checked."""
    assert check_coder() == f"120 trits in 104 bytes by {', '.join(installed_coders())}"


def test_installed_coders_agree() -> None:
    assert "the same" in check_agreement() or len(installed_coders()) == 1


def test_bundles_lists_what_is_installed(capsys: Capture, codec: Codec) -> None:
    listed = {bundle["name"]: bundle for bundle in printed(capsys, "bundles")["bundles"]}["dpict-edge"]
    assert listed["exact_id"] == codec.bundle.exact_id.hex()
    assert codec.bundle.exact_id.hex() in run(capsys, "bundles")


def test_bundles_unpacks_one(capsys: Capture, tmp_path: Path, codec: Codec) -> None:
    """Into a folder that every verb takes in the bundle's place; --out alone says nothing."""
    folder = tmp_path / "plain"
    assert str(folder) in run(capsys, "bundles", "--unpack", "dpict-edge", "--out", folder)
    assert Bundle.open(folder).bundle_hash == codec.bundle.bundle_hash
    again = tmp_path / "again"
    assert printed(capsys, "bundles", "--unpack", folder, "--out", again)["folder"] == str(again)
    assert "--out goes with --unpack" in refusal(capsys, "bundles", "--out", folder)[1]


def test_known_answers_of_one_value_are_compared_as_they_are() -> None:
    """A network that gives the same everywhere has no range that a difference could be a share of."""
    bundle = Bundle.open(TINY)
    spec = bundle.graphs["g_s"]
    inputs = {name: np.zeros((1, 8, 4, 4), np.float32) for name in spec.inputs}
    (grey,) = open_engine(bundle, "g_s", threads=1).run(*inputs.values())
    assert np.ptp(grey) == 0
    answers = io.BytesIO()
    np.savez(
        answers, cases=np.int32(1), **{f"0.{name}": x for name, x in inputs.items()}, **{f"0.{spec.outputs[0]}": grey}
    )
    assert spec.known_answers is not None
    bundle = replace(bundle, _files={**bundle._files, spec.known_answers: answers.getvalue()})
    model = Model(bundle, "cpu", 1, Limits())
    assert check_graph(model, spec) == "within 0 of its range on cpu"


def test_bench_times_networks_that_run_in_tiles(
    tiny_in_tiles: Bundle, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run as a whole, however many tiles it takes; the last network is among them."""
    monkeypatch.setattr("runtime.model.TILE_SIDE", 64)
    model = TimedModel(tiny_in_tiles, "cpu", 1)
    codec = Codec(model)
    stream = codec.encode(read_image(small)).stream
    codec.decode(stream)
    assert {role: len(seconds) for role, seconds in model.seconds.items()} == {"g_a": 1, "h_a": 1, "h_s": 2, "g_s": 1}
