"""The structure of a module that may be a ConvLSTM: its convolutions, and what must not be there."""

from torch import nn
from torch.nn.parameter import is_lazy

from .experiment import Convolution, NotALayer, Shape, peephole_candidates
from .kept import has_hooks

_MOST_TENSORS = 64  # parameters of a cell: larger modules are not run to see what they do
_HOLDERS = (nn.ParameterDict, nn.ParameterList)


def shape_of(module: nn.Module) -> Shape | None:
    """One convolution of (x, h), four of them, one of x and one of h, or four of each; None for any other module.

    Weights are those of torch.nn.Conv2d, or the module's own parameters. There may be other convolutions, with other
    numbers of outputs, if the forward does not use them.
    """
    if type(module).__module__.partition(".")[0] in ("torch", "pdb_ext") or isinstance(module, nn.Conv2d):
        return None
    found = {f"{path}.weight": (part.in_channels, part.out_channels)
             for path, part in module.named_modules() if isinstance(part, nn.Conv2d)}  # fmt: skip
    return _shape_of_one_group(found) or _shape_of_one_group(_own_weights(module))


def _own_weights(module: nn.Module) -> dict[str, tuple[int, int]]:
    holders = [("", module), *((f"{name}.", part) for name, part in module._modules.items() if type(part) in _HOLDERS)]
    return {
        prefix + name: (weight.shape[1], weight.shape[0])
        for prefix, holder in holders
        for name, weight in holder._parameters.items()
        if weight is not None and not is_lazy(weight) and weight.dim() == 4
    }


def _shape_of_one_group(sizes: dict[str, tuple[int, int]]) -> Shape | None:
    by_outputs: dict[int, dict[str, tuple[int, int]]] = {}
    for path, size in sizes.items():
        by_outputs.setdefault(size[1], {})[path] = size
    groups = [by_outputs[outputs] for outputs in sorted(by_outputs, reverse=True)]
    return next((shape for group in groups if (shape := _shape_of(group)) is not None), None)


def _shape_of(found: dict[str, tuple[int, int]]) -> Shape | None:
    sizes, paths = list(found.values()), tuple(found)
    if len(sizes) in (1, 4) and len(set(sizes)) == 1:
        (inputs, outputs), rows = sizes[0], 4 // len(sizes)
        C = outputs // rows
        return Shape(paths, inputs - C, C, True) if outputs % rows == 0 and inputs > C > 0 else None
    if len(sizes) not in (2, 8):
        return None
    outputs, half, rows = sizes[0][1], len(sizes) // 2, 8 // len(sizes)
    C, counts = outputs // rows, [inputs for inputs, _ in sizes]
    others = [inputs for inputs in counts if inputs != C]
    if outputs % rows or len(set(others)) > 1 or len(others) not in (0, half):
        return None
    return Shape(paths, others[0] if others else C, C, False)


def owner(module: nn.Module, path: str) -> nn.Module:
    """The module that holds the tensor of that path."""
    return module.get_submodule(path.rpartition(".")[0])


def unknown_tensor(module: nn.Module, shape: Shape) -> str:
    """The path of a parameter or buffer that belongs neither to its convolutions nor to peepholes; empty if none."""
    known = {*shape.weights, *peephole_candidates(module, shape)}
    known |= {path.removesuffix("weight") + "bias" for path in shape.weights}
    paths = [path for path, _ in (*module.named_parameters(), *module.named_buffers())]
    return next((path for path in paths if path not in known), "")


def check_structure(module: nn.Module, shape: Shape) -> None:
    """Raises NotALayer if there is anything that can be seen without running it and that a fused cell would not do."""
    if any(has_hooks(part) for part in module.modules() if part is not module):
        raise NotALayer("a module inside it has hooks")
    if len(list(module.parameters())) > _MOST_TENSORS:
        raise NotALayer("it has too many parameters for a ConvLSTM cell")
    for path in shape.weights:
        convolution = owner(module, path)
        if not isinstance(convolution, nn.Conv2d):
            continue
        if type(convolution) is not nn.Conv2d or "forward" in convolution.__dict__:
            raise NotALayer(f"its convolution {_shown(path)} is no plain torch.nn.Conv2d")
        if convolution.padding_mode != "zeros":
            raise NotALayer(f"its convolution {_shown(path)} has a padding mode")


def check_convolutions(ran: list[Convolution]) -> None:
    """Raises NotALayer if one of them is no convolution of the op."""
    for one in ran:
        stride, padding, dilation, groups = one.options
        if stride != (1, 1) or groups != 1:
            raise NotALayer(f"its convolution {_shown(one.weight)} has a stride or groups")
        if (one.sides, dilation) != (ran[0].sides, ran[0].options[2]):
            raise NotALayer("its convolutions have different kernels")
        if one.sides[0] != one.sides[1] or one.sides[0] % 2 == 0 or dilation[0] != dilation[1]:
            raise NotALayer(f"the kernel of its convolution {_shown(one.weight)}, {one.sides}, is not square and odd")
        if padding not in ("same", (dilation[0] * (one.sides[0] // 2),) * 2):
            raise NotALayer(f'its convolution {_shown(one.weight)} has no "same" padding')
        if one.bias == "?":
            raise NotALayer(f"the bias of its convolution {_shown(one.weight)} is no tensor of its own")


def _shown(path: str) -> str:
    return path.removesuffix(".weight")
