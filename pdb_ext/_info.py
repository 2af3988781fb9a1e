"""What this installation of pdb_ext was built from and for, and what it will run."""

import os
import platform

import torch

from . import _library
from ._version import __version__

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def build_info() -> dict:
    """Versions, build options, and the implementation that a call to `pdb_ext.convlstm` uses.

    Returns a dict of plain values (it can be dumped as JSON):

    - `pdb_ext`, `torch`, `python`: running versions;
    - `native`: whether the compiled library is loaded; `why_not_native`: if not, the reason (else None);
    - `implementations`: for each device type and dtype of the input, the implementation in words, for instance
      `build_info()["implementations"]["cpu"]["float32"]`; "other devices" stands for every device type not listed;
    - `reference_options`: what the reference computes on every device, whatever `implementations` says: names of
      arguments, and in words for which of their values;
    - `cuda_path`: how the CUDA implementation is chosen (None without one): "by problem size", or what the environment
      variable PDB_EXT_CUDA_PATH forces, "step", "persistent" or "aten";
    - `last_call`: how the last call of a native op in this process was computed (see :func:`pdb_ext.record_calls`),
      or None;
    - `cpu_capability`: instruction set of the CPU kernels on this machine (None without a library);
    - `built_with`: the record of the build: torch, CUDA, compiler, flags, CUDA architectures, and why CUDA kernels were
      left out, if they were. None in a source tree that was not built.
    """
    native = _library.native
    return {
        "pdb_ext": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "native": native is not None,
        "why_not_native": _library.why_not_native,
        "implementations": {
            "cpu": {_name(dtype): _cpu_implementation(dtype) for dtype in _DTYPES},
            "cuda": {_name(dtype): _cuda_implementation() for dtype in _DTYPES},
            "other devices": _REFERENCE,
        },
        "reference_options": dict(_REFERENCE_OPTIONS),
        "cuda_path": (os.environ.get("PDB_EXT_CUDA_PATH") or "by problem size")
        if "cuda" in _library.NATIVE_DEVICES
        else None,
        "last_call": native.last_call() if native is not None else None,
        "cpu_capability": native.cpu_capability() if native is not None else None,
        "built_with": _library.record,
    }


_REFERENCE = "reference (PyTorch)"
_REFERENCE_OPTIONS = {
    "implementation": '"reference"',
    "kernel_size": "(kh, kw) with kh != kw",
    "padding_mode": 'all but "zeros"',
    "activation": 'all but "tanh"',
    "recurrent_activation": 'all but "sigmoid"',
    "norm": "all but None",
    "recurrent_dropout": "above 0, in training",
    "recurrent_mask": "all but None",
}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cpu_implementation(dtype: torch.dtype) -> str:
    if _library.native is None:
        return _REFERENCE
    words = f"native C++ ({_library.native.cpu_capability()})"
    return f"{words}, computed in float32" if dtype in (torch.float16, torch.bfloat16) else words


def _cuda_implementation() -> str:
    if "cuda" not in _library.NATIVE_DEVICES:
        return _REFERENCE
    return f"native CUDA ({', '.join(_library.record['cuda_architectures'])})"
