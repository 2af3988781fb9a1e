"""Checks the arguments of `convlstm` and `convgru`, native and reference, and of the modules, in one place."""

from typing import NoReturn

import torch
from torch import Tensor
from torch.fx import Proxy

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

ACTIVATIONS = ("tanh", "sigmoid", "relu", "hard_sigmoid", "hard_sigmoid_keras2")
PADDING_MODES = ("zeros", "circular", "replicate", "reflect")
NORMS = (None, "group", "layer")


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
    C, H, W = _check_layer("convlstm", 4, tensors, ("state[0] (h_0)", "state[1] (c_0)"), dilation, reverse)
    if peephole is not None and not _broadcasts(peephole, (3, C, H, W)):
        _fail("peephole", f"be broadcastable to (3, C, H, W) = {(3, C, H, W)}", _shape(peephole))
    if output_peephole not in ("previous", "current"):
        _fail("output_peephole", "be 'previous' or 'current'", repr(output_peephole))


def check_gru_inputs(
    x: Tensor,
    weight_x: Tensor,
    weight_h: Tensor,
    bias: Tensor | None,
    h_0: Tensor | None,
    dilation: int,
    reverse: bool,
) -> None:
    """As :func:`check_inputs`, for `convgru`."""
    tensors = {"x": x, "weight_x": weight_x, "weight_h": weight_h}
    tensors |= {name: value for name, value in {"bias": bias, "h_0": h_0}.items() if value is not None}
    _check_layer("convgru", 3, tensors, ("h_0",), dilation, reverse)


def _check_layer(
    op: str, gates: int, tensors: dict[str, Tensor], states: tuple[str, ...], dilation: int, reverse: bool
) -> tuple[int, int, int]:
    """Checks what every layer has, `states` being the names of those among the tensors. Returns C, H and W."""
    _check_kind(op, tensors)
    x = tensors["x"]
    if x.dim() != 5:
        _fail("x", "have shape (T, N, Cin, H, W), 5 dimensions", _shape(x), op)
    T, N, in_channels, H, W = x.shape
    if T < 1 or in_channels < 1 or H < 1 or W < 1:  # min() would guard on which one is smallest when tracing
        _fail("x", "have shape (T, N, Cin, H, W) with T, Cin, H and W at least 1", _shape(x), op)
    C = _check_weights(op, gates, tensors["weight_x"], tensors["weight_h"], in_channels)
    if "bias" in tensors and tensors["bias"].shape != (gates * C,):
        _fail("bias", f"have shape ({gates}C,) = {(gates * C,)}", _shape(tensors["bias"]), op)
    for name in states:
        if name in tensors and tensors[name].shape != (N, C, H, W):
            _fail(name, f"have shape (N, C, H, W) = {(N, C, H, W)}", _shape(tensors[name]), op)
    if isinstance(dilation, bool) or not isinstance(dilation, (int, torch.SymInt)) or not 1 <= dilation < 2**63:
        _fail("dilation", "be an integer of at least 1 (and of 64 bits)", repr(dilation), op)
    if not isinstance(reverse, bool):
        _fail("reverse", "be True or False", repr(reverse), op)
    return C, H, W


def check_cell_options(x: Tensor, weight_h: Tensor, dilation: int, options) -> None:
    """options: a `pdb_ext.reference.CellOptions`; the rest has passed `check_inputs`."""
    (_, N, _, H, W), (rows, C, kh, kw) = x.shape, weight_h.shape
    for name, choices in (
        ("padding_mode", PADDING_MODES), ("activation", ACTIVATIONS), ("recurrent_activation", ACTIVATIONS),
        ("norm", NORMS),
    ):  # fmt: skip
        if getattr(options, name) not in choices:
            _fail(name, f"be one of {choices}", repr(getattr(options, name)))
    padding = dilation * (kh // 2), dilation * (kw // 2)
    most = {"circular": (H, W), "reflect": (H - 1, W - 1)}.get(options.padding_mode)
    if most is not None and (padding[0] > most[0] or padding[1] > most[1]):
        expected = f"be 'zeros' or 'replicate' for a picture of (H, W) = {(H, W)} that is to be padded by {padding}"
        _fail("padding_mode", expected, repr(options.padding_mode))
    if not _fits_groups(options.num_groups, options.norm, C):
        _fail("num_groups", _groups_expected(C), repr(options.num_groups))
    names = ("norm_weight", "norm_bias", "recurrent_mask")
    tensors = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    _check_kind("convlstm", {"x": x} | tensors)
    for name in ("norm_weight", "norm_bias"):
        if name in tensors and options.norm is None:
            _fail(name, "be None without norm", _shape(tensors[name]))
        if name in tensors and tuple(tensors[name].shape) != (rows,):
            _fail(name, f"have shape (4C,) = {(rows,)}", _shape(tensors[name]))
    if "recurrent_mask" in tensors and not _broadcasts(tensors["recurrent_mask"], (N, C, H, W)):
        actual = _shape(tensors["recurrent_mask"])
        _fail("recurrent_mask", f"be broadcastable to (N, C, H, W) = {(N, C, H, W)}", actual)


def _fits_groups(num_groups: int, norm: str | None, C: int) -> bool:
    if type(num_groups) is not int or num_groups < 1:
        return False
    return 4 * C % num_groups == 0 if norm == "group" else num_groups == 1


def _groups_expected(C: int) -> str:
    return f"be an integer of at least 1 that divides 4C = {4 * C}, or 1 without norm='group'"


def check_steps(checkpoint_every: int) -> None:
    if isinstance(checkpoint_every, bool) or not isinstance(checkpoint_every, int) or checkpoint_every < 1:
        _fail("checkpoint_every", "be None or an integer of at least 1", repr(checkpoint_every))


def check_choice_of_flag(name: str, value: bool | None) -> None:
    if value is not None and not isinstance(value, bool):
        _fail(name, "be None, True or False", repr(value))


def check_implementation(implementation: str, op: str = "convlstm") -> None:
    if implementation not in ("auto", "reference"):
        _fail("implementation", "be 'auto' or 'reference'", repr(implementation), op)


def is_autocast_enabled(device: str) -> bool:
    """Like torch.is_autocast_enabled, but also for device types without autocast."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _fail(name: str, expected: str, actual: str, op: str = "convlstm", error: type[Exception] = ValueError) -> NoReturn:
    raise error(f"{op}: {name} must {expected}, got {actual}")


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


def _check_kind(op: str, tensors: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            _fail(name, "be a tensor", type(value).__name__, op, TypeError)
    dtype, device = tensors["x"].dtype, tensors["x"].device
    if dtype not in _FLOATS:
        _fail("x", "be of dtype float16, bfloat16, float32 or float64", str(dtype), op)
    for name, value in tensors.items():
        if value.layout is not torch.strided:
            _fail(name, "be a dense (strided) tensor", str(value.layout), op)
        if value.device != device:
            _fail(name, f"be on the device of x, {device}", str(value.device), op)
        if value.dtype is not dtype:
            mixing = is_autocast_enabled(device.type) and torch.float64 not in (dtype, value.dtype)
            if not mixing:
                _fail(name, f"have the dtype of x, {dtype}", str(value.dtype), op)


def _check_weights(op: str, gates: int, weight_x: Tensor, weight_h: Tensor, in_channels: int) -> int:
    """Returns C."""
    for name, tensor, columns in (("weight_x", weight_x, "Cin"), ("weight_h", weight_h, "C")):
        if tensor.dim() != 4:
            _fail(name, f"have shape ({gates}C, {columns}, kh, kw), 4 dimensions", _shape(tensor), op)
    C, kh, kw = weight_h.shape[1:]
    rows = gates * C
    if kh % 2 == 0 or kw % 2 == 0:
        _fail("weight_h", f"have shape ({gates}C, C, kh, kw) with odd kh and kw", _shape(weight_h), op)
    if C < 1 or weight_h.shape[0] != rows:
        _fail("weight_h", f"have shape ({gates}C, C, kh, kw) = {(rows, C, kh, kw)}", _shape(weight_h), op)
    if tuple(weight_x.shape) != (rows, in_channels, kh, kw):
        of_x = (rows, in_channels, kh, kw)
        _fail("weight_x", f"have shape ({gates}C, Cin, kh, kw) = {of_x}", _shape(weight_x), op)
    return C


def _broadcasts(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    if tensor.dim() > len(shape):
        return False
    return all(size in (1, full) for size, full in zip(reversed(tensor.shape), reversed(shape)))


# The arguments of the modules


def check_sizes(layer: str = "ConvLSTM", /, **sizes: int) -> None:
    for name, value in sizes.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{layer}: {name} must be an integer of at least 1, got {value!r}")


def check_flags(layer: str = "ConvLSTM", /, **flags: bool) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{layer}: {name} must be True or False, got {value!r}")


def unpack_kernel_size(kernel_size: int | tuple[int, int], layer: str = "ConvLSTM") -> tuple[int, int]:
    """(kh, kw)."""
    sides = tuple(kernel_size) if isinstance(kernel_size, (tuple, list)) else (kernel_size, kernel_size)
    if len(sides) != 2 or any(type(side) is not int or side < 1 or side % 2 == 0 for side in sides):
        raise ValueError(
            f"{layer}: kernel_size must be an odd integer of at least 1, or a pair of them, got {kernel_size!r}"
        )
    return sides


def unpack_widths(hidden_channels: int | list[int], num_layers: int, layer: str = "ConvLSTM") -> tuple[int, ...]:
    """The width of each layer."""
    if not isinstance(hidden_channels, (tuple, list)):
        check_sizes(layer, hidden_channels=hidden_channels)
        return (hidden_channels,) * num_layers
    if len(hidden_channels) != num_layers or any(type(width) is not int or width < 1 for width in hidden_channels):
        raise ValueError(
            f"{layer}: hidden_channels must be an integer of at least 1, or a list of them, one for each of the "
            f"num_layers = {num_layers} layers, got {hidden_channels!r}"
        )
    return tuple(hidden_channels)


def check_probabilities(layer: str = "ConvLSTM", /, **probabilities: float) -> None:
    for name, value in probabilities.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError(f"{layer}: {name} must be a probability from 0 to 1, got {value!r}")


def check_groups(num_groups: int, norm: str | None, C: int) -> None:
    if not _fits_groups(num_groups, norm, C):
        raise ValueError(f"ConvLSTM: num_groups must {_groups_expected(C)}, got {num_groups!r}")


def check_directions(bidirectional: bool, reverse: bool, layer: str = "ConvLSTM") -> None:
    check_flags(layer, bidirectional=bidirectional, reverse=reverse)
    if bidirectional and reverse:
        raise ValueError(f"{layer}: reverse must be False with bidirectional=True, which runs both ways, got True")


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
    if isinstance(x, Proxy):  # ConvLSTM, which becomes one node, does not come here with one
        raise TypeError(
            f"{layer}: torch.fx cannot trace through this layer; make it a leaf: torch.fx.Tracer with an "
            "is_leaf_module that returns True for it"
        )
    if not isinstance(x, Tensor):
        raise TypeError(f"{layer}: x must be a tensor of shape {axes}, got {type(x).__name__}")
    if x.dim() != 5 or x.shape[2] != in_channels:
        raise ValueError(f"{layer}: x must have shape {axes} with Cin = {in_channels}, got shape {tuple(x.shape)}")
    if x.shape[1 if batch_first else 0] == 0:
        raise ValueError(f"{layer}: x must have shape {axes} with T of at least 1, got shape {tuple(x.shape)}")


def check_frame(layer: str, x: Tensor, in_channels: int) -> None:
    axes = "(N, Cin, H, W) or (Cin, H, W)"
    if not isinstance(x, Tensor):
        raise TypeError(f"{layer}: x must be a tensor of shape {axes}, got {type(x).__name__}")
    if x.dim() not in (3, 4) or x.shape[-3] != in_channels:
        raise ValueError(f"{layer}: x must have shape {axes} with Cin = {in_channels}, got shape {tuple(x.shape)}")


def one_of_two(name: str, value, other_name: str, other):
    """The one that is given of an argument with two names, or None."""
    if isinstance(other, Proxy):  # torch.fx cannot know whether it will be given
        arguments = (name, value, other_name, other)
        return other.tracer.create_proxy("call_function", one_of_two, arguments, {})
    if value is not None and other is not None:
        raise ValueError(f"ConvLSTM: {name} and {other_name} are two names of one argument; got both")
    return value if value is not None else other


def check_unbatched_hidden(layer: str, hx: Tensor | None) -> None:
    if hx is not None and not (isinstance(hx, Tensor) and hx.dim() == 3):
        actual = _shape(hx) if isinstance(hx, Tensor) else type(hx).__name__
        fail_of_layer(layer, "hx", "be None or a tensor (C, H, W), as x is (Cin, H, W)", actual)


def check_unbatched_state(layer: str, hx: tuple[Tensor, Tensor] | None) -> None:
    if hx is None:
        return
    is_pair = isinstance(hx, (tuple, list)) and len(hx) == 2
    if not is_pair or not all(isinstance(part, Tensor) and part.dim() == 3 for part in hx):
        actual = [_shape(part) if isinstance(part, Tensor) else type(part).__name__ for part in hx] if is_pair else []
        expected = "be None or a pair of tensors (C, H, W), as x is (Cin, H, W)"
        fail_of_layer(layer, "hx", expected, " and ".join(actual) or type(hx).__name__)


def fail_of_layer(layer: str, name: str, expected: str, actual: str) -> NoReturn:
    raise ValueError(f"{layer}: {name} must {expected}, got {actual}")


def unpack_states(name: str, states: tuple | None, count: int, expected: str) -> tuple:
    if states is None:
        return (None,) * count
    if not isinstance(states, (tuple, list)) or len(states) != count:
        actual = f"{type(states).__name__} of length {len(states)}" if hasattr(states, "__len__") else type(states)
        raise ValueError(f"{name} must be None or {expected}, got {actual}")
    return tuple(states)
