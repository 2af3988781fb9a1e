"""`convlstm` against one ConvLSTM layer computed by the authors' own Caffe: values and all gradients."""

import numpy as np
import pytest
import torch

import pdb_ext
from helpers.paths import shared_path
from pdb_ext import reference

TOLERANCE = 1e-4  # of a blob's maximum: what float32 allows for two orders of summation


def assert_matches(name, ours, theirs):
    error = np.abs(ours.detach().numpy().reshape(theirs.shape) - theirs).max() / np.abs(theirs).max()
    assert error < TOLERANCE, f"{name}: {error:.2g}"


def restart(x, weight_x, peephole, c_0):
    """The sequence marker 0 of Caffe: h_0 is dropped and f = 0, but c_0 still reaches i and o through their peepholes.

    `convlstm` has no markers. The leak is an input like any other: P_i . c_0 and P_o . c_0 join x at the first step as
    2C channels that a 1x1 identity (the centre tap) adds to the rows of i and o.
    """
    C = c_0.shape[1]
    leak = torch.cat([peephole[0] * c_0, peephole[2] * c_0], dim=1)
    zeros = leak.new_zeros(len(x) - 1, *leak.shape)
    identity = weight_x.new_zeros(4 * C, 2 * C, 3, 3)
    for row in range(C):
        identity[row, row, 1, 1] = identity[2 * C + row, C + row, 1, 1] = 1
    return torch.cat([x, torch.cat([leak[None], zeros])], dim=2), torch.cat([weight_x, identity], dim=1)


@pytest.mark.parametrize("function", [pdb_ext.convlstm, reference.convlstm], ids=["native", "reference"])
@pytest.mark.parametrize("name, dilation", [("small", 1), ("dilated", 2), ("dilated_nohadamard", 2)])
def test_layer(function, name, dilation):
    blobs = np.load(shared_path(f"fixtures/caffe/convlstm_{name}.npz"))
    assert (blobs["cont"][0] == 0).all() and (blobs["cont"][1:] == 1).all()
    params = {key[8:]: torch.from_numpy(blobs[key]).requires_grad_() for key in blobs if key.startswith("param")}
    x, c_0 = torch.from_numpy(blobs["x"]).requires_grad_(), torch.from_numpy(blobs["c0"][0]).requires_grad_()
    inputs, weight_x, peephole = x, params["x_transform"], None
    if "hadamard_input" in params:
        peephole = torch.stack([params[f"hadamard_{gate}"] for gate in ("input", "forget", "output")])[:, None]
        inputs, weight_x = restart(x, weight_x, peephole, c_0)
    output, (h_n, c_n) = function(
        inputs, weight_x, params["h_transform"], params["h_transform_bias"], peephole, dilation=dilation
    )
    for key, value in {"h": output, "h_T": h_n, "c_T": c_n}.items():
        assert_matches(key, value, blobs[key])

    (output * torch.from_numpy(blobs["R"])).sum().backward()
    assert_matches("dx", x.grad, blobs["dx"])
    if peephole is not None:
        assert_matches("dc0", c_0.grad, blobs["dc0"])
    for key in blobs:
        if key.startswith("dparam") and "dummy" not in key:
            assert_matches(key, params[key[9:]].grad, blobs[key])
