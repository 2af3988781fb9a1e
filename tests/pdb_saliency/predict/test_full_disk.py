"""Full disks: one message, complete files are kept, and no partial file has a final name."""

import json
import os
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from helpers.films import noisy, read_maps, read_video, the_line, write_frames, write_video
from pdb_saliency.errors import OutputError
from pdb_saliency.predict.outputs import OUTPUTS, PICTURES
from pdb_saliency.video import encoder as ffmpeg
from pdb_saliency.video.encoder import Mp4Writer
from pdb_saliency.video.pictures import write_picture


@pytest.fixture
def disk_of(tmp_path):
    """disk_of(KiB) -> the folder where such a disk is mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size):
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], capture_output=True)
        if mounted.returncode:
            pytest.skip("needs the right to mount a tmpfs")
        return disk

    yield mount
    subprocess.run(["umount", "--lazy", disk], capture_output=True, check=False)


@pytest.fixture
def small_disk(disk_of):
    return disk_of(200)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("in"), [np.roll(noisy(), 7 * i, 1) for i in range(40)])


def needs(kind):
    if kind == "coco":
        pytest.importorskip("pycocotools")
    codec = {"cutout-webm": "vp9", "cutout-prores": "prores"}.get(kind)
    if codec and not ffmpeg.can_encode(codec):
        pytest.skip(f"needs an ffmpeg with {codec}")


def below(disk):
    return {str(path.relative_to(disk / "out")) for path in disk.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_kind_of_result(predict, capsys, disk_of, frames, kind):
    """The disk has room for some results of every kind, but not for all 40 frames of any kind."""
    needs(kind)
    disk = disk_of({"json": 8, "masks": 16, "coco": 16}.get(kind, 60))
    assert predict(frames, "-o", disk / "out", "--save", kind) == 1
    line = the_line(capsys.readouterr())
    name = OUTPUTS[kind].place
    assert f"{disk / 'out' / name}" in line and ("No space left" in line or "full disk" in line)
    left = below(disk) - {"run.json"}
    if OUTPUTS[kind].form == PICTURES:
        whole = sorted(left)
        assert whole == [f"{kind}/{i:05d}.png" for i in range(len(whole))] and len(whole) < 40
        assert all(cv2.imread(str(disk / "out" / file)) is not None for file in whole)
    elif kind == "json":
        lines = (disk / "out" / name).read_text().splitlines()
        assert left == {name} and [json.loads(line)["index"] for line in lines] == list(range(len(lines)))
        assert 5 < len(lines) < 40
    else:
        assert not left


def test_pictures_beside_a_video_are_kept(predict, capsys, small_disk, frames):
    assert predict(frames, "-o", small_disk / "out", "--save", "overlay,video") == 1
    the_line(capsys.readouterr())
    kept = sorted((small_disk / "out" / "overlay").iterdir())
    assert len(kept) > 3 and all(cv2.imread(str(path)).shape == (96, 128, 3) for path in kept)
    assert not (small_disk / "out" / "overlay.mp4").exists()


def test_a_file_that_cannot_be_finished_does_not_take_the_others_with_it(tmp_path, predict, capsys, frames):
    needs("coco")
    (tmp_path / "out" / "coco.json").mkdir(parents=True)
    assert predict(frames, "-o", tmp_path / "out", "--save", "video,coco,report") == 1
    assert "coco.json: cannot be written" in the_line(capsys.readouterr())
    assert len(read_video(tmp_path / "out" / "overlay.mp4")[0]) == 40
    assert "</html>" in (tmp_path / "out" / "report.html").read_text()
    assert not list((tmp_path / "out").rglob(".*"))


def test_after_room_was_made_a_run_goes_on(predict, capsys, small_disk, frames):
    assert predict(frames, "-o", small_disk / "out") == 1
    done = len(read_maps(small_disk / "out" / "maps", 96, 128))
    assert 5 < done < 40
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
    assert predict(frames, "-o", small_disk / "out", "--resume") == 0
    assert len(read_maps(small_disk / "out" / "maps", 96, 128)) == 40


@pytest.mark.skipif(not ffmpeg.can_encode("h264"), reason="needs ffmpeg")
def test_sound_that_finds_no_room_leaves_the_video(tmp_path, disk_of):
    """ffmpeg copies the video to give it its sound, and ends with exit code 0 even if the copy is cut off."""
    source = tmp_path / "sound.wav"
    command = ["-f", "lavfi", "-i", "sine=duration=1", source]
    subprocess.run([ffmpeg.find_ffmpeg(), "-v", "error", *command], check=True)
    video = write_video(tmp_path / "video.mp4", [np.roll(noisy(), i, 1) for i in range(24)])
    disk = disk_of(video.stat().st_size // 1024 + 20)
    shutil.copy(video, disk / "video.mp4")
    assert not ffmpeg.add_sound(disk / "video.mp4", source, 1.0)
    assert (disk / "video.mp4").read_bytes() == video.read_bytes() and os.listdir(disk) == ["video.mp4"]


@pytest.mark.skipif(
    int(cv2.__version__.split(".")[0]) < 5, reason="OpenCV 4 does not report that a frame was not written"
)
def test_full_disk_stops_a_video_at_once(small_disk):
    video = Mp4Writer(small_disk / "clip.mp4", None)
    with pytest.raises(OutputError, match="full disk"):
        for i in range(1000):
            video.write(np.roll(noisy(), 7 * i, 1))
    assert 1 < i < 100
    video.discard()
    assert not os.listdir(small_disk)


def test_failed_write_keeps_the_older_file(tmp_path, small_disk):
    path = small_disk / "0.png"
    write_picture(path, noisy(20, 20))
    before = path.read_bytes()
    (small_disk / "filler").write_bytes(bytes(190 * 1024))
    with pytest.raises(OutputError, match="No space left"):
        write_picture(path, noisy(300, 300))
    assert path.read_bytes() == before and sorted(os.listdir(small_disk)) == ["0.png", "filler"]
