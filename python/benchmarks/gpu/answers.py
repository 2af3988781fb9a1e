"""Whether a path computes the right results, one line per precision; gpu_check.py starts one process for each path.

Forward and every gradient are compared with float64 of the same rounded inputs. The rule of this project: the RMS error
is at most twice that of PyTorch's eager operators in the same precision, on the same GPU, where cuDNN chooses among its
deterministic algorithms, as all paths do. The path that was asked for must be the one that ran.
"""

import contextlib
import time
from collections.abc import Iterator

import torch

from cpu_workload import Workload
from gpu import workloads
from gpu.jobs import PATHS, ROWS, TINY, Row
from gpu.timing import PRECISIONS, cuda_path, precision_settings, synchronize
from gpu.worker import Reporter, recorded_calls, serve
from measure import relative_error
from peers import naive, ours

# The paper's layer with the wider halo; and its module, both branches and directions in one launch.
LAYER, TINY_LAYER = Row("layer", 5, 1, 32, 60, (2,), False), Row("layer", 2, 1, 3, 6, (2,), False)
ALL_PRECISIONS = {"float64": torch.float64} | PRECISIONS
ROUNDINGS = {"float64": 64 * 2.0**-52, "tf32": 2 * 2.0**-10, "float32": 2 * 2.0**-23, "float16": 2 * 2.0**-10}
ROUNDINGS["bfloat16"] = 2 * 2.0**-7  # relative errors that are always allowed


@contextlib.contextmanager
def deterministic_cudnn() -> Iterator[None]:
    before, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def judge(errors: dict[str, list[float]], precision: str) -> tuple[bool, float]:
    """Whether the errors are allowed, and the largest as a multiple of PyTorch's. NaN is not allowed."""
    pairs = list(zip(errors["ours"], errors["eager"]))
    allowed = all(mine <= max(2 * theirs, ROUNDINGS[precision]) for mine, theirs in pairs)
    return allowed, max(mine / theirs if theirs else float(mine > 0) for mine, theirs in pairs)


def wrong_path(calls: list[dict], path: str) -> str | None:
    """What ran instead of the path; None if the path ran as requested."""
    asked = {("persistent" if path == "pyramid" else path, PATHS[path])}
    ran = {(call["path"], call["layers"]) for call in calls}
    ops = [call["op"].endswith("backward") for call in calls]
    return None if ran == asked and True in ops and False in ops else f"what ran was {calls}"


def answer(key: str, device: str, reporter: Reporter) -> dict:
    path, precision = key.split(" | ")
    row = (ROWS[0] if path == "pyramid" else LAYER) if device == "cuda" else TINY if path == "pyramid" else TINY_LAYER
    path_of_layers = "persistent" if path == "pyramid" else path
    with precision_settings(precision), cuda_path(path_of_layers), deterministic_cudnn():
        workload = workloads.GpuWorkload(row, ALL_PRECISIONS[precision], device)
        exact = Workload.training(workloads.doubled(workload), naive)
        with recorded_calls(device) as calls:
            results = {"ours": Workload.training(workload, ours)}
        synchronize(device)
        results["eager"] = Workload.training(workload, naive)
    errors = {}
    for name, values in results.items():
        errors[name] = [relative_error(v, e) for v, e in zip(values, exact, strict=True)]
    right, ratio = judge(errors, precision)
    wrong = None if device == "cpu" else wrong_path(calls, path)
    largest = f"error {max(errors['ours']):.1e}, at most {ratio:.2f} of PyTorch's own"
    words = f"{largest}{f'; {wrong}' if wrong else ''}"
    return {"passed": right and wrong is None, "words": words, "errors": errors}


def run(key: str, device: str, reporter: Reporter) -> dict:
    begin = time.perf_counter()
    try:
        result = answer(key, device, reporter)
    except RuntimeError as error:
        if "does not fit" not in str(error):
            raise
        result = {"passed": None, "words": str(error).split("\n")[0][:200]}
    return result | {"seconds": round(time.perf_counter() - begin, 2)}


if __name__ == "__main__":
    serve(__doc__.split("\n")[0], run)
