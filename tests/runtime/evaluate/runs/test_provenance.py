from __future__ import annotations

import getpass
import hashlib
import json
import platform
from pathlib import Path

import pytest

from runtime.errors import DataError
from runtime.evaluate.runs.provenance import command_line, machine, of_processor, processor, sha256_of, software


def test_hash_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (1 << 21))
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"x" * (1 << 21)).hexdigest()
    with pytest.raises(DataError, match="cannot be read"):
        sha256_of(tmp_path / "none")


def test_nothing_personal_is_kept() -> None:
    """Neither the machine's name nor the user's; the home folder is a tilde."""
    text = json.dumps([machine(), software()])
    assert platform.node() not in text
    assert getpass.getuser() not in json.loads(text)[0].values()
    words = ["eval", "rd", "--images", str(Path.home() / "my pictures")]
    assert command_line(words) == "cutoff eval rd --images '~/my pictures'"


def test_versions_and_code_are_named() -> None:
    assert {"cutoff", "code", "python", "numpy", "onnxruntime", "pillow"} <= software().keys()
    assert software() == software()


def test_entries_of_the_processor_are_found_by_any_of_their_names() -> None:
    """What Linux does not say is empty; a processor is always called something."""
    assert of_processor("no such entry") == ""
    assert of_processor("no such entry", "processor") == "0"
    assert processor() and machine()["processor"] == processor()
