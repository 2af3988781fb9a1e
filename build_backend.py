"""PEP 517 backend: setuptools, building against the torch that the target environment already has.

A front end builds in an isolated environment, which hides the installed torch. Asking for torch there would download a
second one, often another version, and a C++ library runs only with the version it was built with. pip runs the isolated
build with the target's own interpreter, so the target's site-packages are known: if a fitting torch is there, it is
made importable. If not (an empty environment, or a front end that builds in a fresh one), torch is requested, and
setup.py makes the package require exactly the version that was used.

The rest of the module says what the build can use: the C++ compiler, nvcc, the GPU architectures.
"""

import importlib.metadata
import importlib.util
import os
import re
import runpy
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from ctypes.util import find_library
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (the hooks that stay as they are)

OLDEST_TORCH = (2, 6)
TORCH_REQUIREMENT = f"torch>={OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}"
CUDA_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0a", "10.0", "12.0")


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch_to_fetch()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _torch_to_fetch()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    for left_over in Path("build").glob("lib*"):  # setuptools would pack whatever an earlier build left here
        shutil.rmtree(left_over)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def _torch_to_fetch() -> list[str]:
    return [] if find_torch() else [TORCH_REQUIREMENT]


def find_torch() -> str | None:
    """The version of the torch to build with, which is importable from here on; None if there is no fitting one."""
    if importlib.util.find_spec("torch") is not None:
        version = importlib.metadata.version("torch")
        return version if _is_recent(version) else None
    for folder in _target_folders():
        for distribution in importlib.metadata.distributions(name="torch", path=[folder]):
            if _is_recent(distribution.version):
                sys.path.append(folder)  # last: build tools come from the isolated environment
                return distribution.version
    return None


def _is_recent(torch_version: str) -> bool:
    major, minor = torch_version.split(".")[:2]
    return (int(major), int(minor)) >= OLDEST_TORCH


def _target_folders() -> list[str]:
    """The folders that the target environment imports from."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    settings = Path(sys.prefix, "pyvenv.cfg")
    if not settings.is_file() or re.search(r"include-system-site-packages\s*=\s*true", settings.read_text()):
        folders += [site.getusersitepackages(), *site.getsitepackages([sys.base_prefix])]
    return list(dict.fromkeys(folders))


def new_record() -> dict:
    """What `_build.json` says of a build in which nothing is compiled."""
    fingerprint = runpy.run_path("pdb_ext/_sources.py")["fingerprint"]
    return {"native": False, "cuda": None, "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
            "sources": fingerprint(Path("csrc"))}  # fmt: skip


def opencv() -> str:
    """opencv-python; where its windows have no system libraries, and it would not load, the same without windows.

    What the target environment already has is kept: the two install the same files.
    """
    for name in ("opencv-python", "opencv-python-headless"):
        if any(
            True for folder in _target_folders() for _ in importlib.metadata.distributions(name=name, path=[folder])
        ):
            return name
    has_windows = sys.platform != "linux" or all(find_library(name) for name in ("GL", "xcb", "gthread-2.0"))
    return "opencv-python" if has_windows else "opencv-python-headless"


def cxx_compiler() -> str | None:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((name for name in names if shutil.which(name.split()[0])), None)


def why_no_cxx() -> str | None:
    """Why no C++ at all can be compiled for torch here, in one line; None if it can."""
    compiler = cxx_compiler()
    if compiler is None:
        return "no C++ compiler was found when it was installed; install g++ and then pdb_ext again"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        return f"{header} was missing when it was installed; install python3-dev or its like and then pdb_ext again"
    standard = _cxx_standard()
    source = "#include <Python.h>\n#include <vector>\nstd::vector<PyObject*> objects;\n"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "probe.cpp").write_text(source)
        flags = [f"-std={standard}", "-shared", "-fPIC", f"-I{header.parent}", "-o", "probe.so"]
        command = [*compiler.split(), *flags, "probe.cpp"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode == 0:
        return None
    errors = [line.strip() for line in result.stderr.splitlines() if "error" in line.lower()]
    message = (errors or [result.stderr.strip()])[0]
    return f"{compiler} could not compile {standard} when it was installed: {message}"


def _cxx_standard() -> str:
    """The newest -std that torch asks its extensions to be compiled with."""
    extension_builder = Path(importlib.util.find_spec("torch").origin).parent / "utils" / "cpp_extension.py"
    return max(re.findall(r"c\+\+\d\d", extension_builder.read_text()), default="c++17")


def openmp_link_flags(compiler: str) -> list[str]:
    """With GCC the OpenMP functions come from the runtime that torch has loaded, and with it torch's number of threads.
    Clang's calls need Clang's own runtime."""
    return ["-fopenmp"] if "clang" in compiler else []


def cuda_home() -> Path | None:
    """The CUDA toolkit. nvcc itself is asked where it is, since the one on PATH may be a script that calls another."""
    chosen = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if chosen is None and shutil.which("nvcc"):
        steps = subprocess.run(
            ["nvcc", "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True
        ).stderr
        top = re.search(r"^#\$ TOP=(.+)$", steps, re.MULTILINE)
        chosen = os.path.normpath(top[1]) if top else None
    home = Path(chosen or "/usr/local/cuda")
    return home if (home / "bin" / "nvcc").is_file() else None


def why_no_cuda(torch_cuda: str | None, home: Path | None) -> str | None:
    """Why CUDA sources cannot be compiled, in one line; None if they can. Whether a GPU is present does not matter."""
    if os.environ.get("PDB_EXT_CUDA") == "0":
        return "PDB_EXT_CUDA=0 was set"
    if torch_cuda is None:
        return "torch was built without CUDA"
    if home is None:
        return "no nvcc was found (set CUDA_HOME to the CUDA toolkit)"
    if not (home / "include" / "cuda_runtime.h").is_file():
        return f"{home} has nvcc, but no headers (cuda_runtime.h)"
    found = nvcc_version(home / "bin" / "nvcc")
    if found.split(".")[0] != torch_cuda.split(".")[0]:
        return f"{home} is CUDA {found}, but torch was built with CUDA {torch_cuda}"
    return None


def nvcc_version(nvcc: Path) -> str:
    return re.search(r"release (\d+\.\d+)", _output(nvcc, "--version"))[1]


def cuda_architectures(nvcc: Path) -> list[str]:
    """The architectures to compile for, as in TORCH_CUDA_ARCH_LIST ("9.0a", "12.0+PTX"), whose value goes first."""
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    for name in chosen:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
            raise SystemExit(
                f"TORCH_CUDA_ARCH_LIST: expected architectures such as 8.0, 9.0a or 12.0+PTX, got '{name}'"
            )
    if chosen:
        return chosen
    offered = _output(nvcc, "--list-gpu-arch").split()
    known = [name for name in CUDA_ARCHITECTURES if f"compute_{name.rstrip('a').replace('.', '')}" in offered]
    return [*known[:-1], f"{known[-1]}+PTX"]


def architecture_flags(architectures: list[str]) -> list[str]:
    flags = []
    for name in architectures:
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def compile_jobs() -> int:
    """How many compilers may run at once: one for each processor, and 2 GiB of free memory for each."""
    try:
        processors = len(os.sched_getaffinity(0))
        kibibytes = int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    except (AttributeError, OSError):  # not Linux
        return 2
    return max(1, min(processors, kibibytes // 2**21))


def first_line(program: str, argument: str) -> str:
    return _output(program, argument).splitlines()[0]


def _output(program: str | Path, argument: str) -> str:
    return subprocess.run([*str(program).split(), argument], capture_output=True, text=True, check=True).stdout
