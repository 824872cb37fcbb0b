"""Arrays of unknown origin: numbers come back, everything else is refused before it costs memory or runs code."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zipfile
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.arrays import read_arrays
from engines.errors import BundleError


def npz(arrays: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **options, **arrays)
    return buffer.getvalue()


def test_arrays_come_back_as_they_were_written() -> None:
    """Integers and floats of any dimensions, packed or not, in either order."""
    arrays = {
        "a": np.arange(6, dtype=np.int16).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "c": np.int32(7),
        "d": np.zeros((0, 3), np.uint8),
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    for content in (npz(arrays), packed.getvalue()):
        found = read_arrays(content)
        assert found.keys() == arrays.keys()
        for name, value in arrays.items():
            assert np.array_equal(found[name], value) and found[name].dtype == np.asarray(value).dtype


def test_pickles_are_refused() -> None:
    """An array of objects runs code when it is loaded."""

    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.abort, ())

    with pytest.raises(BundleError, match="of type object, not of integers or floats"):
        read_arrays(npz({"a": np.array([Boom()], object)}, allow_pickle=True))


@pytest.mark.parametrize("kind", ["S4", "U4", "M8[s]", "c8", "?", "V3", [("a", "i4"), ("b", "f4")]])
def test_arrays_of_other_types_are_refused(kind: Any) -> None:
    """Numbers only."""
    with pytest.raises(BundleError, match="not of integers or floats"):
        read_arrays(npz({"a": np.zeros(2, kind)}))


def test_unpacking_is_limited() -> None:
    """A file of a few hundred kilobytes that claims 300 MB is refused before memory is taken."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(BundleError, match="arrays of 314572800 bytes in one file, more than 268435456"):
        read_arrays(packed.getvalue())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_archive_that_claims_less_than_it_holds_is_refused() -> None:
    """The claim limits what is unpacked."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(50 << 20))
    content = bytearray(packed.getvalue())
    for place in (content.rindex(b"PK\x01\x02") + 24, content.index(b"PK\x03\x04") + 22):
        struct.pack_into("<I", content, place, 100)
    tracemalloc.start()
    with pytest.raises(BundleError):
        read_arrays(bytes(content))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_shapes_that_claim_memory_are_refused() -> None:
    """A header's shape is held against the bytes that are there."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000), }"
    for shape in (b"(1000000000, 1000)", b"(-1,)", b"(3,)"):
        text = header.replace(b"(1000000000, 1000)", shape).ljust(117) + b"\n"
        array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(16)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("a.npy", array)
        with pytest.raises(BundleError, match=r"array 'a' has 16 bytes|not a readable"):
            read_arrays(packed.getvalue())


def test_number_and_names_of_arrays_are_checked() -> None:
    """Neither thousands of them, nor two of one name, nor other files."""
    for names, fault in (
        ([f"{index}.npy" for index in range(1025)], "1025 arrays in one file"),
        (["a.npy", "a.npy"], "occurs twice"),
        (["a.txt"], "no array's name"),
    ):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name in names:
                buffer = io.BytesIO()
                np.save(buffer, np.zeros(1))
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("warnings.warn", lambda *_, **__: None)  # of the double name
                    archive.writestr(name, buffer.getvalue())
        with pytest.raises(BundleError, match=fault):
            read_arrays(packed.getvalue())


def test_other_packings_are_refused() -> None:
    """Stored and deflated: what numpy writes."""
    packed, array = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(4))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", array.getvalue())
    with pytest.raises(BundleError, match="packed by method 12"):
        read_arrays(packed.getvalue())


@given(place=st.integers(0, 1 << 20), value=st.integers(0, 255), end=st.integers(0, 1 << 20))
@settings(max_examples=200, deadline=5000)
def test_changed_arrays_are_read_or_refused(place: int, value: int, end: int) -> None:
    """Any changed byte, any cut: arrays or one kind of error."""
    content = bytearray(npz({"cases": np.int32(1), "0.x": np.arange(20.0)}))
    content[place % len(content)] = value
    if end % 3 == 0:
        del content[end % len(content) :]
    with suppress(BundleError):
        read_arrays(bytes(content))
