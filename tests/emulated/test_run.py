"""What `make test-arm` skips and what it fails; the emulation itself is no part of `make test`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from loading import module_at


@pytest.fixture(scope="module")
def emulation() -> ModuleType:
    """run.py, as a module."""
    return module_at(Path(__file__).parent / "run.py")


@pytest.fixture
def prepared(emulation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A folder in which nothing needs to be fetched; what each processor then prints."""
    (tmp_path / "prepared").touch()
    good = {"a.cut, 1 threads": {"mu": "00", "levels that differ": ""}}
    printed: dict[str, object] = dict.fromkeys(("here", *emulation.ARM_CORES, *emulation.X86_CORES), good)
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path)])
    monkeypatch.setattr(emulation, "make_streams", lambda _: None)
    monkeypatch.setattr(emulation, "emulated", lambda _, core: [core])

    def run(interpreter: list[str], streams: Path, cache: Path) -> str:
        return json.dumps(printed[interpreter[0] if interpreter[0] in printed else "here"])

    monkeypatch.setattr(emulation, "run", run)
    return printed


def test_the_same_everywhere_passes(
    emulation: ModuleType, prepared: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0, and a line for each processor."""
    assert emulation.main() == 0
    assert capsys.readouterr().out.count("the same symbols and codes") == len(prepared) - 1


@pytest.mark.parametrize("where", ["cortex-a76", "Haswell"])
def test_any_difference_fails(
    emulation: ModuleType, prepared: dict[str, object], capsys: pytest.CaptureFixture[str], where: str
) -> None:
    """One other hash on one processor is enough."""
    prepared[where] = {"a.cut, 1 threads": {"mu": "01", "levels that differ": ""}}
    assert emulation.main() == 1
    assert f"{where}: DIFFERENT" in capsys.readouterr().out


def test_optimisation_level_with_other_bits_fails(emulation: ModuleType, prepared: dict[str, object]) -> None:
    """Also where it gives the same other bits on all processors."""
    bad = {"a.cut, 1 threads": {"mu": "00", "levels that differ": "ORT_ENABLE_ALL"}}
    prepared.update(dict.fromkeys(prepared, bad))
    assert emulation.main() == 1


def test_processor_that_cannot_run_fails(
    emulation: ModuleType, prepared: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once everything is there, a crash is no reason to skip."""
    run = emulation.run

    def crash(interpreter: list[str], *folders: Path) -> str:
        if interpreter == ["max"]:
            raise subprocess.CalledProcessError(-11, interpreter)
        return str(run(interpreter, *folders))

    monkeypatch.setattr(emulation, "run", crash)
    assert emulation.main() == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"platform.machine": lambda: "aarch64"}, "this is Linux on aarch64, not Linux on x86_64"),
        ({"shutil.which": lambda tool: None if tool == "dpkg" else tool}, "dpkg not found"),
        ({"subprocess.run": lambda command, **_: subprocess.CompletedProcess(command, 100, "", "no such host\n")},
         "Debian's mirror cannot be reached: no such host"),
    ],
)  # fmt: skip
def test_machine_without_the_means_skips_by_name(
    emulation: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    reason: str,
) -> None:
    """Status 0, one line that says why, and nothing is taken for prepared."""
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("shutil.which", lambda tool: tool)
    for name, value in change.items():
        monkeypatch.setattr(name, value)
    monkeypatch.setattr(sys, "argv", ["run.py", str(tmp_path)])
    assert emulation.main() == 0
    assert capsys.readouterr().out == f"skipped: other processors are not emulated: {reason}\n"
    assert not (tmp_path / "prepared").exists()


def test_failure_behind_a_mirror_that_answers_is_a_failure(emulation: ModuleType, tmp_path: Path) -> None:
    """A package that is gone must be noticed."""
    with pytest.raises(subprocess.CalledProcessError):
        emulation.shell(["false"], tmp_path)
    emulation.reach("the mirror", ["true"], tmp_path)
    with pytest.raises(emulation.Unavailable, match="the mirror cannot be reached: no reason given"):
        emulation.reach("the mirror", ["false"], tmp_path)
