"""`cutoff engines`: what is here, plans built for sizes, and removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.plan_cache import PlanCache
from runtime.cli.main import main

TINY = str(Path(__file__).parents[2] / "golden" / "tiny")
CPU_ONLY = ["CPUExecutionProvider"]
Install = Callable[..., Any]


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_list_on_a_machine_without_a_gpu(no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The CPU runs everything; the others are listed with what they lack."""
    found = answer(capsys, "engines", "list", "--bundle", TINY)
    missing = {engine["engine"]: engine["missing"] for engine in found["engines"]}
    assert missing["cpu"] is None and missing["numpy-int64"] is None
    assert all("no NVIDIA driver" in missing[name] for name in ("cuda", "tensorrt", "tensorrt-ep"))
    assert {(graph["role"], graph["exact"]) for graph in found["graphs"]} >= {("h_s", True), ("g_s", False)}
    assert {graph["engine"] for graph in found["graphs"]} == {"cpu"} and found["plans"] == []


def test_list_for_people(no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as tables."""
    assert main(["engines", "list", "--bundle", TINY]) == 0
    printed = capsys.readouterr().out
    assert "no: there is no NVIDIA driver" in printed and "h_s" in printed and "no plans" in printed


def test_build_on_a_machine_without_a_gpu(no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    """One error, and nothing in the cache."""
    assert main(["engines", "build", "--size", "64x48", "--bundle", TINY]) == 1
    assert "cutoff: error: tensorrt: there is no NVIDIA driver" in capsys.readouterr().err
    assert not PlanCache().folder.exists()


def test_build_list_and_clear(tensorrt: Install, onnxruntime: Install, capsys: pytest.CaptureFixture[str]) -> None:
    """Every network gets a plan; a second build finds them; the list shows them; they can be removed."""
    tensorrt()
    onnxruntime(CPU_ONLY)
    built = answer(capsys, "engines", "build", "--size", "64x48", "--bundle", TINY)["built"]
    assert {plan["role"] for plan in built} == {"g_a", "h_a", "h_s", "g_s", "preview", "post_low"}
    assert all(plan["engine"] == "tensorrt" and plan["bytes"] > 0 for plan in built)
    assert answer(capsys, "engines", "build", "--size", "64x48", "--bundle", TINY)["built"] == []
    found = answer(capsys, "engines", "list", "--bundle", TINY)
    assert len(found["plans"]) == len(built)
    assert {graph["engine"] for graph in found["graphs"]} == {"tensorrt"}
    assert main(["engines", "list", "--bundle", TINY]) == 0
    assert "y 1x8x4x4" in capsys.readouterr().out
    assert answer(capsys, "engines", "clear")["bytes"] > 0
    assert answer(capsys, "engines", "list", "--bundle", TINY)["plans"] == []


def test_build_with_the_tensorrt_provider(onnxruntime: Install, capsys: pytest.CaptureFixture[str]) -> None:
    """Exact graphs run on the CPU there, and it is said."""
    onnxruntime()
    words = ["engines", "build", "--size", "64x48", "--bundle", TINY, "--engine", "tensorrt-ep"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "5 plans built" in printed.out and "h_s runs on cpu: instead of tensorrt-ep" in printed.err


@pytest.mark.parametrize("size", ["64", "x64", "0x64", "64x0", "65536x1", "64X48", "-1x3", "64x48x3", "6.4x48"])
def test_sizes_that_are_none_are_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong call, not a traceback."""
    assert main(["engines", "build", f"--size={size}"]) == 2
    assert "must be WIDTHxHEIGHT, 1 to 65535 each" in capsys.readouterr().err


def test_only_back_ends_with_plans_are_built_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The CPU needs none."""
    assert main(["engines", "build", "--size", "64x48", "--engine", "cpu"]) == 2
    assert "invalid choice: 'cpu'" in capsys.readouterr().err
