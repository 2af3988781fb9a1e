"""Installs pdb_ext for real, in new virtual environments, in each situation that an installation must survive.

    python tests/install/install_matrix.py               # the cases that need only a CPU build of torch
    python tests/install/install_matrix.py cuda empty    # 5 GB each: a CUDA build of torch

Not collected by pytest: every case takes a minute or more. Each works on a copy of the source tree.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LEFT_OVERS = ("build", "build-*", "dist", "*.egg-info", "__pycache__", ".*", "_C*.so", "_build.json")
COMPILERS = ("cc", "gcc", "c++", "g++", "clang", "clang++")

FORWARD = """
import json, warnings, torch, pdb_ext, pdb_saliency
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    output, _ = pdb_ext.convlstm(torch.ones(2, 1, 3, 5, 5), torch.ones(8, 3, 3, 3), torch.ones(8, 2, 3, 3))
assert output.shape == (2, 1, 2, 5, 5)
print(json.dumps({"file": pdb_ext.__file__, "warnings": [str(w.message) for w in caught], **pdb_ext.build_info()}))
"""


class Environment:
    """A virtual environment without pdb_ext, and a copy of the source tree to install from."""

    def __init__(self, venv: Path, folder: Path):
        self.folder, self.sources = venv, folder / "sources"
        shutil.copytree(ROOT, self.sources, ignore=shutil.ignore_patterns(*LEFT_OVERS))
        self.elsewhere = folder  # holds no pdb_ext that Python could take for the installed one
        self.variables: dict[str, str] = {}
        self.pip("uninstall", "-q", "-y", "pdb-ext")

    def run(self, *command: str, cwd: Path | None = None, fails: bool = False) -> str:
        """Its output; checks that it succeeds, or that it fails."""
        variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PDB_EXT_CUDA")}
        result = subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]], cwd=cwd or self.elsewhere, text=True,
            env=variables | self.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (result.returncode != 0) == fails, f"{command} returned {result.returncode}:\n{result.stdout[-6000:]}"
        return result.stdout

    def pip(self, *arguments: str, **options) -> str:
        return self.run("pip", *arguments, **options)

    def forward(self, cwd: Path | None = None) -> dict:
        return json.loads(self.run("python", "-c", FORWARD, cwd=cwd).splitlines()[-1])

    def installed(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages/pdb_ext"))

    def torch(self) -> str:
        return re.search(r"^torch==(\S+)", self.pip("freeze"), re.MULTILINE)[1]

    def hide_compilers(self) -> None:
        """A PATH with every program but the compilers."""
        programs = self.elsewhere / "programs"
        programs.mkdir()
        for folder in map(Path, reversed(os.environ["PATH"].split(os.pathsep))):
            for program in folder.iterdir() if folder.is_dir() else ():
                if program.name not in COMPILERS and "-g++" not in program.name and "-gcc" not in program.name:
                    link = programs / program.name
                    link.unlink(missing_ok=True)
                    link.symlink_to(program)
        self.variables["PATH"] = str(programs)


def plain(environment: Environment) -> None:
    """An installed torch is the one to build with, and it stays."""
    before = environment.torch()
    output = environment.pip("install", "-v", ".", cwd=environment.sources)
    assert not re.search(r"Collecting torch\b|Downloading torch-|Uninstalling torch", output), output[-6000:]
    assert environment.torch() == before
    environment.pip("check")
    info = environment.forward()
    assert info["native"] and info["built_with"]["torch"] == info["torch"] and not info["warnings"], info
    assert str(environment.folder) in info["file"], info
    requirements = environment.run("python", "-c", "import importlib.metadata as m; print(m.requires('pdb_ext'))")
    assert f"torch=={info['torch'].split('+')[0]}'" in requirements, requirements

    # Python started in the repository's root takes the source folder, with the installed library.
    info = environment.forward(cwd=environment.sources)
    assert info["native"] and str(environment.sources) in info["file"], info
    # ... unless that was compiled from other sources.
    (environment.sources / "csrc" / "new.h").write_text("// new\n")
    info = environment.forward(cwd=environment.sources)
    assert not info["native"] and "without a compiled library" in info["warnings"][0], info


def mismatch(environment: Environment) -> None:
    """A library that does not fit is refused with both versions and the remedy, before it is loaded."""
    environment.pip("install", ".", cwd=environment.sources)
    record = environment.installed() / "_build.json"
    contents = json.loads(record.read_text())
    record.write_text(json.dumps(contents | {"torch": "2.5.1"}))
    message = import_error(environment)
    assert "2.5.1" in message and environment.torch().split("+")[0] in message, message
    record.write_text(json.dumps(contents))
    library = next(environment.installed().glob("_C*.so"))
    library.write_bytes(b"no library")
    assert "loading it failed" in import_error(environment)
    library.unlink()
    assert "holds none" in import_error(environment)
    record.unlink()
    assert "is missing" in import_error(environment)


def import_error(environment: Environment) -> str:
    message = environment.run("python", "-c", "import pdb_ext", fails=True).splitlines()[-1]
    assert message.startswith("ImportError: pdb_ext: ") and "pip install" in message, message
    return message


def no_compiler(environment: Environment) -> None:
    """Without a compiler the package works on the reference path, and says so."""
    environment.hide_compilers()
    output = environment.pip("install", "-v", ".", cwd=environment.sources)
    assert "nothing is compiled" in output and "no C++ compiler" in output, output[-6000:]
    info = environment.forward()
    assert not info["native"] and "no C++ compiler" in info["why_not_native"], info
    assert len(info["warnings"]) == 1 and "no C++ compiler" in info["warnings"][0], info
    environment.variables["PDB_EXT_CUDA"] = "1"
    output = environment.pip("install", ".", cwd=environment.sources, fails=True)
    assert "PDB_EXT_CUDA=1, but no C++ compiler" in output, output


def broken_source(environment: Environment) -> None:
    """A compiler that rejects the sources is an error that shows what it said, not a quiet fall-back."""
    with open(environment.sources / "csrc" / "ops" / "module.cpp", "a") as file:
        file.write('\n#error "broken on purpose"\n')
    output = environment.pip("install", ".", cwd=environment.sources, fails=True)
    assert 'error "broken on purpose"' in output, output
    assert "pdb_ext" not in environment.pip("freeze")


def editable(environment: Environment) -> None:
    """An editable install has the library in the source tree, and sees edits."""
    environment.pip("install", "-e", ".", cwd=environment.sources)
    info = environment.forward()
    assert info["native"] and str(environment.sources) in info["file"], info
    with open(environment.sources / "pdb_ext" / "_version.py", "a") as file:
        file.write('__version__ = "9.9.9"\n')
    assert environment.forward()["pdb_ext"] == "9.9.9"


def source_archive(environment: Environment) -> None:
    """A source archive holds everything needed, and with isolation off it installs without a network."""
    environment.pip("install", "-q", "setuptools", "ninja")
    environment.run("python", "-c", "import build_backend as b; b.build_sdist('dist')", cwd=environment.sources)
    archive = next((environment.sources / "dist").glob("*.tar.gz"))
    environment.pip("install", "--no-build-isolation", "--no-index", "--no-deps", str(archive))
    environment.run("python", "-c", "import pdb_ext; assert pdb_ext.build_info()['native']")


def cuda(environment: Environment) -> None:
    """A CUDA build of torch and its nvcc: the CUDA sources are compiled; no GPU is needed."""
    environment.variables["PDB_EXT_CUDA"] = "1"
    plain(environment)
    info = environment.forward()
    assert info["built_with"]["cuda"] and info["implementations"]["cuda"]["float32"].startswith("native"), info


def empty(environment: Environment) -> None:
    """No torch: pip takes one for the build, and the package requires that one."""
    environment.pip("install", ".", cwd=environment.sources)
    info = environment.forward()
    assert info["native"] and info["built_with"]["torch"] == info["torch"], info
    environment.pip("check")


CPU_CASES = (plain, mismatch, no_compiler, broken_source, editable, source_archive)
CASES = {case.__name__: case for case in (*CPU_CASES, cuda, empty)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)} (default: all but the last two)")
    parser.add_argument(
        "--cpu-torch", default="torch==2.13.0", help="the torch of the CPU cases (default: %(default)s)"
    )
    parser.add_argument(
        "--cuda-torch", default="torch==2.14.1", help="the torch of the case cuda (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(unknown)}; choose from {', '.join(CASES)}")
    requirements = {"cuda": arguments.cuda_torch, "empty": None}
    with tempfile.TemporaryDirectory(prefix="pdb_ext_") as folder:
        for name in arguments.cases or [case.__name__ for case in CPU_CASES]:
            begin = time.monotonic()
            venv = make_venv(Path(folder), requirements.get(name, arguments.cpu_torch))
            CASES[name](Environment(venv, Path(tempfile.mkdtemp(prefix=name, dir=folder))))
            print(f"{name}: passed in {time.monotonic() - begin:.0f} s", flush=True)


def make_venv(folder: Path, requirement: str | None) -> Path:
    """A virtual environment with nothing but the requirement; cases with the same requirement share one."""
    venv = folder / f"venv {requirement}".replace("==", " ").replace(" ", "-")
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        if requirement:
            subprocess.run([venv / "bin" / "pip", "install", "-q", requirement], check=True)
    return venv


if __name__ == "__main__":
    main()
