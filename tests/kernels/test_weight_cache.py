"""pdb_ext.cache_weights(): inference keeps packed weights, and never stale ones (on the emulated GPU)."""

import concurrent.futures
import ctypes

import pytest
import torch

import pdb_ext
from helpers.cuda_on_host import RESIDENT_BLOCKS, host_library
from helpers.cuda_ops_on_host import cached_weights, host_ops

SIZES = (2, 1, 3, 4, 5, 6)  # T, N, Cin, C, H, W


@pytest.fixture(params=["step", "persistent"])
def infer(request, monkeypatch):
    """Function: output of the op on this path for these weights."""
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", request.param)
    ops, library = host_ops(), ctypes.CDLL(str(host_library()))
    library.pdb_set_resident_blocks.argtypes = [ctypes.c_int64]
    library.pdb_set_resident_blocks(RESIDENT_BLOCKS)
    x = torch.randn(*SIZES[:3], *SIZES[4:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(weights, save=0):
        return ops.convlstm(x.to(weights[0].dtype), *weights, None, None, None, None, 1, False, False, save)[0]

    yield run
    library.pdb_set_resident_blocks(0)


def make_weights(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    C, Cin = SIZES[3], SIZES[2]
    return [torch.randn(4 * C, c, 3, 3, generator=generator, dtype=torch.float64).to(dtype) for c in (Cin, C)]


def is_kept(infer, weights, save=0):
    """Whether calls use what an earlier one packed: they then miss a change that PyTorch does not count."""
    before = infer(weights, save)
    weights[1].data.mul_(2)
    after = infer(weights, save)
    weights[1].data.mul_(0.5)
    return torch.equal(before, after)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_weights_are_kept_in_the_block_alone_and_give_the_same_bits(infer, dtype):
    weights = make_weights(dtype)
    expected = infer(weights)
    with cached_weights():
        assert all(torch.equal(infer(weights), expected) for _ in range(3))
        assert is_kept(infer, weights)
    assert not is_kept(infer, weights)


def optimize(weight, **options):
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.5, **options).step()


CHANGES = {
    "in place": lambda w: w.mul_(2),
    "copied into": lambda w: w.copy_(torch.randn_like(w)),
    "a slice": lambda w: w[0].zero_(),
    "a view": lambda w: w.view(-1).add_(1),
    "another storage": lambda w: [
        setattr(w, "data", w.data * 1.5) for _ in range(2)
    ],  # the second at the address of the first
    "another order": lambda w: setattr(w, "data", w.data.transpose(2, 3)),
    "by an optimizer": lambda w: optimize(w),
    "by a fused optimizer": lambda w: optimize(w, fused=True),  # without a new version
}


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_that_was_changed_is_packed_again(infer, change, which):
    weights = make_weights()
    with cached_weights():
        before = infer(weights)
        CHANGES[change](weights[which])
        after = infer(weights)
        assert not torch.equal(before, after) and torch.equal(after, infer([w.clone() for w in weights]))
        assert torch.equal(infer(weights), after) and is_kept(infer, weights)


def test_another_dtype_is_packed_again(infer):
    """module.half() changes the tensor object in place, without a new version."""
    weights = [torch.nn.Parameter(w) for w in make_weights(torch.bfloat16)]
    with torch.no_grad(), cached_weights():
        infer(weights)
        for w in weights:
            w.data = w.data.half()
        assert torch.equal(infer(weights), infer([w.detach().clone() for w in weights]))


def test_other_threads_keep_nothing(infer):
    weights = make_weights()
    with cached_weights():
        infer(weights)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert not pool.submit(is_kept, infer, weights).result()


def test_another_tensor_at_the_same_address_is_another_weight(infer):
    """A freed weight's memory, and the tensor object's, may be used again at once."""
    with cached_weights():
        for seed in range(20):
            torch.manual_seed(seed)
            weights = [torch.randn_like(w) for w in make_weights()]
            actual = infer(weights)
            copies = [w.clone() for w in weights]
            del weights
            assert torch.equal(actual, infer(copies))


def test_what_trains_and_what_has_no_version_is_not_kept(infer):
    weights = make_weights()
    with cached_weights():
        assert not is_kept(infer, weights, save=1)
        with torch.inference_mode():
            without = [w.clone() for w in weights]
            assert not is_kept(infer, without)


def test_a_graph_packs_in_every_replay(infer, monkeypatch):
    weights = make_weights()
    with cached_weights():
        infer(weights)
        monkeypatch.setenv("PDB_HOST_CAPTURES", "1")
        assert not is_kept(infer, weights)


def test_the_public_block_nests_and_changes_no_result():
    layer, x = pdb_ext.ConvLSTM(2, 3), torch.randn(2, 1, 2, 5, 6)
    with torch.no_grad():
        expected = layer(x)[0]
        with pdb_ext.cache_weights(), pdb_ext.cache_weights():
            assert torch.equal(layer(x)[0], expected)
