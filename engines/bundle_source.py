"""Where a bundle's bytes come from: a folder of files, or one file that holds them all.

One file is a ZIP archive whose members are stored or deflated, or compressed by bzip2 as in bundles of before. What is
in it has the same names, hashes and limits as in a folder, except that a member NAME.shuffled is the file NAME with the
bytes of even places first, then those of odd ones: float16 weights deflate better that way, to about what bzip2 makes,
and unfold in less than a tenth of the time. Nothing is decompressed before its size was compared with what is allowed.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections import Counter
from copy import copy
from pathlib import Path
from typing import Protocol

from engines.errors import BundleError

SUFFIX = ".bundle"
_SHUFFLED = ".shuffled"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
_DIRECTORY_BYTES = 1 << 20  # what an archive may have beside its members' content
_ENTRY = b"PK\x01\x02"  # begins each entry of an archive's directory
_MOST_ENTRIES = 1 << 16  # in all of a file, with those of .npz files that are stored in it


class Source(Protocol):
    """The files of one bundle."""

    where: Path

    def read(self, path: str, largest: int, size: int | None = None) -> bytes:
        """Return the content of a file.

        Args:
            size: bytes that it must have, if that is known.

        Raises:
            BundleError: it is missing, not a plain file, of another size, or of more than *largest* bytes.
        """
        ...


class Folder:
    """A bundle as a folder of plain files; no link is followed on the way to them."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def read(self, path: str, largest: int, size: int | None = None) -> bytes:
        """Return the content of a file; see `Source.read`."""
        *parents, name = path.split("/")
        opened: list[int] = []
        try:
            opened.append(os.open(self.where, os.O_RDONLY | os.O_DIRECTORY))
            for parent in parents:
                _refuse_link(parent, opened[-1])
                opened.append(os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened[-1]))
            _refuse_link(name, opened[-1])
            # Not blocking: a pipe must be refused, not waited for.
            opened.append(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened[-1]))
            status = os.fstat(opened[-1])
            if not stat.S_ISREG(status.st_mode):
                raise BundleError("not a file")
            _check_size(status.st_size, largest, size)
            with os.fdopen(opened.pop(), "rb") as file:
                content = file.read(status.st_size + 1)
            _check_size(len(content), largest, size)  # it may have changed meanwhile
            return content
        except OSError as fault:
            raise BundleError(fault.strerror or str(fault)) from fault
        finally:
            for descriptor in opened:
                os.close(descriptor)


class OneFile:
    """A bundle as one file, read into memory once."""

    def __init__(self, where: Path, largest: int) -> None:
        """Read the archive at *where*, whose members may have *largest* bytes together.

        Raises:
            BundleError: it cannot be read, is larger than that, or is no archive of plainly named members.
        """
        self.where = where
        content = Folder(where.parent).read(where.name, largest + _DIRECTORY_BYTES)
        if content.count(_ENTRY) > _MOST_ENTRIES:  # counted here, as an object is made of each when it is opened
            raise BundleError(f"not a bundle in one file: more than {_MOST_ENTRIES} entries")
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(content))
        except Exception as fault:  # of damaged archives: BadZipFile, but also struct's, codecs' and others' errors
            raise BundleError(f"not a bundle in one file: {fault!r}") from fault
        times = Counter(info.filename.removesuffix(_SHUFFLED) for info in self._archive.infolist())
        twice = [name for name, count in times.items() if count > 1]
        if twice:
            raise BundleError(f"{twice[0]!r} occurs twice in the archive")

    def read(self, path: str, largest: int, size: int | None = None) -> bytes:
        """Return the content of a member; see `Source.read`."""
        members = self._archive.NameToInfo
        info = members.get(path) or members.get(path + _SHUFFLED)
        if info is None:
            raise BundleError("No such file or directory")
        if info.compress_type not in _METHODS or info.flag_bits & 0x1 or info.is_dir():
            raise BundleError("neither stored, deflated nor compressed by bzip2, or encrypted, or a folder")
        _check_size(info.file_size, largest, size)
        try:
            content = self._unpacked(info)
        except Exception as fault:  # as above, and whatever codecs make of damage
            raise BundleError(f"the archive is damaged: {fault!r}") from fault
        _check_size(len(content), largest, size)
        return content if info.filename == path else _unshuffled(content)

    def _unpacked(self, info: zipfile.ZipInfo) -> bytes:
        """Return what a member holds; of one that holds more than it says, one byte more than that."""
        if info.compress_type != zipfile.ZIP_BZIP2:
            with self._archive.open(info) as member:
                return member.read(info.file_size + 1)
        import bz2  # not every Python has it, and bundles of today do not need it

        # zipfile unpacks bzip2 without a limit: it is given the packed bytes as those of a member that is stored.
        packed = copy(info)
        packed.compress_type, packed.file_size = zipfile.ZIP_STORED, info.compress_size
        del packed.CRC  # that of what they unpack to; bzip2 has its own
        with self._archive.open(packed) as member:
            return bz2.BZ2Decompressor().decompress(member.read(), info.file_size + 1)


def write_one_file(where: Path, files: dict[str, bytes]) -> None:
    """Write *files* as a bundle in one file, each in the shortest form; the same files give the same bytes."""
    with zipfile.ZipFile(where, "w") as archive:
        for path, content in sorted(files.items()):
            shuffled = content[::2] + content[1::2]
            _, name, method, stored = min(
                (len(content), path, zipfile.ZIP_STORED, content),
                (len(zlib.compress(content, 9)), path, zipfile.ZIP_DEFLATED, content),
                (len(zlib.compress(shuffled, 9)), path + _SHUFFLED, zipfile.ZIP_DEFLATED, shuffled),
                key=lambda form: form[0],
            )
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = method
            info.external_attr = 0o644 << 16
            archive.writestr(info, stored, compresslevel=9)


def _unshuffled(content: bytes) -> bytes:
    half = (len(content) + 1) // 2
    joined = bytearray(len(content))
    joined[::2], joined[1::2] = content[:half], content[half:]
    return bytes(joined)


def _check_size(found: int, largest: int, size: int | None) -> None:
    if size is not None and found != size:
        raise BundleError(f"{found} bytes, the manifest says {size}")
    if found > largest:
        raise BundleError(f"{found} bytes; at most {largest} are allowed")


def _refuse_link(name: str, folder: int) -> None:
    if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise BundleError("links are not allowed in a bundle")
