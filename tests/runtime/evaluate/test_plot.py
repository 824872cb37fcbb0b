from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.errors import OutputError, UsageError
from runtime.evaluate.plot import check_plot, write_plot
from runtime.evaluate.summary import Curve

pytest.importorskip("matplotlib")


def curve(label: str) -> Curve:
    return Curve(label, True, np.array([0.1, 0.5, 1.0]), np.array([25.0, np.nan, 35.0]), np.array([8.0, 12.0, np.nan]))


def empty(label: str) -> Curve:
    return Curve(label, True, *(np.zeros(0) for _ in range(3)))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_plot_is_drawn(suffix: str, tmp_path: Path) -> None:
    """Curves with unknown values, or none at all, do not stop it."""
    path = tmp_path / f"rd{suffix}"
    check_plot(path)
    write_plot(path, [curve("dpict-edge"), empty("nothing")], [curve("peer")], [curve("published")], "two pictures")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") if suffix == ".png" else b"</svg>" in content


def test_names_of_curves_are_in_the_plot(tmp_path: Path) -> None:
    path = tmp_path / "rd.svg"
    write_plot(path, [curve("dpict-edge")], [], [curve("published")], "two pictures")
    text = path.read_text(encoding="utf-8")
    for label in ("dpict-edge", "published", "two pictures", "bits per pixel"):
        assert f"<!-- {label} -->" in text


@pytest.mark.parametrize("name", ["rd", "rd.docx"])
def test_suffix_that_names_no_format(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a plot ends in .*\.png"):
        check_plot(tmp_path / name)


def test_unwritable_plot(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_plot(tmp_path / "none" / "rd.png", [curve("a")], [], [], "")
