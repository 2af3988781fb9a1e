"""What every test starts from: which tests run, in how many processes, and with which random numbers.

Without options the quick tests run, which hold at least one of every kind. `--slow` runs all, and so do files and
tests that are named. A test marked
`slow` is one that costs a second or more and guards what a quicker one guards in part; `slow(but=[...])` leaves
some of its parameter sets, named by their ids, to the quick ones.
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
    option.numprocesses, option.dist = min(len(os.sched_getaffinity(0)), MOST_PROCESSES), "loadfile"


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


def pytest_collection_modifyitems(config, items):
    if config.option.slow or named_tests(config):
        return
    slow = [item for item in items if is_slow(item)]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


def named_tests(config):
    """Whether the command line names files or single tests, which then run in any case, in this process."""
    return any(argument.split("::")[0].endswith(".py") for argument in config.args)


def is_slow(item):
    marks = list(item.iter_markers("slow"))
    names = [name for mark in marks for name in mark.kwargs.get("but", ())]
    return bool(marks) and not (names and item.callspec.id in names)


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
