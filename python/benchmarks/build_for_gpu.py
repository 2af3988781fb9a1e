"""Builds pdb_ext for a GPU, here or elsewhere: `python python/benchmarks/build_for_gpu.py [--architecture 9.0a]`.

Needs nvcc and, for another machine, the Python and torch of that machine, but no GPU. The library goes to build-gpu/,
which git ignores and which can be carried to another machine; the library in the tree, which may be that of another
Python, stays as it is. With build-gpu/ behind the tree in PYTHONPATH, pdb_ext finds it as it finds an installed one, by
the fingerprint of its sources, so that a library of other sources is never measured. `gpu_check.py` does that.
"""

import argparse
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build-gpu"
COMMANDS = """Carry build-gpu/ ({size:.1f} MB) with the tree to a machine with this Python and torch, and run there
    python python/benchmarks/gpu_check.py --no-build --stage quick --out build-check
    python python/benchmarks/gpu_check.py --no-build --stage full --out build-check"""


def build(architecture: str) -> int:
    """The exit status of the compilation."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(FOLDER), "--build-temp", "build-objects"]
    environment = os.environ | {"PDB_EXT_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architecture}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def describe() -> None:
    """The few lines by which importlib.metadata takes the folder for an installed pdb_ext."""
    version = runpy.run_path(str(ROOT / "pdb_ext/_version.py"))["__version__"]
    folder = FOLDER / f"pdb_ext-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pdb-ext\nVersion: {version}\n")


def is_stale() -> bool:
    """Whether there is a library, but of other sources than these."""
    record = FOLDER / "pdb_ext/_build.json"
    fingerprint = runpy.run_path(str(ROOT / "pdb_ext/_sources.py"))["fingerprint"]
    return record.is_file() and json.loads(record.read_text())["sources"] != fingerprint(ROOT / "csrc")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--architecture", default="9.0a", help="as in TORCH_CUDA_ARCH_LIST (default: %(default)s, an H100)"
    )
    arguments = parser.parse_args()
    status = build(arguments.architecture)
    if status == 0:
        describe()
        print(COMMANDS.format(size=sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) / 1e6))
    return status


if __name__ == "__main__":
    sys.exit(main())
