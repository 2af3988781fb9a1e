"""`convert`: the fused op inside ConvLSTMs of other code, without changing anything that can be seen of them.

A recognised module stays what it is: the same object, class, methods, attributes, parameters, hooks and state_dict.
Only its `forward` is preceded by one that computes the same with :func:`pdb_ext.convlstm`, and hands every call that it
does not understand to the module's own. Modules are recognised by their structure (their convolutions and what these
read) and by what they compute: each is run beside its replacement with random weights, states and inputs, and outputs
and gradients are compared, before it is replaced.
"""

import dataclasses

from torch import nn

from . import cell, loop, sequence
from .experiment import Experiment, NotALayer, NotCalled, Shape, parameters_of_forward
from .fused import attach, detach, is_fused
from .kept import keep
from .plan import CellPlan
from .probe import agree, probing
from .shape import shape_of


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What `convert` found. replaced: the paths of the modules that now use the op; left: path -> reason.

    Its str says how many there are of both, and then a line for each that is left.
    """

    replaced: tuple[str, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        names = f" ({', '.join(map(_shown, self.replaced))})" if self.replaced else ""
        text = f"pdb_ext: {len(self.replaced)} replaced{names}, {len(self.left)} left"
        return "\n".join([text, *(f"left as it is: {_shown(path)}: {reason}" for path, reason in self.left.items())])


def convert(
    module: nn.Module, *, strict: bool = False, return_report: bool = False
) -> nn.Module | tuple[nn.Module, Conversion]:
    """Lets the ConvLSTMs anywhere in `module`, of whatever origin, compute with the fused op.

    Recognised are cells, one step (x, h, c) to (h, c), whose gates come from one convolution of x and h, four, one of
    each, or four of each, in any order of the gates, square and odd kernels with "same" zero padding, with or without
    bias, peepholes, or a constant added to the forget gate, be their weights those of torch.nn.Conv2d or parameters of
    their own; modules that run such cells over a sequence; and those that are cell and loop in one. Objects, classes,
    parameters, state_dicts, hooks and calling conventions stay: checkpoints load before and after, an optimizer made
    before is good afterwards. Where a call would not gain, or is of another kind than those compared, or a setting or a
    submodule has been changed meanwhile, a module's own forward runs.

    Args:
        module: any module; it is changed in place. Convert before wrapping it in DistributedDataParallel or FSDP.
        strict: whether it is an error if nothing was recognised.
        return_report: whether to return a `Conversion`, too: what was replaced, and what was left and why.

    Returns:
        `module` itself; with return_report a pair of it and the report.

    Raises:
        TypeError: `module` is no torch.nn.Module.
        ValueError: `module` is or contains a DistributedDataParallel or FSDP wrapper, or, with strict, nothing was
            recognised.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"convert: module must be a torch.nn.Module, got {type(module).__name__}")
    _refuse_wrapped(module)
    report = _convert(module)
    if strict and not report.replaced:
        reasons = "".join(f"; {_shown(path)}: {reason}" for path, reason in report.left.items())
        raise ValueError(f"convert: no ConvLSTM was recognised in {type(module).__name__}{reasons}")
    return (module, report) if return_report else module


def unconvert(module: nn.Module) -> nn.Module:
    """Takes away what `convert` has done to `module` and everything inside it. Returns `module` itself."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"unconvert: module must be a torch.nn.Module, got {type(module).__name__}")
    for part in module.modules():
        detach(part)
    return module


def _shown(path: str) -> str:
    return path or "the module itself"


def _refuse_wrapped(module: nn.Module) -> None:
    for path, part in module.named_modules():
        name = type(part).__name__
        if name in ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule") or name.startswith("FSDP"):
            raise ValueError(
                f"convert: {_shown(path)} is wrapped in {name}; call pdb_ext.convert(model) first, "
                "and wrap the model afterwards"
            )


def _convert(module: nn.Module) -> Conversion:
    replaced, left = [], {}
    # The innermost first: what has recognised cells inside it is no cell, and a stack of stacks is known by its parts.
    modules = list(module.named_modules())[::-1]
    for path, part in modules:
        if is_fused(part):
            replaced.append(path)
            continue
        shape = shape_of(part)
        if shape is None or any(is_fused(inner) for inner in part.modules()):
            continue
        if reason := _why_not(part, shape):
            # Many modules have a convolution. That they stay is worth saying of those that can be called like a cell.
            if _looks_like_lstm(part) or not isinstance(reason, NotCalled):
                left[path] = str(reason)
        else:
            replaced.append(path)
    for path, part in modules:
        if is_fused(part) or isinstance(part, (nn.ModuleList, nn.ModuleDict)):
            continue
        cells = sequence.cells_of(part)
        if cells is None or _is_untouchable(part):
            continue
        try:
            attach(part, sequence.recognise(part, cells))
            replaced.append(path)
        except NotALayer as error:
            if _looks_like_lstm(part):
                left[path] = f"{error}; its cells are replaced one by one"
    return Conversion(tuple(replaced), left)


def _looks_like_lstm(part: nn.Module) -> bool:
    """By its name, or that of a class it derives from."""
    return any("lstm" in base.__name__.lower() for base in type(part).__mro__)


def _is_untouchable(part: nn.Module) -> str:
    """Why a module cannot be run and changed; empty if it can."""
    if "forward" in part.__dict__:
        return "its forward has been replaced already"
    if any(parameter.device.type == "meta" for parameter in part.parameters()):
        return "its parameters are on the meta device and cannot be compared"
    return ""


def _why_not(part: nn.Module, shape: Shape) -> NotALayer | None:
    """Replaces a cell, or a cell with its loop; why it was not, or nothing."""
    if reason := _is_untouchable(part):
        return NotCalled(reason)
    reasons: list[NotALayer] = []
    for find in (_cell, loop.recognise):
        try:
            attach(part, find(part, shape))
            return None
        except NotALayer as error:
            reasons.append(error)
        except Exception as error:  # other people's code may raise anything
            reasons.append(NotCalled(f"it could not be compared with a ConvLSTM ({error})"))
    return next((reason for reason in reasons if not isinstance(reason, NotCalled)), reasons[0])


def _cell(part: nn.Module, shape: Shape) -> CellPlan:
    """Raises NotALayer. The plan has been compared with the module, gradients included."""
    try:
        return _cell_for(part, shape, None)
    except NotCalled:
        if size := sequence.size_that_is_set(part):
            return _cell_for(part, shape, size)
        raise


def _cell_for(part: nn.Module, shape: Shape, size: tuple[int, int] | None) -> CellPlan:
    """For images of that size alone, or, with None, of any, of which a small one is tried."""
    if len(parameters_of_forward(part)) < 2:
        raise NotCalled("its forward takes no state")
    recipe, convention = cell.recognise(part, shape, size)
    plan = CellPlan(recipe, convention, keep(part), size)
    with probing(part) as generator:
        experiment = Experiment(part, shape, generator, size)
        x, h, c = experiment.x, experiment.a, experiment.b
        values = {"x": x, "h": h, "c": c}
        arguments = tuple(values[role] if len(role) == 1 else tuple(values[one] for one in role)
                          for role in convention.roles)  # fmt: skip
        own = [tensor for tensor in experiment.tensors.values() if tensor.is_leaf and tensor.requires_grad]
        others = [tensor for tensor in own if not isinstance(tensor, nn.Parameter)]
        memory = plan.new_memory()
        reason = agree(
            part, lambda: type(part).forward(part, *arguments), lambda: plan.run(part, memory, arguments, {}),
            [x, h, c, *others],
        )  # fmt: skip
    if reason:
        raise NotALayer(reason)
    return plan
