"""Eq. 5 in one op: compared with PyTorch's operators (values, gradients, accuracy), and when these are used instead."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from helpers.paths import ROOT
from helpers.problems import rms
from pdb_ext import DBConvLSTM, _library
from pdb_ext.merge import tanh_merge

needs_native = pytest.mark.skipif(_library.native is None, reason=f"no native library: {_library.why_not_native}")

# T, N, C, H, W, k, dilation, bias
CASES = [
    (3, 2, 5, 7, 6, 3, 1, True),
    (1, 1, 1, 1, 1, 3, 2, False),
    (2, 2, 3, 4, 5, 3, 100, True),
    (4, 1, 9, 6, 5, 1, 1, True),
    (2, 3, 16, 9, 14, 3, 1, True),  # Winograd, tiles hang over
    (3, 1, 19, 17, 10, 3, 2, False),
    (2, 1, 33, 12, 13, 3, 3, True),
    (2, 0, 4, 5, 6, 3, 1, True),
    (2, 1, 4, 9, 8, 5, 2, True),  # always by PyTorch
]


def inputs(T, N, C, H, W, k, dilation, bias, dtype=torch.float64, seed=0):
    """h_f and h_b within -1 .. 1, and the two convolutions."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        h = torch.rand(2, T, N, C, H, W, dtype=torch.float64) * 2 - 1
        geometry = {"padding": dilation * (k // 2), "dilation": dilation, "dtype": torch.float64}
        convolutions = nn.Conv2d(C, C, k, bias=bias, **geometry), nn.Conv2d(C, C, k, bias=False, **geometry)
    return (*h.to(dtype).unbind(), *(convolution.to(dtype) for convolution in convolutions))


def results(arguments, native):
    """The merge, and the gradients of a random linear function of it."""
    h_f, h_b, merge_f, merge_b = arguments
    leaves = [h.detach().requires_grad_() for h in (h_f, h_b)]
    output = tanh_merge(*leaves, merge_f, merge_b, native=native)
    generator = torch.Generator().manual_seed(1)
    cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    return output.detach(), *torch.autograd.grad(
        output, [*leaves, *merge_f.parameters(), *merge_b.parameters()], cotangent
    )


def calls_the_op(function):
    with torch.profiler.profile() as profile:
        function()
    return any(event.key == "pdb_ext::merge" for event in profile.key_averages())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_pytorch_in_float64(case):
    arguments = inputs(*case)
    for ours, expected in zip(results(arguments, True), results(arguments, False), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("case", CASES[:7], ids=str)
def test_error_in_float32_is_at_most_twice_pytorchs(case):
    errors = {True: [], False: []}
    for seed in range(4):
        arguments = inputs(*case, dtype=torch.float32, seed=seed)
        h_f, h_b, *convolutions = inputs(*case, seed=seed)
        for native in errors:
            exact = results(
                (h_f.float().double(), h_b.float().double(), *(c.float().double() for c in convolutions)), False
            )
            errors[native].append([(a - b).flatten() for a, b in zip(results(arguments, native), exact)])
    for ours, theirs, value in zip(zip(*errors[True]), zip(*errors[False]), exact):
        assert rms(torch.cat(ours)) <= max(2 * rms(torch.cat(theirs)), 2 * torch.finfo(torch.float32).eps * rms(value))


@needs_native
def test_gradcheck():
    h_f, h_b, merge_f, merge_b = inputs(2, 1, 2, 3, 4, 3, 1, True)
    tensors = tuple(t.detach().requires_grad_() for t in (h_f, h_b, merge_f.weight, merge_b.weight, merge_f.bias))
    assert torch.autograd.gradcheck(lambda *t: torch.ops.pdb_ext.merge(*t, 1), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: torch.ops.pdb_ext.merge(*t, 1), tensors)


@needs_native
@pytest.mark.parametrize("case", [CASES[0], CASES[4], CASES[5]], ids=str)
def test_opcheck(case):
    h_f, h_b, merge_f, merge_b = inputs(*case)
    tensors = (h_f.requires_grad_(), h_b, merge_f.weight, merge_b.weight, merge_f.bias)
    torch.library.opcheck(torch.ops.pdb_ext.merge, (*tensors, case[6]))


@needs_native
def test_strides_and_threads_do_not_matter():
    h_f, h_b, merge_f, merge_b = inputs(3, 2, 16, 9, 14, 3, 1, True, torch.float32)
    expected = tanh_merge(h_f, h_b, merge_f, merge_b, native=True)
    strided = (
        h_f.transpose(0, 1).contiguous().transpose(0, 1),
        h_b.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
    )
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert torch.equal(tanh_merge(*strided, merge_f, merge_b, native=True), expected)
    torch.set_num_threads(threads)
    assert expected.is_contiguous()


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize("name", ["generic", "avx2", "avx512"])
def test_every_instruction_set(name):
    """The values above again, in a process that uses this instruction set."""
    environment = os.environ | {"PDB_EXT_CPU": name, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "from pdb_ext import _library; print(_library.native.cpu_capability())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if asked.returncode:
        assert f"got '{name}'" in asked.stderr
        pytest.skip(f"this processor has no {name}")
    tests = ("test_equals_pytorch_in_float64", "test_error_in_float32_is_at_most_twice_pytorchs")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(f"{__file__}::{test}" for test in tests),
    ]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert asked.stdout.strip() == name and result.returncode == 0, result.stdout


@needs_native
@pytest.mark.parametrize(
    "position, bad, message",
    [
        (0, torch.zeros(2, 3, 4, 5), "h_f must have shape"),
        (1, torch.zeros(2, 1, 4, 5, 7), r"h_b must have shape \[2, 1, 4, 5, 6\], got \[2, 1, 4, 5, 7\]"),
        (2, torch.zeros(4, 4, 2, 2), "weight_f must have shape .* odd k"),
        (3, torch.zeros(4, 3, 3, 3), r"weight_b must have shape \[4, 4, 3, 3\]"),
        (3, torch.zeros(4, 4, 3, 3).double(), "weight_b must .* dtype and device of h_f, Float on cpu, got Double"),
        (4, torch.zeros(5), r"bias must have shape \[4\]"),
        (5, 0, "dilation must be at least 1"),
    ],
)
def test_bad_arguments_are_named(position, bad, message):
    good = [
        torch.zeros(2, 1, 4, 5, 6),
        torch.zeros(2, 1, 4, 5, 6),
        *torch.zeros(2, 4, 4, 3, 3).unbind(),
        torch.zeros(4),
        1,
    ]
    torch.ops.pdb_ext.merge(*good)
    with pytest.raises(RuntimeError, match=f"merge: {message}"):
        torch.ops.pdb_ext.merge(*good[:position], bad, *good[position + 1 :])


def layer_and_clip():
    return DBConvLSTM(3, 4), torch.randn(1, 2, 3, 6, 7)


@needs_native
def test_the_layer_calls_it():
    layer, x = layer_and_clip()
    assert calls_the_op(lambda: layer(x))
    assert not calls_the_op(lambda: DBConvLSTM(3, 4, merge="sum")(x))


def hooked(layer, seen):
    layer.merge_backward.register_forward_hook(lambda *_: seen.append("hook"))


def wrapped(layer, seen):
    layer.merge_forward = nn.Sequential(layer.merge_forward)


def parametrised(layer, seen):
    nn.utils.parametrizations.weight_norm(layer.merge_forward)


def reflecting(layer, seen):
    layer.merge_forward.padding_mode, layer.merge_backward.padding_mode = "reflect", "reflect"
    layer.merge_forward._reversed_padding_repeated_twice = layer.merge_backward._reversed_padding_repeated_twice = [
        1
    ] * 4


@pytest.mark.parametrize("change", [hooked, wrapped, parametrised, reflecting])
def test_convolutions_that_were_changed_are_called(change):
    layer, x = layer_and_clip()
    seen = []
    change(layer, seen)
    output, _ = layer(x)
    h_f, _ = layer.forward_layer(x.transpose(0, 1))
    h_b, _ = layer.backward_layer(h_f)
    frames = layer.merge_forward(h_f.flatten(0, 1)) + layer.merge_backward(h_b.flatten(0, 1))
    torch.testing.assert_close(output[0], torch.tanh(frames))
    assert seen == ["hook"] * 2 if change is hooked else not seen


def test_autocast_and_forward_mode_derivatives():
    layer, x = layer_and_clip()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x)[0].dtype == torch.bfloat16
    layer, x = layer.double(), x.double()
    direction, step = torch.randn_like(x), 1e-5
    _, tangent = torch.func.jvp(lambda x: layer(x)[0], (x,), (direction,))
    expected = (layer(x + step * direction)[0] - layer(x - step * direction)[0]) / (2 * step)
    torch.testing.assert_close(tangent, expected, rtol=1e-5, atol=1e-7)


@needs_native
def test_compile_fullgraph():
    layer, x = layer_and_clip()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], layer(x)[0])
