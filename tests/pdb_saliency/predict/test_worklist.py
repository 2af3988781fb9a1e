"""Many videos in one run: the work list, failures, and two processes under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.films import grey_frame, read_maps, write_frames, write_video
from helpers.paths import HELPERS
from pdb_saliency.errors import InputError, SaliencyError
from pdb_saliency.predict.worklist import Job, Share, find_jobs, work_through


def places(tmp_path, *inputs, lists=()):
    jobs = find_jobs(list(map(str, inputs)), lists, tmp_path / "out")
    return {str(Path(job.source).relative_to(tmp_path)): str(job.out.relative_to(tmp_path)) for job in jobs}


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_one_input_keeps_its_folder(tmp_path):
    clip = touch(tmp_path / "clip.mp4")
    assert find_jobs([str(clip)], [], tmp_path / "out") == [Job(str(clip), tmp_path / "out", str(clip))]
    frames = touch(tmp_path / "frames" / "0.jpg").parent
    assert places(tmp_path, frames) == {"frames": "out"}


def test_folders_of_videos_and_of_frames(tmp_path):
    for name in (
        "films/b10.MKV",
        "films/b2.mp4",
        "films/c.gif",
        "films/notes.txt",
        "films/.hidden.mp4",
        "films/dog/0.jpg",
        "films/empty/x",
    ):
        touch(tmp_path / name)
    expected = {"films/b2.mp4": "out/b2", "films/b10.MKV": "out/b10", "films/c.gif": "out/c", "films/dog": "out/dog"}
    assert places(tmp_path, tmp_path / "films") == expected
    assert list(places(tmp_path, tmp_path / "films")) == list(expected)


def test_names_become_longer_if_they_must(tmp_path):
    a, b, c = (touch(tmp_path / name) for name in ("x/clip.mp4", "x/clip.avi", "y/clip.mp4"))
    assert places(tmp_path, a, touch(tmp_path / "other.mp4")) == {"x/clip.mp4": "out/clip", "other.mp4": "out/other"}
    assert places(tmp_path, a, b) == {"x/clip.mp4": "out/clip.mp4", "x/clip.avi": "out/clip.avi"}
    assert places(tmp_path, a, c) == {"x/clip.mp4": "out/x/clip.mp4", "y/clip.mp4": "out/y/clip.mp4"}
    for again in (a, a.parent / "../x/clip.mp4"):
        with pytest.raises(InputError, match="more than once"):
            find_jobs([str(a), str(c), str(again)], [], tmp_path)


def test_lists(tmp_path):
    clips = [touch(tmp_path / name) for name in ("a b.mp4", "ü.mp4")]
    file = tmp_path / "list.txt"
    file.write_text(f"\ufeff# films\n\n{clips[0]}\n  {clips[1]}  \n", encoding="utf-8")
    assert places(tmp_path, lists=[file]) == {"a b.mp4": "out/a b", "ü.mp4": "out/ü"}
    file.write_text(f"{clips[0]}\n")
    assert places(tmp_path, lists=[file]) == {"a b.mp4": "out/a b"}, "a list always makes folders"
    for content, word in ((b"# none\n", "no video is named"), (b"\xff\xfe\x00", "not a text file")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=word):
            find_jobs([], [file], tmp_path)
    with pytest.raises(InputError, match="absent.txt: cannot be read"):
        find_jobs([], [tmp_path / "absent.txt"], tmp_path)


def test_one_failed_video_does_not_stop_the_rest(tmp_path, predict, capsys):
    clips = [write_video(tmp_path / f"{shade}.avi", [grey_frame(shade)] * 6, codec="MJPG") for shade in (40, 80)]
    (tmp_path / "broken.avi").write_bytes(b"no video")
    assert predict(clips[0], tmp_path / "broken.avi", tmp_path / "absent.mp4", clips[1], "-o", tmp_path / "out") == 1
    captured = capsys.readouterr()
    for shade in (40, 80):
        maps = read_maps(tmp_path / "out" / str(shade) / "maps")
        assert len(maps) == 6 and all(abs(mean - shade) < 3 for mean in maps.values())
    lines = captured.out.splitlines()
    assert [line.split("]")[0] for line in lines] == ["[1/4", "[4/4"] and all("6 frames -> " in line for line in lines)
    errors = [line for line in captured.err.splitlines() if "error: " in line]
    assert ["[2/4]" in errors[0], "[3/4]" in errors[1], errors[2]] == [
        True,
        True,
        "pdb-saliency: error: 2 of 4 videos failed",
    ]


def test_whatever_a_job_raises(caplog):
    def process(job):
        if job.label == "2":
            raise MemoryError("too large")
        return "done"

    lines = []
    with pytest.raises(SaliencyError, match="1 of 3 videos failed"):
        work_through([Job(str(i), Path(), str(i)) for i in range(1, 4)], Share(), process, lines.append)
    assert lines == ["[1/3] 1: done", "[3/3] 3: done"]
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "[2/3] 2: MemoryError: too large")


def test_an_interrupt_stops_the_list():
    def process(job):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work_through([Job("a", Path(), "a")] * 2, Share(), process, print)


def test_shares(monkeypatch):
    jobs = [Job(str(i), Path(), str(i)) for i in range(7)]
    done = []
    for rank in range(3):
        work_through(
            jobs, Share(rank, 3), lambda job, rank=rank: done.append((rank, int(job.label))), lambda line: None
        )
    assert sorted(number for _, number in done) == list(range(7)) and all(number % 3 == rank for rank, number in done)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SaliencyError, match="RANK must be below WORLD_SIZE, got RANK=2 WORLD_SIZE=2"):
        Share.from_environment()


@pytest.mark.parametrize("arguments", [[], ["a.png", "b.png"]])
def test_wrong_usage(tmp_path, predict, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        predict(*arguments, "-o", tmp_path / "out")
    assert caught.value.code == 2 and ("INPUT" in capsys.readouterr().err or arguments)


@pytest.mark.slow
def test_two_processes_under_torchrun(tmp_path):
    """One video of the first process is broken; torchrun must not end the second before it has done its videos."""
    clips = [
        write_frames(tmp_path / "in" / f"v{i}", [grey_frame(10 * (i + 1))] * (2 if i % 2 == 0 else 40))
        for i in range(5)
    ]
    (clips[0] / "00000.png").write_bytes(b"broken")
    (tmp_path / "list.txt").write_text("".join(f"{clip}\n" for clip in clips))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(HELPERS / "fake_model.py"), "predict", "--list", "list.txt", "-o", "out"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, env={**os.environ})
    assert process.returncode != 0
    for index in range(1, 5):
        maps = read_maps(tmp_path / "out" / f"v{index}" / "maps")
        assert set(maps.values()) == {10 * (index + 1)} and len(maps) == (2 if index % 2 == 0 else 40)
    assert sorted(line[:5] for line in process.stdout.splitlines()) == ["[2/5]", "[3/5]", "[4/5]", "[5/5]"]
    assert "error: [1/5] " in process.stderr and process.stderr.count("1 of 5 videos failed") == 2
