"""Turn the authors' .caffemodel into the `released` variant of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pdb_saliency.errors import WeightsError
from pdb_saliency.model.assemble import fill, skeleton
from pdb_saliency.model.config import ModelConfig
from pdb_saliency.model.saliency import SaliencyModel

from .reader import Layer, read_caffemodel

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
# The blobs of a ConvLSTM layer in file order; None marks the parameters of Caffe's dummy layers, which have no meaning.
_CONVLSTM = (
    "weight_x", None, None, "weight_h", "bias", "peephole:0", "peephole:1", "peephole:2", None, None,
)  # fmt: skip
_ENCODERS = {
    "encode1": "branches.0.forward_layer",
    "encode2": "branches.1.forward_layer",
    "encode3": "branches.0.backward_layer",
    "encode4": "branches.1.backward_layer",
}


def load_caffemodel(path: str | Path) -> SaliencyModel:
    """The `released` variant with the weights of the authors' .caffemodel, on the CPU in eval mode.

    Widths, the size of the peepholes and therefore the input size are those of the blobs. Layers are matched by name,
    as in Caffe, and every blob of the file must be used exactly once.
    Raises WeightsError, one line, for a file that is missing, cut off, damaged, or of another network.
    """
    blobs = _blobs_by_layer(read_caffemodel(path), path)
    config = _infer_config(blobs, path)
    table = _layer_table(config)
    for name in [*table, *blobs]:
        if name not in blobs:
            raise WeightsError(f"{path}: not the released PDB-ConvLSTM network: layer {name} is missing")
        if name not in table:
            raise WeightsError(f"{path}: not the released PDB-ConvLSTM network: layer {name[:80]!r} is foreign to it")
        if len(blobs[name]) != len(table[name]):
            raise WeightsError(f"{path}: layer {name} must have {len(table[name])} blobs, got {len(blobs[name])}")
    model = skeleton(config, str(path))
    model = fill(model, _state(model, table, blobs, path), str(path))
    model.untrained = None
    return model


def _blobs_by_layer(layers: list[Layer], path) -> dict[str, tuple[np.ndarray, ...]]:
    blobs: dict[str, tuple[np.ndarray, ...]] = {}
    for layer in layers:
        if layer.name in blobs:
            raise WeightsError(f"{path}: two layers with weights are called {layer.name[:80]!r}")
        blobs[layer.name] = layer.blobs
    return blobs


def _infer_config(blobs: dict[str, tuple[np.ndarray, ...]], path) -> ModelConfig:
    def size(layer: str, blob: int, axis: int) -> int:
        if layer not in blobs or len(blobs[layer]) <= blob:
            raise WeightsError(f"{path}: not the released PDB-ConvLSTM network: layer {layer} is missing or incomplete")
        shape = blobs[layer][blob].shape
        if len(shape) < -axis:
            raise WeightsError(f"{path}: layer {layer}, blob {blob} has the unexpected shape {shape}")
        return shape[axis]

    try:
        return ModelConfig(
            variant="released",
            width=size("conv1_1_3x3_s2", 0, -4),
            pdc_channels=size("conv5_3_d2_conv", 0, -4),
            reduced_channels=size("conv5_4_", 0, -4),
            hidden_channels=size("encode1", 3, -3),
            # Feature i lies on pixel 8i: the input whose last feature lies on its last pixel, such as 473 for 60.
            input_size=tuple(8 * (size("encode1", 5, axis) - 1) + 1 for axis in (-2, -1)),
        )
    except ValueError as error:
        raise WeightsError(f"{path}: there is no network with the sizes of its blobs: {error}") from error


def _layer_table(config: ModelConfig) -> dict[str, tuple[str | None, ...]]:
    """For every layer with weights, the parameter of our model that each of its blobs fills."""
    table: dict[str, tuple[str | None, ...]] = {}

    def add(caffe: str, ours: str, batch_norm: str | None = None):
        table[caffe] = (f"spatial.{ours}.conv.weight",)
        table[batch_norm or f"{caffe}/bn"] = tuple(f"spatial.{ours}.bn.{name}" for name in _BATCH_NORM)

    for caffe in ("conv1_1_3x3_s2", "conv1_2_3x3", "conv1_3_3x3"):
        add(caffe, f"backbone.{caffe[:7]}")
    for stage, blocks in {2: 3, 3: 4, 4: 6, 5: 3}.items():
        for block in range(1, blocks + 1):
            caffe, ours = f"conv{stage}_{block}", f"backbone.conv{stage}.{block - 1}"
            add(f"{caffe}_1x1_reduce", f"{ours}.reduce")
            add(f"{caffe}_3x3", f"{ours}.conv3x3")
            add(f"{caffe}_1x1_increase", f"{ours}.increase")
            if block == 1:
                add(f"{caffe}_1x1_proj", f"{ours}.proj")
    for index, dilation in enumerate(config.pdc_dilations):
        add(f"conv5_3_d{dilation}_conv", f"pdc.branches.{index}")
    add("conv5_4_", "reduce", batch_norm="conv5_4/bn_")
    for caffe, ours in _ENCODERS.items():
        table[caffe] = tuple(name and f"temporal.{ours}.{name}" for name in _CONVLSTM)
    table["conv7"] = ("head.weight", "head.bias")
    return table


def _state(model: SaliencyModel, table, blobs, path) -> dict[str, Tensor]:
    """The state dict that the blobs make; the shape of each blob is checked against the network's."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # Caffe does not store it, and it has no effect on frozen statistics.
    state = {name: torch.tensor(0) for name in shapes if name.endswith("num_batches_tracked")}
    for layer, targets in table.items():
        for index, (target, blob) in enumerate(zip(targets, blobs[layer])):
            if target is None:
                continue
            name, _, row = target.partition(":")
            caffe_shape = _caffe_shape(name, shapes[name])
            if not _same_shape(blob.shape, caffe_shape):
                shapes_text = f"must have shape {caffe_shape}, got {blob.shape}"
                raise WeightsError(f"{path}: layer {layer}, blob {index} {shapes_text}")
            with np.errstate(over="ignore"):  # A double beyond float32 becomes inf, which `fill` refuses.
                values = torch.from_numpy(blob.astype(np.float32, copy=False))
            if row:
                state.setdefault(name, torch.empty(shapes[name]))[int(row)] = values.reshape(shapes[name][1:])
            else:
                state[name] = values.reshape(shapes[name])
    return state


def _caffe_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the blob that fills our parameter `name` of `shape` (of one row, in the case of the peepholes)."""
    if ".bn." in name:
        return (1, *shape, 1, 1)
    return shape[2:] if name.endswith("peephole") else shape


def _same_shape(stored: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether they are equal, or `stored` is the legacy form with four axes: the same with ones in front."""
    return stored in (expected, (1,) * (4 - len(expected)) + expected)
