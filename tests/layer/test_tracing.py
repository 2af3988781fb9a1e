"""Programs made of the layers: fx graphs, jit.trace, jit.script, ONNX."""

import io
import warnings

import pytest
import torch
from torch import nn

import pdb_ext
from pdb_ext import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell, DBConvLSTM, PDBConvLSTM

CELL_OPTIONS = {
    "padding_mode": "circular", "activation": "relu", "recurrent_activation": "hard_sigmoid", "norm": "group",
    "num_groups": 2,
}  # fmt: skip
LAYERS = {
    "ConvLSTM": lambda **options: ConvLSTM(3, 4, batch_first=True, **options),
    "stack": lambda **options: ConvLSTM(3, [4, 5], num_layers=2, bidirectional=True, batch_first=True, **options),
    "rectangle": lambda **options: ConvLSTM(3, 4, (3, 5), batch_first=True, peephole=(3, 4, 1, 1), **options),
    "options": lambda **options: ConvLSTM(3, 4, batch_first=True, **CELL_OPTIONS, **options),
    "ConvGRU": lambda **options: ConvGRU(3, 4, batch_first=True, **options),
    "DBConvLSTM": lambda **options: DBConvLSTM(3, 4, **options),
    "PDBConvLSTM": lambda **options: PDBConvLSTM(3, 4, merge="sum", **options),
}
EACH = pytest.mark.parametrize("name", LAYERS)


class Model(nn.Module):
    """A user's own: something before the layer and something after it."""

    def __init__(self, layer, channels):
        super().__init__()
        self.stem, self.layer, self.head = nn.Conv2d(1, 3, 3, padding=1), layer, nn.Conv2d(channels, 1, 1)

    def forward(self, clip):
        frames = self.stem(clip.flatten(0, 1)).unflatten(0, (2, 3))
        output, _ = self.layer(frames)
        return self.head(output.flatten(0, 1))


def model_and_clip(name, **options):
    layer = LAYERS[name](**options)
    channels = {"stack": 10, "PDBConvLSTM": 8}.get(name, 4)
    return Model(layer, channels).eval(), torch.randn(2, 3, 1, 6, 7)


@pytest.mark.parametrize("name", ["ConvLSTM", "stack", "rectangle", "options", "ConvGRU"])
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_fx(name, implementation):
    model, clip = model_and_clip(name, implementation=implementation)
    program = torch.fx.symbolic_trace(model)
    assert sum("run_stack" in str(node.target) for node in program.graph.nodes) == 1
    torch.testing.assert_close(program(clip), model(clip))
    program(clip).sum().backward()
    assert model.layer.weight_h.grad.abs().sum() > 0


def test_fx_of_the_function_the_cell_and_states():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.layer = ConvLSTMCell(3, 4), ConvLSTM(4, 4)

        def forward(self, x, state, lengths):
            h, c = self.cell(x, state)
            h, c = self.cell(x, (h, c))
            output, (h, c) = self.layer(h[None], (h, c), lengths)
            again, _ = pdb_ext.convlstm(output, self.layer.weight_x, self.layer.weight_h, state=(h, c), dilation=2)
            return again, h

    loop, x, state = Loop(), torch.randn(2, 3, 6, 7), torch.randn(2, 2, 4, 6, 7).unbind()
    program = torch.fx.symbolic_trace(loop)
    torch.testing.assert_close(program(x, state, [1, 1]), loop(x, state, [1, 1]))


@pytest.mark.parametrize("name", ["DBConvLSTM", "PDBConvLSTM"])
def test_fx_of_the_other_layers_says_what_to_do(name):
    model, clip = model_and_clip(name)
    with pytest.raises(TypeError, match=f"{name}: torch.fx cannot trace through this layer; make it a leaf"):
        torch.fx.symbolic_trace(model)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return isinstance(module, (DBConvLSTM, PDBConvLSTM)) or super().is_leaf_module(module, name)

    program = torch.fx.GraphModule(model, Tracer().trace(model))
    torch.testing.assert_close(program(clip), model(clip))


@EACH
@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_jit_trace(name, implementation):
    model, clip = model_and_clip(name, implementation=implementation)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(model, clip)
    ours = "pdb_ext::" in str(program.inlined_graph)
    assert ours == (
        implementation == "auto" and name not in ("rectangle", "options") and pdb_ext.build_info()["native"]
    )
    file = io.BytesIO()
    torch.jit.save(program, file)
    file.seek(0)
    other = torch.randn_like(clip)
    torch.testing.assert_close(torch.jit.load(file)(other), model(other))


@pytest.mark.slow(
    but=[
        "stack-False", "rectangle-True", "options-False", "ConvGRU-True", "DBConvLSTM-False", "PDBConvLSTM-False",
    ]
)  # fmt: skip
@pytest.mark.parametrize("dynamo", [True, False])
@EACH
def test_onnx(name, dynamo, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    """ONNX has PyTorch's own operators alone: "auto" means the reference there."""
    model, clip = model_and_clip(name)
    path = str(tmp_path / "model.onnx")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (clip,), path, dynamo=dynamo, input_names=["clip"], verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    other = torch.randn_like(clip)
    (answer,) = session.run(None, {"clip": other.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), model(other), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False, "dilation": 2}, {"peephole": (3, 4, 1, 1)}, CELL_OPTIONS, {"norm": "layer"}],
    ids=str,
)
def test_jit_script(options):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = ConvLSTM(3, 4, reverse=True, batch_first=True, implementation="reference", **options)
            self.cell = ConvLSTMCell(4, 4, (3, 5), output_peephole="current", implementation="reference", **options)

        def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]):
            output, (h, c) = self.layer(x)
            h, c = self.cell(h, (h, c))
            return self.layer(x, state)[0], output, self.cell(h)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Both()
        script = torch.jit.script(model)
        x, state = torch.randn(2, 3, 3, 6, 7), torch.randn(2, 2, 4, 6, 7).unbind()
        torch.testing.assert_close(script(x, state), model(x, state))
        assert isinstance(model.layer, ConvLSTM) and script.state_dict().keys() == model.state_dict().keys()
        with pytest.raises(torch.jit.Error, match="torch.jit.script knows no lengths"):
            torch.jit.script(ConvLSTM(3, 4, implementation="reference"))(x, lengths=[1, 2, 3])


def test_jit_script_of_dropout_and_masks():
    layer, x = ConvLSTM(3, 4, recurrent_dropout=0.5, implementation="reference"), torch.randn(4, 2, 3, 6, 7)
    cell, mask = ConvLSTMCell(3, 4, implementation="reference"), torch.rand(2, 4, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script, script_of_cell = torch.jit.script(layer), torch.jit.script(cell)
    torch.manual_seed(1)
    expected = layer(x)
    torch.manual_seed(1)
    torch.testing.assert_close(script(x), expected)
    torch.testing.assert_close(script.eval()(x), layer.eval()(x))
    hx = cell(x[0])
    torch.testing.assert_close(script_of_cell(x[1], hx, mask), cell(x[1], hx, mask))


@pytest.mark.parametrize("layer", [ConvLSTM, ConvGRU])
def test_fx_of_a_layer_alone(layer):
    layer, x = layer(3, 4), torch.randn(4, 2, 3, 6, 7)
    torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), layer(x))


def test_of_the_gru():
    """fx of the function and of the cell, and jit.script."""

    class Loop(nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.cell, self.layer = ConvGRUCell(3, 4, **options), ConvGRU(4, 4, reverse=True, **options)

        def forward(self, x: torch.Tensor, h: torch.Tensor):
            h = self.cell(x, self.cell(x, h))
            output, h = self.layer(h[None], h)
            return output, self.cell(x, h)

    class WithFunction(Loop):
        def forward(self, x, h):
            output, h = super().forward(x, h)
            return pdb_ext.convgru(output, self.layer.weight_x, self.layer.weight_h, h_0=h, dilation=2)

    x, h = torch.randn(2, 3, 6, 7), torch.randn(2, 4, 6, 7)
    loop = WithFunction()
    torch.testing.assert_close(torch.fx.symbolic_trace(loop)(x, h), loop(x, h))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop = Loop(implementation="reference", bias=False)
        torch.testing.assert_close(torch.jit.script(loop)(x, h), loop(x, h))
        with pytest.raises(torch.jit.Error, match="torch.jit.script knows no lengths"):
            torch.jit.script(ConvGRU(3, 4, implementation="reference"))(x[None], lengths=[1, 1])


@pytest.mark.parametrize(
    "layer, message",
    [
        (ConvGRU(3, 4), 'ConvGRU: .* only with implementation="reference"; torch.jit.trace .* and torch.export'),
        (ConvLSTM(3, 4), 'ConvLSTM: .* only with implementation="reference"; torch.jit.trace .* and torch.export'),
        (ConvLSTM(3, 4, num_layers=2, implementation="reference"), "only with num_layers=1 and bidirectional=False;"),
        (ConvLSTMCell(3, 4), 'ConvLSTMCell: .* only with implementation="reference";'),
        (DBConvLSTM(3, 4), "DBConvLSTM: torch.jit.script cannot compile this layer; torch.jit.trace"),
        (PDBConvLSTM(3, 4, implementation="reference"), "PDBConvLSTM: torch.jit.script cannot compile"),
    ],
)
def test_jit_script_of_what_it_cannot_compile(layer, message):
    with warnings.catch_warnings(), pytest.raises(NotImplementedError, match=message):
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Sequential(layer))
