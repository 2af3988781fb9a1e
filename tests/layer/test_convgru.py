"""`convgru`: the native op against the reference, and both against the equations written out."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import conv2d

import pdb_ext
from helpers.problems import (
    FIXED,
    GRUProblem,
    as_gru,
    assert_as_accurate_as_pytorch,
    random_problems,
    rms,
    run,
)
from pdb_ext import _library, reference

needs_native = pytest.mark.skipif(_library.native is None, reason=f"no native library: {_library.why_not_native}")
SEED = int(os.environ.get("PDB_EXT_TEST_SEED", "0"))
PROBLEMS = [*dict.fromkeys(as_gru(problem) for problem in FIXED + random_problems(30, SEED + 1))]
# Windows of 5x5 and 7x7 in Winograd's parts of three and two taps.
LARGE_WINDOWS = [GRUProblem(in_channels=16, C=16, H=20, W=18, k=k, dilation=d, state=True) for k, d in ((5, 2), (7, 1))]


@pytest.mark.parametrize("problem", [*PROBLEMS, *LARGE_WINDOWS], ids=str)
def test_equals_reference_in_float64(problem):
    inputs = problem.inputs()
    ours, expected = run(pdb_ext.convgru, problem, inputs), run(reference.convgru, problem, inputs)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("problem", [*PROBLEMS[-5:], *PROBLEMS[::3], *LARGE_WINDOWS], ids=str)
def test_error_in_float32_is_at_most_twice_pytorchs(problem):
    assert_as_accurate_as_pytorch(pdb_ext.convgru, problem, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_stays_bounded_through_80_steps(dtype):
    problem = GRUProblem(T=80, N=1, in_channels=32, C=32, H=12, W=12)
    assert_as_accurate_as_pytorch(pdb_ext.convgru, problem, dtype, draws=1)


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize("name", ["avx2", "generic"])
def test_other_instruction_sets(name):
    """The choice is made once per process."""
    code = (
        "import torch, pdb_ext; from helpers.problems import *\n"
        "for problem in (GRUProblem(C=9, state=True, H=11, W=17), GRUProblem(in_channels=20, C=24, T=2, H=10)):\n"
        "  for dtype in (torch.float32, torch.float64):\n"
        "    assert_as_accurate_as_pytorch(pdb_ext.convgru, problem, dtype)\n"
    )
    environment = os.environ | {"PDB_EXT_CPU": name, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if "available on this processor" in result.stderr:
        pytest.skip(f"this processor has no {name}")
    assert result.returncode == 0, result.stderr


def test_the_equations():
    problem = GRUProblem(dilation=2, state=True)
    x, weight_x, weight_h, bias, h = problem.inputs().values()

    def convolve(value, weight):
        return conv2d(value, weight, padding=2, dilation=2)

    (w_xr, w_xz, w_xn), (w_hr, w_hz, w_hn) = weight_x.chunk(3), weight_h.chunk(3)
    b_r, b_z, b_n = bias[:, None, None].chunk(3)
    outputs = []
    for frame in x:
        r = torch.sigmoid(convolve(frame, w_xr) + convolve(h, w_hr) + b_r)
        z = torch.sigmoid(convolve(frame, w_xz) + convolve(h, w_hz) + b_z)
        n = torch.tanh(convolve(frame, w_xn) + convolve(r * h, w_hn) + b_n)
        h = (1 - z) * n + z * h
        outputs.append(h)
    for function in (pdb_ext.convgru, reference.convgru):
        output, h_n = function(**problem.inputs(), dilation=2)
        torch.testing.assert_close(output, torch.stack(outputs))
        torch.testing.assert_close(h_n, h)


def test_code_with_the_other_meaning_of_z():
    """Convolutions of [x, h] and [x, r . h], and h = (1 - z) . h + z . n: as docs/layer.md maps them."""
    Cin, C = 3, 4
    gates, candidate = torch.nn.Conv2d(Cin + C, 2 * C, 3, padding=1), torch.nn.Conv2d(Cin + C, C, 3, padding=1)
    x, h = torch.randn(4, 2, Cin, 6, 7), torch.randn(2, C, 6, 7)

    def negated_z(rows):
        r, z = rows.chunk(2)
        return torch.cat([r, -z])

    weight = torch.cat([negated_z(gates.weight), candidate.weight])
    bias = torch.cat([negated_z(gates.bias), candidate.bias])
    output, _ = pdb_ext.convgru(x, weight[:, :Cin], weight[:, Cin:], bias, h)
    for frame, found in zip(x, output):
        r, z = torch.sigmoid(gates(torch.cat([frame, h], dim=1))).chunk(2, dim=1)
        n = torch.tanh(candidate(torch.cat([frame, r * h], dim=1)))
        h = (1 - z) * h + z * n
        torch.testing.assert_close(found, h)


SMALL = [
    GRUProblem(T=2, N=1, in_channels=2, C=2, H=3, W=4),
    GRUProblem(T=3, N=2, in_channels=1, C=3, H=4, W=2, dilation=2, state=True, reverse=True),
]


@needs_native
@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_gradcheck(problem):
    inputs = {k: v.requires_grad_() for k, v in problem.inputs().items() if v is not None}

    def function(*values):
        return tuple(problem.call(pdb_ext.convgru, dict(zip(inputs, values))).values())

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))


@needs_native
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("needed", ["x", "weight_x", "weight_h", "bias"])
def test_gradient_of_one_argument_alone(needed, state):
    inputs = GRUProblem(state=state, T=2).inputs()
    grads = []
    for function in (pdb_ext.convgru, reference.convgru):
        leaf = inputs[needed].clone().requires_grad_()
        output, h_n = function(**inputs | {needed: leaf})
        grads.append(torch.autograd.grad(output.square().sum() + h_n.sum(), leaf)[0])
    torch.testing.assert_close(*grads)


@needs_native
def test_gradient_of_the_state_alone():
    inputs = GRUProblem(state=True, T=2).inputs()
    inputs["h_0"].requires_grad_()
    grads = [
        torch.autograd.grad(function(**inputs)[0].square().sum(), inputs["h_0"])
        for function in (pdb_ext.convgru, reference.convgru)
    ]
    torch.testing.assert_close(*grads)


@needs_native
def test_gradient_of_a_state_that_was_left_out():
    """The op defines it: that of zeros."""
    x, weight_x, weight_h, bias, h_0 = GRUProblem(state=True).inputs().values()
    options = (1, False)
    output, gates = torch.ops.pdb_ext.convgru(x, weight_x, weight_h, bias, None, *options, True)
    grads = [
        torch.ops.pdb_ext.convgru_backward(output, x, weight_x, weight_h, given, output, gates, *options, [True] * 5)
        for given in (None, torch.zeros_like(h_0))
    ]
    for one, other in zip(*grads):
        torch.testing.assert_close(one, other)


def test_reverse_is_the_flipped_sequence():
    inputs = GRUProblem().inputs()
    output, h_n = pdb_ext.convgru(**inputs, reverse=True)
    flipped, h_n_flipped = pdb_ext.convgru(**inputs | {"x": inputs["x"].flip(0)})
    torch.testing.assert_close(output, flipped.flip(0), rtol=0, atol=0)
    assert torch.equal(h_n, output[0]) and torch.equal(h_n, h_n_flipped)


@pytest.mark.parametrize("split", [1, 2, 4])
def test_state_continues_a_sequence(split):
    x, weight_x, weight_h, bias, h_0 = GRUProblem(T=5, state=True).inputs().values()
    whole, h_n = pdb_ext.convgru(x, weight_x, weight_h, bias, h_0)
    first, h = pdb_ext.convgru(x[:split], weight_x, weight_h, bias, h_0)
    second, h = pdb_ext.convgru(x[split:], weight_x, weight_h, bias, h)
    torch.testing.assert_close((torch.cat([first, second]), h), (whole, h_n))


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (1, 0, 2, 3, 4), (0, 1, 3, 4, 2), (4, 3, 2, 1, 0)], ids=str)
def test_any_strides(order):
    inputs = GRUProblem(state=True).inputs()
    expected, _ = pdb_ext.convgru(**inputs)
    back = [order.index(axis) for axis in range(5)]
    inputs["x"] = inputs["x"].permute(order).contiguous().permute(back).requires_grad_()
    for name in ("weight_h", "h_0"):
        inputs[name] = inputs[name].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    output, _ = pdb_ext.convgru(**inputs)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    (grad,) = torch.autograd.grad(output.sum(), inputs["x"])  # sum() sends an expanded gradient of stride 0
    expected, _ = reference.convgru(**inputs)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), inputs["x"])[0])


def test_inputs_are_not_written_to():
    problem = GRUProblem(state=True)
    inputs = problem.inputs()
    before = {k: v.clone() for k, v in inputs.items()}
    run(pdb_ext.convgru, problem, inputs)
    with torch.no_grad():
        pdb_ext.convgru(**inputs)
    assert all(torch.equal(before[k], v) for k, v in inputs.items())


@needs_native
def test_backward_twice_and_h_n_is_a_tensor_of_its_own():
    x, weight_x, weight_h, *_ = GRUProblem().inputs().values()
    output, h_n = pdb_ext.convgru(x, weight_x, weight_h.requires_grad_())
    assert h_n.untyped_storage().data_ptr() != output.untyped_storage().data_ptr()
    h_n.detach_().zero_()
    first = torch.autograd.grad(output.sum(), weight_h, retain_graph=True)
    assert torch.equal(first[0], torch.autograd.grad(output.sum(), weight_h)[0])


@needs_native
@pytest.mark.parametrize(
    "problem",
    [
        GRUProblem(H=20, W=23, C=8),
        GRUProblem(T=2, in_channels=32, C=32, H=20, W=31),
        GRUProblem(T=2, in_channels=24, C=24, H=8, W=9, k=5),  # divided among the threads by rows of the weight
    ],
    ids=str,
)
def test_same_bits_for_any_number_of_threads(problem):
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3, 5, 1):
            torch.set_num_threads(count)
            results.append(run(pdb_ext.convgru, problem, problem.inputs(torch.float32)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other[key], results[0][key]) for other in results[1:] for key in other)


def test_nan_stays_where_it_belongs():
    """A NaN in the last frame must not reach the frames before it, and must not be swallowed."""
    x, weight_x, weight_h, *_ = GRUProblem(H=9, W=9).inputs().values()
    x[-1, 0, 0, 4, 4] = float("nan")
    output, _ = pdb_ext.convgru(x, weight_x, weight_h)
    expected, _ = reference.convgru(x, weight_x, weight_h)
    assert torch.equal(output.isnan(), expected.isnan()) and output.isnan().any()


def test_saturated_gates():
    """Pre-activations of +-1000: exp overflows in float32, the gates must not."""
    x, weight_x, weight_h, *_ = GRUProblem(in_channels=32, C=32, H=24, W=24).inputs(torch.float32).values()
    exact, _ = reference.convgru((x * 1000).double(), weight_x.double(), weight_h.double())
    theirs, _ = reference.convgru(x * 1000, weight_x, weight_h)
    ours, _ = pdb_ext.convgru(x * 1000, weight_x, weight_h)
    assert (exact.abs() > 0.99).any() and ours.isfinite().all()
    assert rms(ours - exact) <= 2 * rms(theirs - exact)


@needs_native
def test_short_calls_keep_packed_weights_only_while_they_are_the_same():
    pdb_ext.clear_weight_cache()
    problem = GRUProblem(T=1, in_channels=16, C=16, H=8, W=8, state=True)
    for seed in (0, 0, 1):
        inputs = problem.inputs(torch.float32, seed)
        for _ in range(2):  # the second time with what the first one has kept
            torch.testing.assert_close(run(pdb_ext.convgru, problem, inputs), run(reference.convgru, problem, inputs))
            inputs["weight_h"].mul_(0.5)  # in place: the same memory with other values
    pdb_ext.clear_weight_cache()
