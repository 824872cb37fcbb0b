"""Reads .npz files of unknown origin: plain numbers only, no pickles, and sizes checked before memory is taken."""

from __future__ import annotations

import io
import math
import zipfile

import numpy as np
from numpy.typing import NDArray

from engines.errors import BundleError

MOST_ARRAYS = 1024
LARGEST_TOTAL = 256 << 20  # bytes, unpacked
_ENTRY = b"PK\x01\x02"  # begins every entry of an archive's directory
_SUFFIX = ".npy"
_KINDS = "iuf"


def read_arrays(content: bytes, largest_total: int = LARGEST_TOTAL) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a .npz file by name.

    Args:
        largest_total: bytes that all arrays may have together, headers included.

    Raises:
        BundleError: it is not a .npz file of integers and floats, or larger than allowed.
    """
    # An archive's directory is read whole before anybody can count it, at eight bytes of memory for each of its own.
    entries = content.count(_ENTRY)
    if entries > MOST_ARRAYS:
        raise BundleError(f"{entries} arrays in one file, more than {MOST_ARRAYS}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _read(archive, largest_total)
    except BundleError:
        raise
    except Exception as fault:  # what numpy, zipfile and zlib raise on garbage has no common base
        raise BundleError(f"not a readable .npz file: {fault!r}") from fault


def _read(archive: zipfile.ZipFile, largest_total: int) -> dict[str, NDArray[np.generic]]:
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > largest_total:
        raise BundleError(f"arrays of {total} bytes in one file, more than {largest_total}")
    arrays: dict[str, NDArray[np.generic]] = {}
    for member in members:
        name = member.filename.removesuffix(_SUFFIX)
        if name == member.filename or name in arrays:
            raise BundleError(f"{member.filename!r} is no array's name or occurs twice")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleError(f"array {name!r} is packed by method {member.compress_type}")
        with archive.open(member) as file:  # with a number of bytes to read, no more than those are unpacked
            arrays[name] = _array(name, file.read(member.file_size))
    return arrays


def _array(name: str, content: bytes) -> NDArray[np.generic]:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise BundleError(f"array {name!r} has format version {version}")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, kind = read_header(stream)
    if kind.hasobject or kind.kind not in _KINDS or kind.subdtype is not None:
        raise BundleError(f"array {name!r} is of type {kind}, not of integers or floats")
    data = content[stream.tell() :]
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(data):
        raise BundleError(f"array {name!r} has {len(data)} bytes, not those of shape {shape}")
    return np.frombuffer(data, kind).reshape(shape, order="F" if fortran_order else "C").copy()
