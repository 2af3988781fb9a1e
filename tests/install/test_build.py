"""How the package is built and loaded. Real installations are in install_matrix.py, which .ci/run runs."""

import importlib.util
import inspect
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pdb_ext
import pdb_saliency
from helpers.paths import ROOT
from pdb_ext import _library
from pdb_ext._sources import fingerprint


@pytest.fixture(scope="module")
def build():
    pytest.importorskip("setuptools")
    specification = importlib.util.spec_from_file_location("build_backend", ROOT / "build_backend.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def program(path: Path, script: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def toolkit(tmp_path):
    """A CUDA toolkit that only answers questions."""
    program(
        tmp_path / "cuda/bin/nvcc",
        f"""case "$1" in
        --version) echo "release 13.0, V13.0.88";;
        --list-gpu-arch) echo compute_80 compute_90 compute_100;;
        --dryrun) echo "#$ TOP={tmp_path}/cuda/bin/.." >&2;;
        esac""",
    )
    (tmp_path / "cuda/include").mkdir()
    (tmp_path / "cuda/include/cuda_runtime.h").touch()
    return tmp_path / "cuda"


@pytest.mark.parametrize("package, folder", [(pdb_ext, "pdb_ext"), (pdb_saliency, "python/pdb_saliency")])
def test_what_is_tested_is_this_source_tree(package, folder):
    """Else an installation from before the last change would be tested."""
    installed = Path(package.__file__).parent
    for source in (ROOT / folder).rglob("*.py"):
        copy = installed / source.relative_to(ROOT / folder)
        assert copy.is_file() and copy.read_bytes() == source.read_bytes(), f"{copy} is out of date: run pip install ."


def test_library_is_compiled_from_these_sources():
    if _library.native is None:
        pytest.skip(f"no compiled library: {_library.why_not_native}")
    assert _library.record["sources"] == fingerprint(ROOT / "csrc"), "the library is out of date: run pip install ."


class CalledOps(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:pdb_ext has no native")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_build_info_names_the_implementation_that_runs(device, dtype):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    listed = pdb_ext.build_info()["implementations"]
    words = listed[device][str(dtype).removeprefix("torch.")] if device in listed else listed["other devices"]
    like = {"dtype": dtype, "device": device}
    x, weight = torch.zeros(1, 1, 2, 3, 3, **like), torch.zeros(8, 2, 3, 3, **like)
    with CalledOps() as called:
        pdb_ext.convlstm(x, weight, weight)
    assert words.split()[0] == ("native" if "pdb_ext::convlstm" in called.names else "reference")


def test_build_info_names_a_forced_path(monkeypatch):
    monkeypatch.setattr(_library, "NATIVE_DEVICES", frozenset({"cpu", "cuda"}))
    monkeypatch.setattr(_library, "record", (_library.record or {}) | {"cuda_architectures": ["9.0a"]})
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "aten")
    info = pdb_ext.build_info()
    assert info["cuda_path"] == "aten" and info["implementations"]["cuda"]["float32"] == "native CUDA (9.0a)"


def test_build_info_is_plain_and_complete(monkeypatch):
    monkeypatch.delenv("PDB_EXT_CUDA_PATH", raising=False)
    info = json.loads(json.dumps(pdb_ext.build_info()))
    assert info["torch"] == torch.__version__ and info["pdb_ext"] == pdb_ext._version.__version__
    assert (info["why_not_native"] is None) == info["native"] == (info["cpu_capability"] is not None)
    assert info["cuda_path"] == ("by problem size" if "cuda" in _library.NATIVE_DEVICES else None)
    if info["native"]:
        assert {"torch", "compiler", "cxx_flags", "cuda", "why_no_cuda"} <= info["built_with"].keys()


PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
RUNNING = {"native": True, "python": PYTHON, "torch": torch.__version__, "cuda": None}
PUBLIC = torch.__version__.split("+")[0]


@pytest.mark.parametrize(
    "difference, words",
    [
        ({}, None),
        ({"torch": f"{PUBLIC}+another.build"}, None),
        ({"torch": "2.5.1+cpu"}, ["torch 2.5.1 on", f"torch {PUBLIC} on"]),
        ({"python": "3.9"}, ["Python 3.9,", f"Python {PYTHON}"]),
        ({"cuda": "11.8"}, ["(CUDA 11)", f"torch {PUBLIC}"]),
        ({"torch": "2.5.1", "native": False}, None),
    ],
)
def test_library_of_another_environment_is_refused(difference, words):
    message = _library.mismatch(RUNNING | difference)
    assert (message is None) == (words is None)
    assert all(word in message for word in words or [])


def test_fingerprint_follows_names_and_contents(tmp_path):
    seen = {fingerprint(tmp_path)}
    for name, text in [("a.h", ""), ("a.h", "x"), ("cuda/b.cu", ""), ("cuda/b.cu", "x")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        seen.add(fingerprint(tmp_path))
    assert len(seen) == 5
    (tmp_path / "notes.txt").write_text("no source")
    assert fingerprint(tmp_path) in seen


@pytest.mark.parametrize(
    "version, accepted", [("2.13.0+cpu", True), ("2.6.0", True), ("3.0.0", True), ("2.5.1", False), ("1.13.1", False)]
)
def test_torch_of_the_target_is_taken_if_recent_enough(build, tmp_path, monkeypatch, version, accepted):
    metadata = tmp_path / f"torch-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(build, "_target_folders", lambda: [str(tmp_path)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert build.find_torch() == (version if accepted else None)
    assert (sys.path[-1] == str(tmp_path)) == accepted
    assert build._torch_to_fetch() == ([] if accepted else ["torch>=2.6"])


def test_target_folders_hold_this_torch(build):
    assert str(Path(torch.__file__).parents[1]) in build._target_folders()


@pytest.mark.parametrize("sees_system", ["true", "false"])
def test_a_virtual_environment_may_see_the_torch_of_the_system(build, tmp_path, monkeypatch, sees_system):
    (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = {sees_system}\n")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    system = build.site.getsitepackages([sys.base_prefix])
    assert all((folder in build._target_folders()) == (sees_system == "true") for folder in system)


def test_the_probe_compiles_for_the_standard_that_torch_uses(build):
    from torch.utils import cpp_extension

    assert f"-std={build._cxx_standard()}" in inspect.getsource(cpp_extension)


@pytest.mark.parametrize(
    "installed, libraries, expected",
    [
        (None, True, "opencv-python"),
        (None, False, "opencv-python-headless"),
        ("opencv_python", False, "opencv-python"),
        ("opencv_python_headless", True, "opencv-python-headless"),
    ],
)
def test_opencv_loads_on_this_machine(build, tmp_path, monkeypatch, installed, libraries, expected):
    if installed:
        (tmp_path / f"{installed}-5.0.0.dist-info").mkdir()
        (tmp_path / f"{installed}-5.0.0.dist-info" / "METADATA").write_text(f"Name: {installed}\nVersion: 5.0.0\n")
    monkeypatch.setattr(build, "_target_folders", lambda: [str(tmp_path)])
    monkeypatch.setattr(build.sys, "platform", "linux")
    monkeypatch.setattr(build, "find_library", lambda name: f"lib{name}.so" if libraries else None)
    assert build.opencv() == expected


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_compiler_is_found(build, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    assert build.why_no_cxx() is None


def test_missing_compiler_is_named(build, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "no C++ compiler" in build.why_no_cxx()


def test_compiler_that_is_too_old_is_quoted(build, tmp_path, monkeypatch):
    old = program(tmp_path / "old-c++", "echo \"old-c++: error: unrecognized option '-std=c++20'\" >&2; exit 1")
    monkeypatch.setenv("CXX", str(old))
    assert "unrecognized option" in build.why_no_cxx()


def test_missing_python_headers_are_named(build, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(program(tmp_path / "c++", "exit 0")))
    monkeypatch.setattr(build.sysconfig, "get_path", lambda name: str(tmp_path / name))
    assert f"{tmp_path}/include/Python.h was missing" in build.why_no_cxx()


@pytest.mark.parametrize(
    "torch_cuda, words", [("13.0", None), ("13.2", None), ("12.8", "CUDA 13.0, but torch was built with CUDA 12.8"),
                          (None, "torch was built without CUDA")]
)  # fmt: skip
def test_cuda_needs_nvcc_of_the_same_major_version(build, toolkit, monkeypatch, torch_cuda, words):
    monkeypatch.delenv("PDB_EXT_CUDA", raising=False)
    reason = build.why_no_cuda(torch_cuda, toolkit)
    assert reason is None if words is None else words in reason


def test_cuda_can_be_left_out(build, toolkit, monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA", "0")
    assert build.why_no_cuda("13.0", toolkit) == "PDB_EXT_CUDA=0 was set"
    monkeypatch.delenv("PDB_EXT_CUDA")
    assert "no nvcc" in build.why_no_cuda("13.0", None)
    (toolkit / "include/cuda_runtime.h").unlink()
    assert "no headers" in build.why_no_cuda("13.0", toolkit)


def test_cuda_toolkit_is_found_behind_a_script(build, toolkit, tmp_path, monkeypatch):
    program(tmp_path / "elsewhere/nvcc", f'exec "{toolkit}/bin/nvcc" "$@"')
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/elsewhere{os.pathsep}{os.environ['PATH']}")
    assert build.cuda_home() == toolkit
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert build.cuda_home() is None


def test_architectures(build, toolkit, monkeypatch):
    nvcc = toolkit / "bin/nvcc"
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    assert build.cuda_architectures(nvcc) == ["8.0", "9.0a", "10.0+PTX"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0a;12.0+PTX")
    assert build.architecture_flags(build.cuda_architectures(nvcc)) == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    with pytest.raises(SystemExit, match="9.0a or 12.0.PTX, got 'Hopper'"):
        build.cuda_architectures(nvcc)
