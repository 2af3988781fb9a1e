"""The workloads of the benchmark in JAX: `lax.scan` over the steps, rolled or unrolled, everything in one `jax.jit`.

The same numbers go in as into PyTorch, by way of NumPy, and tensors come out, so that results are checked in one way.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory, too

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

PRECISION = {"tf32": "tensorfloat32", "float32": "highest", "bfloat16": "default", "float16": "default"}


def has_gpu() -> bool:
    return jax.default_backend() == "gpu"


def to_jax(tensor: torch.Tensor) -> jax.Array:
    name = str(tensor.dtype).removeprefix("torch.")
    return jnp.asarray(tensor.detach().cpu().float().numpy()).astype(name)


def to_torch(array: jax.Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array.astype("float32")))


def convolution(x: jax.Array, weight: jax.Array, dilation: int) -> jax.Array:
    padding = dilation * (weight.shape[-1] // 2)
    return lax.conv_general_dilated(x, weight, (1, 1), [(padding, padding)] * 2, rhs_dilation=(dilation, dilation))


def layer(x, weight_x, weight_h, bias, dilation: int, reverse: bool, unroll: bool):
    """x (T, N, Cin, H, W) -> output (T, N, C, H, W). The convolution of x is hoisted out of the scan."""
    T, N, _, H, W = x.shape
    gates_x = convolution(x.reshape(T * N, *x.shape[2:]), weight_x, dilation) + bias[:, None, None]
    zeros = jnp.zeros((N, weight_h.shape[1], H, W), x.dtype)

    def step(state, gates_t):
        h, c = state
        i, f, o, g = jnp.split(gates_t + convolution(h, weight_h, dilation), 4, axis=1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    gates_x = gates_x.reshape(T, N, *gates_x.shape[1:])
    return lax.scan(step, (zeros, zeros), gates_x, reverse=reverse, unroll=T if unroll else 1)[1]


def forward(leaves, dilations: tuple[int, ...], pyramid: bool, unroll: bool):
    """The function of `cpu.Workload.forward`; leaves as `Workload.leaves`."""
    x, *weights = leaves
    layers = [weights[3 * i : 3 * i + 3] for i in range(len(dilations) * (2 if pyramid else 1))]
    if not pyramid:
        return layer(x, *layers[0], dilations[0], False, unroll)
    merges = weights[3 * len(layers) :]
    branches = []
    for index, dilation in enumerate(dilations):
        h_f = layer(x, *layers[2 * index], dilation, False, unroll)
        h_b = layer(h_f, *layers[2 * index + 1], dilation, True, unroll)
        frames = (
            convolution(h.reshape(-1, *h.shape[2:]), merges[2 * index + which], dilation)
            for which, h in enumerate((h_f, h_b))
        )
        branches.append(jnp.tanh(sum(frames)).reshape(h_f.shape))
    return jnp.concatenate(branches, axis=2)


def contestant(workload, training: bool, precision: str, unroll: bool):
    """A function that computes the workload, without waiting for it, and one that turns its result into tensors."""
    leaves = [to_jax(leaf) for leaf in workload.leaves()]
    options = (workload.dilations, workload.pyramid, unroll)

    def half_square(leaves):
        """Its gradient with respect to the output is the output, the cotangent of `Workload.training`."""
        output = forward(leaves, *options)
        return jnp.square(output.astype(jnp.float32)).sum() / 2, output

    def train(leaves):
        (_, output), grads = jax.value_and_grad(half_square, has_aux=True)(leaves)
        return [output, *grads]

    function = jax.jit(train if training else lambda leaves: [forward(leaves, *options)])

    def run():
        with jax.default_matmul_precision(PRECISION[precision]):
            return function(leaves)

    return run, lambda results: [to_torch(result) for result in results]
