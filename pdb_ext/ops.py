"""`convlstm`: the public function, and the fake kernels of the native op. Its autograd is in csrc/ops.

The ops beside it (`convgru`, `pdb_convlstm`, `merge`) use from here: `autocast`, `record_call`, `is_native`,
`in_computed_dtype`, `needs_reference`, `saves`, `reserve_dtype`, `reserve_share`.
"""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as are_functorch_transforms_active
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad
from torch.fx import Proxy

from . import reference
from ._library import NATIVE_DEVICES, native, record, why_not_native
from .checkpointing import SAVE_CELLS, SAVE_GATES_AND_CELLS, SAVE_NOTHING, CheckpointedConvLSTM
from .checks import (
    check_cell_options,
    check_choice_of_flag,
    check_implementation,
    check_inputs,
    check_steps,
    is_autocast_enabled,
)
from .flops import register_flop_formulas

_NATIVE_CELL = reference.CellOptions()


def convlstm(
    x: Tensor,
    weight_x: Tensor,
    weight_h: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
    *,
    dilation: int = 1,
    reverse: bool = False,
    output_peephole: str = "previous",
    padding_mode: str = "zeros",
    activation: str = "tanh",
    recurrent_activation: str = "sigmoid",
    norm: str | None = None,
    num_groups: int = 1,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    recurrent_mask: Tensor | None = None,
    checkpoint_every: int | None = None,
    recompute_gates: bool | None = None,
    implementation: str = "auto",
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One ConvLSTM layer over a whole sequence, with dilated convolutions (`*`) and "same" zero padding::

        i_t = sigmoid(W_xi * x_t + W_hi * h_{t-1} + b_i + P_i . c_{t-1})
        f_t = sigmoid(W_xf * x_t + W_hf * h_{t-1} + b_f + P_f . c_{t-1})
        g_t = tanh   (W_xg * x_t + W_hg * h_{t-1} + b_g)
        c_t = f_t . c_{t-1} + i_t . g_t
        o_t = sigmoid(W_xo * x_t + W_ho * h_{t-1} + b_o + P_o . c_{t-1})      # or P_o . c_t, see output_peephole
        h_t = o_t . tanh(c_t)

    Without `peephole` this is Eq. 4 of Song et al., "Pyramid Dilated Deeper ConvLSTM" (ECCV 2018), with biases.

    Args:
        x: input, (T, N, Cin, H, W); float32, float64, float16 or bfloat16 (the CPU computes the last two in float32).
        weight_x: input-to-gates weight, (4C, Cin, kh, kw), kh and kw odd. The 4C rows are the gates i, f, o, g, C rows
            each. The native op has square kernels; others are computed by the reference.
        weight_h: hidden-to-gates weight, (4C, C, kh, kw).
        bias: (4C,).
        peephole: weights of the cell state in the gates i, f, o; broadcastable to (3, C, H, W).
        state: (h_0, c_0), each (N, C, H, W); zeros if None.
        dilation: dilation of both convolutions, at least 1.
        reverse: run t = T-1 ... 0. Outputs stay in frame order, and (h_n, c_n) is then the state at frame 0.
        output_peephole: whether the output gate reads c_{t-1} ("previous", as in the authors' released model)
            or c_t ("current", as in Shi et al. 2015).
        padding_mode: what the convolutions see beyond the edge, as in `torch.nn.Conv2d`: "zeros", "circular",
            "replicate" or "reflect". This option and those down to recurrent_mask are computed by the reference where
            they are not the default.
        activation: the function in place of both tanh: "tanh", "relu", "sigmoid", "hard_sigmoid", which is
            clip(x / 6 + 0.5, 0, 1) as in `torch.nn.Hardsigmoid` and Keras 3, or "hard_sigmoid_keras2", which is
            clip(0.2 x + 0.5, 0, 1) as in Keras 1 and 2.
        recurrent_activation: that in place of the sigmoid of i, f and o; of the same.
        norm: normalisation of the sums W_x * x_t + W_h * h_{t-1} + b, before peepholes: "group" for
            `torch.nn.GroupNorm(num_groups, 4C)`, "layer" for a LayerNorm over the 4C channels of each pixel; None.
        num_groups: of norm="group"; it divides 4C.
        norm_weight, norm_bias: scale and offset of the normalised sums, each (4C,).
        recurrent_mask: factor of h_{t-1} in the convolutions, the same at every step, broadcastable to (N, C, H, W):
            that of a dropout, for instance.
        checkpoint_every: saves memory in training: the state is stored only every so many steps, and the steps between
            are computed again in the backward pass. About sqrt(T) needs least. None stores what backward needs at every
            step, see recompute_gates. The results are the same up to rounding. The reference ignores it.
        recompute_gates: saves memory in training: the cell states are stored (as large as the output, in float32 at
            least) but not the gates (four times the output), which are computed again in the backward pass. That costs
            one forward convolution, not a whole forward pass; the results are the same up to rounding. With
            checkpoint_every it applies to the steps between. On CUDA, backward over more than eight steps then takes
            them a few at a time, in memory that does not grow with T. None: yes on CUDA in half precision over more
            than eight steps, unless the layer is so large that the convolution costs more than what it saves (4 GFLOP a
            step), else no.
        implementation: "auto" uses the native op where it can; "reference" uses PyTorch's own operators alone
            (:func:`pdb_ext.reference.convlstm`, one step after the other): for gradients of gradients. ONNX export
            always takes the latter.

    Returns:
        output (T, N, C, H, W), every h_t in frame order; and (h_n, c_n), each (N, C, H, W), the last state.

    Raises:
        ValueError: an argument has the wrong shape, dtype, device or value; the message names it.
        TypeError: an argument that must be a tensor is not one.

    Reverse-mode gradients are native. Forward-mode ones, and all of `torch.func` (grad, jacrev, hessian), come from the
    reference. A gradient of a gradient is refused unless implementation="reference". Under `torch.fx.symbolic_trace`
    the call becomes one node. An infinity or a value near the largest float may turn its neighbours into NaN where the
    CPU uses Winograd's form of the convolution. Calls that need no gradient store nothing for one; to export a program
    for inference, trace it under `torch.no_grad()`.
    """
    options = reference.CellOptions(
        padding_mode, activation, recurrent_activation, norm, num_groups, norm_weight, norm_bias, recurrent_mask
    )
    if isinstance(x, Proxy):
        return record_call(
            convlstm, x, weight_x, weight_h, bias, peephole, state, dilation=dilation, reverse=reverse,
            output_peephole=output_peephole, checkpoint_every=checkpoint_every, recompute_gates=recompute_gates,
            implementation=implementation, **options._asdict(),
        )  # fmt: skip
    check_inputs(x, weight_x, weight_h, bias, peephole, state, dilation, reverse, output_peephole)
    has_native_cell = options == _NATIVE_CELL
    if not has_native_cell:
        check_cell_options(x, weight_h, dilation, options)
    check_implementation(implementation)
    if checkpoint_every is not None:
        check_steps(checkpoint_every)
    check_choice_of_flag("recompute_gates", recompute_gates)
    h_0, c_0 = state if state is not None else (None, None)
    tensors = autocast(x, weight_x, weight_h, bias, peephole, h_0, c_0)
    if not has_native_cell or not is_native(tensors, implementation):
        x, weight_x, weight_h, bias, peephole, h_0, c_0 = tensors
        state = None if h_0 is None else (h_0, c_0)
        return reference.convlstm_of_checked(
            x, weight_x, weight_h, bias, peephole, state, dilation, reverse, output_peephole, options
        )
    dtype = tensors[0].dtype
    tensors = in_computed_dtype(tensors)
    output, c_n = _call(tensors, (dilation, reverse, output_peephole == "current"), checkpoint_every, recompute_gates)
    if output.dtype is not dtype:
        output, c_n = output.to(dtype), c_n.to(dtype)
    h_n = output[0] if reverse else output[-1]
    return output, (h_n.clone(), c_n)  # a view would keep all of output alive


def _cast(tensors: tuple[Tensor | None, ...], dtype: torch.dtype) -> tuple[Tensor | None, ...]:
    return tuple(tensor.to(dtype) if tensor is not None else None for tensor in tensors)


def in_computed_dtype(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The arguments in the dtype in which the native op computes: the CPU has no half precision."""
    is_half = tensors[0].dtype in (torch.float16, torch.bfloat16)
    return _cast(tensors, torch.float32) if is_half and tensors[0].device.type == "cpu" else tensors


def autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The arguments in the autocast dtype, as autocast does for a convolution; unchanged if x is float64."""
    device = tensors[0].device.type
    if tensors[0].dtype == torch.float64 or not is_autocast_enabled(device):
        return tensors
    return _cast(tensors, torch.get_autocast_dtype(device))


def record_call(function: Callable, *arguments, **options) -> Proxy:
    """One node for the call of `function`, whose first argument is a proxy of `torch.fx.symbolic_trace`."""
    return arguments[0].tracer.create_proxy("call_function", function, arguments, options)


def is_native(tensors: tuple[Tensor | None, ...], implementation: str, layer: str = "ConvLSTM") -> bool:
    """Whether a native op computes the layer; tensors: x, weight_x and the others."""
    x, weight_x = tensors[:2]
    if implementation == "reference":
        return False
    if x.device.type not in NATIVE_DEVICES:
        _warn_of_fallback(x.device.type, layer)
        return False
    return weight_x.shape[2] == weight_x.shape[3] and not needs_reference(tensors)


def needs_reference(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether a derivative is being taken that the native ops do not have, or a program made that cannot hold them.

    They have no forward mode (their tangents would be zero), and `torch.func` refuses ops registered as they are. ONNX
    knows PyTorch's own operators alone.
    """
    if _is_exporting_to_onnx():
        return True
    if torch.compiler.is_compiling():
        return False
    if are_functorch_transforms_active():
        return any(level.key() in (TransformType.Grad, TransformType.Jvp) for level in get_interpreter_stack())
    if forward_ad._current_level < 0:  # outside of dual_level(), where asking every tensor would take long
        return False
    return any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def _is_exporting_to_onnx() -> bool:
    # PyTorch's own question takes longer than a part of a small step: it is put only where a program is traced.
    is_traced = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    return (is_traced or torch.jit.is_tracing()) and torch.onnx.is_in_onnx_export()


def _warn_of_fallback(device: str, layer: str) -> None:
    if not torch.compiler.is_compiling():
        _warn_once(device, layer)


@functools.cache
def _warn_once(device: str, layer: str) -> None:
    reason = why_not_native or (
        record["why_no_cuda"] if device == "cuda" else f"it was built for {sorted(NATIVE_DEVICES)}"
    )
    warnings.warn(
        f"pdb_ext has no native {layer} for device '{device}' ({reason}); it uses the slower PyTorch reference.",
        stacklevel=5,
    )


def _call(
    tensors: tuple[Tensor | None, ...],
    options: tuple[int, bool, bool],
    checkpoint_every: int | None,
    recompute_gates: bool | None,
) -> tuple[Tensor, Tensor]:
    x, weight_x, weight_h, bias, peephole, h_0, c_0 = tensors
    if peephole is not None:
        peephole = peephole.expand(3, weight_h.shape[1], *x.shape[3:])
    tensors = (x, weight_x, weight_h, bias, peephole, h_0, c_0)
    training = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    # Sizes matter only in training: a program exported for inference must not depend on them.
    if training and checkpoint_every is not None and checkpoint_every < x.shape[0]:
        save = saves(recompute_gates, x, weight_h, checkpoint_every)
        return CheckpointedConvLSTM.apply(*tensors, checkpoint_every, options, save)
    save = saves(recompute_gates, x, weight_h, x.shape[0]) if training else SAVE_NOTHING
    output, c_n, _ = torch.ops.pdb_ext.convlstm(*tensors, *options, save)
    return output, c_n


def saves(recompute_gates: bool | None, x: Tensor, weight_h: Tensor, steps: int) -> int:
    """The op's argument `save`, what it stores for backward, from the argument recompute_gates of :func:`convlstm`.

    steps: the number of steps that one call of the op computes.
    """
    if recompute_gates is None:
        (_, N, Cin, H, W), (rows, C, k, _) = x.shape, weight_h.shape
        operations = 2 * rows * (Cin + C) * k**2 * N * H * W
        recompute_gates = x.device.type == "cuda" and x.dtype.itemsize == 2 and steps > 8 and operations < 4e9
    return SAVE_CELLS if recompute_gates else SAVE_GATES_AND_CELLS


def _fake_convlstm(x, weight_x, weight_h, bias, peephole, h_0, c_0, dilation, reverse, peephole_current, save):
    T, N, _, H, W = x.shape
    C = weight_h.shape[1]
    torch._check(0 <= save <= 2, lambda: f"convlstm: save must be 0, 1 or 2, got {save}")
    reserve = x.new_empty(reserve_share(x.dtype, save) * T * N * C * H * W, dtype=reserve_dtype(x.dtype))
    return x.new_empty(T, N, C, H, W), x.new_empty(N, C, H, W), reserve


def reserve_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the op stores what backward needs."""
    return torch.promote_types(dtype, torch.float32)


def reserve_share(dtype: torch.dtype, save: int) -> int:
    """Elements of the reserve per element of the output: gates are stored in x's dtype, cells in the reserve's."""
    gates = 4 * dtype.itemsize // reserve_dtype(dtype).itemsize
    return (0, gates + 1, 1)[save]


def _fake_convlstm_backward(
    grad_output, grad_c_n, x, weight_x, weight_h, bias, peephole, h_0, c_0, output, reserve,
    dilation, reverse, peephole_current, needs,
):  # fmt: skip
    state = output.shape[1:]
    shapes = [x.shape, weight_x.shape, weight_h.shape, weight_h.shape[:1], (3, *state[1:]), state, state]
    return tuple(x.new_empty(shape if needed else (0,)) for shape, needed in zip(shapes, needs))


if native is not None:
    torch.library.register_fake("pdb_ext::convlstm")(_fake_convlstm)
    torch.library.register_fake("pdb_ext::convlstm_backward")(_fake_convlstm_backward)
    register_flop_formulas()
