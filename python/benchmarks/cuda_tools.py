"""Where the tools of the CUDA toolkit are, for programs that compile or disassemble kernels without a GPU."""

import importlib.util
import os
import shutil
from pathlib import Path


def find_tool(name: str) -> str | None:
    """A tool's path: in PATH, the toolkit of CUDA_HOME or /usr/local/cuda, or a package of the nvidia namespace."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    folders = [Path(home, "bin")]
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        folders += sorted(Path(root).glob("*/bin"))
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))
