"""The layers: shapes, states, equations 5 and 6 written out, and the conventions of torch.nn."""

import copy
import pickle

import pytest
import torch
from torch.nn.functional import conv2d

import pdb_ext
from pdb_ext import ConvLSTM, DBConvLSTM, PDBConvLSTM, reference

LAYERS = {
    "ConvLSTM": lambda **options: ConvLSTM(3, 4, **options),
    "DBConvLSTM": lambda **options: DBConvLSTM(3, 4, **options),
    "PDBConvLSTM": lambda **options: PDBConvLSTM(3, 4, **options),
}


def randomised(layer):
    """Peepholes start at zero; a test needs them to matter."""
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return layer.double()


def test_convlstm_is_the_function():
    layer = randomised(ConvLSTM(3, 4, 5, dilation=2, peephole=(3, 4, 1, 1), output_peephole="current", reverse=True))
    x = torch.randn(3, 2, 3, 8, 9, dtype=torch.float64)
    state = torch.randn(2, 2, 4, 8, 9, dtype=torch.float64).unbind()
    expected = reference.convlstm(
        x, layer.weight_x, layer.weight_h, layer.bias, layer.peephole, state,
        dilation=2, reverse=True, output_peephole="current",
    )  # fmt: skip
    torch.testing.assert_close(layer(x, state), expected)


def test_db_convlstm_is_equations_4_to_6():
    layer = randomised(DBConvLSTM(3, 4, dilation=2))
    x = torch.randn(2, 5, 3, 8, 9, dtype=torch.float64)
    forward, backward = layer.forward_layer, layer.backward_layer
    h_f, _ = reference.convlstm(x.transpose(0, 1), forward.weight_x, forward.weight_h, forward.bias, dilation=2)
    h_b, _ = reference.convlstm(h_f.flip(0), backward.weight_x, backward.weight_h, backward.bias, dilation=2)
    h_b = h_b.flip(0)
    expected = [
        torch.tanh(
            conv2d(h_f[t], layer.merge_forward.weight, layer.merge_forward.bias, padding=2, dilation=2)
            + conv2d(h_b[t], layer.merge_backward.weight, padding=2, dilation=2)
        )
        for t in range(5)
    ]
    output, ((h_last, _), (h_first, _)) = layer(x)
    torch.testing.assert_close(output, torch.stack(expected, dim=1))
    torch.testing.assert_close((h_last, h_first), (h_f[-1], h_b[0]))


def test_sum_merge_has_no_weights_of_its_own():
    layer = randomised(DBConvLSTM(3, 4, merge="sum", peephole=(3, 1, 8, 9)))
    x = torch.randn(2, 5, 3, 8, 9, dtype=torch.float64)
    h_f, _ = layer.forward_layer(x.transpose(0, 1))
    h_b, _ = layer.backward_layer(h_f)
    torch.testing.assert_close(layer(x)[0], (h_f + h_b).transpose(0, 1))
    assert {name.split(".")[0] for name in layer.state_dict()} == {"forward_layer", "backward_layer"}


def test_pdb_convlstm_concatenates_its_branches():
    layer = PDBConvLSTM(3, 4, dilations=(1, 2, 4))
    x = torch.randn(2, 5, 3, 8, 9)
    output, states = layer(x)
    assert output.shape == (2, 5, 12, 8, 9) and len(states) == 3
    for index, branch in enumerate(layer.branches):
        assert branch.forward_layer.dilation == branch.backward_layer.dilation == (1, 2, 4)[index]
        torch.testing.assert_close(output[:, :, 4 * index : 4 * index + 4], branch(x)[0])


@pytest.mark.parametrize("name", LAYERS)
def test_batch_first_only_moves_axes(name):
    first, second = LAYERS[name](batch_first=True), LAYERS[name](batch_first=False)
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 5, 3, 8, 9)
    output, state = first(x)
    other, other_state = second(x.transpose(0, 1))
    torch.testing.assert_close(output, other.transpose(0, 1))
    torch.testing.assert_close(state, other_state)


@pytest.mark.parametrize("name", LAYERS)
def test_returned_state_can_be_passed_back(name):
    layer, x = LAYERS[name](batch_first=True), torch.randn(2, 5, 3, 8, 9)
    _, state = layer(x)
    again, state_again = layer(x, state)
    assert again.shape[:2] == (2, 5) and not torch.equal(again, layer(x)[0])
    assert torch.utils._pytree.tree_structure(state) == torch.utils._pytree.tree_structure(state_again)


@pytest.mark.parametrize("name", LAYERS)
def test_state_dict_copy_and_pickle(name):
    layer, x = LAYERS[name](peephole=(3, 4, 1, 1)), torch.randn(2, 5, 3, 8, 9)
    if not getattr(layer, "batch_first", True):
        x = x.transpose(0, 1)
    expected, _ = layer(x)
    fresh = LAYERS[name](peephole=(3, 4, 1, 1))
    assert not torch.equal(fresh(x)[0], expected)
    fresh.load_state_dict(layer.state_dict())
    for other in (fresh, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], expected)


def test_initial_weights():
    layer = ConvLSTM(12, 20, 5, peephole=(3, 20, 1, 1))
    bound = (32 * 25) ** -0.5
    for parameter in (layer.weight_x, layer.weight_h, layer.bias):
        assert 0.9 * bound < parameter.abs().max() <= bound
    assert not layer.peephole.any()


@pytest.mark.parametrize("name", LAYERS)
def test_reset_parameters_draws_all_of_them_again(name):
    layer = LAYERS[name]()
    before = {key: value.clone() for key, value in layer.named_parameters()}
    layer.reset_parameters()
    assert not any(torch.equal(value, before[key]) for key, value in layer.named_parameters())


def test_repr_shows_what_was_chosen():
    text = repr(PDBConvLSTM(3, 4, 5, dilations=(1, 3), merge="sum", peephole=(3, 1, 8, 9)))
    for part in (
        "dilations=(1, 3)",
        "merge='sum'",
        "kernel_size=5",
        "dilation=3",
        "peephole=(3, 1, 8, 9)",
        "reverse=True",
    ):
        assert part in text
    assert "bias=False" in repr(ConvLSTM(1, 1, bias=False))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_moves_with_the_module(name, dtype):
    layer = LAYERS[name](batch_first=True).to(dtype)
    output, _ = layer(torch.randn(2, 3, 3, 5, 5, dtype=dtype))
    output.sum().backward()
    assert output.dtype == dtype and all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(0, 3, 3, 5, 5), (2, 1, 3, 1, 1), (1, 2, 3, 1, 7)])
def test_small_and_empty_inputs(name, shape):
    layer = LAYERS[name](batch_first=True)
    output, _ = layer(torch.randn(shape))
    output.sum().backward()
    assert output.shape[:2] == shape[:2] and output.shape[3:] == shape[3:]


def test_gradients_reach_every_parameter():
    layer = PDBConvLSTM(3, 4, peephole=(3, 4, 1, 1))
    output, _ = layer(torch.randn(2, 3, 3, 6, 6))
    output.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_training_lowers_the_loss():
    """A layer that must remember: the target at each step is the input of the step before."""
    layer, head = ConvLSTM(1, 8, batch_first=True), torch.nn.Conv2d(8, 1, 1)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    losses = []
    for _ in range(60):
        x = torch.randn(4, 4, 1, 6, 6)
        output, _ = layer(x)
        prediction = head(output[:, 1:].flatten(0, 1)).unflatten(0, (4, 3))
        loss = (prediction - x[:, :-1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow(but=["DBConvLSTM"])
@pytest.mark.skipif(pdb_ext.ops.native is None, reason="needs the native library")
@pytest.mark.parametrize("name", LAYERS)
def test_export_and_compile(name, tmp_path):
    layer, x = LAYERS[name](batch_first=True).eval(), torch.randn(2, 3, 3, 8, 9)
    expected, _ = layer(x)
    batch, height = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("height", min=2, max=64)
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: batch, 3: height}})
    torch.export.save(program, tmp_path / "layer.pt2")
    loaded = torch.export.load(tmp_path / "layer.pt2").module()
    torch.testing.assert_close(loaded(x)[0], expected)
    larger = torch.randn(3, 3, 3, 11, 9)
    torch.testing.assert_close(loaded(larger)[0], layer(larger)[0])
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x)[0], expected)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ConvLSTM(0, 4), "in_channels must be an integer of at least 1, got 0"),
        (lambda: ConvLSTM(3, 4.0), "hidden_channels must be an integer of at least 1, got 4.0"),
        (lambda: ConvLSTM(3, 4, 2), "kernel_size must be an odd integer of at least 1, or a pair of them, got 2"),
        (lambda: ConvLSTM(3, 4, dilation=0), "dilation must be an integer of at least 1, got 0"),
        (lambda: ConvLSTM(3, 4, output_peephole="next"), "output_peephole must be one of .* got 'next'"),
        (
            lambda: ConvLSTM(3, 4, peephole=(2, 4, 1, 1)),
            r"peephole must .* \(3, C, H, W\) with C = 4, got \(2, 4, 1, 1\)",
        ),
        (lambda: ConvLSTM(3, 4, peephole=(3, 5, 1, 1)), r"got \(3, 5, 1, 1\)"),
        (lambda: DBConvLSTM(3, 4, batch_first=0), "DBConvLSTM: batch_first must be True or False, got 0"),
        (lambda: DBConvLSTM(3, 4, merge="mean"), "merge must be one of .* got 'mean'"),
        (lambda: ConvLSTM(3, 4, True), "kernel_size must be an odd integer of at least 1, or a pair of them, got True"),
        (lambda: ConvLSTM(3, 4, peephole=True), "peephole must be a shape .* got True"),
        (lambda: ConvLSTM(3, 4, peephole=(3.0, 4, 1, 1)), r"peephole must be a shape .* got \(3.0, 4, 1, 1\)"),
        (lambda: PDBConvLSTM(3, 4, dilations=()), r"dilations must be a tuple of at least one dilation, got \(\)"),
        (lambda: PDBConvLSTM(3, 4, dilations=2), "dilations must be a tuple of at least one dilation, got 2"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", LAYERS)
def test_bad_input_names_the_layout(name):
    layer = LAYERS[name](batch_first=True)
    with pytest.raises(
        ValueError, match=rf"{name}: x must have shape \(N, T, Cin, H, W\) with Cin = 3, got .*\(2, 5, 4, 8, 9\)"
    ):
        layer(torch.randn(2, 5, 4, 8, 9))
    with pytest.raises(ValueError, match=r"T of at least 1, got shape \(2, 0, 3, 8, 9\)"):
        layer(torch.randn(2, 0, 3, 8, 9))
    with pytest.raises(ValueError, match="got shape"):
        layer(torch.randn(2, 3, 8, 9))
    with pytest.raises(TypeError, match="got list"):
        layer([1, 2])


def test_bad_states():
    x = torch.randn(2, 3, 3, 8, 9)
    with pytest.raises(
        ValueError, match=r"state must be None or \(\(h_f, c_f\), \(h_b, c_b\)\), got tuple of length 3"
    ):
        DBConvLSTM(3, 4)(x, (None, None, None))
    with pytest.raises(ValueError, match="states must be None or one DBConvLSTM state for each branch"):
        PDBConvLSTM(3, 4)(x, (None,))
