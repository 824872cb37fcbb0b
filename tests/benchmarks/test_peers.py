"""The benchmark beside other codecs: that they are timed at the same bytes, and the table says so."""

from __future__ import annotations

import numpy as np
import PIL.features
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="torch is not installed")


@pytest.mark.skipif(not PIL.features.check("jpg_2000"), reason="this Pillow has no OpenJPEG")
@pytest.mark.parametrize("goal_bytes", [4000, 15_000])
def test_jpeg_2000_ends_at_the_same_bytes(photographs: dict[str, NDArray[np.uint8]], goal_bytes: int) -> None:
    import peers

    found = peers.jpeg2000_times(photographs["chelsea"], goal_bytes, 1)
    assert 0.97 * goal_bytes < found["bytes"] <= goal_bytes + 2  # the end marker
    assert found["encode_ms"] > 0 and found["decode_ms"] > 0


def test_bytes_stand_in_the_table() -> None:
    import peers

    times = {"encode_ms": 84.2, "decode_ms": 94.4}
    found = {codec: {**times, "bytes": size} for codec, size in
             (("cutoff", 51_234.0), ("compressai", 51_300.0), ("jpeg2000", 51_200.0))}  # fmt: skip
    found["times_faster_than_compressai"] = {"encode": 1.0, "decode": 1.0}
    lines = peers.peer_table({"1": found}).splitlines()
    assert lines[0] == "| codec | bytes per picture | encode, 1 thread, ms | decode, 1 thread, ms |"
    assert lines[2] == "| cutoff, compiled coder | 51,234 | 84 | 94 |"
    assert lines[5] == "| cutoff is faster than CompressAI, times |  | 1.0 | 1.0 |"
