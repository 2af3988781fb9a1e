"""Runs the kernels of csrc/cuda on the host: builds them with tests/kernels/cuda_host, calls them through ctypes."""

import ctypes
import functools
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from helpers.compiling import built_once, compile_all, compiler
from helpers.paths import CSRC, CUDA, TESTS

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
HOST = TESTS / "kernels/cuda_host"
RESIDENT_BLOCKS = 132  # of the emulated GPU, where it may launch cooperatively
NO_FAULT, MISSING, RELAXED = range(3)  # host::Fault of tests/kernels/cuda_host/cuda_host.h
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]


class Arguments(ctypes.Structure):
    """`Arguments` of tests/kernels/cuda_host/c_api.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in "T N Cin C H W kernel dilation".split()),
        ("reverse", ctypes.c_bool),
        ("peephole_current", ctypes.c_bool),
        ("tensor_cores", ctypes.c_bool),
        ("persistent", ctypes.c_bool),
        ("peephole_stride", ctypes.c_int64 * 4),
        ("is_packed", ctypes.c_bool),
        ("arrays", ctypes.c_void_p * 32),
    ]


@functools.cache
def host_library() -> Path:
    """Kernels, time loop and emulation, compiled into one library for the test run. Skips without a C++ compiler."""
    return built_once("cuda_on_host", _build) / "libcuda_on_host.so"


def _build(folder: Path) -> None:
    sources = [*CUDA.rglob("*.cu"), *CUDA.rglob("*.cpp"), HOST / "cuda_host.cpp", HOST / "c_api.cpp"]
    include = [f"-I{CSRC}", f"-I{HOST}", "-include", str(HOST / "device_functions.h")]
    objects = compile_all([compiler(), *FLAGS, *include], sources, folder)
    subprocess.run([compiler(), "-shared", *map(str, objects), "-o", str(folder / "libcuda_on_host.so")], check=True)


class HostKernels:
    """The two ops on the emulated GPU. Every array that a kernel must write is full of NaN first."""

    def __init__(self, tensor_cores: bool = False, persistent: bool = False):
        self.tensor_cores, self.persistent = tensor_cores, persistent
        self.library = ctypes.CDLL(str(host_library()))
        for name in ("forward_packed", "forward_workspace", "backward_workspace"):
            getattr(self.library, f"pdb_{name}").restype = ctypes.c_int64
        self.library.pdb_pyramid_fits.restype = ctypes.c_bool
        self.library.pdb_set_seed.argtypes = [ctypes.c_uint64]
        self.library.pdb_set_resident_blocks.argtypes = [ctypes.c_int64]

    def pyramid_fits(self, sizes, dtype, backward: bool, resident_blocks: int) -> bool:
        """Whether one launch can run two branches, both directions. sizes: T, N, Cin, C, H, W; blocks: by registers."""
        self.library.pdb_set_resident_blocks(resident_blocks)
        layer = Arguments(*sizes, 3, 1, False, False, self.tensor_cores, True)
        return self.library.pdb_pyramid_fits(DTYPES[dtype], ctypes.byref(layer), ctypes.c_bool(backward))

    def _arguments(self, x, weight_h, peephole, options, arrays) -> Arguments:
        dilation, reverse, peephole_current = options
        C, kernel = weight_h.shape[1], weight_h.shape[2]
        T, N, Cin, H, W = x.shape
        strides = (ctypes.c_int64 * 4)(*(peephole.stride() if peephole is not None else (0,) * 4))
        pointers = (ctypes.c_void_p * 32)(*(None if a is None else a.data_ptr() for a in arrays))
        flags = (reverse, peephole_current, self.tensor_cores, self.persistent)
        return Arguments(T, N, Cin, C, H, W, kernel, dilation, *flags, strides, False, pointers)

    def forward(self, x, weight_x, weight_h, bias, peephole, h_0, c_0, *options, save: bool, recompute: bool = False):
        """-> output, c_n, gates, cells. options: dilation, reverse, peephole_current.

        The last two are None without save; gates also with recompute.
        """
        T, N, _, H, W = x.shape
        state = (N, weight_h.shape[1], H, W)
        accumulation = torch.promote_types(x.dtype, torch.float32)
        output, c_n = _unwritten((T, *state), x.dtype), _unwritten(state, x.dtype)
        gates = _unwritten((T, N, 4, *state[1:]), x.dtype) if save and not recompute else None
        cells = _unwritten((T, *state), accumulation) if save else None
        tensors = [x, weight_x, weight_h, bias, peephole, h_0, c_0, output, c_n, gates, cells]
        self.library.pdb_set_resident_blocks(RESIDENT_BLOCKS if self.persistent else 0)
        arguments = self._arguments(x, weight_h, peephole, options, tensors)
        packed = self.library.pdb_forward_packed(DTYPES[x.dtype], ctypes.byref(arguments))
        size = self.library.pdb_forward_workspace(DTYPES[x.dtype], ctypes.byref(arguments), int(save))
        tensors += [_unwritten((packed,), accumulation), _unwritten((size,), accumulation)]
        self._run("forward", x, weight_h, peephole, options, tensors)
        return output, c_n, gates, cells

    def backward(self, grad_output, grad_c_n, x, weight_x, weight_h, bias, peephole, h_0, c_0, saved, *options):
        """-> gradients of x, weight_x, weight_h, bias, peephole, h_0, c_0. saved: what forward returned."""
        output, c_n, gates, cells = saved
        T, N, _, H, W = x.shape
        C = weight_h.shape[1]
        shapes = [x.shape, weight_x.shape, weight_h.shape, (4 * C,), (3, C, H, W), c_n.shape, c_n.shape]
        grads = [_unwritten(shape, x.dtype) for shape in shapes]
        tensors = [grad_output, grad_c_n, x, weight_x, weight_h, bias, peephole, h_0, c_0, output, gates, cells, *grads]
        self.library.pdb_set_resident_blocks(RESIDENT_BLOCKS if self.persistent else 0)
        arguments = self._arguments(x, weight_h, peephole, options, tensors)
        size = self.library.pdb_backward_workspace(DTYPES[x.dtype], ctypes.byref(arguments), int(gates is not None))
        tensors.append(_unwritten((size,), cells.dtype))
        self._run("backward", x, weight_h, peephole, options, tensors)
        return grads

    def _run(self, function, x, weight_h, peephole, options, tensors):
        arguments = self._arguments(x, weight_h, peephole, options, tensors)
        error = getattr(self.library, f"pdb_{function}")(DTYPES[x.dtype], ctypes.byref(arguments))
        assert error == 0, f"{error} == pdb_{function}"


def _unwritten(shape, dtype) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)
