"""The house (docs/developing.md): which folder may use which, in C++ and in Python, and the size of lines and files."""

import ast
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from helpers.paths import CSRC, ROOT, TESTS

PACKAGE = ROOT / "python" / "pdb_saliency"

# csrc: from each folder the folders whose headers it may include, besides its own.
# "" is csrc itself: cell.h, gate.h, gru_cell.h, layer_arguments.h, gru_arguments.h.
CSRC_ARROWS = {
    "": set(),
    "cpu/kernels": {""},
    "cpu": {"", "cpu/kernels"},
    "cuda/common": {""},
    "cuda/gates": {"", "cuda/common"},
    "cuda/step": {"", "cuda/common"},
    "cuda/step/fma": {"", "cuda/common", "cuda/step"},
    "cuda/step/mma": {"", "cuda/common", "cuda/step"},
    "cuda/persistent": {"", "cuda/common"},
    "cuda": {"", "cuda/common", "cuda/step", "cuda/persistent"},
    "ops": {"", "cpu", "cpu/kernels"},
    "ops/cpu": {"", "ops", "cpu", "cpu/kernels"},
    "ops/cuda": {"", "ops", "cuda", "cuda/common", "cuda/gates", "cuda/step"},
}

# pdb_saliency, from the ground up: a folder (or a file at the top) may use those below it in this list, as named.
PACKAGE_ARROWS = {
    "errors": set(),
    "options": set(),
    "runtime": {"errors"},
    "model": {"errors", "options", "runtime"},
    "video": {"errors", "runtime"},
    "inference": {"errors", "options", "runtime", "model", "video"},
    "data": {"errors", "options", "runtime", "model", "video"},
    "demo": {"errors", "runtime", "video"},
    "predict": {"errors", "options", "runtime", "model", "video", "inference"},
    "api": {"errors", "options", "model", "video", "inference"},
    "evaluation": {"errors", "options", "runtime", "model", "video", "inference", "data", "predict"},
    "timing": {"errors", "options", "runtime", "model", "video", "inference", "predict"},
    "training": {"errors", "options", "runtime", "model", "video", "inference", "data", "evaluation"},
    "cli": {"errors", "options", "runtime", "model", "video", "inference", "data", "demo", "predict", "evaluation",
            "timing", "training"},
    "__main__": {"cli"},
}  # fmt: skip

LONGEST_LINE = 120
LONGEST_FILE = 330


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".h", ".cuh", ".cpp", ".cu"))


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def own_includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*"([^"]+)"', path.read_text(), re.MULTILINE)


def folder_of(path: str | PurePosixPath) -> str:
    folder = str(PurePosixPath(path).parent)
    return "" if folder == "." else folder


def is_torch(include: str) -> bool:
    return include.startswith(("torch/", "ATen/", "c10/", "pybind11/"))


def imports(path: Path):
    """(the dotted name of every imported module, absolute, from the functions too; the imported names)."""
    package = path.relative_to(
        next(root for root in (ROOT / "python", ROOT, TESTS) if path.is_relative_to(root))
    ).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join([*base, *([node.module] if node.module else [])]), tuple(alias.name for alias in node.names)


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


# C++


def test_the_cell_includes_only_the_standard_library():
    assert includes(CSRC / "cell.h") == ["cmath"]


def test_only_ops_knows_torch():
    for path in sources(CSRC):
        if path.relative_to(CSRC).parts[0] != "ops":
            assert not [include for include in includes(path) if is_torch(include)], path


def test_only_module_cpp_knows_python():
    for path in sources(CSRC):
        knows = any("pybind11" in include or include == "Python.h" for include in includes(path))
        assert knows == (path == CSRC / "ops" / "module.cpp"), path


def test_the_arrows_of_csrc():
    """Includes are written from csrc, so that they show where they lead."""
    used = {}
    for path in sources(CSRC):
        folder = folder_of(path.relative_to(CSRC).as_posix())
        for include in own_includes(path):
            if include == "cuda_host.h":  # of tests/kernels/cuda_host, where there is no nvcc
                continue
            assert ".." not in include and (CSRC / include).is_file(), f"{path.relative_to(CSRC)} includes {include}"
            if folder_of(include) != folder:
                assert folder_of(include) in CSRC_ARROWS[folder], f"{path.relative_to(CSRC)} includes {include}"
                used.setdefault(folder, set()).add(folder_of(include))
    assert used.keys() <= CSRC_ARROWS.keys()


def test_the_arrows_of_csrc_lead_down():
    order = list(CSRC_ARROWS)
    assert all(order.index(below) < order.index(folder) for folder, used in CSRC_ARROWS.items() for below in used)


# Python


def test_pdb_ext_depends_on_torch_alone():
    for path in python_files(ROOT / "pdb_ext"):
        foreign = (
            {name.split(".")[0] for name, _ in imports(path)} - set(sys.stdlib_module_names) - {"torch", "pdb_ext"}
        )
        assert not foreign, f"{path.name} imports {foreign}"


def test_the_reference_depends_on_nothing_of_ours_but_the_check():
    for path in python_files(ROOT / "pdb_ext" / "reference"):
        ours = {name for name, _ in imports(path) if name.startswith("pdb_ext")}
        assert ours <= {"pdb_ext.checks"} or path.stem == "__init__", path


def test_modules_of_pdb_ext_use_no_private_name_of_each_other():
    for path in python_files(ROOT / "pdb_ext"):
        for module, names in imports(path):
            if module.startswith("pdb_ext"):
                private = [
                    name
                    for name in names
                    if name.startswith("_") and name != "__version__" and name not in ("_library",)
                ]
                assert not private, f"{path.name} takes {private} from {module}"


def test_the_arrows_of_pdb_ext_lead_down():
    order = (
        "_version _sources checks reference _library _info runtime checkpointing flops ops convgru merge pdb_convlstm"
    )
    order = [f"pdb_ext.{name}" for name in [*order.split(), "modules", "keras_weights", "convert"]]
    for path in python_files(ROOT / "pdb_ext"):
        place = f"pdb_ext.{path.relative_to(ROOT / 'pdb_ext').parts[0].removesuffix('.py')}"
        for module, names in imports(path):
            for used in [module] if module != "pdb_ext" else [f"pdb_ext.{name}" for name in names]:
                used = ".".join(used.split(".")[:2])
                if used.startswith("pdb_ext") and used != place and place != "pdb_ext.__init__":
                    assert order.index(used) < order.index(place), f"{path} uses {used}"


def test_the_arrows_of_the_modules_lead_down():
    order = [
        f"pdb_ext.modules.{name}"
        for name in "weights options state padded stack stacked convlstm convgru cell gru_cell paper __init__".split()
    ]
    for path in python_files(ROOT / "pdb_ext" / "modules"):
        for module, _ in imports(path):
            if module.startswith("pdb_ext.modules"):
                assert order.index(module) < order.index(f"pdb_ext.modules.{path.stem}"), f"{path} uses {module}"


def test_pdb_saliency_uses_the_public_layer_library():
    tree = ast.parse((ROOT / "pdb_ext" / "__init__.py").read_text())
    (public,) = (
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
    )
    for path in python_files(PACKAGE):
        for module, names in imports(path):
            assert not module.startswith("pdb_ext."), f"{path} reaches inside pdb_ext"
            assert module != "pdb_ext" or set(names) <= {*public}, f"{path} uses {names} of pdb_ext"


def public_names() -> dict[str, str]:
    """Public name of pdb_saliency -> the folder, or file at the top, that defines it."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (modules,) = (
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "_MODULES"
    )
    return {name: module.split(".")[0] for name, module in modules.items()}


def units(path: Path):
    """What a file of pdb_saliency uses of the package, imported or named in a string: folders, and files at its top."""
    for module, names in imports(path):
        parts = module.split(".")
        if parts[0] == "pdb_saliency":
            yield from [parts[1]] if len(parts) > 1 else [public_names().get(name, name) for name in names or ["cli"]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^pdb_saliency\.(\w+)", node.value)


@pytest.mark.parametrize("unit", PACKAGE_ARROWS)
def test_the_arrows_of_pdb_saliency(unit):
    place = PACKAGE / unit
    for path in python_files(place) if place.is_dir() else [PACKAGE / f"{unit}.py"]:
        wrong = {used for used in units(path) if used in PACKAGE_ARROWS and used != unit} - PACKAGE_ARROWS[unit]
        assert not wrong, f"{path.relative_to(PACKAGE)} uses {wrong}"


def test_the_arrows_are_complete_and_lead_down():
    there = {
        path.stem if path.suffix == ".py" else path.name for path in PACKAGE.iterdir() if path.suffix in (".py", "")
    }
    assert there - {"__init__", "__pycache__", "shipped"} == PACKAGE_ARROWS.keys()
    order = list(PACKAGE_ARROWS)
    for unit, used in PACKAGE_ARROWS.items():
        assert all(order.index(below) < order.index(unit) for below in used), unit


def test_what_starts_first_needs_the_standard_library_alone():
    """So that Ctrl-C and --help are answered at once, and no third library is loaded before the search path is safe."""
    first = (
        "__main__ __init__ errors options cli/__init__ cli/start runtime/__init__ runtime/isolation runtime/bootstrap"
    )
    for name in first.split():
        tree = ast.parse((PACKAGE / f"{name}.py").read_text())  # What functions import they import when it is safe.
        modules = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
        modules += [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 0]
        foreign = {module.split(".")[0] for module in modules}
        assert foreign <= {*sys.stdlib_module_names, "pdb_saliency"}, name


def test_no_test_imports_a_test():
    modules = {path.stem for path in TESTS.rglob("test_*.py")}
    for path in python_files(TESTS):
        for module, names in imports(path):
            assert not modules & {*module.split("."), *names}, f"{path} imports {module}"
        words = re.findall(r"\b(?:import|from) (test_\w+)", path.read_text())  # in programs that tests start
        assert not modules & set(words), f"{path} imports {words}"


# Sizes


def tracked(*suffixes: str) -> list[Path]:
    """Files of the repository, of git's list where there is one."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    paths = [ROOT / name for name in names] or [path for path in ROOT.rglob("*") if ".git" not in path.parts]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def test_no_line_is_longer_than_the_limit():
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked(".py", ".h", ".cpp", ".cu", ".cuh")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > LONGEST_LINE
    ]
    assert not long


def test_files_hold_one_idea():
    for path in tracked(".py", ".h", ".cpp", ".cu", ".cuh"):
        lines = len(path.read_text().splitlines())
        assert lines <= LONGEST_FILE, f"{path.relative_to(ROOT)} has {lines} lines: split it"


def test_no_folder_is_a_heap():
    for top in (CSRC, ROOT / "pdb_ext", PACKAGE, TESTS):
        for folder in [top, *(path for path in top.rglob("*") if path.is_dir() and path.name != "__pycache__")]:
            files = [path for path in folder.iterdir() if path.suffix in (".py", ".h", ".cpp", ".cu")]
            assert len(files) <= 24, f"{folder.relative_to(ROOT)} holds {len(files)} files"
