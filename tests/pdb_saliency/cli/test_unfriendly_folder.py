"""No command runs code of the current folder: modules, programs, shared libraries and settings that came with a video.

Every test runs a real command, installed as pip does it, in a folder with a file for every name that may be looked up.
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from helpers.evaluation_folders import map_of, mask_of, write_sequences
from helpers.films import noisy, read_maps, read_video, write_video
from helpers.unfriendly import Unfriendly, module_names
from pdb_saliency import SaliencyModel, load_model, save_model
from pdb_saliency.model.config import LITE

TINY = dataclasses.replace(LITE, input_size=(33, 33), pdc_channels=4, reduced_channels=4, hidden_channels=4)
CRF = ["--crf", "--crf-workers", "2"] if importlib.util.find_spec("pydensecrf") else []
PREDICT = ["predict", "clip.mp4", "--weights", "model.safetensors", "--save", "maps,video,json", *CRF]
TRAIN = ["train", "--stage", "spatial", "--model", "lite", "--preset", "modern", "--size", "33", "--input-size", "33"]
TRAIN += ["--batch", "2", "--steps", "1", "--device", "cpu", "--train", "stills"]


def needs(*packages):
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.fixture(scope="module")
def unfriendly(tmp_path_factory):
    made = Unfriendly(tmp_path_factory.mktemp("unfriendly"), module_names())
    furnish(made.folder)
    return made


def furnish(folder):
    """A video, a model, maps with masks, and two data sets."""
    pictures = [np.roll(noisy(48, 64), 2 * number, 1) for number in range(7)]
    write_video(folder / "clip.mp4", pictures)
    torch.manual_seed(0)
    model = SaliencyModel(TINY)
    model.untrained = None
    for place in (folder, folder / "runs/one"):
        place.mkdir(parents=True, exist_ok=True)
        save_model(model, place / "model.safetensors")
    for kind, make in (("maps", map_of), ("masks", mask_of)):
        write_sequences(folder / kind, make, {"long": 150})  # Fewer are scored without other processes.
    for kind, make in (("images", pictures.__getitem__), ("masks", mask_of)):
        write_sequences(folder / "stills", make, {kind: 4})
    for kind, make in (("JPEGImages", pictures.__getitem__), ("Annotations", mask_of)):
        write_sequences(folder / "data/part" / kind, make, {"camel": 6})


def check_prediction(folder):
    assert len(read_maps(folder / "maps")) == len(read_video(folder / "overlay.mp4")[0]) == 7
    assert len((folder / "frames.jsonl").read_text().splitlines()) >= 7


def test_the_folder_is_unfriendly(unfriendly):
    """A process that follows Python's own rules does run the code there."""
    with pytest.raises(AssertionError, match="ran .'subprocess.py'. of the current folder"):
        unfriendly.python("-c", "import subprocess")
    unfriendly.python("-c", "print()")


def test_predict(unfriendly):
    """The decoder; if they are installed, the CRF's processes and ffmpeg as well."""
    unfriendly.run(*PREDICT, "-o", "out")
    check_prediction(unfriendly.folder / "out")


def test_evaluate_with_its_processes(unfriendly):
    unfriendly.run("evaluate", "maps", "masks", "--workers", "2", "--json", "scores.json")
    assert json.loads((unfriendly.folder / "scores.json").read_text())["frames"] == 150


@needs("matplotlib")
def test_a_plot_has_none_of_the_folder_s_settings(unfriendly):
    unfriendly.run("evaluate", "maps", "masks", "--workers", "1", "--plot", "curve.png")
    assert (cv2.imread(str(unfriendly.folder / "curve.png"))[0, 0] == 255).all()


@pytest.mark.slow
@needs("pydensecrf", "matplotlib")
def test_reproduce(unfriendly):
    """Too few frames for the evaluation's processes; the CRF has its own."""
    unfriendly.run("reproduce", "--data-root", "data", "--checkpoints", "runs", "-o", "tables", "--workers", "2")
    assert (unfriendly.folder / "tables/tables.md").exists()


@pytest.mark.slow
@needs("lightning_fabric", "tensorboard")
@pytest.mark.parametrize("machine", [["--workers", "1", "--val", "data/part"], ["--workers", "0", "--devices", "2"]])
def test_train_with_its_processes(unfriendly, machine):
    run = f"trained{machine[1]}"
    unfriendly.run(*TRAIN, *machine, "-o", run)
    assert load_model(unfriendly.folder / run / "model.safetensors").config.temporal == "none"


@pytest.mark.slow
def test_demo(unfriendly):
    unfriendly.run("demo", "-o", "demo", "--weights", "model.safetensors")
    assert (unfriendly.folder / "demo/overlay.mp4").exists()


@pytest.mark.slow(but=["arguments0-opencv", "arguments1-1 video of 6 frames"])
@pytest.mark.parametrize(
    "arguments, says",
    [
        (["info"], "opencv"),
        (["data", "--data-root", "data"], "1 video of 6 frames"),
        (["bench", "clip.mp4", "--weights", "model.safetensors", "--frames", "5", "--seconds", "1"], "end to end"),
        (
            ["export", "model.safetensors", "-o", "net.pt2", "--format", "torch-export", "--clip-length", "1"],
            "net.pt2: clip",
        ),
        pytest.param(
            ["export", "model.safetensors", "-o", "net.onnx", "--format", "onnx", "--clip-length", "1"],
            "net.onnx: clip",
            marks=needs("onnx", "onnxscript", "onnxruntime"),
        ),
    ],  # fmt: skip
)
def test_other_commands(unfriendly, arguments, says):
    assert says in unfriendly.run(*arguments)


@pytest.mark.slow
def test_calibrate(unfriendly):
    """With random weights this is an error, raised after all the work."""
    assert "the maps say nothing about the masks" in unfriendly.run(
        "calibrate", "model.safetensors", "data/part", code=1
    )


@needs("argcomplete")
def test_completion(unfriendly):
    line = "pdb-saliency predict clip.mp4 --res"
    answer = unfriendly.folder / "answer"
    variables = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    unfriendly.run(**variables, _ARGCOMPLETE_STDOUT_FILENAME=str(answer))
    assert answer.read_text().strip() == "--resume"


PROGRAM = """
from pathlib import Path
from pdb_saliency import cli
from pdb_saliency.video.reader import VideoFile
if __name__ == "__main__":
    print(len(list(VideoFile(Path("clip.mp4")))), "frames")
    assert cli.main(["evaluate", "maps", "masks", "--workers", "2", "--json", "of-program.json"]) == 0
"""

CHILDREN = """
import subprocess, sys
from pdb_saliency.runtime.isolation import isolate
isolate()
if sys.version_info >= (3, 11):  # Python 3.10 has nothing that prevents it.
    subprocess.run([sys.executable, "-c", "import subprocess"], check=True)
subprocess.run(["uname"], check=True, stdout=subprocess.DEVNULL)
"""

POOL = """
import multiprocessing
from pdb_saliency import cli
if __name__ == "__main__":
    assert cli.main(["info"]) == 0
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(abs, [-1]) == 1
"""

COMPILER = """
import _ctypes, sys
from pdb_saliency.runtime.isolation import isolate_compiler
from torch._inductor.cpu_vec_isa import VecISA
isolate_compiler()
print(VecISA()._probe_load(_ctypes.__file__))
"""


@pytest.mark.parametrize("safe", ["", "1"])
def test_a_program_that_uses_the_package(unfriendly, tmp_path, safe):
    """Its own folder is Python's to search, the current one is not; the same where Python knows no PYTHONSAFEPATH."""
    (tmp_path / "program.py").write_text(PROGRAM)
    assert unfriendly.python(str(tmp_path / "program.py"), PYTHONSAFEPATH=safe).startswith("7 frames\n")
    assert json.loads((unfriendly.folder / "of-program.json").read_text())["frames"] == 150


@pytest.mark.parametrize("program", [CHILDREN, POOL], ids=["isolate", "multiprocessing"])
def test_what_libraries_start(unfriendly, tmp_path, program):
    (tmp_path / "program.py").write_text(program)
    unfriendly.python(str(tmp_path / "program.py"))


@pytest.mark.slow
def test_torchrun_as_the_help_has_it(unfriendly, tmp_path):
    (tmp_path / "torchrun.py").write_text("from torch.distributed.run import main\nmain()\n")
    unfriendly.command.write_text(f"#!{sys.executable}\n{unfriendly.command.read_text()}")
    unfriendly.command.chmod(0o755)
    options = ["--standalone", "--no-python", "--nproc-per-node", "1"]
    unfriendly.python(str(tmp_path / "torchrun.py"), *options, str(unfriendly.command), *PREDICT, "-o", "torchrun")
    check_prediction(unfriendly.folder / "torchrun")


@pytest.mark.slow
def test_what_the_compiler_asks_python(unfriendly, tmp_path):
    isa = pytest.importorskip("torch._inductor.cpu_vec_isa").VecISA
    if not hasattr(isa, "_probe_load"):
        pytest.skip("this version of PyTorch asks in another way")
    (tmp_path / "program.py").write_text(COMPILER)
    assert unfriendly.python(str(tmp_path / "program.py")).splitlines()[-1] == "True"


@pytest.mark.slow
def test_python_m_looks_there_only_until_the_package_is_loaded(tmp_path):
    """Python itself searches the current folder for what it loads before that."""
    code = "import sys, runpy, pdb_saliency.cli.start; print(*{name.partition('.')[0] for name in sys.modules})"
    before = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    unfriendly = Unfriendly(tmp_path / "unfriendly", module_names() - set(before))
    furnish(unfriendly.folder)
    unfriendly.python("-m", "pdb_saliency", *PREDICT, "-o", "out")
    check_prediction(unfriendly.folder / "out")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs Python 3.11: before it has no -P")
def test_python_p_m(unfriendly):
    unfriendly.python(
        "-P", "-m", "pdb_saliency", "evaluate", "maps", "masks", "--workers", "2", "--json", "module.json"
    )
    assert json.loads((unfriendly.folder / "module.json").read_text())["frames"] == 150
