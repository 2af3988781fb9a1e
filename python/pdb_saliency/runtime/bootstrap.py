"""Runs CODE with its ARGUMENTs as `python -c` does, but with the given search path: see `isolation.python_command`.

Arguments: the number of folders, the folders, -c, CODE, ARGUMENT... Python starts this file as a script, by its path,
because only that keeps the current folder out in every version of Python and leaves user site, environment and
PYTHONHOME as they are.
"""

import sys

# Before any other import: the search path begins with the folder of this file, where `files` and `processes` are ours.
_count = int(sys.argv[1])
sys.path[:] = sys.argv[2 : 2 + _count]
_code = sys.argv[3 + _count]
sys.argv[:] = ["-c", *sys.argv[4 + _count :]]
del __file__, _count  # As `python -c` has none; multiprocessing would take it for the program.
exec(compile(_code, "<string>", "exec"))
