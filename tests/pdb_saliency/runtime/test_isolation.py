"""Processes find modules where their parent finds them, but not in the current folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pdb_saliency.runtime import isolation

HOME = str(Path(isolation.__file__).parents[2])
BASE = getattr(sys, "_base_executable", sys.executable)  # Outside of virtual environments, which have no user site.
WHERE = ("user_site", "hook", "path", "archive", "script", "program")

# A .pth file that makes the import system find a module elsewhere, as those of editable installations do.
HOOK = """
import importlib.util, sys
class Finder:
    def find_spec(name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, {file!r}) if name == "by_hook" else None
sys.meta_path.append(Finder)
"""

PROGRAM = """
import multiprocessing, subprocess, sys
sys.path.append({added!r})
from pdb_saliency.runtime.isolation import isolate_multiprocessing, python_command, search_path

def all_found(names):
    for name in names:
        __import__(name)
    return sys.path

if __name__ == "__main__":
    all_found({names!r})
    code = "import sys; " + "".join(f"import {{name}}; " for name in {names!r}) + "print(sys.path == sys.argv[1:])"
    command = python_command(code, *search_path())
    print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, end="")
    isolate_multiprocessing()
    for method in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(pool.apply(all_found, [{names!r}])[: len(search_path())] == search_path())
"""


@pytest.fixture
def unfriendly(tmp_path, monkeypatch):
    """A current folder with a file for every name of the standard library."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name in sys.stdlib_module_names:
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the current folder was run')")
    monkeypatch.chdir(folder)
    return folder


def modules_everywhere(folder):
    """A program that can import one module from each place in `WHERE`; and its environment."""
    variables = {**os.environ, "PYTHONUSERBASE": str(folder / "user"), "PYTHONSAFEPATH": ""}
    code = "import site; print(site.getusersitepackages() if site.ENABLE_USER_SITE else '')"
    asked = subprocess.run([BASE, "-c", code], env=variables, cwd="/", capture_output=True, text=True, check=True)
    user_site = asked.stdout.strip()
    if not user_site:
        pytest.skip("this Python has no user site")
    places = {name: folder / name for name in WHERE} | {"user_site": Path(user_site)}
    for name, place in places.items():
        place.mkdir(parents=True, exist_ok=True)
        (place / f"by_{name}.py").touch()
    (places["user_site"] / "finder.pth").write_text("import finder_of_hook\n")
    (places["user_site"] / "finder_of_hook.py").write_text(HOOK.format(file=str(places["hook"] / "by_hook.py")))
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.write(places["archive"] / "by_archive.py", "by_archive.py")
    program = places["script"] / "program.py"
    program.write_text(PROGRAM.format(added=str(places["program"]), names=[f"by_{name}" for name in WHERE]))
    variables["PYTHONPATH"] = os.pathsep.join([str(places["path"]), str(folder / "archive.zip"), HOME])
    return program, variables


def test_children_find_what_their_parent_finds(unfriendly, tmp_path):
    program, variables = modules_everywhere(tmp_path)
    done = subprocess.run([BASE, program], env=variables, capture_output=True, text=True, timeout=100)
    assert set(done.stdout.split()) == {"True"}, done


def test_the_package_in_the_current_folder_comes_last(tmp_path):
    """`python -m pdb_saliency` from the sources, which no other place has."""
    code = "import pdb_saliency.runtime.isolation as i, subprocess; i.isolate(); print(i.search_path()[-1]); "
    code += "subprocess.run(i.python_command('import pdb_saliency; print(pdb_saliency.__file__)'), check=True)"
    variables = {**os.environ, "PYTHONPATH": "", "PYTHONSAFEPATH": ""}
    (tmp_path / "run_it.py").write_text(code)
    os.symlink(Path(HOME) / "pdb_saliency", tmp_path / "pdb_saliency")
    command = [BASE, "-m", "run_it"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=100)
    assert set(done.stdout.split()) == {str(tmp_path), str(tmp_path / "pdb_saliency/__init__.py")}, done


RELATIVE = """
import sys
sys.path.append("..")
from pdb_saliency.runtime import isolation
if {isolated}: isolation.isolate()
import os, subprocess
program = "import pdb_saliency, pdb_ext_stands_here as p; print(pdb_saliency.__file__, p.__file__)"
subprocess.run(isolation.python_command(program), check=True)
if {isolated}: subprocess.run([sys.executable, "-m", "pdb_saliency_stands_here"], check=True)
"""


@pytest.mark.parametrize("isolated", [False, True])
def test_a_package_that_a_relative_entry_led_to(tmp_path, isolated):
    """As in a notebook beside the sources."""
    for folder in (tmp_path / "work", tmp_path / "pdb_ext"):
        folder.mkdir()
    os.symlink(Path(HOME) / "pdb_saliency", tmp_path / "pdb_saliency")
    (tmp_path / "pdb_ext_stands_here.py").touch()
    (tmp_path / "pdb_saliency_stands_here.py").write_text("print('found')")
    code = RELATIVE.format(isolated=isolated)
    variables = {**os.environ, "PYTHONPATH": "", "PYTHONSAFEPATH": ""}
    command = [BASE, "-c", code]
    done = subprocess.run(command, cwd=tmp_path / "work", env=variables, capture_output=True, text=True, timeout=100)
    found = [str(tmp_path / "pdb_saliency/__init__.py"), str(tmp_path / "pdb_ext_stands_here.py")]
    assert done.stdout.split() == [*found, *(["found"] if isolated else [])], done


def test_a_checkout_whose_folder_pythonpath_names_relatively(tmp_path):
    """PYTHONPATH=.:python in the folder of the sources."""
    (tmp_path / "pdb_ext").mkdir()
    (tmp_path / "pdb_ext/__init__.py").touch()
    (tmp_path / "python").mkdir()
    os.symlink(Path(HOME) / "pdb_saliency", tmp_path / "python/pdb_saliency")
    code = "import pdb_saliency.runtime.isolation as i, subprocess, sys; i.isolate()\n"
    code += "import pdb_ext; print(pdb_ext.__file__)\n"
    code += "subprocess.run(i.python_command('import pdb_saliency, pdb_ext; print(pdb_ext.__file__)'), check=True)\n"
    code += (
        "subprocess.run([sys.executable, '-c', 'import pdb_saliency, pdb_ext; print(pdb_ext.__file__)'], check=True)\n"
    )
    variables = {**os.environ, "PYTHONPATH": ".:python", "PYTHONSAFEPATH": ""}
    done = subprocess.run([BASE, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == 3 * [str(tmp_path / "pdb_ext/__init__.py")], done


def test_a_package_in_a_zip_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        for name in ("__init__", "runtime/__init__", "runtime/lazy", "runtime/isolation", "runtime/bootstrap"):
            archive.write(Path(HOME) / f"pdb_saliency/{name}.py", f"pdb_saliency/{name}.py")
    code = "import pdb_saliency.runtime.isolation as i, subprocess\n"
    code += "command = i.python_command('print(*__import__(\"sys\").path)')\n"
    code += "print(command[-2 - len(i.search_path()) - 2]); subprocess.run(command, check=True)"
    variables = {**os.environ, "PYTHONPATH": str(tmp_path / "app.zip")}
    done = subprocess.run([BASE, "-c", code], cwd="/", env=variables, capture_output=True, text=True, timeout=100)
    copy, path = done.stdout.splitlines()
    assert str(tmp_path / "app.zip") in path.split() and copy.endswith(".py") and not os.path.exists(copy), done


@pytest.mark.parametrize(
    "given, path, kept",
    [
        ("", ["", "/a"], ["/a"]),
        ("", ["sub", "/a", "../b"], ["/a"]),
        ("", ["/a", "{here}"], ["/a", "{here}"]),  # A .pth file, or the program itself, has it.
        (":/a", ["{here}", "/a", "/b"], ["/a", "/b"]),
        ("/a:.:sub", ["/a", "{here}", "{here}/sub", "/b"], ["/a", "/b"]),
        (":{here}:/a", ["{here}", "/a"], ["{here}", "/a"]),
    ],
)
def test_search_path(tmp_path, monkeypatch, given, path, kept):
    """given: PYTHONPATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", given.format(here=tmp_path))
    monkeypatch.setattr(sys, "path", [entry.format(here=tmp_path) for entry in path])
    assert isolation.search_path() == [*(entry.format(here=tmp_path) for entry in kept), isolation._HOME]


def test_the_current_folder_may_be_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv("PYTHONPATH", ":/a")
    monkeypatch.setattr(sys, "path", ["", "/a"])
    assert isolation.search_path() == ["/a", isolation._HOME]
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "name, value, kept",
    [
        ("PATH", ":/bin:.:/usr/bin:", "/bin:/usr/bin"),
        ("PATH", "", os.defpath),
        ("PATH", ".", os.defpath),
        ("PYTHONPATH", ":", None),
        ("LD_LIBRARY_PATH", "/cv2/lib64:", "/cv2/lib64"),
    ],
)
def test_environment(monkeypatch, name, value, kept):
    monkeypatch.setenv(name, value)
    assert isolation.clean_environment().get(name) == kept


def test_a_program_of_the_current_folder_is_not_found(tmp_path, monkeypatch):
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for path in (":/nowhere", ".:/nowhere", ""):
        monkeypatch.setenv("PATH", path)
        assert isolation.find_program("ffmpeg") in (
            None,
            "/bin/ffmpeg",
            "/usr/bin/ffmpeg",
        )  # Those of the system's default.
    monkeypatch.setenv("PATH", str(tmp_path))
    assert isolation.find_program("ffmpeg") == str(tmp_path / "ffmpeg")
