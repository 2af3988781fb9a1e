"""A folder as it may be downloaded with a video, with a file for every module and program that Python may look for."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

PROGRAMS = (
    "as bash c++ cc env ffmpeg ffprobe g++ gcc git ld ldconfig lscpu nvcc openssl python python3 sh uname".split()
)
LIBRARIES = "libc.so.6 libdl.so.2 libgcc_s.so.1 libm.so.6 libpthread.so.0 libstdc++.so.6 libz.so.1".split()
WANTED = "hydra sitecustomize tensorflow triton usercustomize"  # Python or a library looks for them, usually in vain.

# As pip writes it.
COMMAND = """\
import re
import sys
from pdb_saliency.cli.start import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit(main())
"""


def module_names():
    """All module names of the standard library, of the installed packages and of this process."""
    loaded = {name.partition(".")[0] for name in sys.modules}
    names = (
        sys.stdlib_module_names
        | set(importlib.metadata.packages_distributions())
        | loaded
        | {"pdb_ext", "pdb_saliency"}
    )
    return {name for name in names | set(WANTED.split()) if name.isidentifier()}


class Unfriendly:
    """folder: the current folder of all commands. Any code in it that is run writes its name to `ran`."""

    def __init__(self, root: Path, modules: set[str]):
        self.folder, self.ran = root / "downloaded", root / "ran"
        self.command = root / "bin" / "pdb-saliency"
        for path in (self.folder, self.command.parent):
            path.mkdir(parents=True)
        self.command.write_text(COMMAND)
        for name in modules:
            note = f"open({str(self.ran)!r}, 'a').write('{name}.py\\n')\nraise SystemExit('{name}.py was run')\n"
            (self.folder / f"{name}.py").write_text(note)
        for name in PROGRAMS:
            (self.folder / name).write_text(f"#!/bin/sh\necho {name} >> '{self.ran}'\nexit 1\n")
            (self.folder / name).chmod(0o755)
        for name in LIBRARIES:
            (self.folder / name).write_text("No process that takes this for a shared library starts.")
        (self.folder / "matplotlibrc").write_text("savefig.facecolor: black\nbackend: module://planted\n")

    def run(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """What the installed command prints. It must end with `code`, and run nothing in the folder."""
        return self.python(str(self.command), *arguments, code=code, **variables)

    def python(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """What any Python program prints, with the same checks."""
        paths = {
            "PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path)),
            "PATH": os.pathsep + os.environ["PATH"],
        }
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "", **paths, **variables}
        environment.pop("LD_LIBRARY_PATH", None)  # OpenCV has changed it for this process's children.
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        ran = self.ran.read_text() if self.ran.exists() else ""
        self.ran.unlink(missing_ok=True)
        assert not ran, f"{arguments} ran {ran.split()} of the current folder"
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr
