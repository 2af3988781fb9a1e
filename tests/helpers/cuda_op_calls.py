"""Arguments of the op `convlstm`, and the reference's results for them."""

import torch

from pdb_ext import reference

# T, N, Cin, C, H, W of most tests
SIZES = (3, 2, 3, 4, 5, 6)


def arguments(sizes=SIZES, dtype=torch.float64, optional=True, peephole_shape=None):
    T, N, Cin, C, H, W = sizes
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.3).to(dtype)

    required = [normal(T, N, Cin, H, W), normal(4 * C, Cin, 3, 3), normal(4 * C, C, 3, 3)]
    if not optional:
        return [*required, None, None, None, None]
    peephole = normal(*(peephole_shape or (3, C, H, W))).expand(3, C, H, W)
    return [*required, normal(4 * C), peephole, normal(N, C, H, W), normal(N, C, H, W)]


def expected(tensors, dilation=2, reverse=False, peephole_current=False):
    """Output, c_n, cotangents, and the gradients for them, by the reference."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in tensors]
    x, weight_x, weight_h, bias, peephole, h_0, c_0 = leaves
    output, (_, c_n) = reference.convlstm(
        x, weight_x, weight_h, bias, peephole, None if h_0 is None else (h_0, c_0), dilation=dilation, reverse=reverse,
        output_peephole="current" if peephole_current else "previous",
    )  # fmt: skip
    cotangents = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t) for t in (output, c_n)]
    given = [t for t in leaves if t is not None]
    grads = iter(torch.autograd.grad([output, c_n], given, cotangents))
    return output.detach(), c_n.detach(), cotangents, [None if t is None else next(grads) for t in leaves]
