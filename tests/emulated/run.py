"""Other processors, emulated: the same symbols and the same codes as here (`make test-arm`).

    python tests/emulated/run.py FOLDER

Streams are made here and their symbols computed here; then the same script runs under user-mode emulation of several
Arm cores and of an x86 core without AVX-512 and VNNI, and must print the same hashes. On Arm, where constriction has no
wheel, the compiled coder is what runs. Needs Debian on x86-64 (apt-get, dpkg), pip and unzip, no root; about 250 MB in
FOLDER, which is kept for the next time.

Where that cannot be had, or the mirrors cannot be reached, it says `skipped` and why, and ends with status 0. Whatever
goes wrong once they were reached is a failure.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from engines.bundle import shipped_bundles
from runtime import Codec

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Core, and what its /proc/cpuinfo says: ONNX Runtime chooses its kernels by that.
BASIC = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
ARM_CORES = {
    "cortex-a72": ("0xd08", BASIC),
    "cortex-a76": ("0xd0b", f"{BASIC} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"),
    "max": ("0xd4f", f"{BASIC} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp sve i8mm bf16"),
}
X86_CORES = ("Haswell",)
PYTHON = ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "python3.11")
LIBRARIES = (
    *("libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libffi8", "libssl3", "libbz2-1.0", "liblzma5"),
    *("libsqlite3-0", "libuuid1", "libcrypt1", "libncursesw6", "libtinfo6", "libreadline8"),
)
WHEELS = ("numpy", "onnxruntime", "numba", "llvmlite", "pillow", "flatbuffers")


class Unavailable(Exception):
    """This machine cannot emulate others; says why."""


def main() -> int:
    """Prepare, compute here, compare there; return 1 if anything differs."""
    folder = Path(sys.argv[1]).resolve()
    streams = folder / "streams"
    try:
        prepare(folder)
    except Unavailable as reason:
        print(f"skipped: other processors are not emulated: {reason}")
        return 0
    make_streams(streams)
    here = json.loads(run([sys.executable], streams, folder / "cache-here"))
    print(f"here: {len(here)} runs")
    failed = False
    for name, hashes in here.items():
        if levels := hashes.get("levels that differ"):
            print(f"here, {name}: differs at {levels}")
            failed = True

    def there(core: str) -> tuple[dict[str, object], float]:
        started = time.monotonic()
        try:
            hashes = json.loads(run(emulated(folder, core), streams, folder / f"cache-{core}"))
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as fault:
            hashes = {"": str(fault)}
        return hashes, time.monotonic() - started

    cores = (*ARM_CORES, *X86_CORES)
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # an emulator keeps one processor busy
        for core, (hashes, seconds) in zip(cores, threads.map(there, cores), strict=True):
            same = hashes == here
            failed |= not same
            print(f"{core}: {'the same symbols and codes' if same else 'DIFFERENT'}, {seconds:.0f} s", flush=True)
            for name in here if not same else ():
                if hashes.get(name) != here[name]:
                    print(f"  {name}: {hashes.get(name)}, here {here[name]}")
    return int(failed)


def make_streams(folder: Path) -> None:
    """Encode a picture of an odd size with every shipped bundle, two with the default, and take the golden streams."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in (HERE.parent / "golden" / "valid").glob("*.cut"):
        shutil.copy(file, folder)
    row, column = np.mgrid[:130, :210]
    waves = np.stack(
        [np.sin(row / 9) * np.cos(column / (5 + k)) + np.sin(row * column / 900) for k in range(3)], axis=2
    )
    noise = np.random.default_rng(0).normal(0, 12, waves.shape)
    image = np.clip(waves * 60 + noise + 128, 0, 255).astype(np.uint8)
    with Codec.open("dpict-edge") as codec:
        (folder / "colour.cut").write_bytes(codec.encode(image).stream)
        (folder / "grey.cut").write_bytes(codec.encode(image[:65, :, 0]).stream)
    for bundle in shipped_bundles():
        with Codec.open(bundle) as codec:
            (folder / f"{codec.bundle.name}.cut").write_bytes(codec.encode(image[:60, :90]).stream)


def run(interpreter: list[str], streams: Path, cache: Path) -> str:
    """Return what symbols.py prints under *interpreter*."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUTOFF_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*interpreter, str(HERE / "symbols.py"), str(streams)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:  # what an emulator says of features it lacks is of interest only then
        print(done.stderr[-4000:], file=sys.stderr)
        done.check_returncode()
    return done.stdout


def emulated(folder: Path, core: str) -> list[str]:
    """Return the command that starts Python on an emulated *core*."""
    emulators = folder / "qemu" / "usr" / "bin"
    if core in X86_CORES:
        return [str(emulators / "qemu-x86_64-static"), "-cpu", core, sys.executable]
    arm = folder / f"arm64-{core}"  # one for each, as they differ in /proc
    part, features = ARM_CORES[core]
    (arm / "proc").mkdir(parents=True, exist_ok=True)
    for part_of_root in (folder / "arm64").iterdir():
        if not (arm / part_of_root.name).exists():
            (arm / part_of_root.name).symlink_to(part_of_root)
    (arm / "proc" / "cpuinfo").write_text(
        f"processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {part}\nCPU revision\t: 0\n"
    )
    python_path = f"PYTHONPATH={ROOT}:{folder / 'site'}"
    settings = ["-E", f"PYTHONHOME={arm / 'usr'}", "-E", python_path]
    emulator = [str(emulators / "qemu-aarch64-static"), "-cpu", core, "-L", str(arm)]
    return [*emulator, *settings, str(arm / "usr" / "bin" / "python3.11")]


def prepare(folder: Path) -> None:
    """Fetch emulator, Arm Python and wheels, unless they are there."""
    done = folder / "prepared"
    if done.exists():
        return
    check_machine()
    debs = folder / "debs"
    for part in (debs, folder / "lists" / "partial", folder / "archives" / "partial", folder / "wheels"):
        part.mkdir(parents=True, exist_ok=True)
    options = ["-qq", "-o", "APT::Sandbox::User=root", "-o", f"Dir::State::Lists={folder / 'lists'}"]
    options += ["-o", f"Dir::Cache={folder}", "-o", "Dir::State::status=/dev/null"]
    for architecture, packages in (("amd64", ("qemu-user-static",)), ("arm64", PYTHON + LIBRARIES)):
        chosen = [*options, "-o", f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}"]
        reach("Debian's mirror", ["apt-get", *chosen, "-o", "APT::Update::Error-Mode=any", "update"], debs)
        shell(["apt-get", *chosen, "download", *packages], debs)
    for deb in debs.glob("*.deb"):
        shell(["dpkg", "-x", str(deb), str(folder / ("qemu" if deb.name.startswith("qemu") else "arm64"))], debs)
    cpu = folder / "arm64" / "sys" / "devices" / "system" / "cpu"
    cpu.mkdir(parents=True, exist_ok=True)
    for name in ("present", "possible", "online"):
        (cpu / name).write_text("0\n")
    platforms = [f"--platform=manylinux{tag}_aarch64" for tag in ("_2_28", "_2_27", "_2_17", "2014")]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version=3.11"]
    reach("the package index", [*pip, "-d", "wheels", "flatbuffers"], folder)
    shell([*pip, "--implementation=cp", *platforms, "-d", "wheels", *WHEELS], folder)
    for wheel in (folder / "wheels").glob("*.whl"):
        shell(["unzip", "-qo", str(wheel), "-d", str(folder / "site")], folder)
    done.touch()


def check_machine() -> None:
    """Raise Unavailable if this is no machine that can prepare emulation."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise Unavailable(f"this is {platform.system()} on {platform.machine()}, not Linux on x86_64")
    missing = [tool for tool in ("apt-get", "dpkg", "unzip") if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not found")


def reach(what: str, command: list[str], folder: Path) -> None:
    """Run *command*, the first that needs *what*; raise Unavailable if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{what} does not answer") from None
    if done.returncode != 0:
        raise Unavailable(f"{what} cannot be reached: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")


def shell(command: list[str], folder: Path) -> None:
    """Run *command* in *folder*."""
    subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    sys.exit(main())
