"""Dependencies run one way: cell header -> kernels -> bindings -> pdb_ext -> pdb_saliency."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def includes(path):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def sources(folder):
    return sorted(path for path in (ROOT / "csrc" / folder).glob("*") if path.suffix in (".h", ".cuh", ".cpp", ".cu"))


def is_torch(include):
    return include.startswith(("torch/", "ATen/", "c10/", "pybind11/"))


def is_glue(path):
    """csrc/cuda's bindings, and the path whose convolutions are PyTorch's."""
    return path.stem in ("convlstm_cuda", "pdb_convlstm_cuda", "tensors") or path.stem.startswith("aten_")


def imports(path):
    """Top-level names of all absolute imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def test_cell_header_includes_only_the_standard_library():
    assert includes(ROOT / "csrc" / "cell.h") == ["cmath"]


@pytest.mark.parametrize("folder", ["cpu", "cuda"])
def test_kernels_do_not_know_torch(folder):
    """Everything but the glue compiles without torch, and includes nothing above itself but cell.h."""
    files = [path for path in sources(folder) if folder == "cpu" or not is_glue(path)]
    assert files
    for path in files:
        for include in includes(path):
            assert not is_glue(Path(include)), f"{path.name} includes {include}"
            assert not is_torch(include), f"{path.name} includes {include}"
            assert "/" not in include or include == "../cell.h", f"{path.name} includes {include}"


def test_only_the_bindings_know_python():
    for path in [*sources("."), *sources("cpu"), *sources("cuda")]:
        wanted = path.name == "bindings.cpp"
        assert wanted == any("pybind11" in include or include == "Python.h" for include in includes(path)), path.name


def test_pdb_ext_depends_on_torch_alone():
    for path in (ROOT / "pdb_ext").glob("*.py"):
        foreign = set(imports(path)) - set(sys.stdlib_module_names) - {"torch"}
        assert not foreign, f"{path.name} imports {foreign}"


def test_reference_depends_on_nothing_of_ours_but_the_check():
    tree = ast.parse((ROOT / "pdb_ext" / "reference.py").read_text())
    relative = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level > 0]
    assert relative == ["checks"]


def test_pdb_saliency_uses_the_public_layer_library():
    for path in (ROOT / "python" / "pdb_saliency").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("pdb_ext.") for name in names), f"{path.name} reaches inside pdb_ext"


@pytest.mark.parametrize("suffix", ["py", "h", "cpp", "cu", "cuh"])
def test_files_hold_one_idea(suffix):
    folders = ("csrc", "pdb_ext", "python", "tests")
    for path in (path for folder in folders for path in (ROOT / folder).rglob(f"*.{suffix}")):
        lines = len(path.read_text().splitlines())
        assert lines <= 330, f"{path.relative_to(ROOT)} has {lines} lines: split it"
