"""Build a model from a configuration and a complete set of tensors, or refuse with one clear line."""

from __future__ import annotations

import torch
from torch import Tensor

from pdb_saliency.errors import WeightsError, one_line

from .config import ModelConfig
from .saliency import SaliencyModel


def skeleton(config: ModelConfig, source: str) -> SaliencyModel:
    """The model of `config` on the meta device: shapes without memory, so that a damaged file cannot ask for any.

    Raises WeightsError, whose message begins with `source`, if there is no such model.
    """
    try:
        with torch.device("meta"):
            return SaliencyModel(config)
    except (ValueError, RuntimeError) as error:
        raise WeightsError(f"{source}: its sizes make no model ({one_line(error)})") from error


def fill(model: SaliencyModel, state: dict[str, Tensor], source: str) -> SaliencyModel:
    """Give a skeleton the tensors of `state`, all of them or none, and return it in eval mode.

    Floating-point tensors of any precision become float32.
    Raises WeightsError, whose message begins with `source`, unless names and shapes agree one to one, all values are
    finite and no variance is negative.
    """
    expected = model.state_dict()
    for name in [*expected, *state]:
        if name not in state or name not in expected:
            problem = "lacks" if name in expected else "has an unknown"
            raise WeightsError(f"{source}: {problem} tensor {name[:80]!r}")
    state = {name: _checked(name, tensor, expected[name], source) for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def _checked(name: str, tensor: Tensor, expected: Tensor, source: str) -> Tensor:
    """The tensor in the dtype of `expected`, or a WeightsError."""
    if tensor.shape != expected.shape or tensor.is_floating_point() != expected.is_floating_point():
        wanted, got = (f"{t.dtype} {tuple(t.shape)}" for t in (expected, tensor))
        raise WeightsError(f"{source}: {name} must be {wanted}, got {got}")
    tensor = tensor.to(expected.dtype)
    if not torch.isfinite(tensor).all():
        raise WeightsError(f"{source}: {name} holds values that are not finite")
    if name.endswith("running_var") and (tensor < 0).any():
        raise WeightsError(f"{source}: {name} holds negative variances")
    return tensor
