"""Files that are either complete or absent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdb_saliency.errors import OutputError

_CHUNK = 1 << 20  # bytes


@contextmanager
def replacing(path: Path, temporary: Path | None = None, *, durable: bool = False) -> Iterator[Path]:
    """Yields the path of a hidden file to write, which replaces `path` at the end of the context.

    After an error or an interruption the hidden file is removed and `path` is as it was.
    temporary: the hidden file, in the folder of `path`; by default .NAME.PROCESS.part.
    durable: flush file and folder to the disk, so that a power cut cannot undo it.
    Raises OSError.
    """
    temporary = temporary or temporary_beside(path)
    try:
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable and hasattr(os, "O_DIRECTORY"):  # Windows cannot open folders.
        _flush(path.parent)


def temporary_beside(path: Path) -> Path:
    """The hidden file that becomes `path`. Its name is cut, because file names have at most 255 bytes."""
    return path.with_name(f".{path.name[:50]}.{os.getpid()}.part")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_file(path: Path) -> None:
    """Raise before the work what would stop `write_file` after it: OutputError if a folder has this name."""
    if path.is_dir():
        raise OutputError(f"{path}: cannot be written (Is a directory)")


def write_file(path: Path, content: bytes) -> None:
    """Write `content`, creating the folder if it is absent. Raises OutputError.

    A link stays a link; anything but a regular file (/dev/null, a pipe) is written to, not replaced.
    """
    try:
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a loop, before Python 3.13.
        raise OutputError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows flushes only what may be written.
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
