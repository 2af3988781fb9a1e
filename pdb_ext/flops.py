"""How `torch.utils.flop_counter.FlopCounterMode` counts the native ops: as it counts the convolutions of the reference.

A convolution counts 2 operations for each product of an input and a weight; each of its two gradients counts as much.
Pointwise operations are not counted, as in PyTorch. What is computed again for the sake of memory is counted again.
"""

from math import prod

import torch
from torch.utils.flop_counter import register_flop_formula


def register_flop_formulas() -> None:
    """To be called once, when the native ops are there."""
    for op, formula in (
        (torch.ops.pdb_ext.convlstm, _convlstm),
        (torch.ops.pdb_ext.convlstm_backward, _convlstm_backward),
        (torch.ops.pdb_ext.pdb_convlstm, _pdb_convlstm),
        (torch.ops.pdb_ext.pdb_convlstm_backward, _pdb_convlstm_backward),
        (torch.ops.pdb_ext.merge, _merge),
        (torch.ops.pdb_ext.convgru, _convgru),
        (torch.ops.pdb_ext.convgru_backward, _convgru_backward),
    ):
        register_flop_formula(op)(formula)


# PyTorch calls the formulas with shapes in place of tensors.


def _per_step(x, weight) -> int:
    """One step's convolution of x's size with `weight`; x is (T, N, Cin, H, W)."""
    _, N, _, H, W = x
    return 2 * N * H * W * prod(weight)


def _convlstm(x, weight_x, weight_h, *_, out_shape=None) -> int:
    return x[0] * (_per_step(x, weight_x) + _per_step(x, weight_h))


def _convlstm_backward(
    grad_output, grad_c_n, x, weight_x, weight_h, bias, peephole, h_0, c_0, output, reserve,
    dilation, reverse, peephole_current, needs, out_shape=None,
) -> int:  # fmt: skip
    T = x[0]
    of_x, of_h = _per_step(x, weight_x), _per_step(x, weight_h)
    needs_x, needs_weight_x, needs_weight_h, needs_h_0 = (needs[i] for i in (0, 1, 2, 5))
    count = T * of_x * (needs_x + needs_weight_x)
    count += of_h * (T * needs_weight_h + T - 1 + needs_h_0)
    only_cells_saved = prod(reserve) == prod(output)
    return count + (T * (of_x + of_h) if only_cells_saved else 0)


def _convgru(x, weight_x, weight_h, *_, out_shape=None) -> int:
    return x[0] * (_per_step(x, weight_x) + _per_step(x, weight_h))


def _convgru_backward(
    grad_output, x, weight_x, weight_h, h_0, output, gates, dilation, reverse, needs, out_shape=None
) -> int:
    T = x[0]
    of_x, of_h = _per_step(x, weight_x), _per_step(x, weight_h)
    needs_x, needs_weight_x, needs_weight_h, _, needs_h_0 = needs
    # At the first step n reads r . h_0, which depends on r even where h_0 needs no gradient.
    of_r_z, of_n = 2 * of_h // 3, of_h // 3
    count = T * of_x * (needs_x + needs_weight_x) + T * (of_h * needs_weight_h + of_n)
    return count + of_r_z * (T - 1 + needs_h_0)


def _layers(x, parameters, needs=None):
    """(x, weight_x, weight_h, needs) of each layer; a backward layer reads what has C channels."""
    for i in range(0, len(parameters), 6):
        weight_x, weight_h = parameters[i : i + 2]
        is_backward_layer = i % 12 == 6
        given = (*x[:2], weight_h[1], *x[3:]) if is_backward_layer else x
        own = [is_backward_layer or needs[0], *needs[1 + i : 7 + i]] if needs is not None else None
        yield given, weight_x, weight_h, own


def _pdb_convlstm(x, parameters, *_, out_shape=None) -> int:
    return sum(_convlstm(given, weight_x, weight_h) for given, weight_x, weight_h, _ in _layers(x, parameters))


def _pdb_convlstm_backward(
    grad_output, grad_c_n, x, parameters, output, reserve, dilations, peephole_current, needs, out_shape=None
) -> int:
    rest = (None, None, None, None, output[1:], reserve[1:], None, None, None)
    return sum(
        _convlstm_backward(None, None, given, weight_x, weight_h, *rest, own)
        for given, weight_x, weight_h, own in _layers(x, parameters, needs)
    )


def _merge(h_f, h_b, weight_f, weight_b, *_, out_shape=None) -> int:
    return h_f[0] * (_per_step(h_f, weight_f) + _per_step(h_b, weight_b))
