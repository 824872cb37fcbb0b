from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import DataError, EngineError, PictureError
from runtime.evaluate.runs.provenance import sha256_of
from runtime.evaluate.runs.work import Findings, Unit, measured


class Refusing:
    """A worker that refuses all pictures, in the given way."""

    def __init__(self, fault: Exception | None) -> None:
        self.fault, self.contents = fault, []

    def measure(self, unit: Unit, content: bytes) -> Findings:
        self.contents.append(content)
        if self.fault is not None:
            raise self.fault
        return Findings(())

    def close(self) -> None:
        pass


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    path = tmp_path / "a.png"
    path.write_bytes(b"picture")
    return Unit("a", path, sha256_of(path))


def test_a_worker_gets_the_bytes_of_the_file(unit: Unit) -> None:
    worker = Refusing(None)
    outcome = measured(worker, unit)
    assert (outcome.unit, outcome.fault, worker.contents) == ("a", None, [b"picture"])


def test_a_broken_picture_is_an_outcome(unit: Unit) -> None:
    outcome = measured(Refusing(PictureError("a.png:\nbroken")), unit)
    assert (outcome.fault, outcome.findings.rows) == ("a.png: broken", ())


def test_a_picture_that_vanished_ends_the_run(unit: Unit) -> None:
    """It was there when the run began, so that nothing is said of the picture, which the next run may find."""
    unit.path.unlink()
    with pytest.raises(DataError, match="cannot be read any more: No such file or directory") as caught:
        measured(Refusing(None), unit)
    assert not isinstance(caught.value, PictureError)


def test_other_faults_end_the_run(unit: Unit) -> None:
    with pytest.raises(EngineError):
        measured(Refusing(EngineError("g_s")), unit)


def test_a_picture_that_has_changed_ends_the_run(unit: Unit) -> None:
    unit.path.write_bytes(b"another")
    with pytest.raises(DataError, match="has changed since the run began"):
        measured(Refusing(None), unit)
