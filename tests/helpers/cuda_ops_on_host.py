"""The CUDA side of the ops (csrc/ops/cuda) on the host, as torch ops on CPU tensors."""

import contextlib
import ctypes
import functools
import subprocess
import unittest.mock
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils import cpp_extension

from helpers.compiling import built_once, compile_all, compiler
from helpers.cuda_on_host import HOST, host_library
from helpers.paths import CSRC
from pdb_ext import runtime


@functools.cache
def host_ops():
    """The ops, registered for CPU tensors under their own name; the kernels run on the emulated GPU."""
    torch.ops.load_library(str(ops_library()))
    return torch.ops.pdb_ext_on_host


def host_convgru(x, weight_x, weight_h, bias=None, h_0=None, *, dilation=1, reverse=False):
    """As `pdb_ext.convgru`, on the emulated GPU."""
    output, _ = host_ops().convgru(x, weight_x, weight_h, bias, h_0, dilation, reverse, True)
    return output, output[0 if reverse else -1]


def last_call() -> tuple[str, str, str, int, bool]:
    """The record of the last call of an op: op, path, kernel, layers, tensor_cores."""
    library = ctypes.CDLL(str(ops_library()))
    for name in ("op", "path", "kernel"):
        getattr(library, f"pdb_last_{name}").restype = ctypes.c_char_p
    library.pdb_last_tensor_cores.restype = ctypes.c_bool
    names = (getattr(library, f"pdb_last_{name}")().decode() for name in ("op", "path", "kernel"))
    return (*names, library.pdb_last_layers(), library.pdb_last_tensor_cores())


class _OnHost:
    """The functions of the library that `pdb_ext.cache_weights()` calls, for the ops on the host."""

    def __getattr__(self, name):
        return getattr(ctypes.CDLL(str(ops_library())), f"pdb_{name}")


@contextlib.contextmanager
def cached_weights() -> Iterator[None]:
    """`pdb_ext.cache_weights()` for the ops on the host."""
    with unittest.mock.patch.object(runtime, "native", _OnHost()), runtime.cache_weights():
        yield


@functools.cache
def ops_library() -> Path:
    """Compiled for the test run, and linked to host_library()."""
    host_library()
    return built_once("cuda_ops_on_host", _build) / "cuda_ops_on_host.so"


def _build(folder: Path) -> None:
    sources = []
    ops = CSRC / "ops"
    for path in [*(path for path in ops.glob("*.cpp") if path.name != "module.cpp"), *ops.glob("cuda/*.cpp")]:
        text = path.read_text()
        # Chunks of two steps of SIZES in float64, of many in half precision.
        text = text.replace("kChunkBytes = 256 << 20", "kChunkBytes = 16 << 10")
        text = text.replace("TORCH_LIBRARY_IMPL(pdb_ext, CUDA,", "TORCH_LIBRARY_IMPL(pdb_ext_on_host, CPU,")
        # The CPU's kernels are not tested here.
        text = text.replace("TORCH_LIBRARY_IMPL(pdb_ext, CPU,", "TORCH_LIBRARY_IMPL(pdb_ext_on_host, Meta,")
        text = text.replace("TORCH_LIBRARY_IMPL(pdb_ext, Autograd,", "TORCH_LIBRARY_IMPL(pdb_ext_on_host, Autograd,")
        text = text.replace("TORCH_LIBRARY(pdb_ext,", "TORCH_LIBRARY(pdb_ext_on_host,")
        text = text.replace("FRAGMENT(pdb_ext,", "FRAGMENT(pdb_ext_on_host,")
        text = text.replace('"pdb_ext::', '"pdb_ext_on_host::')
        assert "(pdb_ext," not in text, f"{path}: would register itself for the ops that are not on the host"
        sources.append(folder / "_".join(path.relative_to(ops).parts))
        sources[-1].write_text(text)
    sources.append(HOST / "ops_api.cpp")
    include = [HOST, CSRC, *cpp_extension.include_paths()]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    flags = ["-std=c++20", "-O0", abi, "-g0", "-fPIC", *(f"-I{path}" for path in include)]
    link = [*(f"-L{path}" for path in cpp_extension.library_paths()), "-lc10", "-ltorch_cpu", str(host_library())]
    objects = compile_all([compiler(), *flags], sources, folder)
    command = [compiler(), "-shared", *map(str, objects), *link, "-o", str(folder / "cuda_ops_on_host.so")]
    subprocess.run(command, check=True)
