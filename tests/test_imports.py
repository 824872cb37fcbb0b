"""Who may import whom: edge_client -> runtime -> engines, export -> runtime, engines; the core knows next to none."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "engines": {"engines"},
    "runtime": {"runtime", "engines"},
    "edge_client": {"edge_client", "runtime", "engines"},
    "export": {"export", "runtime", "engines"},
}
OURS = {*MAY_IMPORT, "tests", "benchmarks"}
CORE_OF_THE_CORE = {"numpy", "constriction", "numba"}  # all that entropy coding knows besides Python
ONLY_IN_EXPORT = {"torch", "onnx", "onnxscript", "safetensors"}
NOT_WITH_RUNTIME = (
    "torch",
    "cv2",
    "starlette",
    "PIL",
    "matplotlib",
    "rich",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "skimage",
    "scipy",
    "imagecodecs",
    "numba",
    "ray",
)


def sources(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py"))


def imports_of(file: Path) -> set[str]:
    """Return the full names of all modules that *file* imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: relative import"
            # `from a import b` may mean the module a.b
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_in_one_direction(package: str) -> None:
    """No file of a package imports a package above it."""
    files = sources(package)
    assert files
    for file in files:
        ours = {top(name) for name in imports_of(file)} & OURS
        assert ours <= MAY_IMPORT[package], f"{file.relative_to(ROOT)} imports {ours - MAY_IMPORT[package]}"


def test_only_the_table_of_verbs_names_a_module_above() -> None:
    """A name in a string could be imported without the test above seeing it; the command line alone has one."""
    named = set()
    for package in ("engines", "runtime"):
        for file in sources(package):
            nodes = ast.walk(ast.parse(file.read_text("utf-8")))
            strings = {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
            dotted = {text for text in strings if re.fullmatch(r"\w+(\.\w+)+", text)}
            named |= {(file.name, text) for text in dotted if top(text) in OURS - MAY_IMPORT[package]}
    assert named == {("main.py", "edge_client.command")}


def test_entropy_coding_and_stream_format_know_only_numpy_and_the_coder() -> None:
    """No network, engine, family or picture: Python, numpy, constriction, numba, the errors, and each other."""
    for file in [*sources("runtime/entropy"), ROOT / "runtime" / "stream.py"]:
        for name in imports_of(file):
            if top(name) in OURS:
                assert name.startswith(("runtime.entropy", "runtime.errors")), f"{file.name} imports {name}"
            else:
                assert top(name) in CORE_OF_THE_CORE | sys.stdlib_module_names, f"{file.name} imports {name}"


def test_stream_format_does_not_know_the_coder() -> None:
    """Bytes are framed without knowing what they code."""
    names = {top(name) for name in imports_of(ROOT / "runtime" / "stream.py")}
    assert names <= {"runtime"} | sys.stdlib_module_names
    assert not any(name.startswith("runtime.entropy") for name in imports_of(ROOT / "runtime" / "stream.py"))


@pytest.mark.parametrize("package", ["engines", "runtime", "edge_client"])
def test_training_libraries_stay_in_export(package: str) -> None:
    """What runs on a device never imports what made the model, not even inside a function."""
    for file in sources(package):
        assert not {top(name) for name in imports_of(file)} & ONLY_IN_EXPORT, file.relative_to(ROOT)


def test_families_are_known_to_their_table_alone() -> None:
    """No other file of runtime asks which family it has: only the table of families names their modules."""
    families = {path.stem for path in (ROOT / "runtime" / "families").glob("*.py")} - {"__init__", "base"}
    assert "dpict" in families
    for file in sources("runtime"):
        if file.parent.name != "families":
            found = {
                name for name in imports_of(file) if name.startswith(tuple(f"runtime.families.{f}" for f in families))
            }
            assert not found, f"{file.relative_to(ROOT)} imports {found}"


def test_tests_are_no_packages() -> None:
    """A test folder that bears a package's name must not hide the package."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_package_is_typed_and_says_what_it_is(package: str) -> None:
    """`py.typed` stands in every package, and every module begins with a docstring."""
    assert (ROOT / package / "py.typed").is_file()
    for file in sources(package):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) or not tree.body, file.relative_to(ROOT)


def in_new_process(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return run.stdout


def test_importing_runtime_imports_no_heavy_library() -> None:
    """`import runtime` brings numpy and the coder, and nothing that belongs to training, servers or pictures."""
    code = "import runtime, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(in_new_process(code).split())
    assert {"runtime", "engines", "numpy"} <= loaded
    assert not loaded & {*NOT_WITH_RUNTIME, "export", "edge_client"}
