"""`pdb_convlstm`: all layers of a pyramid dilated bidirectional ConvLSTM as one op, in one launch on a GPU."""

import torch
from torch import Tensor

from . import ops
from ._library import NATIVE_DEVICES, native
from .checkpointing import SAVE_NOTHING, refuse_double_backward
from .checks import check_inputs

State = tuple[Tensor, Tensor]


def runs_in_one_op(x: Tensor, layers: list, states: list[State | None]) -> bool:
    """Whether pdb_convlstm may compute these `ConvLSTM` layers of a pyramid (forward, backward, forward ...).

    Only on CUDA, and without what the op does not support: checkpoints, what the reference computes in any case,
    derivatives of other kinds than reverse mode's first.
    """
    if x.device.type != "cuda" or "cuda" not in NATIVE_DEVICES or x.numel() == 0:
        return False
    tensors = [
        x,
        *(t for layer in layers for t in layer.parameters()),
        *(t for s in states if s is not None for t in s),
    ]
    if not all(layer.allows_native() for layer in layers):
        return False
    options = {(layer.checkpoint_every, layer.recompute_gates) for layer in layers}
    return options in ({(None, None)}, {(None, False)}, {(None, True)}) and not ops.needs_reference(tuple(tensors))


def pdb_convlstm(x: Tensor, layers: list, states: list[State | None]) -> list[tuple[Tensor, State]]:
    """What the layers return, each a `ConvLSTM` of one pyramid, in the order forward and backward of each branch.

    Args:
        x: (T, N, Cin, H, W), read by every forward layer; each backward layer reads the output of the one before it.
        layers: of the same sizes but for the dilation, which the two layers of a branch share.
        states: (h_0, c_0) or None, for each layer.

    Returns:
        For each layer output (T, N, C, H, W) and (h_n, c_n), as :func:`pdb_ext.convlstm`.
    """
    parameters = []
    for i, (layer, state) in enumerate(zip(layers, states)):
        given = x if i % 2 == 0 else x[:, :, :1].expand(-1, -1, layer.in_channels, -1, -1)
        check_inputs(
            given, layer.weight_x, layer.weight_h, layer.bias, layer.peephole, state, layer.dilation, layer.reverse,
            layer.output_peephole,
        )  # fmt: skip
        peephole = layer.peephole
        if peephole is not None:
            peephole = peephole.expand(3, layer.hidden_channels, *x.shape[3:])
        parameters += [layer.weight_x, layer.weight_h, layer.bias, peephole, *(state or (None, None))]
    x, *parameters = ops.autocast(x, *parameters)
    parameters = [x.new_empty(0) if t is None else t for t in parameters]
    training = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parameters))
    save = ops.saves(layers[0].recompute_gates, x, layers[0].weight_h, x.shape[0]) if training else SAVE_NOTHING
    dilations, current = [layer.dilation for layer in layers[::2]], layers[0].output_peephole == "current"
    output, c_n, _ = torch.ops.pdb_ext.pdb_convlstm(x, parameters, dilations, current, save)
    # The last states, copied: views would keep all of output alive. One copy for all layers of a direction.
    forward, backward = output[::2, -1].clone(), output[1::2, 0].clone()
    states = [((backward if i % 2 else forward)[i // 2], c_n[i]) for i in range(len(layers))]
    return list(zip(output.unbind(), states))


def _fake_pdb_convlstm(x, parameters, dilations, peephole_current, save):
    T, N, _, H, W = x.shape
    layers, C = 2 * len(dilations), parameters[1].shape[1]
    size = ops.reserve_share(x.dtype, save) * T * N * C * H * W
    reserve = x.new_empty(layers, size, dtype=ops.reserve_dtype(x.dtype))
    return x.new_empty(layers, T, N, C, H, W), x.new_empty(layers, N, C, H, W), reserve


def _fake_pdb_convlstm_backward(
    grad_output, grad_c_n, x, parameters, output, reserve, dilations, peephole_current, needs
):  # fmt: skip
    state = output.shape[2:]
    shapes = [x.shape]
    for i in range(len(dilations) * 2):
        weight_x, weight_h = parameters[6 * i : 6 * i + 2]
        shapes += [weight_x.shape, weight_h.shape, weight_h.shape[:1], (3, *state[1:]), state, state]
    return [x.new_empty(shape if needed else (0,)) for shape, needed in zip(shapes, needs)]


def _setup_context(ctx, inputs, output):
    x, parameters, ctx.dilations, ctx.peephole_current, save = inputs
    ctx.saved = save != SAVE_NOTHING
    h, _, reserve = output
    ctx.mark_non_differentiable(reserve)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, h, reserve, *parameters)


def _backward(ctx, grad_output, grad_c_n, _grad_reserve):
    if not ctx.saved:
        raise RuntimeError("pdb_convlstm: the op was called with save=0; call it with save=1 or 2 to differentiate it")
    x, h, reserve, *parameters = ctx.saved_tensors
    needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[1]]
    options = (ctx.dilations, ctx.peephole_current, needs)
    grads = torch.ops.pdb_ext.pdb_convlstm_backward(grad_output, grad_c_n, x, parameters, h, reserve, *options)
    grads = [grad if needed else None for grad, needed in zip(grads, needs)]
    return grads[0], grads[1:], None, None, None


if native is not None:
    torch.library.register_fake("pdb_ext::pdb_convlstm")(_fake_pdb_convlstm)
    torch.library.register_fake("pdb_ext::pdb_convlstm_backward")(_fake_pdb_convlstm_backward)
    torch.library.register_autograd("pdb_ext::pdb_convlstm", _backward, setup_context=_setup_context)
    torch.library.register_autograd("pdb_ext::pdb_convlstm_backward", refuse_double_backward)
