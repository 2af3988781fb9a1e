"""The CUDA side of the ops (csrc/cuda/convlstm_cuda.cpp) on the host: allocation, options, and the kernels behind them."""

import ctypes
import subprocess

import pytest
import torch
from torch.utils import cpp_extension

from cuda_on_host import MISSING, NO_FAULT, RELAXED, RESIDENT_BLOCKS, ROOT, compiler, host_library
from pdb_ext import reference

# T, N, Cin, C, H, W of most tests
SIZES = (3, 2, 3, 4, 5, 6)


@pytest.fixture(scope="session")
def ops(tmp_path_factory):
    """The two ops, registered for CPU tensors under a name of their own; the kernels run on the emulated GPU."""
    kernels = host_library()
    folder = tmp_path_factory.mktemp("cuda_ops_on_host")
    sources = []
    for name in ("convlstm.cpp", "pdb_convlstm.cpp", "cuda/convlstm_cuda.cpp", "cuda/pdb_convlstm_cuda.cpp"):
        text = (ROOT / "csrc" / name).read_text()
        text = text.replace("TORCH_LIBRARY_IMPL(pdb_ext, CUDA,", "TORCH_LIBRARY_IMPL(pdb_ext_on_host, CPU,")
        text = text.replace("TORCH_LIBRARY_IMPL(pdb_ext, CPU,", "TORCH_LIBRARY_IMPL(pdb_ext_on_host, Meta,")  # not tested here
        text = text.replace("TORCH_LIBRARY(pdb_ext,", "TORCH_LIBRARY(pdb_ext_on_host,").replace('"../', '"')
        text = text.replace("FRAGMENT(pdb_ext,", "FRAGMENT(pdb_ext_on_host,").replace('"pdb_ext::', '"pdb_ext_on_host::')
        sources.append(folder / name.replace("/", "_"))
        sources[-1].write_text(text)
    include = [ROOT / "tests/cuda_host", ROOT / "csrc", ROOT / "csrc/cuda", *cpp_extension.include_paths()]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    flags = ["-std=c++20", "-O0", abi, "-g0", "-fPIC", "-shared", *(f"-I{path}" for path in include)]
    link = [*(f"-L{path}" for path in cpp_extension.library_paths()), "-lc10", "-ltorch_cpu", str(kernels)]
    library = folder / "cuda_ops_on_host.so"
    subprocess.run([compiler(), *flags, *map(str, sources), *link, "-o", str(library)], check=True)
    torch.ops.load_library(str(library))
    return torch.ops.pdb_ext_on_host


def arguments(sizes=SIZES, dtype=torch.float64, optional=True, peephole_shape=None):
    T, N, Cin, C, H, W = sizes
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.3).to(dtype)

    required = [normal(T, N, Cin, H, W), normal(4 * C, Cin, 3, 3), normal(4 * C, C, 3, 3)]
    if not optional:
        return [*required, None, None, None, None]
    peephole = normal(*(peephole_shape or (3, C, H, W))).expand(3, C, H, W)
    return [*required, normal(4 * C), peephole, normal(N, C, H, W), normal(N, C, H, W)]


def expected(tensors, dilation=2, reverse=False, peephole_current=False):
    """Output, c_n, cotangents, and the gradients for them, by the reference."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in tensors]
    x, weight_x, weight_h, bias, peephole, h_0, c_0 = leaves
    output, (_, c_n) = reference.convlstm(
        x, weight_x, weight_h, bias, peephole, None if h_0 is None else (h_0, c_0), dilation=dilation, reverse=reverse,
        output_peephole="current" if peephole_current else "previous",
    )  # fmt: skip
    cotangents = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t) for t in (output, c_n)]
    given = [t for t in leaves if t is not None]
    grads = iter(torch.autograd.grad([output, c_n], given, cotangents))
    return output.detach(), c_n.detach(), cotangents, [None if t is None else next(grads) for t in leaves]


def run(ops, tensors, cotangents, *options, needs=(True,) * 7):
    output, c_n, reserve = ops.convlstm(*tensors, *options, True)
    x, weight_x, weight_h, _, peephole, h_0, c_0 = tensors
    grads = ops.convlstm_backward(
        *cotangents, x, weight_x, weight_h, peephole, h_0, c_0, output, reserve, *options, list(needs)
    )
    return output, c_n, reserve, grads


@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize("reverse, peephole_current", [(False, True), (True, False)])
def test_equals_the_reference(ops, optional, reverse, peephole_current):
    tensors = arguments(optional=optional)
    output, c_n, cotangents, grads = expected(tensors, 2, reverse, peephole_current)
    actual = run(ops, tensors, cotangents, 2, reverse, peephole_current)
    torch.testing.assert_close(actual[0], output)
    torch.testing.assert_close(actual[1], c_n)
    for ours, theirs in zip(actual[3], grads):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs)


def test_without_save_the_reserve_is_empty_and_the_result_the_same(ops):
    tensors = arguments()
    trained = ops.convlstm(*tensors, 1, False, False, True)
    inferred = ops.convlstm(*tensors, 1, False, False, False)
    assert trained[2].numel() == 5 * trained[0].numel() and inferred[2].numel() == 0
    assert torch.equal(trained[0], inferred[0]) and torch.equal(trained[1], inferred[1])


def test_strides_of_the_arguments_do_not_matter(ops):
    T, N, Cin, C, H, W = SIZES
    tensors = arguments(peephole_shape=(3, 1, H, 1))
    output, c_n, cotangents, grads = expected(tensors)
    strided = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in tensors[:3]]
    strided += [tensors[3].repeat_interleave(2)[::2], tensors[4]]
    strided += [t.to(memory_format=torch.channels_last) for t in tensors[5:]]
    cotangents = [t.transpose(-1, -3).contiguous().transpose(-1, -3) for t in cotangents]
    actual = run(ops, strided, cotangents, 2, False, False)
    torch.testing.assert_close(actual[0], output)
    assert actual[0].is_contiguous()
    for ours, theirs in zip(actual[3], grads):
        torch.testing.assert_close(ours, theirs)


def test_only_the_gradients_that_are_needed(ops):
    tensors = arguments()
    _, _, cotangents, grads = expected(tensors)
    for which in range(7):
        needs = [i == which for i in range(7)]
        actual = run(ops, tensors, cotangents, 2, False, False, needs=needs)[3]
        assert [t.numel() > 0 for t in actual] == needs
        torch.testing.assert_close(actual[which], grads[which])


def test_empty_batch(ops):
    tensors = arguments((2, 0, 3, 4, 5, 6))
    output, c_n, cotangents, _ = expected(tensors)
    actual = run(ops, tensors, cotangents, 1, False, False)
    assert actual[0].shape == output.shape and actual[1].shape == c_n.shape
    for ours, argument in zip(actual[3], tensors):
        assert ours.shape == argument.shape and not ours.any()


@pytest.fixture
def no_tf32():
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


def test_float32_follows_the_tf32_setting_of_pytorch(ops, no_tf32):
    tensors = arguments(dtype=torch.float32)
    exact = ops.convlstm(*tensors, 1, False, False, False)[0]
    torch.backends.cudnn.allow_tf32 = True
    tf32 = ops.convlstm(*tensors, 1, False, False, False)[0]
    # TF32 keeps 11 significant bits of the operands; float32 24.
    difference = (exact - tf32).abs().max()
    assert 2**-18 < difference < 2**-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(ops, dtype, no_tf32):
    tensors = arguments(dtype=dtype)
    wide = [t.double() for t in tensors]
    output, c_n, cotangents, grads = expected(wide)
    narrow = expected(tensors)
    actual = run(ops, tensors, [t.to(dtype) for t in cotangents], 2, False, False)
    assert actual[2].dtype == torch.float32 and actual[0].dtype == actual[1].dtype == dtype
    exact = [output, c_n, *grads]
    pytorch = [narrow[0], narrow[1], *narrow[3]]
    for ours, theirs, value in zip([actual[0], actual[1], *actual[3]], pytorch, exact):
        allowed = 2 * (theirs.double() - value).abs().max() + torch.finfo(dtype).eps * value.abs().max()
        assert (ours.double() - value).abs().max() <= allowed


def test_other_dtypes_are_refused(ops):
    tensors = [t.to(torch.float8_e5m2) for t in arguments(dtype=torch.float32, optional=False)[:3]]
    with pytest.raises(RuntimeError, match="x must be float16, bfloat16, float32 or float64, got"):
        ops.convlstm(*tensors, None, None, None, None, 1, False, False, False)


DILATIONS = [1, 2]


def pyramid(optional, sizes=(3, 2, 3, 4, 9, 17), dtype=torch.float64):
    """x and the parameters of pdb_convlstm: six tensors for each of two layers of each branch."""
    T, N, Cin, C, H, W = sizes
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.3).to(dtype)

    parameters = []
    for layer in range(2 * len(DILATIONS)):
        parameters += [normal(4 * C, C if layer % 2 else Cin, 3, 3), normal(4 * C, C, 3, 3)]
        state = (N, C, H, W)
        parameters += [normal(4 * C), normal(3, C, H, W), normal(*state), normal(*state)] if optional else [None] * 4
    return normal(T, N, Cin, H, W), parameters


def pyramid_reference(x, parameters):
    """Outputs and cell states of all layers, the cotangents, and the gradients of x and the parameters."""
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, *parameters)]
    outputs, cells = [], []
    for layer in range(2 * len(DILATIONS)):
        weight_x, weight_h, bias, peephole, h_0, c_0 = leaves[1 + 6 * layer : 7 + 6 * layer]
        output, (_, c_n) = reference.convlstm(
            outputs[-1] if layer % 2 else leaves[0], weight_x, weight_h, bias, peephole,
            None if h_0 is None else (h_0, c_0), dilation=DILATIONS[layer // 2], reverse=layer % 2 == 1,
        )  # fmt: skip
        outputs.append(output)
        cells.append(c_n)
    results = [torch.stack(outputs), torch.stack(cells)]
    cotangents = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t) for t in results]
    grads = iter(torch.autograd.grad(results, [t for t in leaves if t is not None], cotangents))
    return [t.detach() for t in results], cotangents, [None if t is None else next(grads) for t in leaves]


def run_pyramid(ops, x, parameters, cotangents):
    given = [x.new_empty(0) if t is None else t for t in parameters]
    output, c_n, reserve = ops.pdb_convlstm(x, given, DILATIONS, False, True)
    needs = [True, *(t is not None for t in parameters)]
    grads = ops.pdb_convlstm_backward(*cotangents, x, given, output, reserve, DILATIONS, False, needs)
    return output, c_n, grads


@pytest.fixture
def persistent():
    """An emulated GPU that launches cooperatively. Yields its library."""
    library = ctypes.CDLL(str(host_library()))
    library.pdb_set_resident_blocks.argtypes = [ctypes.c_int64]
    library.pdb_set_resident_blocks(RESIDENT_BLOCKS)
    library.pdb_cooperative_launches()
    yield library
    library.pdb_set_resident_blocks(0)


def check_pyramid(ops, optional):
    x, parameters = pyramid(optional)
    (output, c_n), cotangents, grads = pyramid_reference(x, parameters)
    actual = run_pyramid(ops, x, parameters, cotangents)
    torch.testing.assert_close(actual[0], output)
    torch.testing.assert_close(actual[1], c_n)
    for ours, theirs in zip(actual[2], grads):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("optional", [True, False])
def test_a_pyramid_runs_in_one_launch_each_way(ops, persistent, optional):
    check_pyramid(ops, optional)
    assert persistent.pdb_cooperative_launches() == 2


def test_a_pyramid_that_does_not_fit_runs_layer_by_layer(ops):
    check_pyramid(ops, True)


def test_no_flag_between_the_layers_of_a_chain_is_missing_unnoticed(ops, persistent):
    x, parameters = pyramid(False)
    _, cotangents, _ = pyramid_reference(x, parameters)
    expected = run_pyramid(ops, x, parameters, cotangents)
    lines = (ROOT / "csrc/cuda/persistent_loop.h").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "shared memory has been used, and all results are stored" in line)
    for line, fault in ((first + 1, MISSING), (first + 2, RELAXED)):
        seen = False
        for seed in range(4):
            persistent.pdb_set_seed(seed)
            persistent.pdb_inject(fault, b"persistent_loop.h", line)
            try:
                actual = run_pyramid(ops, x, parameters, cotangents)
            finally:
                persistent.pdb_inject(NO_FAULT, None, 0)
            pairs = zip([*expected[:2], *expected[2]], [*actual[:2], *actual[2]])
            seen = seen or any(not torch.equal(one, other) for one, other in pairs)
        assert seen, lines[line - 1]
