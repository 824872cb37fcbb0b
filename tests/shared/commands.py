"""Verbs of the command line, run in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.cli.main import main

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *words: str | Path) -> str:
    """Run a command that succeeds, and return what it prints."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


def printed(capsys: Capture, *words: str | Path) -> dict[str, Any]:
    """Run a command with --json, and return its only object."""
    lines = run(capsys, *words, "--json").splitlines()
    assert len(lines) == 1
    result: dict[str, Any] = json.loads(lines[0])
    return result


def refusal(capsys: Capture, *words: str | Path) -> tuple[int, str]:
    """Run a command that fails, and return its status and its only line on stderr."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert status != 0
    assert len(lines) == 1
    assert lines[0].startswith("cutoff: error: ")
    return status, lines[0]
