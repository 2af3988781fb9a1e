"""The CUDA kernels under nvcc: no warnings, no register spills, tensor-core instructions where they are meant to be."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import CUDA_HOME

from cuda_on_host import ROOT

SOURCES = sorted(path.stem for path in ROOT.glob("csrc/cuda/*.cu"))


def find_tool(name):
    """A tool of the CUDA toolkit: in the PATH, beside nvcc, or from a package of the nvidia namespace."""
    folders = [Path(CUDA_HOME or "", "bin")]
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations if spec else []:
        folders += sorted(Path(root).glob("*/bin"))
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, folders)))
    return found or pytest.skip(f"no {name}")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Source name -> (cubin, ptxas' report by kernel)."""
    nvcc, folder = find_tool("nvcc"), tmp_path_factory.mktemp("cubins")
    processes = {}
    for name in SOURCES:
        command = [nvcc, "-std=c++17", "-cubin", "-arch=sm_90a", "-Werror", "all-warnings", "-Xptxas", "-v"]
        command += ["-o", str(folder / f"{name}.cubin"), str(ROOT / f"csrc/cuda/{name}.cu")]
        processes[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    result = {}
    for name, process in processes.items():
        report = process.communicate()[0]
        assert process.returncode == 0, report
        result[name] = folder / f"{name}.cubin", dict(re.findall(r"Function properties for (\w+)\n(.*)", report))
    return result


@pytest.mark.parametrize("name", SOURCES)
def test_no_kernel_spills_registers(compiled, name):
    _, report = compiled[name]
    assert report
    for kernel, properties in report.items():
        assert properties.strip() == "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", kernel


@pytest.mark.parametrize(
    "name", ["mma_forward_step", "mma_backward_step", "mma_weight_gradient", "persistent_forward", "persistent_backward"]
)
def test_every_tensor_core_kernel_has_tensor_core_instructions(compiled, name):
    cubin, report = compiled[name]
    listing = subprocess.run([find_tool("cuobjdump"), "-sass", str(cubin)], capture_output=True, text=True, check=True)
    functions = dict(re.findall(r"Function : (\w+)\n(.*?)(?=\n\s*Function : |\Z)", listing.stdout, re.DOTALL))
    assert functions.keys() == report.keys()
    # Beside them the persistent files have kernels without tensor cores, and those that pack weights.
    meant = [k for k in functions if not name.startswith("persistent") or ("17persistent_kernel" in k and "MmaCore" in k)]
    assert meant
    for kernel in meant:
        assert "HMMA" in functions[kernel], kernel
