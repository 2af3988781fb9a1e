"""What runs: which implementation a call took, and what inference may keep from call to call."""

import contextlib
from collections.abc import Iterator, Sequence

from ._library import native


class Calls(Sequence):
    """The calls of native ops that a `record_calls` block has seen so far, oldest first: dicts, as it describes them."""

    def __init__(self):
        self._ended: list[dict] | None = [] if native is None else None
        self._first = 0 if native is None else native.start_recording()

    def _end(self) -> None:
        if self._ended is None:
            self._ended = native.recorded_calls(self._first)
            native.stop_recording()

    def _all(self) -> list[dict]:
        return native.recorded_calls(self._first) if self._ended is None else self._ended

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index):
        return self._all()[index]

    def __repr__(self) -> str:
        return f"Calls({self._all()!r})"


@contextlib.contextmanager
def record_calls() -> Iterator[Calls]:
    """Records every call of a native op, of any thread, inside the block::

        with pdb_ext.record_calls() as calls:
            layer(x)
        assert calls[0]["path"] == "persistent"

    Each call is a dict:

    - `op`: "convlstm", "convlstm_backward", "pdb_convlstm" or "pdb_convlstm_backward";
    - `device`: "cpu" or "cuda";
    - `path`: on CUDA "step" (a launch a step), "persistent" (one for all steps) or "aten" (PyTorch's convolutions); on the
      CPU the instruction set, such as "avx2";
    - `kernel`: on CUDA a part of the names under which a profiler shows the kernels of the steps; on the CPU "winograd" or
      "direct";
    - `layers`: the number of layers that it computed together;
    - `tensor_cores`: whether products ran on tensor cores (float32: in TF32).

    What ran in the reference, or is replayed in a CUDA graph, is no call. `build_info()["last_call"]` is the last one.
    """
    calls = Calls()
    try:
        yield calls
    finally:
        calls._end()


@contextlib.contextmanager
def cache_weights() -> Iterator[None]:
    """Inside the block, inference on CUDA keeps the weights in the order in which its kernels read them::

        with torch.no_grad(), pdb_ext.cache_weights():
            for x in frames:
                h, state = layer(x, state)

    Without it every call rearranges them first: a launch of its own, which counts where single steps run in a loop.

    A weight that has changed is rearranged anew: PyTorch counts in-place operations, optimizer steps and `load_state_dict`.
    It does not count what is written through `weight.data`, by FSDP's all-gather, or by another library into the same
    memory; do not use the block around these. Calls that need gradients, and CUDA graphs while they are captured, keep
    nothing. The memory, as large as the weights, is freed at the end of the block. Has no effect on other devices.
    """
    if native is not None:
        native.start_caching_weights()
    try:
        yield
    finally:
        if native is not None:
            native.stop_caching_weights()
