"""Nothing but a family's own files, and the lists of families, may name a family."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from runtime.families import FAMILIES

ROOT = Path(__file__).parents[1]
LISTS = {"runtime/families/__init__.py", "export/families/__init__.py", "export/training/families.py"}
CODE = sorted(
    path for folder in ("engines", "runtime", "export", "edge_client") for path in (ROOT / folder).rglob("*.py")
)


def is_of_a_family(path: str) -> bool:
    # A published checkpoint is one of a certain family: those files are about nothing else.
    return path.startswith("export/checkpoints/") or any(f"/{name}" in path.removesuffix(".py") for name in FAMILIES)


@pytest.mark.parametrize("file", CODE, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_other_module_names_a_family(file: Path) -> None:
    """No string in code, no import and no identifier: comments and docstrings may."""
    path = file.relative_to(ROOT).as_posix()
    if path in LISTS or is_of_a_family(path):
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            assert node.value not in FAMILIES, f"line {node.lineno} names {node.value}"
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            assert name.lower() not in FAMILIES, f"line {node.lineno} names {name}"
        if isinstance(node, ast.ImportFrom):
            assert not any(part in FAMILIES for part in (node.module or "").split(".")), (
                f"line {node.lineno} imports one"
            )
