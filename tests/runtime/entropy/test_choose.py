"""Which coder runs: loading of machine code, and what happens where a package is missing or fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coding import EXTREME, coded, constriction, decoded, one_trit_tables, random_message

from runtime.codec import Codec
from runtime.entropy import choose, compiled
from runtime.entropy.choose import hurry, installed_coders, open_coder
from runtime.entropy.compiled import CompiledCoder, Kernels, load_kernels
from runtime.errors import EngineError, MissingExtra, UsageError

pytest.importorskip("numba")
pytest.importorskip("constriction")


def test_machine_code_is_kept_in_the_given_folder_only(tmp_path: Path) -> None:
    """Two processes in a row: the second loads what the first compiled; nothing appears beside the sources."""
    script = (
        "import sys, pathlib, numba\n"
        "from runtime.entropy.compiled import load_kernels\n"
        "before = numba.config.CACHE_DIR\n"
        "kernels = load_kernels(pathlib.Path(sys.argv[1]))\n"
        "assert numba.config.CACHE_DIR == before\n"
        "print(kernels.stored, sum(sum(f.stats.cache_hits.values()) for f in\n"
        "      (kernels.fill_plane, kernels.encode_trits, kernels.decode_trits)))\n"
    )
    folder = Path(compiled.__file__).parent
    before = sorted(folder.rglob("*.nb*"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    printed = [
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "kernels")],
            cwd=folder.parents[1], env=environment, capture_output=True, text=True, check=True,
        ).stdout.split()
        for _ in range(2)
    ]  # fmt: skip
    assert printed == [["True", "0"], ["True", "3"]]
    assert sorted(folder.rglob("*.nb*")) == before
    assert any((tmp_path / "kernels").rglob("*.nbc"))


def test_a_folder_that_cannot_be_used_costs_only_the_compilation(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    kernels = load_kernels(tmp_path / "file" / "kernels")
    assert (kernels.name, kernels.stored) == ("compiled", False)


def test_a_folder_that_refuses_files_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """numba would go on to a folder beside the sources."""

    def refuse(**settings: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(compiled.tempfile, "TemporaryFile", refuse)
    beside = sorted(Path(compiled.__file__).parent.rglob("*.nb*"))
    kernels = load_kernels(tmp_path)
    assert (kernels.name, kernels.stored) == ("compiled", False)
    assert sorted(Path(compiled.__file__).parent.rglob("*.nb*")) == beside
    assert not list(tmp_path.iterdir())


def test_damaged_machine_code_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Files that were cut short cost the compilation; the coder works."""
    load_kernels(tmp_path)
    monkeypatch.setattr(compiled, "_loaded", {})
    for file in tmp_path.rglob("*.nb*"):
        file.write_bytes(file.read_bytes()[:100])
    tables = one_trit_tables(EXTREME)
    rows = np.arange(50, dtype=np.int32) % 5
    code = coded(CompiledCoder(tables, load_kernels(tmp_path)).encoder(), rows % 3, rows)
    assert code == coded(constriction(tables).encoder(), rows % 3, rows)


def test_kernels_release_the_interpreter(compiled_kernels: Kernels) -> None:
    """Another thread goes on while a code is decoded, although the interpreter takes itself away from nobody."""
    tables, trits, rows = random_message(1, 200_000, 100)
    counted, meanwhile, done = [0], [], threading.Event()

    def watched(*arguments: object) -> int:
        before = counted[0]
        count = compiled_kernels.decode_trits(*arguments)
        meanwhile.append(counted[0] - before)
        return count

    def keep_counting() -> None:
        while not done.is_set():
            counted[0] += 1
            time.sleep(0)  # lets others run, as it must: nobody takes the interpreter from it either

    coder = CompiledCoder(tables, replace(compiled_kernels, decode_trits=watched))
    code = coded(coder.encoder(), trits, rows)
    thread, interval_s = threading.Thread(target=keep_counting), sys.getswitchinterval()
    sys.setswitchinterval(3600)
    try:
        thread.start()
        # A busy machine may leave the other thread no core for as long as one code takes.
        for _ in range(300):
            assert np.array_equal(decoded(coder, code, rows, whole=True), trits)
            if meanwhile[-1]:
                break
    finally:
        done.set()
        sys.setswitchinterval(interval_s)
        thread.join()
    assert meanwhile[-1], f"the other thread stood still through {len(meanwhile)} codes"
    kernels: list[Any] = [compiled_kernels.fill_plane, compiled_kernels.encode_trits, compiled_kernels.decode_trits]
    assert all(kernel.targetoptions["nogil"] for kernel in kernels)


def test_the_fastest_start_is_the_default_until_there_is_hurry(tmp_path: Path) -> None:
    """Nothing is compiled before someone asks for it; afterwards the compiled coder is the default."""
    tables, folder = one_trit_tables(EXTREME), tmp_path / "kernels"
    first = open_coder(tables, "auto", folder)
    assert first.name == "constriction" and not folder.exists()
    assert hurry(tables, first, folder).name == "compiled"
    assert open_coder(tables, "auto", folder).name == "constriction"


def test_a_codec_gives_the_same_stream_and_picture_with_every_coder() -> None:
    """And may be asked for one; `warm` hurries only where none was asked for."""
    image = np.random.default_rng(2).integers(0, 256, (64, 128, 3)).astype(np.uint8)
    streams, pictures, values = [], [], []
    for name in ("constriction", "compiled", "plain"):
        with Codec.open("dpict-edge", threads=1, coder=name) as codec:
            assert codec.model.coder.name == name
            encoding = codec.encode(image)
            streams.append(encoding.stream)
            values.append(encoding.value.squared_error.tolist())
            pictures.append([codec.decode(encoding.stream[:n]).steps for n in (len(streams[0]), len(streams[0]) // 2)])
            codec.model.hurry()
            assert codec.model.coder.name == name
    assert streams[1:] == streams[:1] * 2
    assert values[1:] == values[:1] * 2
    assert pictures[1:] == pictures[:1] * 2


def test_warming_a_codec_loads_the_compiled_coder() -> None:
    with Codec.open("dpict-edge", threads=1) as codec:
        assert codec.model.coder.name == "constriction"
        codec.warm(64, 64)
        assert codec.model.coder.name == "compiled"


def test_an_unknown_coder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no coder is called 'fast'; known: auto, constriction, compiled, plain"):
        open_coder(one_trit_tables(EXTREME), "fast", tmp_path)


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Make *packages* look as if they were not installed."""
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "runtime.entropy.coder", raising=False)
    real = choose.importlib.util.find_spec
    monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: None if name in packages else real(name))


def test_without_constriction_the_compiled_coder_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "constriction")
    tables = one_trit_tables(EXTREME)
    assert installed_coders() == ("compiled",)
    assert open_coder(tables, "auto", tmp_path).name == "compiled"
    with pytest.raises(MissingExtra, match="constriction"):
        open_coder(tables, "constriction", tmp_path)


def test_without_numba_constriction_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "numba")
    tables = one_trit_tables(EXTREME)
    coder = open_coder(tables, "auto", tmp_path)
    assert coder.name == "constriction"
    assert hurry(tables, coder, tmp_path) is coder
    with pytest.raises(MissingExtra, match=r"pip install '\.\[fast\]' in the checkout"):
        open_coder(tables, "compiled", tmp_path)


def test_without_any_coder_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "numba", "constriction")
    with pytest.raises(EngineError, match="install constriction, or numba"):
        open_coder(one_trit_tables(EXTREME), "auto", tmp_path)


def test_a_compiler_that_fails_leaves_constriction(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As under an emulated processor: one line that says so, and the coder that works goes on."""

    def broken(numba: object) -> list[object]:
        raise RuntimeError("no such target")

    monkeypatch.setattr(compiled, "_compilers", broken)
    tables = one_trit_tables(EXTREME)
    with pytest.raises(EngineError, match=r"cannot compile the coder here: .*no such target"):
        open_coder(tables, "compiled", tmp_path)
    coder = open_coder(tables, "auto", tmp_path)
    assert hurry(tables, coder, tmp_path) is coder
    assert open_coder(tables, "plain", tmp_path).name == "plain"


def test_numbas_own_switch_gives_plain_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import numba

    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert load_kernels(tmp_path).name == "plain"
