"""What the process that decodes for viewers keeps; what it answers is in test_views.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from viewing import TINY

from runtime.serve import cuts
from runtime.stream import Limits


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, own_cache: None) -> Iterator[cuts._Room]:
    """The process's, in this one."""
    monkeypatch.setattr(cuts, "_setting", (TINY, None, Limits()))
    cuts._room.cache_clear()
    yield cuts._room()
    cuts._room().codec.close()
    cuts._room.cache_clear()


def test_pictures_are_kept_up_to_so_many_bytes(
    room: cuts._Room, monkeypatch: pytest.MonkeyPatch, tiny_stream: bytes
) -> None:
    """Those that were asked for last; a cut that is asked for again is not decoded again."""
    monkeypatch.setattr(cuts, "_KEPT_BYTES", 200_000)
    prefixes = [tiny_stream[: len(tiny_stream) - number] for number in range(20)]
    first = cuts._decoded(prefixes[0])
    for prefix in prefixes[1:]:
        cuts._decoded(prefix)
        assert cuts._decoded(prefixes[0]) is first
        assert cuts._size(room) <= 200_000
    assert 4 < len(room.decoded) < 20
    monkeypatch.setattr(cuts, "_KEPT_BYTES", 10)
    facts, image = cuts._decoded(prefixes[5])
    assert image is not None and len(room.decoded) == 1
    assert cuts._decoded(prefixes[5])[0] is facts
