"""The CUDA kernels under nvcc: no warnings, no register spills, tensor-core instructions where they belong."""

import functools
import os
import re
import subprocess
import sys

import pytest
import torch

from helpers.cuda_on_host import HostKernels
from helpers.paths import BENCHMARKS, CSRC, CUDA, ROOT

sys.path.append(str(BENCHMARKS))
import cuda_tools  # noqa: E402

BUILD = (ROOT / "build_backend.py").read_text()
ARCHITECTURES = re.findall(r'"(\d+)\.(\d+a?)"', re.search(r"^CUDA_ARCHITECTURES = (.*)$", BUILD, re.MULTILINE)[1])
ARCHITECTURES = ["".join(parts) for parts in ARCHITECTURES]
SOURCES = sorted(path.relative_to(CUDA).as_posix() for path in CUDA.rglob("*.cu"))


def find_tool(name):
    return cuda_tools.find_tool(name) or pytest.skip(f"no {name}")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Function: source name -> (object file, ptxas' report by architecture and kernel). Compiles each file once."""
    nvcc, folder = find_tool("nvcc"), tmp_path_factory.mktemp("objects")

    @functools.cache
    def compile_one(name):
        target = folder / f"{name.replace('/', '_')}.o"
        command = [nvcc, "-std=c++17", "-O3", "-c", "--threads", str(os.cpu_count()), "-Werror", "all-warnings"]
        command += [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]
        command += [f"-I{CSRC}", "-Xptxas", "-v", "-o", str(target), str(CUDA / name)]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert result.returncode == 0, result.stdout
        return target, read_report(result.stdout)

    return compile_one


def read_report(text):
    """Architecture -> kernel -> ptxas -v's line about its stack and spills, and the number of its registers.

    With several threads the reports of the architectures come one after the other, but in no fixed order.
    """
    pattern = (
        r"Compiling entry function '(\w+)' for '(\w+)'\n.*Function properties for \w+\n\s*(.*)\n.*Used (\d+) registers"
    )
    report = {}
    for kernel, architecture, properties, registers in re.findall(pattern, text):
        report.setdefault(architecture, {})[kernel] = properties.strip(), int(registers)
    return report


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_no_kernel_spills_registers(compiled, name):
    _, report = compiled(name)
    assert report.keys() == {f"sm_{number}" for number in ARCHITECTURES}
    for architecture, kernels in report.items():
        for kernel, (properties, _) in kernels.items():
            assert properties == "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", (
                architecture,
                kernel,
            )


@pytest.mark.slow
def test_a_spill_would_be_seen(tmp_path):
    """The report of a kernel that needs more registers than it may have."""
    source = tmp_path / "spill.cu"
    source.write_text(
        "__global__ void __launch_bounds__(1024) spill(float* data) {\n  float v[128];\n"
        "  for (int i = 0; i < 128; ++i) v[i] = data[i * 1024 + threadIdx.x];\n  __syncthreads();\n"
        "  for (int i = 0; i < 128; ++i) data[i * 1024 + threadIdx.x] = v[127 - i] * v[i];\n}\n"
    )
    command = [
        find_tool("nvcc"),
        "-cubin",
        "-arch=sm_80",
        "-Xptxas",
        "-v",
        "-o",
        str(tmp_path / "spill.cubin"),
        str(source),
    ]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    ((properties, _),) = read_report(result.stdout)["sm_80"].values()
    assert "0 bytes spill stores" not in properties.split(", ")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SOURCES if re.match("step/mma/|persistent/", name)])
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", "sm_120"])
def test_every_tensor_core_kernel_has_tensor_core_instructions(compiled, name, architecture):
    cuobjdump = find_tool("cuobjdump")
    target, report = compiled(name)
    listing = subprocess.run(
        [cuobjdump, "-sass", "-arch", architecture, str(target)], capture_output=True, text=True, check=True
    )
    functions = dict(re.findall(r"Function : (\w+)\n(.*?)(?=\n\s*Function : |\Z)", listing.stdout, re.DOTALL))
    assert functions.keys() == report[architecture].keys()
    # Beside them the persistent files have kernels without tensor cores, and those that pack weights.
    meant = [
        k for k in functions if not name.startswith("persistent") or ("17persistent_kernel" in k and "MmaCore" in k)
    ]
    assert meant
    for kernel in meant:
        assert "HMMA" in functions[kernel], kernel


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(
    "dtype, core",
    [(torch.float32, "Fma"), (torch.float32, "Mma"), (torch.float16, "Mma"), (torch.bfloat16, "Mma")],
    ids=str,
)
def test_the_papers_module_is_resident_on_an_h100_at_once(compiled, direction, dtype, core):
    """32 channels, 60 x 60 pixels, two branches in one launch: by ptxas' registers and the plan's shared memory."""
    _, report = compiled(f"persistent/{direction}.cu")
    name = {torch.float32: "f", torch.float16: "NS0_4HalfE", torch.bfloat16: "NS0_8BFloat16E"}[dtype]
    kernel = rf"17persistent_kernelI.*{direction.capitalize()}I{name}NS0_7{core}Core"
    (registers,) = [count for symbol, (_, count) in report["sm_90a"].items() if re.search(kernel, symbol)]
    blocks = 132 * (2**16 // (256 * (registers + 7 & ~7)))  # registers are given to threads by eights
    module = ((5, 1, 32, 32, 60, 60), dtype, direction == "backward")
    kernels = HostKernels(tensor_cores=core == "Mma")
    assert kernels.pyramid_fits(*module, blocks)
    assert not kernels.pyramid_fits(*module, 127)  # 64 tiles of two branches


PROGRAMS = ("python/benchmarks/gpu/flag_latency.cu", "tests/kernels/cuda_device/starved_wait.cu")


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_beside_the_kernels_compile(tmp_path, program):
    command = [find_tool("nvcc"), "-std=c++17", "-cubin", "-arch=sm_90", "-Werror", "all-warnings"]
    subprocess.run(
        [*command, "-I", str(CSRC), "-o", str(tmp_path / "program.cubin"), str(ROOT / program)],
        check=True,
    )
