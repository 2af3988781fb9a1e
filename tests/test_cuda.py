"""The ops on a real GPU; skipped where there is none. `python python/benchmarks/gpu_check.py` runs this and more."""

import contextlib
import copy
import functools
import warnings

import pytest
import torch
from problems import FIXED, Problem, random_problems, rms, run

import pdb_ext
from pdb_ext import _library, reference

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
if "cuda" not in _library.NATIVE_DEVICES:
    pytest.skip("needs a build with CUDA kernels", allow_module_level=True)

DEVICE = "cuda"
PROBLEMS = [problem for problem in FIXED + random_problems(12, seed=1) if problem.N > 0]
PAPER = Problem(T=5, N=1, in_channels=32, C=32, H=60, W=60, dilation=2)
# Long enough for backward without saved gates to take the steps in chunks.
LONG = Problem(T=12, N=1, in_channels=5, C=6, H=9, W=10, peephole="full", state=True, reverse=True)


# Every test of values runs on every path; where a layer does not fit on the chip, "persistent" means "step".
PATHS = ["step", "persistent", "aten"]


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", request.param)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PDB_EXT_CUDA_PATH=persistent: this layer does not fit")
        yield request.param


def on_gpu(function):
    """The function on the GPU, between arguments and results on the CPU."""

    def moved(state=None, **arguments):
        arguments = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
        state = None if state is None else tuple(t.to(DEVICE) for t in state)
        output, (h_n, c_n) = function(state=state, **arguments)
        return output.cpu(), (h_n.cpu(), c_n.cpu())

    return moved


@contextlib.contextmanager
def tf32(allowed):
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def gpu_arguments(problem, dtype=torch.float32):
    """Arguments of pdb_ext.convlstm on the GPU, all requiring gradients, and their list."""
    inputs = {k: v.to(DEVICE).requires_grad_() for k, v in problem.inputs(dtype).items() if v is not None}
    state = (inputs["h_0"], inputs["c_0"]) if problem.state else None
    arguments = {k: v for k, v in inputs.items() if k not in ("h_0", "c_0")}
    return arguments | {"state": state} | problem.options(), list(inputs.values())


def results_and_gradients(arguments, leaves):
    output, (_, c_n) = pdb_ext.convlstm(**arguments)
    return [output, c_n, *torch.autograd.grad([output, c_n], leaves, [output.detach(), c_n.detach()])]


@functools.cache  # the same for every path, and slow: on the CPU
def exact_results(problem, dtype):
    """The reference in float64, of the inputs rounded to dtype."""
    return run(reference.convlstm, problem, {k: None if v is None else v.double() for k, v in problem.inputs(dtype).items()})


@pytest.mark.parametrize("problem", PROBLEMS + [PAPER, LONG], ids=str)
@pytest.mark.parametrize("recompute_gates", [False, True])
def test_float64_equals_the_reference(path, problem, recompute_gates):
    ours = functools.partial(pdb_ext.convlstm, recompute_gates=recompute_gates)
    actual = run(on_gpu(ours), problem, problem.inputs())
    for name, value in exact_results(problem, torch.float64).items():
        torch.testing.assert_close(actual[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
@pytest.mark.parametrize("problem", PROBLEMS + [PAPER], ids=str)
def test_error_is_at_most_twice_that_of_pytorch(path, problem, precision):
    """RMS error against float64, of both on the GPU, for the output and every gradient."""
    dtype = getattr(torch, precision.replace("tf32", "float32"))
    inputs = problem.inputs(dtype)
    exact = exact_results(problem, dtype)
    with tf32(precision == "tf32"):
        theirs = run(on_gpu(reference.convlstm), problem, inputs)
        ours = run(on_gpu(pdb_ext.convlstm), problem, inputs)
    # TF32 operands have 11 significant bits; cuDNN may still choose float32 for small sizes, which is luck, too.
    eps = 2**-10 if precision == "tf32" else torch.finfo(dtype).eps
    for name, value in exact.items():
        allowed = max(2 * rms(theirs[name] - value), 2 * eps * rms(value))
        assert rms(ours[name] - value) <= allowed, name


@pytest.mark.parametrize("recompute_gates", [False, True])
def test_gradcheck(path, recompute_gates):
    problem = Problem(T=2, N=1, in_channels=2, C=2, H=3, W=4, peephole="full", output_peephole="current", state=True)
    arguments, leaves = gpu_arguments(problem, torch.float64)
    names = [*(k for k, v in arguments.items() if isinstance(v, torch.Tensor)), "h_0", "c_0"]

    def function(*tensors):
        given = dict(zip(names, tensors))
        state = (given.pop("h_0"), given.pop("c_0"))
        output, (_, c_n) = pdb_ext.convlstm(**(arguments | given | {"state": state}), recompute_gates=recompute_gates)
        return output, c_n

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_same_bits_in_every_run(path, dtype):
    arguments, leaves = gpu_arguments(PAPER, dtype)
    first = results_and_gradients(arguments, leaves)
    for _ in range(5):
        for one, other in zip(first, results_and_gradients(arguments, leaves)):
            assert torch.equal(one, other)


def test_capture_in_a_cuda_graph(path):
    arguments, leaves = gpu_arguments(PAPER)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results_and_gradients(arguments, leaves)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results_and_gradients(arguments, leaves)
    with torch.no_grad():
        arguments["x"].copy_(torch.randn_like(arguments["x"]))
    graph.replay()
    for one, other in zip(captured, results_and_gradients(arguments, leaves)):
        assert torch.equal(one, other)


def pyramid_results(module, x):
    y, _ = module(x)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], torch.ones_like(y))]


@pytest.mark.parametrize("N, H, W", [(1, 60, 60), (2, 9, 17), (40, 60, 60)], ids=["paper", "small", "more than fits"])
def test_a_pyramid_equals_its_layers_one_by_one(N, H, W, monkeypatch):
    torch.manual_seed(0)
    module = pdb_ext.PDBConvLSTM(8, 8, peephole=(3, 8, 1, 1)).to(DEVICE, torch.float64)
    x = torch.randn(N, 3, 8, H, W, device=DEVICE, dtype=torch.float64, requires_grad=True)
    together = pyramid_results(module, x)
    monkeypatch.setattr(pdb_ext.modules, "runs_in_one_op", lambda *_: False)
    for one, other in zip(together, pyramid_results(module, x)):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16"])
def test_error_of_a_pyramid_is_at_most_twice_that_of_pytorch(precision, monkeypatch):
    """RMS error against float64, of the output and every gradient, at the paper's sizes."""
    torch.manual_seed(0)
    module = pdb_ext.PDBConvLSTM(32, 32).to(DEVICE, getattr(torch, precision.replace("tf32", "float32")))
    x = torch.randn(1, 5, 32, 60, 60, device=DEVICE, dtype=module.branches[0].forward_layer.weight_x.dtype)
    exact = pyramid_results(copy.deepcopy(module).double(), x.double().requires_grad_())
    with tf32(precision == "tf32"):
        ours = pyramid_results(module, x.requires_grad_())
        monkeypatch.setattr(pdb_ext.modules, "runs_in_one_op", lambda *_: False)
        monkeypatch.setattr(pdb_ext.modules, "convlstm", reference_convlstm)
        theirs = pyramid_results(module, x)
    eps = 2**-10 if precision == "tf32" else torch.finfo(x.dtype).eps
    for one, other, value in zip(ours, theirs, exact):
        assert rms(one - value) <= max(2 * rms(other - value), 2 * eps * rms(value))


def reference_convlstm(*arguments, checkpoint_every=None, recompute_gates=False, **options):
    return reference.convlstm(*arguments, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("recompute_gates", [False, True])
def test_a_pyramid_small_enough_for_compute_sanitizer(dtype, recompute_gates):
    module = pdb_ext.PDBConvLSTM(9, 9, recompute_gates=recompute_gates).to(DEVICE, dtype)
    x = torch.randn(2, 2, 9, 7, 19, device=DEVICE, dtype=dtype, requires_grad=True)
    assert all(torch.isfinite(value).all() for value in pyramid_results(module, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_pyramid_in_a_cuda_graph_gives_the_same_bits_in_every_run(dtype):
    torch.manual_seed(0)
    module = pdb_ext.PDBConvLSTM(32, 32).to(DEVICE, dtype)
    x = torch.randn(1, 5, 32, 60, 60, device=DEVICE, dtype=dtype, requires_grad=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        pyramid_results(module, x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = pyramid_results(module, x)
    expected = pyramid_results(module, x)
    for _ in range(20):
        graph.replay()
        assert all(torch.equal(one, other) for one, other in zip(captured, expected))


def test_runs_on_the_current_stream(path):
    """A kernel on another stream would read x before the slow work that fills it has ended."""
    arguments, _ = gpu_arguments(PAPER)
    expected = pdb_ext.convlstm(**arguments)[0].detach()
    x, slow = arguments["x"].detach(), torch.randn(4096, 4096, device=DEVICE)
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(20):
            slow = slow @ slow * 1e-3
        late.copy_(x + 0 * slow[0, 0].nan_to_num(0, 0, 0))
        output = pdb_ext.convlstm(**(arguments | {"x": late}))[0]
    torch.cuda.synchronize()
    assert torch.equal(output, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_runs_on_the_device_of_its_arguments():
    arguments, _ = gpu_arguments(PAPER)
    state = arguments.pop("state")
    other = {k: v.to("cuda:1") if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    assert state is None and torch.equal(pdb_ext.convlstm(**other)[0].cpu(), pdb_ext.convlstm(**arguments)[0].cpu())


@pytest.mark.parametrize("forced", ["step", "aten"])
def test_more_than_2_to_31_elements(monkeypatch, forced):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", forced)
    if torch.cuda.mem_get_info()[0] < 16 * 2**30:
        pytest.skip("needs 16 GB of free GPU memory")
    x = torch.randn(33, 1, 1, 1024, 1024, device=DEVICE, dtype=torch.float16)
    weight_x, weight_h = (torch.randn(256, c, 1, 1, device=DEVICE, dtype=torch.float16) * 0.1 for c in (1, 64))
    with torch.no_grad():
        output, (h_n, c_n) = pdb_ext.convlstm(x, weight_x, weight_h)
        assert output.numel() > 2**31
        _, state = pdb_ext.convlstm(x[:32], weight_x, weight_h)
        last, (_, c_last) = pdb_ext.convlstm(x[32:], weight_x, weight_h, state=state)
    # c is handed over in float16 here, in float32 within one call.
    torch.testing.assert_close(output[32:], last, atol=4e-3, rtol=4e-3)
    torch.testing.assert_close(c_n, c_last, atol=4e-3, rtol=4e-3)


def test_gradients_of_more_than_2_to_31_elements(monkeypatch):
    """Gate gradients of 2^31 elements and more; those of the weights are sums over all of them."""
    if torch.cuda.mem_get_info()[0] < 60 * 2**30:
        pytest.skip("needs 60 GB of free GPU memory")
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", "step")
    x = torch.randn(3, 1, 1, 2048, 2048, device=DEVICE)
    weights = [(torch.randn(192, c, 1, 1, device=DEVICE) * 0.1).requires_grad_() for c in (1, 48)]
    assert 3 * 192 * 2048**2 > 2**31

    def gradients(path):
        monkeypatch.setenv("PDB_EXT_CUDA_PATH", path)
        output, _ = pdb_ext.convlstm(x, *weights, recompute_gates=True)
        return torch.autograd.grad(output.sum(), weights)

    for one, other in zip(gradients("step"), gradients("aten")):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * other.abs().max().item())


@pytest.mark.parametrize("forced", ["step", "aten"])
def test_out_of_memory_leaves_the_device_usable(monkeypatch, forced):
    monkeypatch.setenv("PDB_EXT_CUDA_PATH", forced)
    weight = torch.zeros(4, 1, 1, 1, device=DEVICE)
    x = torch.zeros(1, 1, 1, 1024, 1024, device=DEVICE).expand(2**20, -1, -1, -1, -1)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        pdb_ext.convlstm(x, weight, weight)
    torch.cuda.synchronize()
    assert pdb_ext.convlstm(x[:1], weight, weight)[0].sum().item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("allowed", [False, True], ids=["no-tf32", "tf32"])
def test_small_enough_for_compute_sanitizer(path, dtype, allowed):
    problem = Problem(T=2, N=2, in_channels=9, C=9, H=7, W=35, peephole="full", state=True, dilation=2)
    arguments, leaves = gpu_arguments(problem, dtype)
    with tf32(allowed):
        assert all(torch.isfinite(value).all() for value in results_and_gradients(arguments, leaves))


def test_the_rule_takes_cudnn_for_large_layers_only():
    """The same bits as the path that it should have picked."""
    small, large = PAPER, Problem(T=2, N=8, in_channels=64, C=64, H=64, W=64)
    for problem, expected in ((small, "step"), (large, "aten")):
        arguments, leaves = gpu_arguments(problem, torch.float16)
        chosen = results_and_gradients(arguments, leaves)
        matching = []
        for path in PATHS if expected == "step" else ["aten"]:
            with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                patch.setenv("PDB_EXT_CUDA_PATH", path)
                forced = results_and_gradients(arguments, leaves)
            matching.append(all(torch.equal(one, other) for one, other in zip(chosen, forced)))
        assert any(matching)
