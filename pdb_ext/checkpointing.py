"""Training that stores the state at only a few steps and computes the steps between them again (Chen et al. 2016)."""

import torch
from torch import Tensor

# What the native op keeps for its backward pass besides the output: `save` of torch.ops.pdb_ext.convlstm.
SAVE_NOTHING, SAVE_GATES_AND_CELLS, SAVE_CELLS = range(3)


def refuse_double_backward(ctx, *_grads):
    raise RuntimeError(
        "convlstm: double backward (a gradient of a gradient) is not supported by the native op; "
        'use implementation="reference" for it, of the layer or of pdb_ext.convlstm'
    )


class CheckpointedConvLSTM(torch.autograd.Function):
    """The native op in segments of `every` steps; only x, the output and c between segments live until backward.

    Tensor arguments as those of torch.ops.pdb_ext.convlstm, options (dilation, reverse, peephole_current), save: what
    the op keeps of a segment while its backward pass runs. Returns (output, c_n). `torch.utils.checkpoint` would do the
    same with more memory: its forward pass allocates the reserve, too.
    """

    @staticmethod
    def forward(ctx, x, weight_x, weight_h, bias, peephole, h_0, c_0, every: int, options: tuple, save: int):
        output = x.new_empty(*x.shape[:2], weight_h.shape[1], *x.shape[3:])
        h, c = h_0, c_0
        cells = []
        for frames in _segments(len(x), every, reverse=options[1]):
            cells.append(c)
            tensors = (x[frames], weight_x, weight_h, bias, peephole, h, c)
            output[frames], c, _ = torch.ops.pdb_ext.convlstm(*tensors, *options, SAVE_NOTHING)
            h = output[frames.start if options[1] else frames.stop - 1]
        ctx.every, ctx.options, ctx.save = every, options, save
        # c_0, the first of the cells, as the input that it is: a gradient of a gradient must find it.
        ctx.save_for_backward(x, weight_x, weight_h, bias, peephole, h_0, c_0, output, *cells[1:])
        return output, c

    @staticmethod
    def backward(ctx, grad_output, grad_c):
        settings = (ctx.every, ctx.options, ctx.save, ctx.needs_input_grad[:7])
        return (*_CheckpointedBackward.apply(*settings, grad_output, grad_c, *ctx.saved_tensors), None, None, None)


class _CheckpointedBackward(torch.autograd.Function):
    """The backward pass, as a function of its own: under create_graph a gradient of it must not be silently zero."""

    backward = staticmethod(refuse_double_backward)

    @staticmethod
    def forward(ctx, every, options, save, needs, grad_output, grad_c, *saved):
        x, weight_x, weight_h, bias, peephole, h_0, c_0, output, *cells = saved
        cells = [c_0, *cells]
        reverse = options[1]
        grad_x = torch.empty_like(x) if needs[0] else None
        # Sums over the segments, in more than half precision.
        sums: list[Tensor | None] = [None] * 4
        grad_h = None
        segments = _segments(len(x), every, reverse)
        for index, frames in reversed(list(enumerate(segments))):
            first = index == 0
            before = frames.stop if reverse else frames.start - 1
            inputs = (x[frames], weight_x, weight_h, bias, peephole, h_0 if first else output[before], cells[index])
            h, _, reserve = torch.ops.pdb_ext.convlstm(*inputs, *options, save)
            grad_segment = grad_output[frames]
            if grad_h is not None:
                grad_segment = grad_segment.clone()
                grad_segment[0 if reverse else -1] += grad_h
            wanted = [*needs[:5], needs[5] or not first, needs[6] or not first]
            kept = (*inputs, h, reserve)
            grads = torch.ops.pdb_ext.convlstm_backward(grad_segment, grad_c, *kept, *options, wanted)
            if grad_x is not None:
                grad_x[frames] = grads[0]
            sums = [_add(total, grad) for total, grad in zip(sums, grads[1:5])]
            grad_h, grad_c = grads[5:]
        parts = (grad_x, *(total.to(x.dtype) for total in sums), grad_h, grad_c)
        return tuple(grad if needed else None for grad, needed in zip(parts, needs))


def _segments(T: int, every: int, reverse: bool) -> list[slice]:
    """Frames of each segment, in the order in which they run."""
    segments = [slice(begin, min(begin + every, T)) for begin in range(0, T, every)]
    return segments[::-1] if reverse else segments


def _add(total: Tensor | None, grad: Tensor) -> Tensor:
    grad = grad.to(torch.promote_types(grad.dtype, torch.float32))
    return grad if total is None else total + grad
