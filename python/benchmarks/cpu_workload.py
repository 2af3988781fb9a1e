"""What cpu.py times: one layer, or the pyramid of the paper, or a ConvGRU, with any implementation of the layer."""

import torch

from pdb_ext import PDBConvLSTM
from peers import ours


class Workload:
    """One row: inputs, weights of every layer, and the function of one implementation over all of them."""

    gates = 4

    def __init__(self, name, T, N, channels, side, dilations, pyramid, dtype=torch.float32):
        self.name, self.dilations, self.pyramid = name, dilations, pyramid
        generator = torch.Generator().manual_seed(0)
        layers = len(dilations) * (2 if pyramid else 1)

        def normal(*shape, scale):
            return torch.nn.Parameter((torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype))

        scale, rows = (18 * channels) ** -0.5, self.gates * channels
        self.x = normal(T, N, channels, side, side, scale=1)
        self.layers = [
            (*(normal(rows, channels, 3, 3, scale=scale) for _ in range(2)), normal(rows, scale=0.1))
            for _ in range(layers)
        ]
        self.merges = [
            tuple(normal(channels, channels, 3, 3, scale=scale) for _ in range(2)) for _ in dilations if pyramid
        ]
        self.module = self._module(channels) if pyramid else None
        self.flops = self._flops(T, N, channels, side)

    def _module(self, channels):
        """What a user of the library calls, with the parameters of the peers, whose merge has no bias."""
        with torch.device("meta"):
            module = PDBConvLSTM(channels, channels, dilations=self.dilations, batch_first=False)
        for index, branch in enumerate(module.branches):
            for layer, weights in zip((branch.forward_layer, branch.backward_layer), self.layers[2 * index :]):
                layer.weight_x, layer.weight_h, layer.bias = weights
            branch.merge_forward.weight, branch.merge_backward.weight = self.merges[index]
            branch.merge_forward.bias = None
        return module

    def _flops(self, T, N, channels, side):
        """Multiplications and additions of the forward pass; the first step has no h."""
        product = 2 * 9 * channels * self.gates * channels * N * side**2
        merge = 2 * T * 2 * 9 * channels**2 * N * side**2
        return len(self.layers) * (2 * T - 1) * product + len(self.merges) * merge

    def leaves(self):
        return [self.x, *(t for group in (*self.layers, *self.merges) for t in group)]

    def forward(self, layer):
        if not self.pyramid:
            return layer(self.x, *self.layers[0], self.dilations[0], False)
        if layer is ours:
            return self.module(self.x)[0]
        return torch.cat([self._branch(layer, index) for index in range(len(self.dilations))], dim=2)

    def _branch(self, layer, index):
        dilation = self.dilations[index]
        h_f = layer(self.x, *self.layers[2 * index], dilation, False)
        h_b = layer(h_f, *self.layers[2 * index + 1], dilation, True)
        frames = (
            torch.nn.functional.conv2d(h.flatten(0, 1), weight, padding=dilation, dilation=dilation)
            for h, weight in zip((h_f, h_b), self.merges[index])
        )
        return torch.tanh(sum(frames)).unflatten(0, h_f.shape[:2])

    def inference(self, layer):
        with torch.no_grad():
            return [self.forward(layer)]

    def training(self, layer):
        output = self.forward(layer)
        return [output, *torch.autograd.grad(output, self.leaves(), output.detach())]


class GRUWorkload(Workload):
    """A row without a pyramid, of a ConvGRU."""

    gates = 3
