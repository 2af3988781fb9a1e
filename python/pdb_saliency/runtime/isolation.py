"""No code from the current folder, which may have been downloaded together with the video.

Python started with `-c`, as it is for decoders, pools of processes and their resource tracker, looks for every module
in the current folder first: a `subprocess.py` there would be run. From Python 3.11 on `-P` prevents this; 3.10 has only
`-I`, which drops the user's own packages as well. So Python is started with `bootstrap.py` in place of `-c`, and is
given the search path.
"""

from __future__ import annotations

import functools
import os
import sys

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_PACKAGE = os.path.dirname(_FOLDER)
_HOME = os.path.dirname(_PACKAGE)
_OWN = (_HOME, os.path.dirname(_HOME))  # The second one has pdb_ext where this is a folder of sources.
_LISTS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")  # An empty or relative entry in them means the current folder.


def isolate() -> None:
    """For a program: from now on neither it nor anything its libraries start looks for code in the current folder."""
    here_alone = _found_from_here(_kept())
    sys.path[:] = search_path()
    environment = clean_environment()
    if here_alone:  # Another `python -m pdb_saliency` must find them, too.
        listed = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([*([listed] if listed else []), *here_alone])
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    os.environ["PYTHONSAFEPATH"] = "1"
    _guard_libraries()


def search_path() -> list[str]:
    """`sys.path` without what stands for the current folder: "", relative entries, the first one of `python -m`.

    A folder that PYTHONPATH, a .pth file or the program names absolutely stays, even if it is the current one. The
    folders of this package and of pdb_ext are always included, at the end: perhaps only the current folder has them.
    """
    kept = _kept()
    path = [*kept, *_found_from_here(kept)]
    return path if _HOME in path else [*path, _HOME]


def python_command(code: str, *arguments: str) -> list[str]:
    """The command to run `code` in a Python that finds the modules this one finds, but none in the current folder."""
    import subprocess

    return [sys.executable, *subprocess._args_from_interpreter_flags(), *_instead_of_c(), "-c", code, *arguments]


def clean_environment() -> dict[str, str]:
    """A copy of the environment without the entries of PATH and its like that mean the current folder."""
    environment = dict(os.environ)
    for name in _LISTS:
        entries = [entry for entry in environment.pop(name, "").split(os.pathsep) if os.path.isabs(entry)]
        if entries:
            environment[name] = os.pathsep.join(entries)
        elif name == "PATH" and name in os.environ:  # An empty PATH means the current folder, too.
            environment[name] = os.defpath
    return environment


def find_program(name: str) -> str | None:
    """The absolute path of a program; never one in the current folder, unless PATH names that folder absolutely."""
    import shutil

    found = shutil.which(name, path=clean_environment().get("PATH"))
    return found if found and os.path.isabs(found) else None  # Windows looks in the current folder first.


def isolate_multiprocessing() -> None:
    """Make `multiprocessing` start its processes, resource tracker and fork server included, as `python_command` does.

    It has no public way to pass arguments to the interpreter; in Python 3.10 to 3.13 all its processes take them from
    the function replaced here. What this process itself finds in the current folder (in a program that has not called
    `isolate`) they find last.
    """
    from multiprocessing import spawn, util

    if hasattr(spawn.get_preparation_data, "isolated"):
        return
    _guard_libraries()
    flags, preparation = util._args_from_interpreter_flags, spawn.get_preparation_data

    def prepare(name: str) -> dict:
        prepared, path = preparation(name), search_path()
        others = [entry for entry in prepared["sys_path"] if entry not in path]
        return prepared | {"sys_path": [*path, *others]}

    prepare.isolated = True
    spawn.get_preparation_data = prepare
    util._args_from_interpreter_flags = lambda: [*flags(), *_instead_of_c()]


def isolate_compiler() -> None:
    """Do the same for PyTorch's compiler, which runs `python -c` to find out whether a library loads."""
    try:
        from torch._inductor.cpu_vec_isa import VecISA

        code = VecISA._avx_py_load
    except (ImportError, AttributeError):  # Another version of PyTorch. From Python 3.11 on `isolate` is enough.
        return
    start = "import sys; sys.path[:] = filter(None, sys.path)\n"
    VecISA._avx_py_load = start + code.removeprefix(start)


def _instead_of_c() -> list[str]:
    """Arguments after which Python hands "-c" and everything behind it to `bootstrap`."""
    path = search_path()
    return [_bootstrap(), str(len(path)), *path]


@functools.cache
def _bootstrap() -> str:
    """The path of bootstrap.py; of a copy where this package is in a zip file."""
    path = os.path.join(_FOLDER, "bootstrap.py")
    if os.path.isfile(path):
        return path
    import atexit
    import pkgutil
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".py", delete=False) as file:
        file.write(pkgutil.get_data(__package__, "bootstrap.py"))
    process = os.getpid()
    atexit.register(lambda: os.getpid() == process and os.unlink(file.name))
    return file.name


def _guard_libraries() -> None:
    """Keep processes from loading shared libraries of the current folder.

    OpenCV, when it is imported, prepends a folder and a colon to LD_LIBRARY_PATH. If that was empty, the trailing colon
    means the current folder. So it is given an entry: the folder of this package, which holds no libraries.
    """
    os.environ["LD_LIBRARY_PATH"] = clean_environment().get("LD_LIBRARY_PATH", _PACKAGE)


def _found_from_here(kept: list[str]) -> list[str]:
    """The folders of this package and of pdb_ext that only an entry meaning the current folder leads to."""
    try:
        found = {os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)}
    except OSError:  # It has been removed.
        return []
    return [folder for folder in _OWN if folder in found and folder not in kept]


def _kept() -> list[str]:
    """`search_path` without the folder added for this package."""
    try:
        here = os.getcwd()
    except OSError:  # It has been removed.
        here = None
    listed = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    named = {os.path.abspath(entry) for entry in listed.split(os.pathsep) if os.path.isabs(entry)}
    # At its start Python has made them absolute.
    relative = {
        os.path.abspath(entry) for entry in listed.split(os.pathsep) if here and listed and not os.path.isabs(entry)
    }
    as_module = getattr(sys.modules.get("__main__"), "__spec__", None) is not None
    first = 1 if as_module and sys.path[:1] == [here] and here not in named else 0
    entries = [entry for entry in sys.path[first:] if isinstance(entry, str) and os.path.isabs(entry)]
    return [entry for entry in entries if entry in named or entry not in relative]
