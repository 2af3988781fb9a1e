"""Reports on disk: complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from pdb_saliency.errors import OutputError


def check_file(path: Path) -> None:
    """Raises, before the work, what would stop `write_file` after it: OutputError where a folder has this name."""
    if path.is_dir():
        raise OutputError(f"{path}: cannot be written (Is a directory)")


def write_file(path: Path, content: bytes) -> None:
    """Write `content`, making the folder where it is absent. Raises OutputError.

    A link stays a link, and what is no file (/dev/null, a pipe) is written to, not replaced.
    """
    try:
        path = path.resolve()
        temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a loop, before Python 3.13.
        raise OutputError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error
