"""What every test starts from: which tests run, in how many processes, and with which random numbers.

Without options the quick tests run, which hold at least one of every kind. `--slow` runs all; files and tests that are
named run in any case. A test marked `slow` costs a second or more and guards what a quicker one guards in part.
`slow(but=[...])` leaves some of its parameter sets, named by their ids, among the quick tests.
"""

import os
import shutil
import tempfile

import pytest
import torch

MOST_PROCESSES = 8  # Each compiles or loads the emulated GPU and PyTorch: more would only need more memory.


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow, which take most of the time")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Uses all processors, where pytest-xdist is installed, unless -n says otherwise or files or tests are named."""
    option = config.option
    alone = option.usepdb or option.collectonly or named_tests(config) or "PYTEST_XDIST_WORKER" in os.environ
    if alone or getattr(option, "numprocesses", 0) is not None:
        return
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    option.numprocesses, option.dist = min(processors, MOST_PROCESSES), "loadfile"


def pytest_configure(config):
    """A folder for what the tests compile, shared by all processes of this run."""
    config.addinivalue_line(
        "markers", "slow(but=[...]): runs with --slow only; but: ids of parameter sets that run always"
    )
    if "PDB_TEST_BUILDS" not in os.environ:
        config.builds = os.environ["PDB_TEST_BUILDS"] = tempfile.mkdtemp(prefix="pdb_tests_")


def pytest_unconfigure(config):
    if hasattr(config, "builds"):
        shutil.rmtree(config.builds, ignore_errors=True)
        os.environ.pop("PDB_TEST_BUILDS", None)


@pytest.hookimpl(tryfirst=True)  # before -k takes some away
def pytest_collection_modifyitems(config, items):
    if named_tests(config):
        return
    check_ids(items)
    if config.option.slow:
        return
    slow = [item for item in items if is_slow(item)]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


def named_tests(config):
    """Whether the command line names files or single tests, which then run in any case, in this process."""
    return any(argument.split("::")[0].endswith(".py") for argument in config.args)


def is_slow(item):
    names = quick_ids(item)
    return names is not None and id_of(item) not in names


def id_of(item):
    """The id of the item's parameter set, "" if it has none."""
    return item.callspec.id if hasattr(item, "callspec") else ""


def quick_ids(item):
    """The ids that its mark `slow` leaves to the quick tests; None without the mark."""
    marks = list(item.iter_markers("slow"))
    return {name for mark in marks for name in mark.kwargs.get("but", ())} if marks else None


def check_ids(items):
    """Refuses ids that no parameter set has (any more): their tests would leave the quick ones unnoticed."""
    left = {}
    for item in items:
        if names := quick_ids(item):
            left.setdefault((item.path, item.originalname), set(names)).discard(id_of(item))
    if wrong := {key: names for key, names in left.items() if names}:
        raise pytest.UsageError(f"slow(but=...) names ids that do not exist: {wrong}")


# The tests' tensors are so small that a second thread only waits; tests that need threads ask for them.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def has_lost_the_gpu() -> bool:
    """Whether the GPU computes nothing any more, as after a failed assertion in a kernel; other errors come once."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
    return False


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid):
    """Ends a process that has lost the GPU, which would fail every further test. xdist goes on with another process."""
    if not torch.cuda.is_initialized() or not has_lost_the_gpu():
        return
    if "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(3)
    pytest.exit(f"{nodeid}: the GPU cannot be used any more", returncode=3)
