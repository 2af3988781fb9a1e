"""Compiles kernels for one architecture, disassembles them, and names them so that two versions can be compared."""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cuda_tools import find_tool
from sass_parse import Kernel, Place, parse

# The options of setup.py that matter here. -lineinfo changes no instruction.
NVCC_FLAGS = ["-std=c++17", "-O3", "-lineinfo"]


@dataclass
class Compiled:
    """A kernel and what ptxas reports: registers per thread, bytes of stack, spills and static shared memory."""

    name: str
    file: Path
    kernel: Kernel
    registers: int
    stack: int
    spills: int
    shared: int

    def warps(self) -> int:
        """Warps of a block on each of the four schedulers."""
        return -(-(self.kernel.threads or 256) // 128)


def tool(name: str) -> str:
    path = find_tool(name)
    if path is None:
        raise SystemExit(f"no {name}: it comes with the CUDA toolkit, or with the package nvidia-cuda-{name}")
    return path


def sources(root: Path, given: list[Path]) -> list[Path]:
    """The .cu files below csrc/cuda in the repository at root: all, or those whose path ends in one of `given`.

    So `persistent/forward.cu` is one file, and `weight_gradient.cu` means all files of that name.
    """
    found = sorted((root / "csrc/cuda").rglob("*.cu"))
    return [path for path in found if not given or any(is_end(each, path) for each in given)]


def is_end(end: Path, path: Path) -> bool:
    return path.parts[-len(end.parts) :] == end.parts


def compile_kernels(root: Path, source: Path, architecture: str) -> list[Compiled]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernels.cubin")
        command = [tool("nvcc"), "-cubin", *NVCC_FLAGS, f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]
        command += ["-I", str(root / "csrc"), "-Xptxas", "-v", "-o", str(cubin), str(source)]
        report = _output(command, stderr=subprocess.STDOUT)
        listing = _output([tool("nvdisasm"), "-hex", "-gi", str(cubin)])
    usage = _usage(report)
    kernels = [kernel for kernel in parse(listing) if kernel.symbol in usage]
    names = demangled([kernel.symbol for kernel in kernels])
    return [Compiled(name, source, kernel, *usage[kernel.symbol]) for name, kernel in zip(names, kernels)]


def _output(command: list[str], **options) -> str:
    result = subprocess.run(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)}\n{result.stderr or result.stdout}")
    return result.stdout


def _usage(report: str) -> dict[str, tuple[int, int, int, int]]:
    """Kernel -> (registers, stack, spills, shared) from the report of ptxas -v."""
    pattern = (
        r"Compiling entry function '(\w+)'[^\n]*\n.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes"
    )
    pattern += r" spill loads\n[^\n]*Used (\d+) registers([^\n]*)"
    usage = {}
    for symbol, stack, stores, loads, registers, rest in re.findall(pattern, report, re.DOTALL):
        shared = re.search(r"(\d+) bytes smem", rest)
        usage[symbol] = int(registers), int(stack), int(stores) + int(loads), int(shared[1]) if shared else 0
    return usage


def demangled(symbols: list[str]) -> list[str]:
    """Names without namespaces and arguments, or the symbols themselves if there is no tool for it."""
    filter_tool = find_tool("c++filt") or find_tool("cu++filt")
    if filter_tool is None or not symbols:
        return [re.sub(r"\d+_GLOBAL__N__\w*?_cu_[0-9a-f]{8}_\d+", "", symbol) for symbol in symbols]
    return [brief_name(line) for line in _output([filter_tool, *symbols]).splitlines()]


def brief_name(name: str) -> str:
    """`void pdb::cuda::kernel<pdb::cuda::(anonymous namespace)::Forward<float> >(int)` -> `kernel<Forward<float>>`."""
    name = name.replace("(anonymous namespace)::", "").replace("> >", ">>").replace("> >", ">>")
    depth = 0
    for at, character in enumerate(name):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            name = name[:at]
            break
    name = re.sub(r"\b\w+::", "", name)
    return re.sub(r"^.*? (?=[\w$]+(<|$))", "", name) if re.match(r"\w+ ", name) else name


def shortened(names: list[str]) -> list[str]:
    """Without the innermost template arguments, where the names stay different."""
    short = [re.sub(r"(<[^<>]*<[^<>]*)<[^<>]*>", r"\1", name) for name in names]
    return [new if short.count(new) == 1 else old for old, new in zip(names, short)]


@contextlib.contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """A folder with the files of a commit, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "before")
        _output(["git", "-C", str(root), "worktree", "add", "--quiet", "--detach", str(target), commit])
        try:
            yield target
        finally:
            _output(["git", "-C", str(root), "worktree", "remove", "--force", str(target)])


class Sources:
    """The lines that instructions come from. Read while the files exist, since a commit's files are removed."""

    def __init__(self, compiled: list[Compiled]):
        self._lines: dict[str, list[str]] = {}
        for each in compiled:
            for instruction in each.kernel.instructions:
                for file, _ in instruction.places:
                    self._read(file)

    def _read(self, file: str) -> None:
        if file not in self._lines:
            path = Path(file)
            text = path.read_text(errors="replace") if path.is_file() else ""
            self._lines[file] = [line.strip() for line in text.splitlines()]

    def text(self, place: Place) -> str:
        file, number = place
        lines = self._lines.get(file, [])
        return lines[number - 1] if 0 < number <= len(lines) else ""

    @staticmethod
    def name(place: Place) -> str:
        return f"{Path(place[0]).name}:{place[1]}"
