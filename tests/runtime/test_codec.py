"""The codec: opening, closing, and the names that the package promises."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import rehash

import runtime
import runtime.errors
from engines.costs import cache_folder
from runtime import Codec, Limits
from runtime.errors import BundleError, LimitExceeded, UsageError


@pytest.fixture
def bundle(golden_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that may be changed."""
    return Path(shutil.copytree(golden_folder / "tiny", tmp_path / "changed"))


def rewrite(folder: Path, files: dict[str, bytes] | None = None, **fields: Any) -> None:
    """Change files and manifest *fields* of the bundle, and make its hashes right again."""
    for path, content in (files or {}).items():
        (folder / path).write_bytes(content)
    rehash(folder, **fields)


def test_public_names_can_be_imported() -> None:
    """`__all__` names just what the package has, in order."""
    for name in ("runtime", "runtime.errors", "runtime.families"):
        module = importlib.import_module(name)
        assert all(hasattr(module, public) for public in module.__all__)
        assert module.__all__ == sorted(module.__all__)
    assert set(runtime.__all__) >= {"Codec", "Deadline", "Decoder", "Encoding", "Limits", "Picture", "trim"}


def test_public_names_have_docstrings() -> None:
    """What is promised is explained."""
    for name in runtime.__all__:
        assert getattr(runtime, name).__doc__, name


def test_every_error_is_one_of_ours_with_an_exit_status() -> None:
    """All errors share a base; bad calls exit with 2, all else with 1."""
    for name in runtime.errors.__all__:
        error = getattr(runtime.errors, name)
        assert issubclass(error, runtime.CutoffError)
        assert error.exit_status == (2 if issubclass(error, UsageError) else 1)


def test_shipped_bundle_opens_by_name_and_by_folder(codec: Codec) -> None:
    """Name and folder give the same bundle."""
    assert Codec.open(codec.bundle.where).bundle.exact_id == Codec.open("dpict-edge").bundle.exact_id
    assert codec.bundle.name == "dpict-edge"


def test_unknown_bundle_is_refused_with_what_there_is() -> None:
    """The error lists the shipped bundles."""
    with pytest.raises(BundleError, match=r"no bundle 'nothing'.*dpict-edge"):
        Codec.open("nothing")


def test_unknown_engine_is_refused_with_what_there_is(golden_folder: Path) -> None:
    """The error lists the back ends."""
    codec = Codec.open(golden_folder / "tiny", engine="abacus")
    with pytest.raises(UsageError, match=r"engine 'abacus' is unknown; there are auto, cpu, cuda"):
        codec.encode(np.zeros((8, 8), np.uint8))


def test_unknown_family_is_refused(bundle: Path) -> None:
    """The error names the family and those that are known."""
    rewrite(bundle, family="other")
    with pytest.raises(BundleError, match=r"bundle tiny is of family 'other'; known: .*dpict"):
        Codec.open(bundle)


@pytest.mark.parametrize("key", ["y_channels", "z_channels", "value_gain", "preview_share", "deviation_input", "post"])
def test_missing_setting_is_refused(bundle: Path, key: str) -> None:
    """A family says which of its settings is missing."""
    settings = json.loads((bundle / "manifest.json").read_text())["settings"]
    del settings[key]
    rewrite(bundle, settings=settings)
    with pytest.raises(BundleError, match=f"settings of family dpict.*{key}"):
        Codec.open(bundle)


def test_tables_of_other_channels_are_refused(bundle: Path) -> None:
    """Settings and tables agree on z's channels."""
    settings = json.loads((bundle / "manifest.json").read_text())["settings"]
    rewrite(bundle, settings=settings | {"z_channels": 3})
    with pytest.raises(BundleError, match=r"tables have 8 models, not 6 \+ 3"):
        Codec.open(bundle)


def test_garbage_in_place_of_tables_is_refused_when_opened(bundle: Path) -> None:
    """A verified file may still be nonsense."""
    rewrite(bundle, {"tables/entropy.npz": b"nonsense"})
    with pytest.raises(BundleError, match="tables: "):
        Codec.open(bundle)


def test_garbage_in_place_of_a_graph_is_refused_when_it_is_opened(bundle: Path) -> None:
    """A verified graph that cannot be parsed is named when it is needed."""
    rewrite(bundle, {"graphs/g_a.onnx": b"nonsense"})
    with Codec.open(bundle) as codec, pytest.raises(BundleError, match="'g_a' cannot be opened"):
        codec.encode(np.zeros((8, 8), np.uint8))


def test_decoder_takes_any_bundle_with_the_exact_id(bundle: Path, golden_folder: Path) -> None:
    """A bundle of another version with the same exact parts decodes old streams."""
    stream = (golden_folder / "valid" / "rgb.cut").read_bytes()
    rewrite(bundle, {"kat/g_s.npz": b"other"}, version="2")
    with Codec.open(bundle, threads=1) as newer, Codec.open(golden_folder / "tiny", threads=1) as older:
        assert newer.bundle.exact_id == older.bundle.exact_id
        assert newer.bundle.bundle_hash != older.bundle.bundle_hash
        one, other = newer.decode(stream).image, older.decode(stream).image
        assert one is not None and other is not None and (one == other).all()


def test_closing_saves_the_costs_and_opening_finds_them(bundle: Path) -> None:
    """What was measured serves the next process."""
    with Codec.open(bundle, threads=1) as codec:
        codec.decode(codec.encode(np.zeros((8, 8), np.uint8)).stream)
        assert codec.model.costs.runs("g_s", 64 * 64) > 0
    assert any(cache_folder().rglob("*-1-threads.json"))
    assert Codec.open(bundle, threads=1).model.costs.estimate_s("g_s", 64 * 64) > 0


def test_codec_can_be_closed_twice_and_used_again(bundle: Path) -> None:
    """Closing frees; what is needed again is opened again."""
    codec = Codec.open(bundle, threads=1)
    image = np.full((8, 8), 77, np.uint8)
    stream = codec.encode(image).stream
    codec.close()
    codec.close()
    assert codec.encode(image).stream == stream
    codec.close()


def test_limits_hold_for_decoding(golden_folder: Path) -> None:
    """A codec opened with limits refuses what claims more."""
    stream = (golden_folder / "valid" / "rgb.cut").read_bytes()
    limits = Limits(pixels=150 * 70 - 1)
    with (
        Codec.open(golden_folder / "tiny", threads=1, limits=limits) as codec,
        pytest.raises(LimitExceeded, match="150x70 = 10500 pixels; allowed: 10499"),
    ):
        codec.decode(stream)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (90, 130), (300, 200)])
def test_warming_works_for_every_size(golden_folder: Path, size: tuple[int, int]) -> None:
    """Also where an eighth of the stream would end inside the head segment."""
    with Codec.open(golden_folder / "tiny", threads=1) as codec:
        codec.warm(*size)
        height, width = (-(-side // 64) * 64 for side in size[::-1])
        assert codec.model.costs.runs("preview", height * width) > 0


def test_more_threads_decode_the_same_symbols(golden_folder: Path) -> None:
    """The exact graph does not depend on the number of threads."""
    stream = (golden_folder / "valid" / "frames.cut").read_bytes()
    steps = []
    for threads in (1, 2, None):
        with Codec.open(golden_folder / "tiny", threads=threads) as codec:
            picture = codec.decode(stream)
            assert picture.complete and picture.image is not None
            steps.append(hashlib.sha256(picture.image.tobytes()).hexdigest())
    assert len(set(steps)) == 1
