"""Code that tests compile, once for all processes of a test run."""

import concurrent.futures
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest


def compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def built_once(name: str, build: Callable[[Path], None]) -> Path:
    """A folder that `build(folder)` has filled; the first process of the run to ask for it builds, the others wait.

    Skips the test without a C++ compiler. tests/conftest.py removes the folders at the end of the run.
    """
    if compiler() is None:
        pytest.skip("no C++ compiler")
    if "PDB_TEST_BUILDS" not in os.environ:  # not under pytest
        os.environ["PDB_TEST_BUILDS"] = tempfile.mkdtemp(prefix="pdb_tests_")
    folder = Path(os.environ["PDB_TEST_BUILDS"], name)
    with open(f"{folder}.lock", "w") as lock:
        _wait_for(lock)
        if not (folder / "complete").exists():
            folder.mkdir(exist_ok=True)
            build(folder)
            (folder / "complete").touch()
    return folder


def compile_all(command: list[str], sources: list[Path], folder: Path) -> list[Path]:
    """Compiles C++ sources (.cu, too), as many at once as there are processors; returns the objects."""

    def run(source: Path) -> Path:
        target = folder / f"{'_'.join(source.parts[-3:])}.o"
        subprocess.run([*command, "-c", "-x", "c++", str(source), "-o", str(target)], check=True)
        return target

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(run, sorted(sources)))


def _wait_for(lock) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: its processes would build side by side; the emulation does not compile there.
        return
    fcntl.flock(lock, fcntl.LOCK_EX)
