"""What a call ran, and what inference may keep from one call to the next."""

import contextlib
from collections.abc import Iterator, Sequence

from torch.optim.optimizer import register_optimizer_step_post_hook

from ._library import native


class Calls(Sequence):
    """The calls of native ops that a `record_calls` block has seen so far, oldest first, as the dicts it describes."""

    def __init__(self):
        self._calls: list[dict] = []
        self._recording = native is not None
        self._first = native.start_recording() if self._recording else 0

    def _end(self) -> None:
        self._all()
        if self._recording:
            self._recording = False
            native.stop_recording()

    def _all(self) -> list[dict]:
        """All calls so far, those since the last look included."""
        if self._recording:
            self._calls += native.recorded_calls(self._first + len(self._calls))
        return self._calls

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index):
        return self._all()[index]

    def __repr__(self) -> str:
        return f"Calls({self._all()!r})"

    def __reduce__(self):
        """A copy is a plain list of the calls so far."""
        return list, (self._all()[:],)


@contextlib.contextmanager
def record_calls() -> Iterator[Calls]:
    """Records every call of a native op, of any thread, inside the block::

        with pdb_ext.record_calls() as calls:
            layer(x)
        assert calls[0]["path"] == "persistent"

    Each call is a dict:

    - `op`: "convlstm", "convgru" or "pdb_convlstm", or one of these with "_backward";
    - `device`: "cpu" or "cuda";
    - `path`: on CUDA "step" (one launch for each step), "persistent" (one launch for all steps) or "aten" (PyTorch's
      convolutions); on the CPU the instruction set, such as "avx2";
    - `kernel`: on CUDA a part of the names under which a profiler shows the kernels of the steps; on the CPU
      "winograd", "direct" or "direct by rows";
    - `layers`: the number of layers computed together;
    - `tensor_cores`: whether matrix products ran on tensor cores (for float32 that means TF32).

    The reference and the replay of a CUDA graph are not recorded. `build_info()["last_call"]` is the last call.
    """
    calls = Calls()
    try:
        yield calls
    finally:
        calls._end()


def clear_weight_cache() -> None:
    """Frees the memory in which calls on the CPU keep their weights for the next call.

    The kernels read weights in an order of their own. Short calls, of up to 16384 pixels of all images and steps, keep
    what they have rearranged, and the next call with the same tensors reuses it if the tensors still have the very
    bytes that they had, which it checks. So nothing has to be said when weights change. At most 512 MB are kept, those
    used last; the environment variable PDB_EXT_WEIGHT_CACHE gives another limit in MB, and 0 keeps nothing.
    """
    if native is not None:
        native.clear_packed_weights()


@contextlib.contextmanager
def cache_weights() -> Iterator[None]:
    """Inside the block, inference on CUDA in this thread keeps the weights in the order that its kernels read::

        with torch.no_grad(), pdb_ext.cache_weights():
            for x in frames:
                h, state = layer(x, state)

    Without it every call rearranges them first, in a separate launch, which is noticeable where single steps run in a
    loop.

    A changed weight is rearranged again: after in-place operations, `load_state_dict` and the `step()` of any
    `torch.optim.Optimizer`. PyTorch does not count what is written through `weight.data`, by collectives
    (`torch.distributed.broadcast`, DDP, FSDP), by the replay of a CUDA graph, or by another library into the same
    memory; do not use the block around these, nor around `torch.compile(mode="reduce-overhead")`, whose CUDA graphs
    allow nothing to be kept from their warm-up, nor around `torch.utils.swap_tensors`, which refuses tensors that are
    referred to elsewhere.

    Calls that store something for a gradient, and CUDA graphs during capture, keep nothing. Under autocast the weights
    are new tensors in every call, so nothing is found again. The memory, as much as the weights take, is freed at the
    end of the block. On other devices the block has no effect: on the CPU weights are kept in any case
    (:func:`clear_weight_cache`).
    """
    if native is None:
        yield
        return
    # Fused optimizers change weights without a new version.
    hook = register_optimizer_step_post_hook(lambda *_: native.forget_weights())
    native.start_caching_weights()
    try:
        yield
    finally:
        native.stop_caching_weights()
        hook.remove()
