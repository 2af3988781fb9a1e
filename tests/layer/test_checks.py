"""Bad input to `convlstm`: one error that names the argument, what it must be and what it is; never a crash."""

import subprocess
import sys

import pytest
import torch

import pdb_ext
from helpers.problems import Problem
from pdb_ext import _library, reference

GOOD = Problem(peephole="full", state=True)  # T3 N2 Cin3 C5 H7 W6


def arguments(**changes):
    inputs = GOOD.inputs(torch.float32)
    inputs["state"] = inputs.pop("h_0"), inputs.pop("c_0")
    return inputs | changes


def randn(*shape, **options):
    return torch.randn(shape, **options)


BAD = [
    ({"x": randn(2, 3, 7, 6)}, r"x must have shape \(T, N, Cin, H, W\), 5 dimensions, got shape \(2, 3, 7, 6\)"),
    ({"x": randn(0, 2, 3, 7, 6)}, r"x must have .* at least 1.*, got shape \(0, 2, 3, 7, 6\)"),
    ({"x": randn(3, 2, 3, 0, 6)}, r"x must have .* at least 1.*, got shape \(3, 2, 3, 0, 6\)"),
    ({"x": randn(3, 2, 4, 7, 6)}, r"weight_x must have shape \(4C, Cin, kh, kw\) = \(20, 4, 3, 3\), got .*3, 3, 3\)"),
    ({"x": randn(3, 2, 3, 7, 6).long()}, "x must be of dtype .*, got torch.int64"),
    ({"x": randn(3, 2, 3, 7, 6, dtype=torch.complex64)}, "x must be of dtype .*, got torch.complex64"),
    ({"x": randn(3, 2, 3, 7, 6).double()}, "weight_x must have the dtype of x, torch.float64, got torch.float32"),
    ({"bias": randn(20).half()}, "bias must have the dtype of x, torch.float32, got torch.float16"),
    ({"x": randn(3, 2, 3, 7, 6).to_sparse()}, "x must be a dense .*, got torch.sparse_coo"),
    ({"weight_h": randn(20, 5, 3, 3, device="meta")}, "weight_h must be on the device of x, cpu, got meta"),
    ({"weight_h": randn(20, 5, 3)}, r"weight_h must have shape \(4C, C, kh, kw\), 4 dimensions, got .*\(20, 5, 3\)"),
    ({"weight_h": randn(20, 5, 4, 4)}, r"weight_h must have .* odd kh and kw, got shape \(20, 5, 4, 4\)"),
    ({"weight_h": randn(20, 5, 3, 2)}, r"weight_h must have .* odd kh and kw, got shape \(20, 5, 3, 2\)"),
    ({"weight_h": randn(20, 5, 3, 5)}, r"weight_x must have .* = \(20, 3, 3, 5\), got shape \(20, 3, 3, 3\)"),
    ({"weight_h": randn(20, 6, 3, 3)}, r"weight_h must have .* = \(24, 6, 3, 3\), got shape \(20, 6, 3, 3\)"),
    ({"weight_h": randn(0, 0, 3, 3)}, r"weight_h must have"),
    ({"weight_x": randn(20, 3, 5, 5)}, r"weight_x must have shape .* = \(20, 3, 3, 3\), got shape \(20, 3, 5, 5\)"),
    ({"bias": randn(5)}, r"bias must have shape \(4C,\) = \(20,\), got shape \(5,\)"),
    ({"peephole": randn(3, 5, 7, 7)}, r"peephole must be broadcastable to .* = \(3, 5, 7, 6\), got .*7, 7\)"),
    ({"peephole": randn(2, 5, 1, 1)}, r"peephole must be broadcastable .*, got shape \(2, 5, 1, 1\)"),
    ({"peephole": randn(1, 3, 5, 7, 6)}, r"peephole must be broadcastable .*, got shape \(1, 3, 5, 7, 6\)"),
    ({"state": (randn(2, 5, 7, 6), randn(2, 5, 6, 7))}, r"state\[1\] \(c_0\) must .* = \(2, 5, 7, 6\), got .*6, 7\)"),
    ({"state": (randn(1, 5, 7, 6), randn(2, 5, 7, 6))}, r"state\[0\] \(h_0\) must have .*, got shape \(1, 5, 7, 6\)"),
    ({"dilation": 0}, "dilation must be an integer of at least 1.*, got 0"),
    ({"dilation": -2}, "dilation must be an integer of at least 1.*, got -2"),
    ({"dilation": 1.5}, "dilation must be an integer of at least 1.*, got 1.5"),
    ({"dilation": (1, 1)}, r"dilation must be an integer of at least 1.*, got \(1, 1\)"),
    ({"state": randn(2, 5, 7, 6)}, r"state must be None or a pair of tensors \(h_0, c_0\), got Tensor"),
    ({"state": (None, randn(2, 5, 7, 6))}, "state must be None or a pair of tensors .*, got tuple of length 2"),
    ({"state": (randn(2, 5, 7, 6),)}, "state must be None or a pair of tensors .*, got tuple of length 1"),
    ({"dilation": 2**63}, "dilation must be an integer of at least 1.*, got 9223372036854775808"),
    ({"reverse": "no"}, "reverse must be True or False, got 'no'"),
    ({"output_peephole": "next"}, "output_peephole must be 'previous' or 'current', got 'next'"),
    ({"padding_mode": "constant"}, "padding_mode must be one of .*'reflect'.*, got 'constant'"),
    ({"padding_mode": "circular", "dilation": 7}, r"padding_mode must .* \(7, 6\) .* to be padded by \(7, 7\), got"),
    ({"padding_mode": "reflect", "dilation": 6}, r"padding_mode must .* \(7, 6\) .* to be padded by \(6, 6\), got"),
    ({"activation": "gelu"}, "activation must be one of .*'relu'.*, got 'gelu'"),
    ({"recurrent_activation": None}, "recurrent_activation must be one of .*'hard_sigmoid'.*, got None"),
    ({"norm": "batch"}, "norm must be one of .*'group', 'layer'.*, got 'batch'"),
    ({"norm": "group", "num_groups": 3}, "num_groups must .* divides 4C = 20, .*, got 3"),
    ({"norm": "group", "num_groups": True}, "num_groups must be an integer of at least 1 .*, got True"),
    ({"num_groups": 2}, "num_groups must .*, or 1 without norm='group', got 2"),
    ({"norm": "layer", "norm_weight": randn(5)}, r"norm_weight must have shape \(4C,\) = \(20,\), got shape \(5,\)"),
    ({"norm": "layer", "norm_bias": randn(20).double()}, "norm_bias must have the dtype of x, torch.float32, got"),
    ({"norm_bias": randn(20)}, r"norm_bias must be None without norm, got shape \(20,\)"),
    ({"recurrent_mask": randn(2, 5, 7, 7)}, r"recurrent_mask must be broadcastable .* = \(2, 5, 7, 6\), got .*7, 7\)"),
]  # fmt: skip
NO_TENSORS = [
    ({"x": None}, "x must be a tensor, got NoneType"),
    ({"weight_h": [1.0]}, "weight_h must be a tensor, got list"),
    ({"norm": "layer", "norm_weight": 1.0}, "norm_weight must be a tensor, got float"),
    ({"recurrent_mask": 0.5}, "recurrent_mask must be a tensor, got float"),
]


@pytest.mark.parametrize("function", [pdb_ext.convlstm, reference.convlstm], ids=["native", "reference"])
@pytest.mark.parametrize("changes, message", BAD, ids=[message[:60] for _, message in BAD])
def test_bad_values(function, changes, message):
    with pytest.raises(ValueError, match=f"^convlstm: {message}"):
        function(**arguments(**changes))


@pytest.mark.parametrize("changes, message", NO_TENSORS, ids=[message[:40] for _, message in NO_TENSORS])
def test_bad_types(changes, message):
    with pytest.raises(TypeError, match=f"^convlstm: {message}"):
        pdb_ext.convlstm(**arguments(**changes))


def test_the_good_arguments_are_good():
    pdb_ext.convlstm(**arguments())


def op_arguments(**changes):
    inputs = GOOD.inputs(torch.float32) | changes
    return (*inputs.values(), 1, False, False, 1)


@pytest.mark.skipif(_library.native is None, reason="needs the native library")
@pytest.mark.parametrize(
    "changes",
    [
        {"x": randn(3, 2, 3, 7)},
        {"x": randn(3, 2, 3, 7, 6).double()},
        {"x": randn(3, 2, 3, 7, 6).half()},
        {"weight_x": randn(20, 3, 3, 5)},
        {"weight_h": randn(20, 5, 2, 2)},
        {"weight_h": randn(20, 0, 3, 3)},
        {"bias": randn(19)},
        {"peephole": randn(3, 1, 7, 6)},
        {"h_0": None},
        {"c_0": randn(2, 5, 7, 5)},
        {"c_0": randn(2, 5, 7, 6).to_sparse()},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_the_bare_op_checks_before_it_reads(changes):
    with pytest.raises((RuntimeError, ValueError, NotImplementedError), match="convlstm"):
        torch.ops.pdb_ext.convlstm(*op_arguments(**changes))


@pytest.mark.skipif(_library.native is None, reason="needs the native library")
@pytest.mark.parametrize("save", [-1, 3])
def test_the_bare_op_knows_three_ways_to_save(save):
    with pytest.raises(RuntimeError, match="convlstm: save must be 0 .*, 1 .* or 2 .*, got"):
        torch.ops.pdb_ext.convlstm(*op_arguments()[:-1], save)


@pytest.mark.skipif(_library.native is None, reason="needs the native library")
def test_the_bare_backward_checks_what_was_saved():
    *tensors, dilation, reverse, peephole_current, _ = op_arguments()
    output, c_n, reserve = torch.ops.pdb_ext.convlstm(*op_arguments())
    good = [output, c_n, *tensors, output, reserve, dilation, reverse, peephole_current, [True] * 7]
    torch.ops.pdb_ext.convlstm_backward(*good)
    for position, bad in ((0, output[:2]), (1, c_n[:1]), (5, randn(19)), (9, output[..., :3]), (10, reserve[:-1]),
                          (10, reserve[:0]), (10, reserve.double()),
                          (10, reserve[:1].expand(len(reserve)))):  # fmt: skip
        with pytest.raises(RuntimeError, match="convlstm_backward: .* must"):
            torch.ops.pdb_ext.convlstm_backward(*good[:position], bad, *good[position + 1 :])


@pytest.mark.parametrize("dilation", [2**31, 2**61, 2**62, 2**63 - 1])
@pytest.mark.parametrize("C", [4, 16])
def test_a_dilation_beyond_the_picture_leaves_the_centre_tap(dilation, C):
    x, weight_x, weight_h = randn(2, 1, C, 4, 4), randn(4 * C, C, 3, 3), randn(4 * C, C, 3, 3)
    output, _ = pdb_ext.convlstm(x, weight_x, weight_h, dilation=dilation)
    expected, _ = reference.convlstm(x, weight_x[:, :, 1:2, 1:2], weight_h[:, :, 1:2, 1:2])
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(_library.native is None, reason="needs the native library")
def test_unknown_instruction_set_is_an_error_and_no_crash():
    code = "import torch, pdb_ext; r = torch.randn; pdb_ext.convlstm(r(1, 1, 1, 2, 2), r(4, 1, 1, 1), r(4, 1, 1, 1))"
    result = subprocess.run([sys.executable, "-c", code], env={"PDB_EXT_CPU": "sse9"}, capture_output=True, text=True)
    assert result.returncode == 1 and "PDB_EXT_CPU must be one of" in result.stderr, result.stderr
