"""Finds the compiled library `pdb_ext._C`, checks that it fits the running torch, and only then loads it.

The build leaves `_build.json`, its record, beside the library: which torch it was compiled against, for which devices,
or why nothing was compiled. There are four cases:

- library and record fit the running torch: the library is loaded, which registers the ops;
- the record says that nothing was compiled (the install found no compiler): the reference is used;
- no record: a source tree that was not built. The library of an installed pdb_ext is used if it was compiled from the
  same sources (a plain `pip install .`, then Python started in the repository's root); else the reference is used;
- the library was compiled against another torch, or does not load: ImportError, naming both versions and the remedy.
"""

import importlib.machinery
import importlib.metadata
import importlib.util
import json
import platform
import sys
from pathlib import Path
from types import ModuleType

import torch

from ._sources import fingerprint

RECORD = "_build.json"
_PACKAGE = Path(__file__).resolve().parent
_IS_SOURCE_TREE = (_PACKAGE.parent / "setup.py").is_file() and (_PACKAGE.parent / "csrc").is_dir()
_REMEDY = f"pip install -e {_PACKAGE.parent}" if _IS_SOURCE_TREE else "pip install . (in the folder of its sources)"


def _read_record(package: Path) -> dict | None:
    path = package / RECORD
    return json.loads(path.read_text()) if path.is_file() else None


def _find_build() -> tuple[Path, dict | None]:
    """The folder that holds the build to use, and its record (None: there is no build)."""
    own = _read_record(_PACKAGE)
    if not _IS_SOURCE_TREE or (own is not None and mismatch(own) is None):
        return _PACKAGE, own
    for distribution in importlib.metadata.distributions(name="pdb-ext"):
        package = Path(str(distribution.locate_file("pdb_ext"))).resolve()
        record = None if package == _PACKAGE else _read_record(package)
        if record is not None and record["sources"] == fingerprint(_PACKAGE.parent / "csrc"):
            return package, record
    return _PACKAGE, own


def mismatch(record: dict) -> str | None:
    """Why a library with this record cannot be loaded into the running Python and torch; None if it can."""
    if not record["native"]:
        return None
    built = (record["python"], _public(record["torch"]), _major(record["cuda"]))
    running = (_python_version(), _public(torch.__version__), _major(torch.version.cuda))
    if record["cuda"] is None:  # the library makes no CUDA calls, so any build of the same torch will do
        built, running = built[:2], running[:2]
    if built == running:
        return None
    return f"it was built with {_environment(*built)}, but is running with {_environment(*running)}"


def _python_version() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _public(version: str) -> str:
    return str(version).split("+")[0]


def _major(cuda: str | None) -> str | None:
    return cuda.split(".")[0] if cuda else None


def _environment(python: str, torch_version: str, cuda_major: str | None = None) -> str:
    return f"torch {torch_version}{f' (CUDA {cuda_major})' if cuda_major else ''} on Python {python}"


def _refuse(reason: str) -> ImportError:
    return ImportError(
        f"pdb_ext: the compiled library does not fit: {reason}. Build it for this environment: {_REMEDY}"
    )


def _load(package: Path, record: dict) -> ModuleType:
    reason = mismatch(record)
    if reason is not None:
        raise _refuse(reason)
    spec = importlib.machinery.PathFinder.find_spec("pdb_ext._C", [str(package)])
    if spec is None or spec.loader is None:
        raise _refuse(f"{RECORD} names a library, but {package} holds none")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        raise _refuse(f"loading it failed ({error})") from error
    return sys.modules.setdefault("pdb_ext._C", module)


_folder, record = _find_build()

native: ModuleType | None = None
"""The loaded library, or None; `why_not_native` then says why."""

why_not_native: str | None = None
"""The reason why there is no library, phrased to follow "because"; None if there is one."""

NATIVE_DEVICES: frozenset[str] = frozenset()
"""The device types that the library has kernels for; every other device uses the reference."""

if record is None and not _IS_SOURCE_TREE:
    raise _refuse(f"{_PACKAGE / RECORD}, which describes it, is missing")
if record is None:
    why_not_native = f"{_PACKAGE} is a source tree without a compiled library; build it: {_REMEDY}"
elif not record["native"]:
    why_not_native = record["why_not_native"]
else:
    native = _load(_folder, record)
    NATIVE_DEVICES = frozenset({"cpu", "cuda"} if record["cuda"] else {"cpu"})
