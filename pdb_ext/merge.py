"""The merge of the two directions, Eq. 5 of Song et al. 2018: one native op on the CPU, else PyTorch's operators."""

import torch
from torch import Tensor, nn

from . import _library, ops
from .checks import is_autocast_enabled


def tanh_merge(h_f: Tensor, h_b: Tensor, merge_f: nn.Module, merge_b: nn.Module, native: bool) -> Tensor:
    """Y_t = tanh(W^f * H^f_t + W^b * H^b_t), by the native op where possible, else by calling the convolutions.

    Args:
        h_f, h_b: (T, N, C, H, W).
        merge_f, merge_b: convolutions from C channels to C that keep H and W; the first may have a bias.
        native: False always calls the convolutions.

    Returns:
        (T, N, C, H, W).
    """
    if native and _runs_natively(h_f, h_b, merge_f, merge_b):
        return torch.ops.pdb_ext.merge(h_f, h_b, merge_f.weight, merge_b.weight, merge_f.bias, merge_f.dilation[0])
    frames = merge_f(h_f.flatten(0, 1)) + merge_b(h_b.flatten(0, 1))
    return torch.tanh(frames).unflatten(0, h_f.shape[:2])


def _runs_natively(h_f: Tensor, h_b: Tensor, merge_f: nn.Module, merge_b: nn.Module) -> bool:
    if h_f.device.type != "cpu" or "cpu" not in _library.NATIVE_DEVICES or is_autocast_enabled("cpu"):
        return False
    if not (_is_plain(merge_f) and _is_plain(merge_b)):
        return False
    if merge_f.kernel_size != merge_b.kernel_size or merge_f.dilation != merge_b.dilation or merge_b.bias is not None:
        return False
    if merge_f.kernel_size[0] > 3:  # oneDNN's direct convolution of a larger window is as fast as ours
        return False
    tensors = (h_f, h_b, merge_f.weight, merge_b.weight)
    same_dtype = all(tensor.dtype == h_f.dtype for tensor in tensors) and h_f.dtype in (torch.float32, torch.float64)
    return same_dtype and not ops.needs_reference((*tensors, merge_f.bias))


def _is_plain(module: nn.Module) -> bool:
    """Whether weight and bias are all there is: exactly nn.Conv2d, "same" zero padding, no hooks."""
    if type(module) is not nn.Conv2d:  # quantised, parametrised, wrapped
        return False
    (k, _), (d, _) = module.kernel_size, module.dilation
    geometry = (module.kernel_size, module.dilation, module.stride, module.padding, module.groups, module.padding_mode)
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return geometry == ((k, k), (d, d), (1, 1), (d * (k // 2),) * 2, 1, "zeros") and not any(hooks)


def _fake_merge(h_f, h_b, weight_f, weight_b, bias, dilation):
    return h_f.new_empty(h_f.shape)


def _setup_context(ctx, inputs, output):
    h_f, h_b, weight_f, weight_b, _, ctx.dilation = inputs
    ctx.save_for_backward(h_f, h_b, weight_f, weight_b, output)


def _backward(ctx, grad):
    *tensors, output = ctx.saved_tensors
    h_f, h_b, weight_f, weight_b = tensors
    grad = torch.ops.aten.tanh_backward(grad, output).flatten(0, 1)
    needs_h_f, needs_h_b, *needs_weights, needs_bias = ctx.needs_input_grad[:5]
    grad_h_f, grad_f, grad_bias = _convolution_backward(
        ctx, grad, h_f, weight_f, [needs_h_f, needs_weights[0], needs_bias]
    )
    grad_h_b, grad_b, _ = _convolution_backward(ctx, grad, h_b, weight_b, [needs_h_b, needs_weights[1], False])
    return grad_h_f, grad_h_b, grad_f, grad_b, grad_bias, None


def _convolution_backward(ctx, grad: Tensor, h: Tensor, weight: Tensor, needs: list[bool]) -> tuple[Tensor | None, ...]:
    padding, dilation = ctx.dilation * (weight.shape[-1] // 2), ctx.dilation
    geometry = ([1, 1], [padding] * 2, [dilation] * 2, False, [0, 0], 1)
    grad_h, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad, h.flatten(0, 1), weight, [weight.shape[0]], *geometry, needs
    )
    return None if grad_h is None else grad_h.unflatten(0, h.shape[:2]), grad_weight, grad_bias


if _library.native is not None:
    torch.library.register_fake("pdb_ext::merge")(_fake_merge)
    torch.library.register_autograd("pdb_ext::merge", _backward, setup_context=_setup_context)
