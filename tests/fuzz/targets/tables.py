"""Table files: archives, arrays, and the trees that they make.

Input: mode, then
    0   the archive as it is
    1   an archive whose checksums are right: the array to replace, its bytes in NumPy's format
    2   the tiny bundle's arrays with changes: (array, what to change, where, value) again and again
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from targets.coders import coders, tiny_tables
from targets.source import Source
from targets.streams import GOLDEN

from engines.arrays import read_arrays
from engines.errors import BundleError
from runtime.entropy.plan import Field, trit_planes
from runtime.entropy.tables import Tables

_NAMES = tuple(name for name in Tables.__dataclass_fields__ if name != "context")
_KINDS = ("u1", "<i4", "<u4", "<i2", "<u2", "<f4", "<f8", "<i8", "<f2", "i1")
_LARGEST_TOTAL = 1 << 20
_CODE = bytes(range(7, 250, 3))


def one_input(data: bytes) -> None:
    """Read; what is accepted must serve every coder without a wrong step."""
    source = Source(data)
    content = (_archive_as_it_is, _one_member, _changed_arrays)[source.number() % 3](source)
    try:
        arrays = read_arrays(content, _LARGEST_TOTAL)
        assert sum(array.nbytes for array in arrays.values()) <= _LARGEST_TOTAL
        tables = Tables.from_arrays(arrays)
    except BundleError:
        return
    assert Tables.from_bytes(tables.to_bytes()).to_bytes() == tables.to_bytes()
    models = np.arange(len(tables.trits)).repeat(3)
    found = []
    for coder in coders(tables):
        field, decoder = Field(models, tables), coder.decoder()
        decoder.extend(_CODE)
        for step in trit_planes(field, coder.plane):
            if not decoder.decode_step(step, len(step)):
                break
        found.append(field.nodes.tolist())
    assert all(nodes == found[0] for nodes in found)


def seeds() -> dict[str, bytes]:
    """The tiny bundle's table file, each of its arrays, and changes of each."""
    file = (GOLDEN / "tiny" / "tables" / "entropy.npz").read_bytes()
    made = {"file": b"\x00" + file}
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        for index, name in enumerate(_NAMES):
            made[name] = bytes([1, index]) + archive.read(f"{name}.npy")
    for index, name in enumerate(_NAMES):
        made[f"changed-{name}"] = bytes([2, index, 0, 0, 1, 0, 0, 0, 2])
    return made


def _archive_as_it_is(source: Source) -> bytes:
    return source.rest()


def _one_member(source: Source) -> bytes:
    replaced = source.choice(_NAMES)
    return _archive({name: _npy(getattr(tiny_tables(), name)) for name in _NAMES} | {replaced: source.rest()})


def _changed_arrays(source: Source) -> bytes:
    arrays: dict[str, Any] = {name: getattr(tiny_tables(), name).copy() for name in _NAMES}
    while source:
        name, change, place, value = source.choice(_NAMES), source.number(), source.number(2), source.number(4)
        with np.errstate(all="ignore"):
            arrays[name] = _changed(arrays[name], change % 5, place, value)
    return _archive({name: _npy(array) for name, array in arrays.items()})


def _changed(array: Any, change: int, place: int, value: int) -> Any:
    if change == 0 and array.size:
        flat = array.reshape(-1)
        flat[place % array.size] = np.array(value, np.uint32).astype(array.dtype)
        return flat.reshape(array.shape)
    if change == 1:
        return np.resize(array, (value % 300, *array.shape[1:]))
    if change == 2:
        return array.astype(_KINDS[value % len(_KINDS)])
    if change == 3:
        return np.delete(array, place % len(array), axis=0) if len(array) else array
    return array.reshape(-1, 1) if value % 2 else array.reshape(-1)


def _npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), (1, 0), allow_pickle=False)
    return buffer.getvalue()


def _archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()
