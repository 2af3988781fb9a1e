"""`convert`: fused layers in place of widely copied ConvLSTM implementations.

Each widely copied implementation has a module here, whose function `fuse` recognises it and builds its replacement. The
originals live on as copies in other projects, so they are recognised by their structure: the names, kinds and
shapes of their submodules. Structure shows neither the order of the gates nor a changed activation; therefore every
cell is run beside its replacement on random numbers, and a cell that answers differently is left alone, with a warning.
"""

from torch import nn

from . import automan, ndrplz
from .check import join

IMPLEMENTATIONS = (ndrplz, automan)  # in the order in which a module is compared with them


def convert(module: nn.Module) -> nn.Module:
    """Replaces, anywhere in `module`, known ConvLSTM implementations by fused layers with the same weights.

    Inputs, outputs and calling conventions stay the same, but the names and shapes of the parameters change: load
    checkpoints before converting, and create the optimizer afterwards. The known implementations are `ConvLSTM` and
    `ConvLSTMCell` of ndrplz/ConvLSTM_pytorch and of automan000/Convolutional_LSTM_PyTorch, and copies of them. A cell
    that only looks like one of them (its output differs), or has hooks or partly frozen weights, stays, with a warning.

    Args:
        module: any module. Its submodules are replaced in place.

    Returns:
        `module`, or its replacement if it is itself such a ConvLSTM.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"convert: module must be a torch.nn.Module, got {type(module).__name__}")
    return _convert(module, "", {})


def _convert(module: nn.Module, path: str, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in done:
        replacement = _replace(module, path)
        done[module] = replacement or module
        if replacement is None:
            for name, child in module._modules.items():  # named_children() would pass over a cell's second place
                if child is not None:
                    module._modules[name] = _convert(child, join(path, name), done)
    return done[module]


def _replace(module: nn.Module, path: str) -> nn.Module | None:
    """The fused module for a cell or a stack of cells; None if it is neither."""
    for implementation in IMPLEMENTATIONS:
        replacement = implementation.fuse(module, path)
        if replacement is not None:
            return replacement.train(module.training)
    return None
