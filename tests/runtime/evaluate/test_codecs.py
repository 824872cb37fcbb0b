from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import ModelMismatch
from runtime.evaluate.codecs import CodecChoice, best_files, cut_stream

Image = NDArray[np.uint8]
BLANK = np.zeros((4, 4), np.uint8)


def test_one_stream_is_cut_at_every_budget() -> None:
    made = []

    def encode(image: Image) -> bytes:
        made.append(image)
        return b"0123456789"

    deliveries = cut_stream(encode, BLANK, [3, 20, None])
    assert [one.data for one in deliveries if one is not None] == [b"012", b"0123456789", b"0123456789"]
    assert len(made) == 1


@pytest.mark.parametrize("sizes", [range(5, 105), [9] * 100, [100 - q for q in range(100)]])
def test_the_best_file_that_fits_is_found(sizes: Sequence[int]) -> None:
    """Every file fits its budget; where sizes rise it is the largest that does; nothing fits a budget too small."""
    deliveries = best_files(lambda image, quality: bytes(sizes[quality]), range(100), BLANK, [4, 50, 1000, None])
    small, middle, large, whole = deliveries
    assert whole is None
    assert small is not None and middle is not None and large is not None
    assert len(small.data) <= 4 and len(middle.data) <= 50
    assert len(large.data) == sizes[-1]
    if sizes == range(5, 105):
        assert (small.data, len(middle.data)) == (b"", 50)


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from runtime.evaluate.codecs import CodecChoice
bundle, folder = sys.argv[1], Path(sys.argv[2])
with CodecChoice((bundle,), ("jpeg-progressive", "jpeg2000", "webp", "avif"), "auto", 1).opened() as codecs:
    for codec in codecs:
        picture = codec.decode((folder / codec.name).read_bytes())
        np.save(folder / f"{codec.name}.npy", picture)
"""


def test_pictures_come_from_the_bytes_that_were_received(chelsea: Image, tiny: str, tmp_path: Path) -> None:
    """A fresh process that is handed prefixes, and nothing else, gives the pictures that are measured."""
    image, budget = np.ascontiguousarray(chelsea[:96, :80]), 1500
    expected = {}
    with CodecChoice((tiny,), ("jpeg-progressive", "jpeg2000", "webp", "avif"), "auto", 1).opened() as codecs:
        for codec in codecs:
            (delivery,) = codec.deliver(image, [budget])
            assert delivery is not None and 0 < len(delivery.data) <= budget
            (tmp_path / codec.name).write_bytes(delivery.data)
            expected[codec.name] = codec.decode(delivery.data)
    subprocess.run([sys.executable, "-c", SCRIPT, tiny, str(tmp_path)], check=True)
    assert len(expected) == 7
    for name, picture in expected.items():
        assert picture is not None and picture.shape == image.shape
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), picture), name


def test_another_bundle_of_the_same_name_is_refused(tiny: str) -> None:
    choice, identities = CodecChoice((tiny,), (), "auto", 1).identified()
    assert list(identities) == ["tiny"] and choice.hashes == (identities["tiny"]["bundle_hash"],)
    with (
        pytest.raises(ModelMismatch, match="where the run began"),
        CodecChoice((tiny,), (), "auto", 1, hashes=("0",)).opened(),
    ):
        pytest.fail("it was opened")
