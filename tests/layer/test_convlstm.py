"""The native op against the reference: values, gradients, accuracy, layouts, states, threads."""

import os
import statistics
import subprocess
import sys

import pytest
import torch

import pdb_ext
from helpers.problems import FIXED, Problem, assert_as_accurate_as_pytorch, random_problems, rms, run
from pdb_ext import _library, reference

needs_native = pytest.mark.skipif(_library.native is None, reason=f"no native library: {_library.why_not_native}")
SEED = int(os.environ.get("PDB_EXT_TEST_SEED", "0"))
PROBLEMS = FIXED + random_problems(40, SEED)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_equals_reference_in_float64(problem):
    inputs = problem.inputs()
    ours, expected = run(pdb_ext.convlstm, problem, inputs), run(reference.convlstm, problem, inputs)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("problem", [*FIXED[-5:], *PROBLEMS[::4]], ids=str)
def test_error_in_float32_is_at_most_twice_pytorchs(problem):
    assert_as_accurate_as_pytorch(pdb_ext.convlstm, problem, torch.float32)


@pytest.mark.parametrize(
    "dtype, dilation", [(torch.float32, 1), (torch.float32, 2), (torch.bfloat16, 1), (torch.float16, 1)]
)
def test_error_stays_bounded_through_80_steps(dtype, dilation):
    # Without peepholes: with weights of unit scale they amplify rounding over 80 steps until the ratio of two
    # implementations' gradient errors is luck (0.2 to 10 from draw to draw, median below 1).
    problem = Problem(T=80, N=1, in_channels=32, C=32, H=12, W=12, dilation=dilation)
    assert_as_accurate_as_pytorch(pdb_ext.convlstm, problem, dtype, draws=1)


@pytest.mark.parametrize("in_channels", [8, 16])
def test_error_through_80_steps_with_peepholes_is_not_worse_in_the_middle(in_channels):
    """Single draws scatter by an order of magnitude there, in any implementation: python/benchmarks/accuracy.py."""
    problem = Problem(T=80, N=1, in_channels=in_channels, C=16, H=8, W=8, peephole="full")
    ratios = {}
    for seed in range(9):
        inputs = problem.inputs(torch.float32, seed)
        exact = run(reference.convlstm, problem, {k: None if v is None else v.double() for k, v in inputs.items()})
        ours, theirs = run(pdb_ext.convlstm, problem, inputs), run(reference.convlstm, problem, inputs)
        for name, value in exact.items():
            ratios.setdefault(name, []).append(rms(ours[name] - value) / rms(theirs[name] - value))
    for name, values in ratios.items():
        assert statistics.median(values) <= 2, f"{name}: {values}"


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize("name", ["avx2", "generic", "avx512"])
def test_every_instruction_set(name):
    """The choice is made once per process; a processor without it must say so instead of crashing."""
    code = (
        "import torch, pdb_ext; from pdb_ext import build_info; from helpers.problems import *\n"
        "try: name = build_info()['cpu_capability']\n"
        "except RuntimeError as error: print('unavailable', error); raise SystemExit\n"
        "print(name)\n"
        "problems = Problem(C=9, peephole='full', state=True, H=11, W=17), Problem(in_channels=20, C=24, T=2, H=10)\n"
        "for problem in problems:\n"
        "  for dtype in (torch.float32, torch.float64):\n"
        "    assert_as_accurate_as_pytorch(pdb_ext.convlstm, problem, dtype)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PDB_EXT_CPU": name, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.returncode == 0, result.stderr
    if "unavailable" in result.stdout:
        assert f"got '{name}'" in result.stdout
        pytest.skip(f"this processor has no {name}")
    assert result.stdout.split() == [name]


@needs_native
@pytest.mark.parametrize(
    "problem",
    [
        Problem(T=2, N=1, in_channels=2, C=2, H=3, W=4),
        Problem(T=2, N=2, in_channels=1, C=3, H=4, W=2, dilation=2, peephole="map", state=True, reverse=True),
        Problem(T=2, N=1, in_channels=2, C=1, H=2, W=3, peephole="full", output_peephole="current", state=True),
    ],
    ids=str,
)
def test_gradcheck(problem):
    inputs = {k: v.requires_grad_() for k, v in problem.inputs().items() if v is not None}

    def function(*values):
        named = dict(zip(inputs, values))
        state = (named.pop("h_0"), named.pop("c_0")) if problem.state else None
        output, (h_n, c_n) = pdb_ext.convlstm(**named, state=state, **problem.options())
        return output, h_n, c_n

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))


@needs_native
@pytest.mark.parametrize("needed", ["x", "weight_x", "weight_h", "bias", "peephole", "h_0", "c_0"])
def test_gradient_of_one_argument_alone(needed):
    problem = Problem(peephole="full", state=True, T=2)
    inputs = problem.inputs()
    expected = run(reference.convlstm, problem, inputs)[f"grad of {needed}"]
    inputs[needed].requires_grad_()
    state = inputs.pop("h_0"), inputs.pop("c_0")
    output, (h_n, c_n) = pdb_ext.convlstm(**inputs, state=state, **problem.options())
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in (output, h_n, c_n)]
    total = sum((value * draw).sum() for value, draw in zip((output, h_n, c_n), draws))
    leaf = inputs[needed] if needed in inputs else state[needed == "c_0"]
    (grad,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(grad, expected)


def test_reverse_is_the_flipped_sequence():
    inputs = Problem(peephole="map").inputs()
    del inputs["h_0"], inputs["c_0"]
    output, (h_n, c_n) = pdb_ext.convlstm(**inputs, reverse=True)
    flipped, (h_n_flipped, c_n_flipped) = pdb_ext.convlstm(**(inputs | {"x": inputs["x"].flip(0)}))
    torch.testing.assert_close(output, flipped.flip(0), rtol=0, atol=0)
    assert torch.equal(h_n, output[0]) and torch.equal(h_n, h_n_flipped) and torch.equal(c_n, c_n_flipped)


def test_state_continues_a_sequence():
    x, weight_x, weight_h, bias, *_ = Problem(T=5).inputs().values()
    whole, (h_n, c_n) = pdb_ext.convlstm(x, weight_x, weight_h, bias)
    first, state = pdb_ext.convlstm(x[:2], weight_x, weight_h, bias)
    second, (h_2, c_2) = pdb_ext.convlstm(x[2:], weight_x, weight_h, bias, state=state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close((h_2, c_2), (h_n, c_n))


LAYOUTS = {
    "batch_first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels_last": lambda x: x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
    "every_second_column": lambda x: torch.stack([x, x], dim=-1).flatten(-2)[..., ::2],
    "flipped_strides": lambda x: x.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout):
    inputs = {k: v for k, v in Problem().inputs().items() if v is not None}
    expected, _ = pdb_ext.convlstm(**inputs)
    inputs["x"] = LAYOUTS[layout](inputs["x"])
    inputs["weight_h"] = inputs["weight_h"].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    output, _ = pdb_ext.convlstm(**inputs)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    assert output.is_contiguous()


def test_expanded_input_and_gradient():
    _, weight_x, weight_h, bias, *_ = Problem().inputs().values()
    frame = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    output, _ = pdb_ext.convlstm(frame.expand(3, *frame.shape), weight_x, weight_h, bias)
    (grad,) = torch.autograd.grad(output.sum(), frame)  # sum() sends an expanded gradient of stride 0
    output, _ = reference.convlstm(frame.expand(3, *frame.shape), weight_x, weight_h, bias)
    torch.testing.assert_close(grad, torch.autograd.grad(output.sum(), frame)[0])


def test_inputs_are_not_written_to():
    problem = Problem(peephole="full", state=True)
    inputs = problem.inputs()
    inputs["c_0"] = inputs["c_0"].contiguous(memory_format=torch.channels_last)
    before = {k: v.clone() for k, v in inputs.items()}
    run(pdb_ext.convlstm, problem, inputs)
    with torch.no_grad():
        state = inputs["h_0"], inputs["c_0"]
        pdb_ext.convlstm(**{k: v for k, v in inputs.items() if k not in ("h_0", "c_0")}, state=state)
    assert all(torch.equal(before[k], v) for k, v in inputs.items())


@needs_native
def test_backward_twice_through_a_retained_graph():
    inputs = {k: v.requires_grad_() for k, v in Problem().inputs().items() if v is not None}
    output, _ = pdb_ext.convlstm(**inputs)
    first = torch.autograd.grad(output.sum(), inputs["weight_h"], retain_graph=True)
    second = torch.autograd.grad(output.sum(), inputs["weight_h"])
    assert torch.equal(first[0], second[0])


def test_h_n_is_a_tensor_of_its_own():
    x, weight_x, weight_h, *_ = Problem().inputs().values()
    output, (h_n, _) = pdb_ext.convlstm(x, weight_x.requires_grad_(), weight_h)
    assert h_n.untyped_storage().data_ptr() != output.untyped_storage().data_ptr()
    h_n.detach_()
    h_n.zero_()
    output.sum().backward()


@needs_native
@pytest.mark.parametrize(
    "problem",
    [
        Problem(H=20, W=23, C=8, peephole="map"),
        Problem(T=2, in_channels=32, C=32, H=20, W=31),
        Problem(T=2, in_channels=24, C=24, H=8, W=9, k=5),  # divided among the threads by rows of the weight
        Problem(T=1, in_channels=16, C=48, H=24, W=20, k=7, state=True),
        Problem(T=1, in_channels=128, C=128, H=8, W=9, state=True),
    ],
    ids=str,
)
def test_same_bits_for_any_number_of_threads(problem):
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3, 5, 1):
            torch.set_num_threads(count)
            results.append(run(pdb_ext.convlstm, problem, problem.inputs(torch.float32)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other[key], results[0][key]) for other in results[1:] for key in other)


def test_nan_and_infinity_stay_where_they_belong():
    """A NaN in the last frame must not reach the frames before it, and must not be swallowed."""
    x, weight_x, weight_h, *_ = Problem(H=9, W=9).inputs().values()
    x[-1, 0, 0, 4, 4] = float("nan")
    output, _ = pdb_ext.convlstm(x, weight_x, weight_h)
    expected, _ = reference.convlstm(x, weight_x, weight_h)
    assert torch.equal(output.isnan(), expected.isnan()) and output.isnan().any()


def test_saturated_gates():
    """Pre-activations of +-1000: exp overflows in float32, the gates must not."""
    x, weight_x, weight_h, *_ = Problem(in_channels=32, C=32, H=24, W=24).inputs(torch.float32).values()
    exact, (_, c_exact) = reference.convlstm((x * 1000).double(), weight_x.double(), weight_h.double())
    theirs, (_, c_theirs) = reference.convlstm(x * 1000, weight_x, weight_h)
    ours, (_, c_ours) = pdb_ext.convlstm(x * 1000, weight_x, weight_h)
    assert (exact.abs() > 0.99).any() and ours.isfinite().all()
    assert rms(ours - exact) <= 2 * rms(theirs - exact) and rms(c_ours - c_exact) <= 2 * rms(c_theirs - c_exact)
