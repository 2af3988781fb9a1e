"""Short calls on the CPU keep packed weights, bounded in memory, and never use stale ones."""

import concurrent.futures
import copy
import os
import subprocess
import sys
import threading
import time

import pytest
import torch

import pdb_ext
from pdb_ext import reference
from pdb_ext._library import native

if native is None:
    pytest.skip("needs the compiled library", allow_module_level=True)

C, SIDE = 16, 8


@pytest.fixture(autouse=True)
def empty_cache():
    pdb_ext.clear_weight_cache()
    yield
    pdb_ext.clear_weight_cache()


def make_layer(kernel_size=3, channels=C, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return pdb_ext.ConvLSTM(channels, channels, kernel_size, batch_first=False).to(dtype)


def step(layer, seed=1):
    """One step with carried state, and the gradients of everything: each on its own and by the reference."""
    generator = torch.Generator().manual_seed(seed)
    dtype, channels = layer.weight_x.dtype, layer.weight_h.shape[1]
    tensors = [torch.randn(2, channels, SIDE, SIDE, generator=generator, dtype=dtype) for _ in range(3)]
    leaves = [*(tensor.requires_grad_() for tensor in tensors), *layer.parameters()]
    results = []
    for implementation in ("auto", "reference"):
        x, h, c = tensors
        output, (_, c_n) = pdb_ext.convlstm(
            x[None], layer.weight_x, layer.weight_h, layer.bias, None, (h, c), implementation=implementation
        )
        results.append([output, c_n, *torch.autograd.grad(output.square().sum() + c_n.sum(), leaves)])
    return results


def assert_right(layer, times=2):
    for _ in range(times):
        ours, expected = step(layer)
        for a, b in zip(ours, expected):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def set_data(layer):
    layer.weight_h.data = torch.randn_like(layer.weight_h)


def write_through_data(layer):
    layer.weight_h.data.view(-1)[-1] += 1


def write_through_numpy(layer):
    layer.weight_x.detach().numpy()[0, 0, 0, 0] += 1


def add_in_place(layer):
    with torch.no_grad():
        layer.weight_x.view(-1)[0].add_(1)


def optimize(layer, **options):
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(layer.parameters(), lr=0.1, **options).step()


def optimize_fused(layer):
    optimize(layer, fused=True)


def load(layer):
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()})


def assign(layer):
    layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()}, assign=True)


CHANGES = [set_data, write_through_data, write_through_numpy, add_in_place, optimize, optimize_fused, load, assign]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_changed_weight_is_seen(kernel_size, change):
    layer = make_layer(kernel_size)
    assert_right(layer)
    assert native.packed_weights_size() > 0
    for _ in range(2):
        change(layer)
        assert_right(layer)


def test_copies_and_modes_and_dtypes_have_weights_of_their_own():
    layer = make_layer()
    assert_right(layer)
    twin = copy.deepcopy(layer)
    optimize(twin)
    for module in (twin, layer, twin.eval(), layer.double(), layer.float()):
        assert_right(module)


def test_memory_that_another_weight_takes_over_is_read_again():
    addresses = []
    for seed in range(4):
        layer = make_layer(seed=seed)
        addresses.append(layer.weight_h.data_ptr())
        assert_right(layer)
        del layer
    memory = make_layer().weight_h.detach().clone()
    layers = [make_layer(seed=seed) for seed in range(3)]
    for layer in layers:  # for certain the same memory, whatever the allocator does
        memory.copy_(layer.weight_h.detach())
        layer.weight_h.data = memory
        assert_right(layer)


def test_the_same_bits_whether_kept_or_not():
    layer = make_layer()
    with torch.no_grad():
        x, state = torch.randn(1, 2, C, SIDE, SIDE), tuple(torch.randn(2, 2, C, SIDE, SIDE))
        first = layer(x, state)[0]
        assert native.packed_weights_size() > 0 and torch.equal(layer(x, state)[0], first)
        pdb_ext.clear_weight_cache()
        assert native.packed_weights_size() == 0 and torch.equal(layer(x, state)[0], first)


def test_a_nan_in_a_weight_is_no_change_and_is_seen():
    layer = make_layer()
    with torch.no_grad():
        x = torch.randn(1, 1, C, SIDE, SIDE)
        assert layer(x)[0].isfinite().all()
        layer.weight_x[0, 0, 1, 1] = torch.nan
        assert layer(x)[0].isnan().any() and layer(x)[0].isnan().any()


def test_threads_with_weights_of_their_own_and_one_that_changes():
    layers = [make_layer(seed=seed) for seed in range(4)]
    x = torch.randn(1, 1, C, SIDE, SIDE)

    def run(index):
        layer = layers[index % 4]
        with torch.no_grad():
            return all(
                torch.allclose(
                    layer(x)[0], reference.convlstm(x, layer.weight_x, layer.weight_h, layer.bias)[0], atol=1e-5
                )
                for _ in range(10)
            )

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(16)))


@pytest.mark.slow
def test_a_write_during_a_call_is_forgotten_with_it():
    """What is kept must not mix the weights of before and after: the race is met in some calls of a hundred."""
    weight_x, before, after = (torch.randn(384, 128, 3, 3) * 0.05 for _ in range(3))
    x, h, weight = torch.randn(1, 1, 128, 6, 6), torch.randn(1, 128, 6, 6), before.clone()
    expected = pdb_ext.convgru(x, weight_x, before, None, h)[0]
    for attempt in range(200):
        pdb_ext.clear_weight_cache()
        thread = threading.Thread(target=pdb_ext.convgru, args=(x, weight_x, weight, None, h))
        thread.start()
        time.sleep(attempt * 2e-5)
        weight.copy_(after)
        thread.join()
        weight.copy_(before)
        torch.testing.assert_close(pdb_ext.convgru(x, weight_x, weight, None, h)[0], expected)


def test_long_calls_keep_nothing():
    with torch.no_grad():
        make_layer()(torch.randn(5, 1, C, 60, 60))
    assert native.packed_weights_size() == 0


def in_a_new_process(program, **environment):
    prelude = "import os, torch, pdb_ext\nfrom pdb_ext._library import native\n"
    prelude += "layer = lambda c: pdb_ext.ConvLSTM(c, c)\nrun = lambda l, c: l(torch.randn(1, 1, c, 6, 6))\n"
    process = subprocess.run(
        [sys.executable, "-c", prelude + program], env=os.environ | environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.slow
def test_switched_off_nothing_is_kept():
    assert (
        in_a_new_process("run(layer(16), 16); print(native.packed_weights_size())", PDB_EXT_WEIGHT_CACHE="0") == "0\n"
    )


@pytest.mark.slow
def test_the_memory_is_bounded_and_a_weight_beyond_the_bound_is_not_kept():
    program = """
layers = [layer(32) for _ in range(8)]  # with inference alone 0.8 MB each
torch.set_grad_enabled(False)
for l in layers * 2:
    run(l, 32)
    assert 0 < native.packed_weights_size() <= 2 << 20
pdb_ext.clear_weight_cache()
run(layer(64), 64)
assert native.packed_weights_size() == 0
"""
    in_a_new_process(program, PDB_EXT_WEIGHT_CACHE="2")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_goes_on_while_threads_of_the_parent_run():
    program = """
import threading
torch.set_num_threads(1)
torch.set_grad_enabled(False)
layers, done = [layer(16) for _ in range(4)], threading.Event()
x = torch.randn(1, 1, 16, 6, 6)  # PyTorch's random generator does not survive a fork
def work():
    torch.set_grad_enabled(False)
    while not done.is_set():
        for l in layers:
            l(x)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        for l in layers:
            l(x)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
done.set()
"""
    in_a_new_process(program)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5, 7, 9])
def test_large_windows_in_parts_are_those_of_the_definition(kernel_size, dilation):
    torch.manual_seed(0)
    layer = pdb_ext.ConvLSTM(C, C, kernel_size, dilation=dilation).double()
    leaves = [torch.randn(2, 2, C, 23, 24, dtype=torch.float64, requires_grad=True), *layer.parameters()]
    results = []
    for implementation in ("auto", "reference"):
        with pdb_ext.record_calls() as calls:
            output, (_, c_n) = pdb_ext.convlstm(
                leaves[0], *leaves[1:4], dilation=dilation, implementation=implementation
            )
            grads = torch.autograd.grad(output.square().sum() + c_n.sum(), leaves)
        assert all(call["kernel"] == "winograd" for call in calls)
        results.append([output, c_n, *grads])
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
