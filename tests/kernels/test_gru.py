"""The ConvGRU's ops and kernels on the emulated GPU against the reference, on every path."""

import contextlib
import dataclasses

import pytest
import torch

from helpers.cuda_on_host import MISSING, NO_FAULT
from helpers.cuda_ops_on_host import cached_weights, host_convgru, last_call
from helpers.cuda_problems import GRU_CASES, GruProblem
from helpers.paths import CUDA
from helpers.tf32 import tf32_reference
from pdb_ext import reference

# More channels and pixels than a tile of the gate kernels (32 by 32), neither a multiple of it.
WIDE = GruProblem(3, 2, 5, 37, 5, 11, reverse=True)


@pytest.fixture(params=["step", "aten"])
def path(request, monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", request.param)
    return request.param


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan(ops):
    """What no kernel writes shows. TF32 is off where a test does not ask for it."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32 = before


def check_errors(problem, dtype):
    """The rule for tolerances: twice PyTorch's own error in dtype, against float64 on the same rounded arguments.

    Pooled over two draws; one rounding of the result itself is always allowed.
    """
    inputs = [problem.inputs(dtype, seed) for seed in range(2)]
    exact = [problem.run(reference.convgru, problem.in_dtype(given, torch.float64)) for given in inputs]
    pytorch = [problem.run(reference.convgru, given) for given in inputs]
    actual = [problem.run(host_convgru, given) for given in inputs]
    for key in exact[0]:
        value, theirs, ours = (torch.stack([results[key].double() for results in which])
                               for which in (exact, pytorch, actual))  # fmt: skip
        allowed = 2 * (theirs - value).abs().max() + torch.finfo(dtype).eps * value.abs().max()
        assert (ours - value).abs().max() <= allowed, key


def assert_equal(one, other):
    for key in one:
        assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("name", GRU_CASES)
def test_double_equals_the_reference(path, name):
    problem = GRU_CASES[name]
    expected, actual = (problem.run(f, problem.inputs()) for f in (reference.convgru, host_convgru))
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, msg=lambda text, key=key: f"{key}: {text}")
    kernel = {"step": "gru_backward_step_kernel", "aten": "gru_gates_backward_kernel"}[path]
    assert last_call() == ("convgru_backward", path, kernel, 1, False)


@pytest.mark.parametrize("name", ["odd", "above the tile", "nothing optional, T=1", "two groups of channels"])
def test_float32_error_is_at_most_twice_that_of_pytorch(path, name):
    check_errors(GRU_CASES[name], torch.float32)


@pytest.mark.slow(but=["step-odd-torch.float16", "aten-odd-torch.float16", "step-odd-torch.bfloat16"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", GRU_CASES)
def test_error_is_at_most_twice_that_of_pytorch(path, name, dtype):
    check_errors(GRU_CASES[name], dtype)


@pytest.mark.slow(but=["odd"])
@pytest.mark.parametrize("name", GRU_CASES)
def test_tf32_error_is_at_most_twice_that_of_pytorch(monkeypatch, name):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "step")
    torch.backends.cudnn.allow_tf32 = True
    with tf32_reference():
        check_errors(GRU_CASES[name], torch.float32)


@pytest.mark.slow
def test_large_layers_have_wider_blocks_on_tensor_cores(ops, monkeypatch):
    """More than 264 narrow blocks in either half, the last ones cut off by the channels and by the image."""
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "step")
    inputs = GruProblem(1, 2, 3, 36, 66, 66, k=1).inputs(torch.float16)
    with torch.no_grad():
        output, _ = ops.convgru(*inputs.values(), 1, False, False)
        exact, _ = reference.convgru(**{name: value.double() for name, value in inputs.items()})
        pytorch, _ = reference.convgru(**inputs)
    assert (output - exact).abs().max() <= 2 * (pytorch - exact).abs().max()


def test_half_types_without_tensor_cores(emulation, monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "step")
    emulation.pdb_set_architecture(75)
    check_errors(GRU_CASES["above the tile"], torch.float16)
    assert last_call()[2:] == ("gru_backward_step_kernel", 1, False)


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
def test_gate_kernels_in_both_layouts(monkeypatch, precision):
    """On tensor cores the convolutions are in channels_last."""
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "aten")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    with tf32_reference() if precision == "tf32" else contextlib.nullcontext():
        check_errors(WIDE, torch.float16 if precision == "float16" else torch.float32)


def test_a_gpu_without_kernels_uses_pytorchs_operators(emulation):
    emulation.pdb_set_architecture(0)
    for name in ("odd", "nothing optional, T=1"):
        problem = GRU_CASES[name]
        expected, actual = (problem.run(f, problem.inputs()) for f in (reference.convgru, host_convgru))
        for key, value in expected.items():
            torch.testing.assert_close(actual[key], value)
    check_errors(WIDE, torch.float16)
    assert last_call()[1:3] == ("aten", "none: PyTorch's operators")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_any_order_of_threads_gives_the_same_bits(path, emulation, dtype):
    """A race would show as a difference: the emulation draws the order of the threads anew between any two barriers."""
    problem, results = GRU_CASES["odd"], []
    for seed in range(3):
        emulation.pdb_set_seed(seed)
        results.append(problem.run(host_convgru, problem.inputs(dtype)))
    for other in results[1:]:
        assert_equal(results[0], other)


def test_no_barrier_of_the_gate_kernels_is_missing_unnoticed(emulation, monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "aten")
    right = WIDE.run(host_convgru, WIDE.inputs(torch.float16))
    lines = (CUDA / "gates/gru_gates.cu").read_text().splitlines()
    sites = [number for number, line in enumerate(lines, 1) if "__syncthreads()" in line]
    assert sites
    for site in sites:
        emulation.pdb_inject(MISSING, b"gates/gru_gates.cu", site)
        wrong = WIDE.run(host_convgru, WIDE.inputs(torch.float16))
        assert any(not torch.equal(right[key], wrong[key]) for key in right), site
    emulation.pdb_inject(NO_FAULT, None, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_inference_equals_training(ops, path, dtype):
    problem = GRU_CASES["odd"]
    arguments = [t.detach() for t in problem.inputs(dtype).values()]
    (output, nothing), (trained, gates) = (ops.convgru(*arguments, 2, False, save) for save in (False, True))
    assert torch.equal(output, trained) and nothing.numel() == 0
    assert gates.shape == (3 * output.numel(),) and gates.dtype == dtype


@pytest.mark.parametrize("forward, backward", [("step", "aten"), ("aten", "step")])
def test_one_path_reads_what_another_saved(ops, monkeypatch, forward, backward):
    problem = GRU_CASES["odd"]
    inputs = problem.inputs()
    arguments = [t.detach() for t in inputs.values()]
    output, _ = reference.convgru(**inputs, dilation=2)
    expected = torch.autograd.grad(output.sum(), list(inputs.values()))
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", forward)
    output, gates = ops.convgru(*arguments, 2, False, True)
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", backward)
    x, weight_x, weight_h, _, h_0 = arguments
    needs = [True] * 5
    actual = ops.convgru_backward(torch.ones_like(output), x, weight_x, weight_h, h_0, output, gates, 2, False, needs)
    for ours, theirs in zip(actual, expected):
        torch.testing.assert_close(ours, theirs)


def backward(ops, problem, arguments, grad_output, needs=(True,) * 5):
    x, weight_x, weight_h, bias, h_0 = arguments
    output, gates = ops.convgru(*arguments, problem.dilation, problem.reverse, True)
    options = (problem.dilation, problem.reverse, list(needs))
    return output, ops.convgru_backward(grad_output, x, weight_x, weight_h, h_0, output, gates, *options)


def test_only_the_gradients_that_are_needed(ops, path):
    problem = GRU_CASES["odd"]
    arguments = [t.detach() for t in problem.inputs().values()]
    cotangent = torch.randn(problem.T, problem.N, problem.C, problem.H, problem.W, dtype=torch.float64)
    _, every = backward(ops, problem, arguments, cotangent)
    for which in range(5):
        needs = [i == which for i in range(5)]
        _, actual = backward(ops, problem, arguments, cotangent, needs)
        assert [t.numel() > 0 for t in actual] == needs
        torch.testing.assert_close(actual[which], every[which])


def test_strides_of_the_arguments_do_not_matter(ops, path):
    problem = GRU_CASES["odd"]
    arguments = [t.detach() for t in problem.inputs().values()]
    cotangent = torch.randn(problem.T, problem.N, problem.C, problem.H, problem.W, dtype=torch.float64)
    strided = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in arguments[:3]]
    strided += [arguments[3].repeat_interleave(2)[::2], arguments[4].to(memory_format=torch.channels_last)]
    expected = backward(ops, problem, arguments, cotangent)
    actual = backward(ops, problem, strided, cotangent.transpose(-1, -3).contiguous().transpose(-1, -3))
    assert actual[0].is_contiguous()
    torch.testing.assert_close(actual, expected)


def test_a_missing_cotangent_is_zero(ops, path):
    problem = GRU_CASES["odd"]
    arguments = [t.detach() for t in problem.inputs().values()]
    _, grads = backward(ops, problem, arguments, None)
    assert all(grad.shape == t.shape and not grad.any() for grad, t in zip(grads, arguments))


def test_empty_batch(path):
    problem = dataclasses.replace(GRU_CASES["odd"], N=0)
    inputs = problem.inputs()
    actual = problem.run(host_convgru, inputs)
    assert actual["output"].shape == (3, 0, 5, 7, 6)
    for name, value in inputs.items():
        assert actual[f"grad of {name}"].shape == value.shape and not actual[f"grad of {name}"].any()


def test_autocast_does_not_reach_inside(monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "aten")
    problem = GRU_CASES["odd"]
    expected = problem.run(host_convgru, problem.inputs(torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(problem.run(host_convgru, problem.inputs(torch.float32)), expected)


def test_a_path_that_a_gru_does_not_have(monkeypatch, emulation):
    problem = GRU_CASES["odd"]
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "persistent")
    with pytest.raises(RuntimeError, match="PDB_EXT_CUDA_PATH=persistent: a ConvGRU has no such path"):
        problem.run(host_convgru, problem.inputs())
    emulation.pdb_set_architecture(0)
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "step")
    with pytest.raises(RuntimeError, match="PDB_EXT_CUDA_PATH=step: pdb_ext was not built for this GPU"):
        problem.run(host_convgru, problem.inputs())


@pytest.mark.parametrize(
    "problem, dtype, paths",
    [
        (GRU_CASES["odd"], torch.float64, ("step", "step")),
        (GRU_CASES["odd"], torch.float16, ("aten", "aten")),
        (GruProblem(1, 1, 16, 16, 80, 80), torch.float64, ("aten", "aten")),
    ],
    ids=["small", "small, tensor cores", "large"],
)
def test_the_rule_that_chooses_a_path(monkeypatch, problem, dtype, paths):
    monkeypatch.delenv("PDB_EXT_CUDA_PATH", raising=False)
    inputs = problem.inputs(dtype)
    output, _ = host_convgru(**inputs, dilation=problem.dilation)
    assert last_call()[:2] == ("convgru", paths[0])
    output.sum().backward()
    assert last_call()[:2] == ("convgru_backward", paths[1])


def test_packed_weights_are_kept_and_never_stale(ops, monkeypatch):
    """A change that PyTorch does not count shows that they were kept; any other change is seen."""
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "step")
    arguments = [t.detach() for t in GRU_CASES["odd"].inputs().values()]

    def infer(save=False):
        return ops.convgru(*arguments, 2, False, save)[0]

    with cached_weights():
        first = infer()
        arguments[2].data.mul_(0.5)
        assert torch.equal(infer(), first) and not torch.equal(infer(save=True), first)
        arguments[2].mul_(1.0)
        assert torch.equal(infer(), infer(save=True))
    assert not torch.equal(infer(), first)
