"""The command `pdb-saliency`: parses arguments, calls the library, prints what it reports."""

from __future__ import annotations


def main(argv: list[str] | None = None) -> int:
    """Run one command, such as ["predict", "clip.mp4", "-o", "out"], and return its exit code; see `program.main`."""
    from .program import main as run

    return run(argv)
