"""Where the tools of the CUDA toolkit are, for whatever compiles or disassembles kernels without a GPU."""

import importlib.util
import os
import shutil
from pathlib import Path


def find_tool(name: str, home: str | None = os.environ.get("CUDA_HOME")) -> str | None:
    """A tool's path: in PATH, in the toolkit at `home`, or from a package of the nvidia namespace; else None."""
    folders = [Path(home, "bin")] if home else []
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        folders += sorted(Path(root).glob("*/bin"))
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))
