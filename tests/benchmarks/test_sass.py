"""python/benchmarks/sass.py on small kernels whose compiled form is predictable."""

import json
import subprocess
from pathlib import Path

import pytest

from helpers.paths import BENCHMARKS

KERNELS = """
__global__ void chain(const int* a, int* out) { out[threadIdx.x] = a[a[a[a[threadIdx.x]]]]; }
__global__ void together(const int* a, int* out) {
  const int t = threadIdx.x;
  out[t] = a[t] + a[t + 64] + a[t + 256] + a[t + 512];
}
__global__ void __launch_bounds__(512) nested(const float* a, float* out, int n) {
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
    float part = 0;
#pragma unroll 1
    for (int j = threadIdx.x; j < 128; j += 4) part = part * part + a[i * 128 + j];
    sum += sqrtf(part);
  }
  out[threadIdx.x] = sum;
}
__global__ void leftover(const float* a, float* out) {
  float sum = 0;
#pragma unroll 4
  for (int j = threadIdx.x / 32; j < 128; j += 4) if (sum < 1) sum = sum * sum + a[j];
  out[threadIdx.x] = sum;
}
__global__ void unrolled(const float* a, float* out, int n) {
  float sum = 0;
#pragma unroll 4
  for (int j = 0; j < n; ++j) sum = sum * sum + a[j * 32];
  out[threadIdx.x] = sum;
}
__global__ void divide(const long long* a, long long* out) {
  const int t = threadIdx.x;
  out[t] = a[t] / a[t + 32];
}
__global__ void reduce(const float* a, float* out) {
  __shared__ float shared[256];
  shared[threadIdx.x] = a[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x ^ 37] + shared[threadIdx.x ^ 5];
  __threadfence();
}
template <class T> struct Policy {};
template <class T> __global__ void __launch_bounds__(1024) spill(float* data) {
  float v[128];
  for (int i = 0; i < 128; ++i) v[i] = data[i * 1024 + threadIdx.x];
  __syncthreads();
  for (int i = 0; i < 128; ++i) data[i * 1024 + threadIdx.x] = v[127 - i] * v[i];
}
template __global__ void spill<Policy<float>>(float*);
"""
COPIES = """
#include <cuda_pipeline.h>
__global__ void copies(const float4* a, float4* out) {
  __shared__ float4 shared[64];
  const int t = threadIdx.x;
  __pipeline_memcpy_async(shared + t, a + t, 16);
  __pipeline_memcpy_async(shared + t + 32, a + t + 32, 16);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  out[t] = shared[t ^ 1];
  out[t + 32] = shared[(t + 32) ^ 1];
}
"""


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """Function: name -> (what the compiler says, paths) of a kernel of KERNELS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        from sass_compile import compile_kernels
        from sass_way import Ways

        needs_tools()
        source = tmp_path_factory.mktemp("kernels") / "small.cu"
        source.write_text(KERNELS)
        compiled = {c.name: c for c in compile_kernels(source.parent, source, "90a")}
    return lambda name: (compiled[name], Ways(compiled[name].kernel))


def needs_tools():
    from cuda_tools import find_tool

    for name in ("nvcc", "nvdisasm"):
        if find_tool(name) is None:
            pytest.skip(f"no {name}")


@pytest.mark.parametrize(
    "upper, expected",
    [
        (0x000E2E0000002100, (7, 0, None, ())),  # S2R R10, SR_TID.X: a later instruction waits for its result
        (0x002FCC000F8E003F, (6, None, None, (1,))),  # UIMAD.WIDE.U32 UR6, UR5, UR10, URZ: UR5 came by S2UR
        (0x000FEA0003800000, (5, None, None, ())),  # BRA
    ],
)
def test_scheduling_bits(upper, expected):
    from sass_parse import Control

    control = Control.decode(upper)
    assert (control.stall, control.write, control.read, control.wait) == expected


@pytest.mark.parametrize("name, trips, flight", [("chain", 4, 1), ("together", 1, 4)])
def test_round_trips(kernels, name, trips, flight):
    from sass_machine import L2_HIT

    run = kernels(name)[1].whole
    assert (run.loads, run.trips, run.in_flight) == (4, trips, flight)
    assert trips * L2_HIT < run.cycles < trips * (L2_HIT + 20) + 150


def test_every_wait_is_for_a_result_that_is_on_its_way(kernels):
    """The decoded scoreboards are consistent: an instruction waits for one only after another has set it."""
    held = set()
    for instruction in kernels("together")[0].kernel.instructions:
        assert held.issuperset(instruction.control.wait), instruction
        held |= {instruction.control.write, instruction.control.read}
    assert held - {None}


def test_loops(kernels):
    compiled, ways = kernels("nested")
    (outer_depth, outer), (inner_depth, inner) = ways.flow.all_loops()
    assert (outer_depth, inner_depth) == (0, 1) and inner.blocks < outer.blocks
    assert (outer.passes, inner.passes) == (None, 32)
    assert ways.loop(inner).loads == ways.loop(inner).trips == 1
    assert ways.loop(outer).loads == 32 and ways.whole.loads == 32
    assert 32 * ways.loop(inner).cycles < ways.loop(outer).cycles < 40 * ways.loop(inner).cycles
    assert compiled.warps() == 4


@pytest.mark.parametrize("name, loads", [("leftover", 32), ("unrolled", 4)])
def test_leftovers_of_an_unrolled_loop_are_gone_around(kernels, name, loads):
    """One pass is 4 loads; of `leftover` it is known that there are 8."""
    assert kernels(name)[1].whole.loads == loads


def test_slow_subroutines_are_gone_around(kernels):
    _, ways = kernels("divide")
    assert any(block.call for block in ways.flow.blocks.values())
    assert all(e.instruction.name != "CALL" for e in ways.whole.executed)


def test_barriers_and_fences_cost(kernels):
    run = kernels("reduce")[1].whole
    cycles = {e.instruction.name: e.cycles for e in run.executed}
    assert cycles["MEMBAR"] > 700 and cycles["BAR"] >= 20


def test_asynchronous_copies_are_one_round_trip(tmp_path):
    from sass_compile import compile_kernels
    from sass_way import Ways

    needs_tools()
    source = tmp_path / "copies.cu"
    source.write_text(COPIES)
    (compiled,) = compile_kernels(tmp_path, source, "90a")
    run = Ways(compiled.kernel).whole
    assert (run.loads, run.trips, run.in_flight) == (2, 1, 2)


def test_a_spill_is_seen(kernels):
    assert kernels("spill<Policy<float>>")[0].spills > 0
    assert kernels("chain")[0].spills == 0


def test_names():
    from sass_compile import brief_name, shortened

    policy = "pdb::cuda::(anonymous namespace)::Forward<float, pdb::cuda::Core<float, true> >"
    assert brief_name(f"void pdb::cuda::kernel<{policy} >(int, T<1>)") == "kernel<Forward<float, Core<float, true>>>"
    assert brief_name("chain(int const*, int*)") == "chain"
    assert shortened(["k<F<float, C<float, true>>>", "k<F<Half, C<Half, true>>>"]) == [
        "k<F<float, C>>",
        "k<F<Half, C>>",
    ]
    assert shortened(["k<F<C<1>>>", "k<F<C<2>>>"]) == ["k<F<C<1>>>", "k<F<C<2>>>"]


@pytest.mark.parametrize(
    "given, expected",
    [
        ([], ["persistent/forward.cu", "step/fma/forward.cu", "step/mma/forward.cu"]),
        (["forward.cu"], ["persistent/forward.cu", "step/fma/forward.cu", "step/mma/forward.cu"]),
        (["persistent/forward.cu"], ["persistent/forward.cu"]),
        (["mma/forward.cu", "csrc/cuda/step/fma/forward.cu"], ["step/fma/forward.cu", "step/mma/forward.cu"]),
        (["ward.cu", "nt/forward.cu"], []),
    ],
    ids=str,
)
def test_a_file_is_named_by_the_end_of_its_path(tmp_path, given, expected):
    from sass_compile import sources

    for folder in ("persistent", "step/fma", "step/mma"):
        path = tmp_path / "csrc/cuda" / folder / "forward.cu"
        path.parent.mkdir(parents=True)
        path.touch()
    found = sources(tmp_path, [Path(path) for path in given])
    assert [path.relative_to(tmp_path / "csrc/cuda").as_posix() for path in found] == expected


def test_the_command_compares_with_a_commit(tmp_path, capsys):
    import sass

    needs_tools()
    source = tmp_path / "csrc/cuda/some/kernel.cu"
    source.parent.mkdir(parents=True)
    before = "__global__ void sum(const int* a, int* out) {\n  out[threadIdx.x] = %s;\n}\n"
    source.write_text(before % "a[a[a[a[threadIdx.x]]]]")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "Before"], check=True)
    source.rename(source.parents[1] / "kernel.cu")
    (source.parents[1] / "kernel.cu").write_text(before % "a[threadIdx.x] + a[threadIdx.x + 32]")

    command = ["kernel.cu", "--repository", str(tmp_path), "--json", str(tmp_path / "numbers.json")]
    sass.main([*command, "--against", "HEAD", "--at", "out.threadIdx.x. ="])
    heading, name, row = capsys.readouterr().out.splitlines()
    assert heading.split() == "registers spills size on the path loads trips flight alone busy".split()
    assert name == "sum" and "4 -> 2" in row and "4 -> 1" in row and "1 -> 2" in row
    (now,), (then,) = (json.loads((tmp_path / "numbers.json").read_text())[key] for key in ("kernels", "before"))
    assert (now["trips"], then["trips"]) == (1, 4) and now["alone"] < then["alone"] / 3
    worktrees = subprocess.run([*git, "worktree", "list"], capture_output=True, text=True, check=True).stdout
    assert len(worktrees.splitlines()) == 1

    sass.main([*command, "--by-line", "--blocks", "5"])
    assert "kernel.cu:2  out[threadIdx.x] = a[threadIdx.x] + a[threadIdx.x + 32];" in capsys.readouterr().out
