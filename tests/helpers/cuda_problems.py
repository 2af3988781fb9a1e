"""Calls of the CUDA kernels with random arguments, and what the reference makes of them."""

import dataclasses

import torch

from pdb_ext import reference

NAMES = ["x", "weight_x", "weight_h", "bias", "peephole", "h_0", "c_0"]


class Problem:
    """Random arguments of one call, in float64, and the reference's output and gradients for a random cotangent."""

    def __init__(self, sizes, kernel=3, dilation=1, reverse=False, peephole_current=False, optional=True, seed=0):
        T, N, Cin, C, H, W = sizes
        generator = torch.Generator().manual_seed(seed)
        self.options = (dilation, reverse, peephole_current)

        def normal(*shape, scale=1.0):
            return torch.randn(shape, generator=generator, dtype=torch.float64) * scale

        scale = (Cin + C) ** -0.5 / kernel
        self.tensors = [normal(T, N, Cin, H, W), normal(4 * C, Cin, kernel, kernel, scale=scale)]
        self.tensors += [normal(4 * C, C, kernel, kernel, scale=scale)]
        state = (N, C, H, W)
        # A peephole of one weight per pixel, as the released model's, is expanded over the channels with stride 0.
        self.tensors += [normal(4 * C), normal(3, 1, H, W).expand(3, C, H, W), normal(*state), normal(*state)]
        if not optional:
            self.tensors[3:] = [None] * 4
        self.grad_output, self.grad_c_n = normal(T, *state), normal(*state)

    def to(self, dtype):
        """Arguments and cotangents as the kernels get them: contiguous, but for the expanded peephole."""
        tensors = [None if t is None else t.to(dtype) for t in self.tensors]
        return tensors, self.grad_output.to(dtype), self.grad_c_n.to(dtype)

    def reference(self, dtype, arithmetic=None):
        """Output, c_n and gradients by the reference of the arguments rounded to dtype, computed in `arithmetic`."""
        arithmetic = arithmetic or dtype
        tensors, grad_output, grad_c_n = self.to(dtype)
        leaves = [None if t is None else t.to(arithmetic).requires_grad_() for t in tensors]
        x, weight_x, weight_h, bias, peephole, h_0, c_0 = leaves
        dilation, reverse, peephole_current = self.options
        output, (_, c_n) = reference.convlstm(
            x, weight_x, weight_h, bias, peephole, None if h_0 is None else (h_0, c_0), dilation=dilation,
            reverse=reverse, output_peephole="current" if peephole_current else "previous",
        )  # fmt: skip
        cotangents = [grad_output.to(arithmetic), grad_c_n.to(arithmetic)]
        grads = torch.autograd.grad([output, c_n], [t for t in leaves if t is not None], cotangents)
        names = [name for name, t in zip(NAMES, leaves) if t is not None]
        return {"output": output.detach(), "c_n": c_n.detach(), **{f"grad {n}": g for n, g in zip(names, grads)}}

    def run(self, kernels, dtype, recompute=False):
        """The same by the CUDA kernels."""
        tensors, grad_output, grad_c_n = self.to(dtype)
        saved = kernels.forward(*tensors, *self.options, save=True, recompute=recompute)
        grads = kernels.backward(grad_output, grad_c_n, *tensors, saved, *self.options)
        result = {"output": saved[0], "c_n": saved[1]}
        return result | {f"grad {n}": g for n, g, t in zip(NAMES, grads, tensors) if t is not None}


# T, N, Cin, C, H, W; then options. Sizes lie below, at and above the tile (32 x 4 pixels), the channels of a block
# (8, 16, 32) and the pixels of a split (2048); kernels 9 and dilation 40 take the paths for large weights and halos.
CASES = {
    "one pixel": ((1, 1, 1, 1, 1, 1), {}),
    "tile": ((2, 1, 4, 8, 4, 32), {}),
    "odd": ((3, 2, 3, 5, 7, 6), {"dilation": 2}),
    "above the tile": ((2, 1, 9, 17, 5, 33), {"reverse": True}),
    "Shi peephole": ((3, 2, 2, 3, 6, 5), {"peephole_current": True, "reverse": True}),
    "nothing optional": ((3, 1, 3, 4, 5, 9), {"optional": False, "dilation": 3}),
    "nothing optional, T=1": ((1, 2, 3, 4, 5, 9), {"optional": False, "reverse": True}),
    "1x1 kernel": ((2, 1, 3, 4, 5, 9), {"kernel": 1}),
    "5x5 kernel": ((2, 1, 3, 2, 9, 13), {"kernel": 5, "dilation": 2}),
    "kernel beyond one chunk": ((2, 1, 2, 2, 9, 11), {"kernel": 9}),
    "halo beyond shared memory": ((2, 1, 2, 3, 43, 45), {"dilation": 40}),
    "dilation beyond the image": ((2, 1, 2, 3, 5, 4), {"dilation": 1000}),
    "split sums": ((2, 2, 1, 1, 33, 70), {}),
    "more channels than a chunk": ((2, 1, 20, 36, 3, 3), {}),
}


def check_errors(problem, kernels, dtype, recompute=False):
    """The rule for tolerances: twice PyTorch's own error in dtype, against float64 on the same rounded arguments."""
    exact = problem.reference(dtype, torch.float64)
    pytorch = problem.reference(dtype)
    actual = problem.run(kernels, dtype, recompute)
    for key, value in exact.items():
        allowed = 2 * (pytorch[key].double() - value).abs().max()
        # PyTorch is lucky in small sums now and then; one rounding of the result itself is always allowed.
        allowed += torch.finfo(dtype).eps * value.abs().max()
        assert (actual[key].double() - value).abs().max() <= allowed, key


# Depth in one, two and three chunks; output channels in one and two blocks; tiles cut off by the image; T = 1; a
# halo too large for the tensor-core kernels, so that the others take over.
TENSOR_CORE_CASES = {
    "one pixel": CASES["one pixel"],
    "odd": CASES["odd"],
    "Shi peephole": CASES["Shi peephole"],
    "nothing optional": CASES["nothing optional, T=1"],
    "5x5 kernel": CASES["5x5 kernel"],
    "two groups of channels": ((2, 1, 40, 34, 2, 3), {"reverse": True}),
    "largest halo": ((2, 1, 2, 3, 9, 17), {"dilation": 8}),
    "halo beyond shared memory": ((2, 1, 2, 3, 9, 17), {"dilation": 9}),
}


@dataclasses.dataclass(frozen=True)
class GruProblem:
    """One call of a ConvGRU, with arguments of unit scale."""

    T: int = 3
    N: int = 2
    in_channels: int = 3
    C: int = 5
    H: int = 7
    W: int = 6
    k: int = 3
    dilation: int = 1
    reverse: bool = False
    optional: bool = True  # bias and h_0

    def __str__(self):
        sizes = f"T{self.T}-N{self.N}-{self.in_channels}to{self.C}-{self.H}x{self.W}-k{self.k}-d{self.dilation}"
        return sizes + "-reverse" * self.reverse + "-nothing_optional" * (not self.optional)

    def inputs(self, dtype=torch.float64, seed=0, device="cpu") -> dict:
        """The leaves of a call by their names; absent ones are left out."""
        generator = torch.Generator().manual_seed(seed)

        def leaf(*shape, scale=1.0):
            values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
            return values.to(device=device, dtype=dtype).requires_grad_()

        area, C = self.k**2, self.C
        required = {
            "x": leaf(self.T, self.N, self.in_channels, self.H, self.W),
            "weight_x": leaf(3 * C, self.in_channels, self.k, self.k, scale=(self.in_channels * area) ** -0.5),
            "weight_h": leaf(3 * C, C, self.k, self.k, scale=(C * area) ** -0.5),
        }
        if not self.optional:
            return required
        return required | {"bias": leaf(3 * C), "h_0": leaf(self.N, C, self.H, self.W, scale=0.5)}

    def run(self, function, inputs) -> dict:
        """Output, h_n, and the gradients of a random linear function of the output."""
        output, h_n = function(**inputs, dilation=self.dilation, reverse=self.reverse)
        generator = torch.Generator().manual_seed(1)
        cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
        grads = torch.autograd.grad(output, list(inputs.values()), cotangent)
        results = {"output": output, "h_n": h_n} | {f"grad of {name}": grad for name, grad in zip(inputs, grads)}
        return {name: value.detach() for name, value in results.items()}

    def in_dtype(self, inputs, dtype) -> dict:
        """The same numbers as other leaves."""
        return {name: value.detach().to(dtype).requires_grad_() for name, value in inputs.items()}


# Sizes below, at and above tiles and blocks, as in CASES; and one with several of them, for the matrix of all options.
GRU_CASES = {
    "one pixel": GruProblem(1, 1, 1, 1, 1, 1),
    "tile": GruProblem(2, 1, 4, 8, 4, 32),
    "odd": GruProblem(3, 2, 3, 5, 7, 6, dilation=2),
    "above the tile": GruProblem(2, 1, 9, 17, 5, 33, reverse=True),
    "nothing optional": GruProblem(3, 1, 3, 4, 5, 9, dilation=3, optional=False),
    "nothing optional, T=1": GruProblem(1, 2, 3, 4, 5, 9, reverse=True, optional=False),
    "1x1 kernel": GruProblem(2, 1, 3, 4, 5, 9, k=1),
    "5x5 kernel": GruProblem(2, 1, 3, 2, 9, 13, k=5, dilation=2),
    "kernel beyond one chunk": GruProblem(2, 1, 2, 2, 9, 11, k=9),
    "halo beyond shared memory": GruProblem(2, 1, 2, 3, 43, 45, dilation=40),
    "dilation beyond the image": GruProblem(2, 1, 2, 3, 5, 4, dilation=1000),
    "two groups of channels": GruProblem(2, 1, 40, 34, 2, 3, reverse=True),
}
