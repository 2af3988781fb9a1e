"""The program as a whole: its help, exit codes, standard streams, Ctrl-C, terminals and shell completion."""

import os
import re
import shlex
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest

from helpers.console import help_of, run_process
from helpers.fake_model import GreyModel
from helpers.films import grey_frame, write_frames, write_video
from helpers.paths import HELPERS, shared_path
from pdb_saliency import cli
from pdb_saliency.cli import program


def test_help_needs_neither_torch_nor_opencv():
    code = "import sys; from pdb_saliency.cli.program import make_parser; make_parser(); "
    code += "print({'torch', 'cv2', 'numpy'} & set(sys.modules))"
    assert run_process("-c", code).stdout == "set()\n"


def test_examples_in_the_help_are_valid(capsys):
    lines = [line for line in help_of(["predict"], capsys).splitlines() if line.startswith("  pdb-saliency predict")]
    assert len(lines) == 7
    for line in lines:
        arguments = program.make_parser().parse_args(shlex.split(line)[1:])
        assert arguments.input and arguments.output


@pytest.mark.parametrize("command", [[], ["predict"], ["demo"], ["info"]])
def test_help_fits_a_terminal(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, help_of(command, capsys).splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["predict"], "-o"),
        (["predict", "-o", "y"], "INPUT"),
        (["predict", "x"], "-o"),
        (["predict", "", "-o", "y"], "expected a path, got nothing"),
        (["predict", "x", "-o", ""], "expected a path, got nothing"),
        (["predict", "x", "-o", "y", "--threshold", "nan"], "expected a number from 0 to 1, got 'nan'"),
        (["predict", "x", "-o", "y", "--threshold", "1.01"], "expected a number from 0 to 1, got '1.01'"),
        (["predict", "x", "-o", "y", "--threshold", "half"], "expected a number from 0 to 1, got 'half'"),
        (
            ["predict", "x", "-o", "y", "--save", "maps,movie"],
            "expected a comma list of maps, masks, overlay, cutout, side, video",
        ),
        (["predict", "x", "-o", "y", "--save", ""], "expected a comma list"),
        (["predict", *(f"frames/{i:05d}.jpg" for i in range(900)), "-o", "y"], "a glob must be quoted"),
        (["dance"], "dance"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and len(error) < 400


def test_no_command_shows_the_help(capsys):
    assert cli.main([]) == 2
    assert "predict" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input": "nowhere.mp4"}, "nowhere.mp4: cannot be read (No such file or directory)"),
        ({"--weights": "nowhere.pth"}, "nowhere.pth"),
        ({"--weights": "unknown-name"}, "unknown-name"),
        ({"--device": "abacus"}, "device 'abacus' cannot be used"),
        ({"-o": "/dev/null/out"}, "/dev/null"),
    ],
)
def test_failure_is_one_line_and_exit_code_1(change, message, frames, tmp_path, capsys):
    options = {"input": frames, "-o": str(tmp_path / "out"), **change}
    assert cli.main(["predict", options.pop("input"), *(text for option in options.items() for text in option)]) == 1
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if not line.startswith("pdb-saliency: note: ")]
    assert len(errors) == 1 and errors[0].startswith("pdb-saliency: error: ") and message in errors[0]
    assert printed.out == "" and not (tmp_path / "out").exists()


def test_as_a_module():
    done = run_process("-m", "pdb_saliency", "predict", "nowhere.mp4", "-o", "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "pdb-saliency: error: nowhere.mp4: cannot be read (No such file or directory)\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection, command, code, out, error",
    [
        (">&-", "predict in -o out", 0, "", "note"),
        (">&- 2>&- <&-", "predict in -o out --save maps,video", 0, "", ""),
        ("2>&-", "predict in -o out", 0, "2 frames", ""),
        ("2>/dev/full", "predict in -o out", 0, "2 frames", ""),
        ("2>/dev/full", "predict nowhere -o out", 1, "", ""),
        ("2>/dev/full", "predict", 2, "", ""),
        (">/dev/full", "predict in -o out", 1, "", "standard output cannot be written (No space left on device)"),
        (">/dev/full", "--help", 1, "", "standard output cannot be written (No space left on device)"),
        ("", "predict in -o ünï", 0, "2 frames -> \\xfcn\\xef/maps", "note"),
        ("", "predict nöwhere -o out", 1, "", "n\\xf6where: cannot be read"),
    ],
)
def test_standard_streams_closed_full_or_ascii(frames, tmp_path, redirection, command, code, out, error):
    if "/dev/full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    program = shlex.join([sys.executable, str(HELPERS / "fake_model.py")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "ascii"}
    shell = ["sh", "-c", f"{program} {command} {redirection}"]
    done = subprocess.run(shell, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stdout[: len(out)]) == (code, out) and error in done.stderr, done
    assert len(done.stderr.splitlines()) <= 1 + (code == 1 and "No space" in error and "in" in command.split())
    if code == 0:
        assert len(list(tmp_path.rglob("maps/*.png"))) == 2


def test_interrupt_is_exit_code_130(frames, tmp_path, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pdb_saliency.model.weights.load_model", interrupted)
    assert cli.main(["predict", frames, "-o", str(tmp_path / "out")]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.slow
def test_damaged_inputs_print_one_line_from_a_real_process(tmp_path):
    """Decoders in C write to the stderr of the process, where Python cannot intercept it."""
    video = write_video(tmp_path / "cut.mp4", [grey_frame(5 * i) for i in range(30)])
    video.write_bytes(video.read_bytes()[:-100])
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for suffix in (".png", ".jpg", ".tiff", ".webp"):
        picture = write_frames(tmp_path / suffix[1:], [noise], suffix) / f"00000{suffix}"
        picture.write_bytes(picture.read_bytes()[:-1000])
    code = "import sys; from pdb_saliency import cli; "
    code += "[print(cli.main(['predict', i, '-o', sys.argv[1]])) for i in sys.argv[2:]]"
    inputs = [str(video), *(str(tmp_path / name) for name in ("png", "jpg", "tiff", "webp"))]
    done = run_process("-c", code, str(tmp_path / "out"), *inputs)
    errors = [line for line in done.stderr.splitlines() if "note:" not in line]
    assert done.stdout.split() == ["1"] * 5
    assert len(errors) == 5 and all(line.startswith("pdb-saliency: error: ") for line in errors), errors


def test_info(capsys):
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for expected in (r"^build:", r"^  torch +\d", r"^  opencv +\d", r"^  cpu +\d+ threads", r"^  imagenet "):
        assert re.search(expected, text, re.MULTILINE), expected


def test_the_light_model_on_a_real_sequence_and_its_video(tmp_path, use_model, capsys):
    sequence = shared_path("data/davis_dev/JPEGImages/blackswan")
    names = sorted(path.stem for path in sequence.iterdir())[:2]
    assert (
        cli.main(["predict", str(sequence / "0000[01].jpg"), "-o", str(tmp_path / "out"), "--save", "maps,masks"]) == 0
    )
    assert capsys.readouterr().err == ""  # Nothing of the model is untrained.
    for kind in ("maps", "masks"):
        pictures = [cv2.imread(str(tmp_path / "out" / kind / f"{name}.png"), cv2.IMREAD_UNCHANGED) for name in names]
        assert [picture.shape for picture in pictures] == [(480, 854)] * 2
        assert kind == "maps" or set(np.unique(pictures)) <= {0, 255}

    use_model(GreyModel())
    pictures = [cv2.imread(str(path)) for path in sorted(sequence.iterdir())[:12]]
    video = write_video(tmp_path / "swan.mp4", pictures)
    for index, source in enumerate((sequence, video)):
        assert cli.main(["predict", str(source), "-o", str(tmp_path / str(index))]) == 0
    for number in range(12):
        a, b = (cv2.imread(str(tmp_path / i / "maps" / f"{number:05d}.png"), 0) for i in "01")
        assert cv2.PSNR(a, b) > 30, "the video's frames are the sequence's, apart from compression"


_INTERRUPTED_BY_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
wanted = sys.argv.pop()
sys.meta_path.insert(0, Finder())
from pdb_saliency.cli.start import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module",
    [
        "argparse",
        "pdb_saliency.cli.program",
        "pdb_saliency.cli.train",
        "numpy",
        "cv2",
        "torch",
        "tqdm",
        "pdb_saliency.predict.outputs.writer",
    ],
)
def test_ctrl_c_while_the_program_is_loaded(tmp_path, frames, module):
    """Only while Python itself starts, before our first line, is there still a traceback."""
    done = run_process("-c", _INTERRUPTED_BY_IMPORT, "predict", frames, "-o", str(tmp_path / "out"), module)
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("pdb-saliency: interrupted") and "Traceback" not in done.stderr


def test_a_lack_of_memory_is_one_line(frames, tmp_path, monkeypatch, capsys):
    def too_much(_):
        np.empty(1 << 60, np.uint8)

    monkeypatch.setattr("pdb_saliency.model.weights.load_model", too_much)
    assert cli.main(["predict", frames, "-o", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert (
        error.startswith("pdb-saliency: error: not enough memory (Unable to allocate") and len(error.splitlines()) == 1
    )


def on_terminal(*command, **environment):
    """What a command prints on its own terminal."""
    pty, fcntl, termios = map(pytest.importorskip, ("pty", "fcntl", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, stdin=theirs, env={**os.environ, **paths, **environment}
    )
    os.close(theirs)
    printed = b""
    try:
        while block := os.read(ours, 4096):
            printed += block
    except OSError:
        pass  # How Linux reports the end.
    process.wait(60)
    os.close(ours)
    return printed.decode()


def test_colour_only_on_terminals(tmp_path, frames):
    command = (sys.executable, "-m", "pdb_saliency", "predict", "nowhere", "-o", "out")
    assert "\x1b[31merror\x1b[0m: nowhere" in on_terminal(*command, TERM="xterm", NO_COLOR="")
    for environment in ({"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}):
        assert "\x1b" not in on_terminal(*command, **environment)
    assert "\x1b" not in run_process(*command[1:]).stderr


@pytest.mark.slow
def test_progress_on_a_terminal(tmp_path, frames):
    program = str(HELPERS / "fake_model.py")
    printed = on_terminal(sys.executable, program, "predict", frames, "-o", str(tmp_path / "out"))
    assert re.search(r"2/2 \[\d\d:\d\d<\d\d:\d\d, .*frame", printed), printed
    assert "frame/s" not in on_terminal(sys.executable, program, "predict", frames, "-o", str(tmp_path / "out"), "-q")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("pdb-saliency pred", {"predict"}),
        ("pdb-saliency predict x --res", {"--resume"}),
        ("pdb-saliency predict x --save maps,cut", {"maps,cutout", "maps,cutout-webm", "maps,cutout-prores"}),
    ],
)
def test_completion(line, expected, tmp_path):
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    environment = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
    }
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run(
        [sys.executable, "-m", "pdb_saliency"], env={**os.environ, **paths, **environment}, timeout=60, check=False
    )
    assert {word.strip() for word in re.split(r"[\v\x0b]", answer.read_text())} == expected
