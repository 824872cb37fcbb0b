"""Bundles mixed up: a stream of one given to another, files of one among those of another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from bundles import rehash, unpacked
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.bundle import MANIFEST, Bundle
from engines.errors import BundleError, CutoffError, ModelMismatch
from runtime import Codec
from runtime.errors import Incomplete
from runtime.stream import HEADER_BYTES

EDGE = Bundle.open("dpict-edge")
EXACT = {"graphs/h_s.onnx", "tables/entropy.npz"}
SHARED = (
    *(f"graphs/{role}.onnx" for role in ("g_a", "g_s", "h_a", "h_s", "preview")),
    "kat/h_s.npz",
    "tables/entropy.npz",
)
STREAM = "valid/example.cut"


def mixed(folder: Path, tiny: Path, foreign: Collection[str]) -> Path:
    """Make the tiny bundle in *folder*, with the *foreign* files taken from dpict-edge."""
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    for path in foreign:
        (folder / path).write_bytes(EDGE.read(path))
    return folder


@given(st.integers(0, 200))
@settings(max_examples=40)
def test_stream_of_one_bundle_given_to_the_other(
    tiny_codec: Codec, codec: Codec, golden_folder: Path, stream: bytes, size: int
) -> None:
    """As soon as the header is there it is refused, whatever follows; before that there is nothing to tell."""
    for other, theirs in ((codec, (golden_folder / STREAM).read_bytes()), (tiny_codec, stream)):
        with pytest.raises(ModelMismatch if size >= HEADER_BYTES else Incomplete):
            other.decode(theirs[:size])


@given(st.sets(st.sampled_from(SHARED), min_size=1))
@settings(max_examples=25)
def test_foreign_files_are_refused(golden_folder: Path, foreign: set[str]) -> None:
    """Any file of another bundle differs from what the manifest says."""
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(BundleError, match=r"the manifest says|SHA-256 differs"):
            Bundle.open(mixed(Path(folder), golden_folder / "tiny", foreign))
        shutil.copy(unpacked("dpict-edge", Path(folder) / "edge") / MANIFEST, Path(folder) / MANIFEST)
        with pytest.raises(BundleError):
            Bundle.open(folder)


@given(st.sets(st.sampled_from(SHARED), min_size=1))
@settings(max_examples=12)
def test_foreign_files_with_right_hashes_give_errors_by_name(
    tiny_codec: Codec, golden_folder: Path, foreign: set[str]
) -> None:
    """Whoever makes hashes right makes another bundle: old streams no longer fit, or networks do not fit together."""
    data = (golden_folder / STREAM).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        rehash(mixed(Path(folder), golden_folder / "tiny", foreign))
        bundle = Bundle.open(folder)
        assert (bundle.exact_id == tiny_codec.bundle.exact_id) == (not foreign & EXACT)
        try:
            with Codec.open(folder, threads=1) as opened:
                picture = opened.decode(data)
        except CutoffError as fault:
            if foreign & EXACT and not isinstance(fault, BundleError):
                assert isinstance(fault, ModelMismatch)
        else:
            assert not foreign & EXACT and picture.image is not None and picture.image.shape == (20, 33)
        try:
            with Codec.open(folder, threads=1) as opened:
                assert opened.decode(opened.encode(np.zeros((20, 33), np.uint8)).stream).complete
        except CutoffError:
            pass
