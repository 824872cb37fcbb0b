"""cutoff minds its own business: it writes into its cache folder and where it is told to, and talks to nobody.

A process of its own imports everything, encodes and decodes. Python's audit events show what Python code does; the
system calls, where strace is there, what libraries do behind its back.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORK = """
import numpy as np
import engines.open, engines.proof, engines.numpy_exact, runtime.cli.main
from runtime import Codec
from runtime.cli.main import main
from runtime.image_files import write_image
from pathlib import Path
write_image(Path("in.png"), np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
with Codec.open("dpict-edge", threads=2) as codec:
    codec.model.open_all()
    codec.decode(codec.encode(np.zeros((64, 64, 3), np.uint8)).stream)
assert main(["encode", "in.png", "-o", "a.cut"]) == 0
assert main(["decode", "a.cut", "-o", "a.png"]) == 0
assert main(["inspect", "a.cut"]) == 0
"""
WATCH = """
import json, os, sys
seen = []
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.utime", "shutil.move", "shutil.copyfile", "tempfile.mkstemp", "tempfile.mkdtemp"}
def watch(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
        seen.append([event, str(arguments[0])])
    elif event in CHANGES:
        seen.extend([event, str(one)] for one in arguments[:2] if isinstance(one, str | bytes | os.PathLike))
    elif event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.system", "os.posix_spawn", "urllib.",
                           "http.", "ftplib.", "smtplib.")):
        seen.append([event, ""])
sys.addaudithook(watch)
"""
REPORT = """
print(json.dumps(seen), file=sys.stderr)
"""
CHANGING_CALLS = (
    "socket,connect,bind,sendto,sendmsg,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,"
    "link,linkat,symlink,symlinkat,truncate,mknod,mknodat,chmod,fchmodat"
)


@pytest.fixture
def homes(tmp_path: Path) -> dict[str, Path]:
    """Empty folders: a home, a cache, a place to work, and one for temporary files."""
    folders = {name: tmp_path / name for name in ("home", "cache", "work", "tmp")}
    for folder in folders.values():
        folder.mkdir()
    return folders


def environment(homes: Mapping[str, Path], *, own_cache: bool) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")}
    made = {
        "HOME": str(homes["home"]),
        "TMPDIR": str(homes["tmp"]),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return kept | made | ({"CUTOFF_CACHE": str(homes["cache"])} if own_cache else {})


def run(homes: Mapping[str, Path], code: str, *prefix: str, own_cache: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", code],
        cwd=homes["work"],
        env=environment(homes, own_cache=own_cache),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_allowed(path: str, homes: Mapping[str, Path]) -> None:
    """A path that was written to lies in the cache or the working folder, or is no file at all."""
    absolute = homes["work"] / path
    assert str(absolute) == "/dev/null" or any(absolute.is_relative_to(homes[place]) for place in ("cache", "work")), (
        f"wrote to {path}"
    )


def test_python_code_writes_only_into_the_cache_and_opens_no_socket(homes: dict[str, Path]) -> None:
    """By Python's own account of every opened file, changed folder, socket and process."""
    seen = json.loads(run(homes, WATCH + WORK + REPORT).stderr.splitlines()[-1])
    assert any(event == "open" for event, _ in seen), "the audit hook saw nothing"
    for event, path in seen:
        assert event in ("open",) or event.startswith(("os.", "shutil.", "tempfile.")), f"{event} happened"
        if path and not path.isdigit():
            assert_allowed(path, homes)


def test_home_stays_empty_and_the_cache_holds_cutoffs_files(homes: dict[str, Path]) -> None:
    """Nothing is found afterwards that is not cutoff's: no device numbers, no databases of libraries."""
    run(homes, WORK)
    assert list(homes["home"].rglob("*")) == [] and list(homes["tmp"].rglob("*")) == []
    assert files_in(homes["work"]) == ["a.cut", "a.png", "in.png"]
    assert files_in(homes["cache"])


def test_without_a_cache_of_its_own_it_has_one_folder_below_home(homes: dict[str, Path]) -> None:
    """`~/.cache/cutoff`, and nothing beside it."""
    run(homes, WORK, own_cache=False)
    found = files_in(homes["home"])
    assert found and all(name.startswith(".cache/cutoff/") for name in found)


def test_telemetry_is_off_before_onnxruntime_is_imported(homes: dict[str, Path]) -> None:
    """It reads its switch at import; a user's own choice is respected."""
    code = """
import builtins, os
found, original = [], builtins.__import__
def watch(name, *rest):
    if name.partition(".")[0] == "onnxruntime" and not found:
        found.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
    return original(name, *rest)
builtins.__import__ = watch
from engines.onnxruntime_session import import_onnxruntime
import_onnxruntime()
print(found)
"""
    assert run(homes, code).stdout.strip() == "['1']"


def test_system_calls_write_only_into_the_cache_and_open_no_socket(homes: dict[str, Path], tmp_path: Path) -> None:
    """By the kernel's account of what Python and all libraries together do."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-o", "/dev/null", "true"], check=False).returncode != 0:
        pytest.skip("strace is not installed or may not trace here")
    log = tmp_path / "calls"
    run(homes, WORK, strace, "-f", "-qq", "-y", "-s", "300", "-e", f"trace={CHANGING_CALLS}", "-o", str(log))
    lines = log.read_text().splitlines()
    assert any('"a.cut"' in line or "a.cut" in line for line in lines), "strace saw nothing"
    for line in lines:
        call = re.sub(r"^[0-9]+ +", "", line)
        name = call.partition("(")[0]
        if name in ("socket", "connect", "bind", "sendto", "sendmsg"):
            pytest.fail(f"a socket was used: {call}")
        writes = re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)", call) or name not in ("open", "openat")
        if "= -1" in call or not writes or "resumed>" in call or not re.match(r"[a-z0-9_]+\(", call):
            continue
        folder = re.search(r"\((?:AT_FDCWD|[0-9]+)<([^>]*)>", call)  # what a relative path starts from
        for path in re.findall(r'"((?:[^"\\]|\\.)*)"', call):
            assert_allowed(str(Path(folder[1] if folder else "", path)), homes)
