"""The file around the manifest and the streams: magic, version, checksum, and a write that is all or nothing.

| offset | bytes | what |
| ------ | ----- | ---- |
| 0 | 3 | magic ``JXC`` |
| 3 | 1 | format version |
| 4 | 8 | BLAKE2b over magic, version and everything behind this field |
| 12 | 1..5 | length of the stored manifest (LEB128) |
| | | manifest (see `manifest`), then the streams back to back, up to the end of the file |
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from jaxcompress.artifact.errors import ArtifactError

MAGIC = b"JXC"
VERSION = 1
MANIFEST_LIMIT = 1 << 26  # bytes; a manifest of 100,000 leaves has about 1 << 23
_DIGEST_BYTES = 8
_BODY = len(MAGIC) + 1 + _DIGEST_BYTES
_CHUNK = 1 << 20


def seal(manifest: bytes, streams: Sequence[bytes]) -> list[bytes]:
    """The whole file, in chunks to be written one after the other."""
    prefix, length = MAGIC + bytes([VERSION]), _varint(len(manifest))
    digest = hashlib.blake2b(prefix, digest_size=_DIGEST_BYTES)
    body = [length, manifest, *streams]
    for chunk in body:
        digest.update(chunk)
    return [prefix, digest.digest(), *body]


def write_atomically(path: str | os.PathLike[str], chunks: Sequence[bytes]) -> int:
    """Writes a file so that ``path`` holds either its old content or all of the new one, even across a power cut.

    A symbolic link is followed; an existing file keeps its permissions.

    Returns:
        The bytes written, equal to ``os.path.getsize(path)``.

    Raises:
        ArtifactError: if ``path`` is a folder.
        OSError: if the folder is missing or not writable, or the disk is full; nothing is left behind.
    """
    target = os.path.realpath(path)
    if os.path.isdir(target):
        raise ArtifactError(f"save: {target!r} is a folder; give the name of a file in it")
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(6)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(target):
            os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    if os.name == "posix":  # the new name itself must reach the disk; other systems have no such call
        entry = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)
    return sum(map(len, chunks))


@contextlib.contextmanager
def open_checked(path: str | os.PathLike[str]) -> Iterator[tuple[bytes, BinaryIO, int, int]]:
    """Opens a file, verifies it whole, and yields ``(manifest, file, offset of the streams, file bytes)``.

    Nothing that the file says is believed before its checksum has been compared.

    Raises:
        ArtifactError: if it is not an artifact, of another version, damaged or cut short.
        FileNotFoundError: if there is no such file.
    """
    name = os.fspath(path)
    if os.path.exists(name) and not os.path.isfile(name):
        raise ArtifactError(f"load: {name!r} is not a regular file; give the path of a file written by save()")
    with open(name, "rb") as file:
        total = os.fstat(file.fileno()).st_size
        head = file.read(_BODY)
        if head[: len(MAGIC)] != MAGIC:
            raise ArtifactError(
                f"load: {name!r} is no jaxcompress artifact (it begins with {head[:4]!r}, not {MAGIC!r}); "
                "give the path of a file written by save()"
            )
        if len(head) < _BODY:
            raise ArtifactError(f"load: {name!r} is cut short ({total} bytes); copy it again")
        if head[len(MAGIC)] != VERSION:
            raise ArtifactError(
                f"load: {name!r} has format version {head[len(MAGIC)]}, this release reads version {VERSION}; "
                "install the jaxcompress that wrote it, or a newer one"
            )
        digest = hashlib.blake2b(head[: len(MAGIC) + 1], digest_size=_DIGEST_BYTES)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        if digest.digest() != head[-_DIGEST_BYTES:]:
            raise ArtifactError(f"load: {name!r} is damaged or cut short (its checksum does not fit); copy it again")
        length, offset = _read_varint(file, _BODY)
        if length > min(MANIFEST_LIMIT, total - offset):
            raise ArtifactError(f"load: {name!r} declares a manifest of {length} bytes in a file of {total}; refused")
        yield file.read(length), file, offset + length, total


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _read_varint(file: BinaryIO, offset: int) -> tuple[int, int]:
    """The number at ``offset`` and the offset behind it; leaves the file there."""
    file.seek(offset)
    value = 0
    for position, byte in enumerate(file.read(5)):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            file.seek(offset + position + 1)
            return value, offset + position + 1
    raise ArtifactError("load: the length of the manifest has no end; refused")
