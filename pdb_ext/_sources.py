"""Identifies the C++ and CUDA sources, so that a compiled library can be matched with the source tree it came from."""

import hashlib
from pathlib import Path


def fingerprint(csrc: Path) -> str:
    """SHA-256 over the names and contents of all files under `csrc`."""
    digest = hashlib.sha256()
    for path in sorted(path for path in csrc.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")):
        digest.update(f"{path.relative_to(csrc).as_posix()}\n{path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
