"""Checks the arguments of `convlstm`, native and reference, and of the modules, in one place."""

from typing import NoReturn

import torch
from torch import Tensor

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_inputs(
    x: Tensor,
    weight_x: Tensor,
    weight_h: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    state: tuple[Tensor, Tensor] | None,
    dilation: int,
    reverse: bool,
    output_peephole: str,
) -> None:
    """Raises one ValueError (TypeError for what is not a tensor): the argument, what it must be, and what it is."""
    state = _check_state_type(state)
    optional = {"bias": bias, "peephole": peephole, "state[0] (h_0)": state[0], "state[1] (c_0)": state[1]}
    tensors = {"x": x, "weight_x": weight_x, "weight_h": weight_h}
    tensors |= {name: value for name, value in optional.items() if value is not None}
    _check_kind(tensors)
    _check_rank("x", x, "(T, N, Cin, H, W)", 5)
    T, N, in_channels, H, W = x.shape
    if any(size < 1 for size in (T, in_channels, H, W)):  # min() would guard on which one is smallest when tracing
        _fail("x", "have shape (T, N, Cin, H, W) with T, Cin, H and W at least 1", _shape(x))
    C, k = _check_weights(weight_x, weight_h, in_channels)
    for name, expected, formula in (
        ("bias", (4 * C,), "(4C,)"),
        ("state[0] (h_0)", (N, C, H, W), "(N, C, H, W)"),
        ("state[1] (c_0)", (N, C, H, W), "(N, C, H, W)"),
    ):
        if name in tensors and tuple(tensors[name].shape) != expected:
            _fail(name, f"have shape {formula} = {expected}", _shape(tensors[name]))
    if peephole is not None and not _broadcasts(peephole, (3, C, H, W)):
        _fail("peephole", f"be broadcastable to (3, C, H, W) = {(3, C, H, W)}", _shape(peephole))
    if isinstance(dilation, bool) or not isinstance(dilation, (int, torch.SymInt)) or not 1 <= dilation < 2**63:
        _fail("dilation", "be an integer of at least 1 (and of 64 bits)", repr(dilation))
    if not isinstance(reverse, bool):
        _fail("reverse", "be True or False", repr(reverse))
    if output_peephole not in ("previous", "current"):
        _fail("output_peephole", "be 'previous' or 'current'", repr(output_peephole))


def check_steps(checkpoint_every: int) -> None:
    if isinstance(checkpoint_every, bool) or not isinstance(checkpoint_every, int) or checkpoint_every < 1:
        _fail("checkpoint_every", "be None or an integer of at least 1", repr(checkpoint_every))


def check_choice_of_flag(name: str, value: bool | None) -> None:
    if value is not None and not isinstance(value, bool):
        _fail(name, "be None, True or False", repr(value))


def is_autocast_enabled(device: str) -> bool:
    """Like torch.is_autocast_enabled, but also for device types without autocast."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _fail(name: str, expected: str, actual: str, error: type[Exception] = ValueError) -> NoReturn:
    raise error(f"convlstm: {name} must {expected}, got {actual}")


def _shape(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}"


def _check_state_type(state) -> tuple[Tensor | None, Tensor | None]:
    if state is None:
        return None, None
    if not isinstance(state, (tuple, list)) or len(state) != 2 or any(part is None for part in state):
        is_sequence = isinstance(state, (tuple, list))
        actual = f"{type(state).__name__} of length {len(state)}" if is_sequence else type(state).__name__
        _fail("state", "be None or a pair of tensors (h_0, c_0)", actual)
    return state[0], state[1]


def _check_kind(tensors: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            _fail(name, "be a tensor", type(value).__name__, TypeError)
    x = tensors["x"]
    if x.dtype not in _FLOATS:
        _fail("x", "be of dtype float16, bfloat16, float32 or float64", str(x.dtype))
    for name, value in tensors.items():
        if value.layout != torch.strided:
            _fail(name, "be a dense (strided) tensor", str(value.layout))
        if value.device != x.device:
            _fail(name, f"be on the device of x, {x.device}", str(value.device))
        mixing = is_autocast_enabled(x.device.type) and torch.float64 not in (x.dtype, value.dtype)
        if value.dtype != x.dtype and not mixing:
            _fail(name, f"have the dtype of x, {x.dtype}", str(value.dtype))


def _check_rank(name: str, tensor: Tensor, formula: str, rank: int) -> None:
    if tensor.dim() != rank:
        _fail(name, f"have shape {formula}, {rank} dimensions", _shape(tensor))


def _check_weights(weight_x: Tensor, weight_h: Tensor, in_channels: int) -> tuple[int, int]:
    """Returns (C, k)."""
    _check_rank("weight_x", weight_x, "(4C, Cin, k, k)", 4)
    _check_rank("weight_h", weight_h, "(4C, C, k, k)", 4)
    C, k = weight_h.shape[1], weight_h.shape[2]
    if k % 2 == 0 or weight_h.shape[3] != k:
        _fail("weight_h", "have shape (4C, C, k, k) with an odd k", _shape(weight_h))
    if C < 1 or weight_h.shape[0] != 4 * C:
        _fail("weight_h", f"have shape (4C, C, k, k) = {(4 * C, C, k, k)}", _shape(weight_h))
    if tuple(weight_x.shape) != (4 * C, in_channels, k, k):
        _fail("weight_x", f"have shape (4C, Cin, k, k) = {(4 * C, in_channels, k, k)}", _shape(weight_x))
    return C, k


def _broadcasts(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    if tensor.dim() > len(shape):
        return False
    return all(size in (1, full) for size, full in zip(reversed(tensor.shape), reversed(shape)))


# The arguments of the modules


def check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"ConvLSTM: {name} must be an integer of at least 1, got {value!r}")


def check_kernel_size(kernel_size: int) -> None:
    if type(kernel_size) is not int or kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"ConvLSTM: kernel_size must be an odd integer of at least 1, got {kernel_size!r}")


def check_peephole(shape: tuple[int, ...] | None, C: int) -> None:
    """Checks a shape against (3, C, H, W); H and W are known only when an input comes."""
    if shape is None:
        return
    is_shape = isinstance(shape, (tuple, list)) and all(type(size) is int and size >= 1 for size in shape)
    fits = is_shape and len(shape) <= 4
    if fits:
        full = (3, C, None, None)[4 - len(shape) :]
        fits = all(size == 1 or size == want or want is None for size, want in zip(shape, full))
    if not fits:
        raise ValueError(f"ConvLSTM: peephole must be a shape broadcastable to (3, C, H, W) with C = {C}, got {shape}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def check_sequence(layer: str, x: Tensor, in_channels: int, batch_first: bool) -> None:
    axes = "(N, T, Cin, H, W)" if batch_first else "(T, N, Cin, H, W)"
    if not isinstance(x, Tensor):
        raise TypeError(f"{layer}: x must be a tensor of shape {axes}, got {type(x).__name__}")
    if x.dim() != 5 or x.shape[2] != in_channels:
        raise ValueError(f"{layer}: x must have shape {axes} with Cin = {in_channels}, got shape {tuple(x.shape)}")
    if x.shape[1 if batch_first else 0] == 0:
        raise ValueError(f"{layer}: x must have shape {axes} with T of at least 1, got shape {tuple(x.shape)}")


def unpack_states(name: str, states: tuple | None, count: int, expected: str) -> tuple:
    if states is None:
        return (None,) * count
    if not isinstance(states, (tuple, list)) or len(states) != count:
        actual = f"{type(states).__name__} of length {len(states)}" if hasattr(states, "__len__") else type(states)
        raise ValueError(f"{name} must be None or {expected}, got {actual}")
    return tuple(states)
