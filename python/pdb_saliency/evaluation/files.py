"""Reports on disk: complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import OutputError


def write_file(path: Path, content: bytes) -> None:
    """Write `content`, making the folder where it is absent. Raises OutputError."""
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
