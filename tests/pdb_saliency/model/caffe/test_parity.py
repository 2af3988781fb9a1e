"""The authors' own Caffe run on real frames, reproduced stage by stage through the importer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.paths import shared_path
from pdb_saliency import load_caffemodel
from pdb_saliency.model.layers import ConvBatchNorm
from pdb_saliency.model.saliency import upsample_logits

LSTM_GRADIENTS = ("00_x_transform", "03_h_transform", "04_h_transform_bias")
PEEPHOLE_GRADIENTS = ("05_hadamard_input", "06_hadamard_forget", "07_hadamard_output")


def assert_near(actual, expected: np.ndarray, what: str, tolerance: float = 1e-4):
    """Within `tolerance` of the largest expected magnitude, everywhere."""
    actual = actual.detach().numpy().reshape(expected.shape)
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"{what}: off by {error:.1e} of its maximum"


def encoders(model):
    branches = model.temporal.branches
    layers = [
        branches[0].forward_layer,
        branches[1].forward_layer,
        branches[0].backward_layer,
        branches[1].backward_layer,
    ]
    return {f"encode{number}": layer for number, layer in enumerate(layers, 1)}


def run_thin(dtype):
    """Outputs by Caffe blob name and gradients of sum(conv7_sm * R) by Caffe parameter, in `dtype`."""
    fixture = np.load(shared_path("fixtures/caffe/thin_outputs.npz"))
    model = load_caffemodel(shared_path("fixtures/caffe/thin.caffemodel")).to(dtype)
    backbone, pdc, reduce = model.spatial
    modules = {"pool1_3x3_s2": backbone.pool, "conv2_3": backbone.conv2, "conv3_4": backbone.conv3}
    modules |= {"conv4_6": backbone.conv4, "conv5_1": backbone.conv5[0], "conv5_3": backbone.conv5}
    modules |= {f"conv5_3_d{2**k}_conv": branch for k, branch in enumerate(pdc.branches, 1)}
    modules |= {"conv5_4": reduce, "conv5_4 before BN": reduce.conv, "conv7": model.head}
    modules |= {"sum_encode13": model.temporal.branches[0], "sum_encode24": model.temporal.branches[1]}
    modules |= {name.replace("3", "3_").replace("4", "4_"): layer for name, layer in encoders(model).items()}
    outputs = {}
    for name, module in modules.items():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.__setitem__(name, output))
    data = torch.from_numpy(fixture["data"]).to(dtype)[None].requires_grad_()
    logits = model(data)
    outputs = {name: value[0] if isinstance(value, tuple) else value for name, value in outputs.items()}
    outputs["conv7_sm"] = logits.sigmoid()
    outputs["conv5_4 before BN"].retain_grad()
    (outputs["conv7_sm"][0] * torch.from_numpy(fixture["R"]).to(dtype)).sum().backward()
    return fixture, outputs, gradients(model, outputs, data)


def gradients(model, outputs, data):
    backbone, pdc, reduce = model.spatial
    convolutions = {"conv1_1_3x3_s2": backbone.conv1_1, "conv3_1_1x1_proj": backbone.conv3[0].proj}
    convolutions |= {"conv4_1_3x3": backbone.conv4[0].conv3x3, "conv5_4_": reduce}
    convolutions |= {"conv5_3_d2_conv": pdc.branches[0], "conv5_3_d16_conv": pdc.branches[3]}
    grads = {f"{name}/0": layer.conv.weight.grad for name, layer in convolutions.items()}
    grads |= {"conv7/0": model.head.weight.grad, "conv7/1": model.head.bias.grad, "data": data.grad}
    # BN and ReLU run in place in Caffe, so its gradient of conv5_4 is that of the convolution's output.
    grads["conv5_4"] = outputs["conv5_4 before BN"].grad
    for name, layer in encoders(model).items():
        values = (layer.weight_x.grad, layer.weight_h.grad, layer.bias.grad, *layer.peephole.grad)
        grads |= {f"{name}/{key}": value for key, value in zip((*LSTM_GRADIENTS, *PEEPHOLE_GRADIENTS), values)}
    return grads


def test_every_recorded_stage_matches_the_authors_caffe_run():
    fixture, outputs, _ = run_thin(torch.float32)
    # encode3 and encode4 run from frame 5 to frame 1; encode3_ and encode4_ are the same in frame order.
    inputs = {"data", "reshape-cm", "R", "meta", "encode3", "encode4"}
    stages = [name for name in fixture.files if name not in inputs and not name.startswith("g/")]
    assert len(stages) == 19 and set(stages) <= set(outputs)
    for name in stages:
        assert_near(outputs[name], fixture[name], name)


def test_every_recorded_gradient_matches_the_authors_caffe_run():
    fixture, _, single = run_thin(torch.float32)
    _, _, double = run_thin(torch.float64)
    names = [name[2:] for name in fixture.files if name.startswith("g/")]
    assert len(names) == 34 and set(names) == set(single)
    for name in names:
        expected = fixture[f"g/{name}"]
        assert_near(double[name], expected, f"float64 gradient of {name}")
        if name in ("data", "conv1_1_3x3_s2/0", "conv3_1_1x1_proj/0"):
            # float32 rounding changes the sign of a few of the 10^5 ReLU inputs, which changes single entries.
            difference = np.linalg.norm(single[name].numpy().reshape(expected.shape) - expected)
            assert difference <= 0.01 * np.linalg.norm(expected), f"gradient of {name}"
        else:
            assert_near(single[name], expected, f"gradient of {name}")


def test_batch_norm_matches_caffe():
    fixture = np.load(shared_path("fixtures/caffe/bn_small.npz"))
    bn = ConvBatchNorm(5, 5, relu=False).bn.eval()
    names = {"weight": "blob0_slope", "bias": "blob1_bias", "running_mean": "blob2_mean", "running_var": "blob3_var"}
    state = {name: torch.from_numpy(fixture[blob]).flatten() for name, blob in names.items()}
    bn.load_state_dict(state | {"num_batches_tracked": torch.tensor(0)})
    x = torch.from_numpy(fixture["x"]).requires_grad_()
    y = bn(x)
    y.backward(torch.from_numpy(fixture["R"]))
    assert_near(y, fixture["y"], "y", 1e-6)
    assert_near(x.grad, fixture["dx"], "dx", 1e-6)


@pytest.mark.parametrize("case", range(5))
def test_upsampling_matches_caffe(case):
    fixture = np.load(shared_path("fixtures/caffe/interp_small.npz"))
    x = torch.from_numpy(fixture[f"x{case}"]).requires_grad_()
    if case == 1:
        y = upsample_logits(x, (473, 473))
        assert_near(y[:, :, ::29], fixture["y1_rows_::29"], "y", 1e-5)
        return
    y = upsample_logits(x, fixture[f"y{case}"].shape[-2:])
    y.backward(torch.from_numpy(fixture[f"R{case}"]))
    assert_near(y, fixture[f"y{case}"], "y", 1e-5)
    assert_near(x.grad, fixture[f"dx{case}"], "dx", 1e-5)
