"""`pdb-saliency evaluate`: folders of maps and masks in, a table, JSON and plots out."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.evaluation_folders import SCORES, fails, map_of, mask_of, run, scores_of, write, write_sequences
from helpers.paths import shared_path
from pdb_saliency.evaluation.metrics.davis import boundary_measure, statistics
from pdb_saliency.evaluation.metrics.saliency import SaliencyScores


def test_scores_of_sequences_are_what_the_measures_say(video):
    result = scores_of(video / "mine", video / "masks", folder=video)
    assert set(result) >= SCORES and set(result["sequences"]) == {"long", "short"}
    total, j_means, f_means = SaliencyScores(), [], []
    for name, count in {"long": 9, "short": 4}.items():
        pairs = [(map_of(number), mask_of(number)) for number in range(count)]
        frames = [total.add(*pair) for pair in pairs]
        j = statistics([frame.j for frame in frames[1:-1]])
        f = statistics([boundary_measure(prediction >= 108, mask) for prediction, mask in pairs[1:-1]])
        sequence = result["sequences"][name]
        assert [sequence[key] for key in ("j_mean", "j_recall", "j_decay")] == pytest.approx(j)
        assert [sequence[key] for key in ("f_mean", "f_recall", "f_decay")] == pytest.approx(f)
        j_means.append(j[0])
        f_means.append(f[0])
    expected = total.result()
    for name in ("frames", "mae", "max_f", "s", "e_max"):
        assert result[name] == pytest.approx(expected[name])
    assert result["precision"] == pytest.approx(expected["precision"], abs=1e-6)
    assert result["j_mean"] == pytest.approx(np.mean(j_means))  # Of sequences, not of frames.
    assert result["f_mean"] == pytest.approx(np.mean(f_means))


def test_only_the_inner_frames_count_for_j_and_f(video):
    before = scores_of(video / "mine", video / "masks", folder=video)
    write(video / "mine/long", {"00000": 255 - mask_of(0), "00008": 255 - mask_of(8)})
    after = scores_of(video / "mine", video / "masks", folder=video)
    assert after["j_mean"] == before["j_mean"] and after["f_mean"] == before["f_mean"]
    assert after["mae"] > before["mae"]
    write(video / "mine/long", {"00001": 255 - mask_of(1)})
    assert scores_of(video / "mine", video / "masks", folder=video)["j_mean"] < before["j_mean"]


def test_short_sequences_count_whole(tmp_path):
    write_sequences(tmp_path / "masks", mask_of, {"one": 1, "two": 2})
    write_sequences(tmp_path / "maps", map_of, {"one": 1, "two": 2})
    result = scores_of(tmp_path / "maps", tmp_path / "masks", folder=tmp_path)
    assert result["sequences"]["one"]["frames"] == 1 and result["sequences"]["one"]["j_decay"] == 0
    assert result["sequences"]["one"]["j_mean"] == pytest.approx(result["sequences"]["two"]["j_mean"], abs=0.1)


def test_stills_have_no_decay_and_no_sequences(tmp_path):
    write(tmp_path / "masks", {f"{n}": mask_of(n) for n in range(4)})
    write(tmp_path / "maps", {f"{n}": mask_of(n) for n in range(3)} | {"3": 255 - mask_of(3)})
    result = scores_of(tmp_path / "maps", tmp_path / "masks", folder=tmp_path)
    assert result["j_decay"] is None and result["f_decay"] is None and result["sequences"] == {}
    assert result["j_mean"] == 0.75 and result["j_recall"] == 0.75  # All four count, including the first and the last.


def test_threshold_and_normalise(tmp_path):
    write_sequences(tmp_path / "masks", mask_of, {"a": 3})
    write_sequences(tmp_path / "maps", lambda number: mask_of(number) // 5, {"a": 3})  # Highest level 51.
    arguments = tmp_path / "maps", tmp_path / "masks"
    assert scores_of(*arguments, folder=tmp_path)["j_mean"] == 0
    assert scores_of(*arguments, "--threshold", "0.2", folder=tmp_path)["j_mean"] == 1
    stretched = scores_of(*arguments, "--normalise", folder=tmp_path)
    assert stretched["j_mean"] == 1 and stretched["f_mean"] == 1 and stretched["mae"] == 0 and stretched["normalise"]


# Layouts


def test_several_methods_and_data_sets(video, capsys):
    write(video / "stills", {"a": mask_of(1), "b": mask_of(2)})
    for method, make in {"good": mask_of, "bad": lambda number: 255 - mask_of(number)}.items():
        write_sequences(video / "methods" / method / "Walk", make, {"long": 9, "short": 4})
    write(video / "methods/good/stills", {"a": mask_of(1), "b": mask_of(2)})
    result = scores_of(video / "methods", f"Walk={video / 'masks'}", video / "stills", "--sequences", folder=video)
    assert {method: set(sets) for method, sets in result.items()} == {"good": {"Walk", "stills"}, "bad": {"Walk"}}
    assert result["good"]["Walk"]["j_mean"] == 1 and result["bad"]["Walk"]["mae"] == 1
    out, err = capsys.readouterr()
    assert "bad: no predictions of stills" in err
    lines = out.splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 1 + 3 + 4  # Aligned; a line for each sequence.
    assert lines[0].split()[:4] == ["data", "set", "method", "frames"]


def test_data_sets_own_layout_with_sparse_masks(tmp_path, capsys):
    root = tmp_path / "root/sparse"
    write_sequences(root / "JPEGImages", map_of, {"a": 9})
    write(root / "Annotations/a", {f"{number:05d}": mask_of(number) for number in (0, 3, 6)})
    write_sequences(tmp_path / "maps", mask_of, {"a": 9})
    result = scores_of(tmp_path / "maps", "sparse", "--data-root", tmp_path / "root", folder=tmp_path)
    assert result["frames"] == 3 and result["mae"] == 0
    assert capsys.readouterr().err == ""  # Maps of frames without a mask are not worth a note.


def test_a_folder_of_masks_with_a_folder_for_each_object(video, capsys):
    whole = scores_of(video / "mine", video / "masks", folder=video)
    for path in sorted((video / "masks/long").iterdir()):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        for number, rows in (("1", slice(0, 20)), ("2", slice(20, None))):
            part = np.zeros_like(mask)
            part[rows] = mask[rows]
            write(video / "objects/long" / number, {path.stem: part})
    (video / "masks/short").rename(video / "objects/short")
    write(video / "objects/short/seen", {"00000": mask})
    assert scores_of(video / "mine", video / "objects", folder=video) == whole
    capsys.readouterr()
    (video / "objects/long/2/00003.png").unlink()
    assert "long/2: the mask of frame 00003 is missing" in fails(capsys, video / "mine", video / "objects")


def test_maps_where_predict_writes_them(video):
    for name in ("long", "short"):
        (video / "out" / name).mkdir(parents=True)
        os.rename(video / "mine" / name, video / "out" / name / "maps")
    assert scores_of(video / "out", video / "masks", folder=video)["frames"] == 13


def test_folder_480p_inside_annotations(video):
    (video / "Annotations").mkdir()
    os.rename(video / "masks", video / "Annotations/480p")
    assert set(scores_of(video / "mine", video / "Annotations", folder=video)["sequences"]) == {"long", "short"}


# Plots and files


def test_plots_open(video):
    paths = [video / "plots/pr.png", video / "pr.pdf"]
    assert run(video / "mine", video / "masks", "--plot", paths[0], "--plot", paths[1]) == 0
    image = cv2.imread(str(paths[0]))
    assert min(image.shape[:2]) > 400 and len(np.unique(image.reshape(-1, 3), axis=0)) > 20  # Lines, not a blank page.
    assert paths[1].read_bytes().startswith(b"%PDF") and b"%%EOF" in paths[1].read_bytes()[-16:]


def test_files_that_cannot_be_written(video, capsys):
    assert "must end in .png or .pdf" in fails(capsys, video / "mine", video / "masks", "--plot", video / "pr.svg")
    (video / "folder.png").mkdir()
    for option in ("--json", "--plot"):
        assert "folder.png: cannot be written" in fails(
            capsys, video / "mine", video / "masks", option, video / "folder.png"
        )
    (video / "file").write_text("in the way")
    assert run(video / "mine", video / "masks", "--json", video / "file/scores.json") == 1
    out, err = capsys.readouterr()
    assert "long" not in err and "cannot be written" in err and "0." in out  # The table is there.


def test_without_matplotlib(video, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'pdb-ext[train]'" in fails(capsys, video / "mine", video / "masks", "--plot", video / "pr.png")
    assert run(video / "mine", video / "masks") == 0


def test_evaluate_needs_no_torch(video):
    code = (
        "import sys; sys.modules['torch'] = None; from pdb_saliency.cli.program import main; "
        f"sys.exit(main(['evaluate', {str(video / 'mine')!r}, {str(video / 'masks')!r}]))"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | _path(), check=True)


def _path():
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_real_frames_score_as_they_should(tmp_path):
    folder = shared_path("data/davis_dev")
    for path in sorted((folder / "Annotations/car-shadow").glob("0001?.png")):
        mask = cv2.imread(str(path), 0)
        write(tmp_path / "masks/car-shadow", {path.stem: mask})
        for name, picture in {"same": mask, "wide": cv2.dilate(mask, np.ones((15, 15))), "none": 0 * mask}.items():
            write(tmp_path / f"methods/{name}/car-shadow", {path.stem: picture})
    result = scores_of(tmp_path / "methods", tmp_path / "masks", folder=tmp_path)
    same, wide, none = (result[name]["masks"] for name in ("same", "wide", "none"))
    assert same["j_mean"] == same["f_mean"] == same["max_f"] == 1
    assert 0.7 < wide["j_mean"] < 1 and wide["f_mean"] < 1 and wide["recall"][255] == 1
    assert none["j_mean"] == none["f_mean"] == 0 and Path(tmp_path / "scores.json").stat().st_size < 100_000


@pytest.mark.slow
def test_ctrl_c_is_reported_in_one_line(tmp_path):
    """The images are so large that two minutes of work are left when the signal comes."""
    cv2.imwrite(str(tmp_path / "large.png"), mask_of(0, 2500, 2500))
    for folder in (tmp_path / kind / f"s{number}" for kind in ("masks", "maps") for number in range(24)):
        folder.mkdir(parents=True)
        for number in range(8):
            (folder / f"{number:05d}.png").symlink_to(tmp_path / "large.png")
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # Background jobs ignore it.
    )
    code += "from pdb_saliency.cli.program import main; sys.exit(main(sys.argv[1:]))"
    folders = [str(tmp_path / "maps"), str(tmp_path / "masks")]
    command = [sys.executable, "-c", code, "evaluate", *folders, "--workers", "2"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(command, env=os.environ | _path(), **options)
    while _busy_processes(process.pid) < 2 and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "" and "Traceback" not in err and err.count("\n") == 1, err


def _busy_processes(session):
    """Processes of the session, except its leader, that have used a second of processor time."""
    busy = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        busy += int(fields[3]) == session and int(stat.parent.name) != session and seconds > 1
    return busy
