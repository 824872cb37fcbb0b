"""Coders whose kernels are compiled once for all tests here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.entropy.choose import Coder
from runtime.entropy.compiled import CompiledCoder, Kernels, load_kernels
from runtime.entropy.tables import Tables


@pytest.fixture(scope="session")
def kernel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the machine code of these tests goes."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def compiled_kernels(kernel_folder: Path) -> Kernels:
    """The kernels compiled; skips where numba is told not to compile."""
    kernels = load_kernels(kernel_folder)
    if kernels.name != "compiled":
        pytest.skip("numba is told not to compile")
    return kernels


@pytest.fixture(scope="session")
def make_compiled(compiled_kernels: Kernels) -> Callable[[Tables], Coder]:
    """The compiled kernels alone, for what takes Python too long."""
    return lambda tables: CompiledCoder(tables, compiled_kernels)
