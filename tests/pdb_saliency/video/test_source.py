"""What can be named as input, and what happens if it is damaged."""

import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.films import as_nobody, grey_frame, index_first, read_all, write_frames, write_video
from pdb_saliency.errors import InputError, OutputError
from pdb_saliency.video.encoder import Mp4Writer
from pdb_saliency.video.source import open_source


def moving(count, height=48, width=64):
    ramp = np.tile(np.linspace(0, 255, width, dtype=np.uint8)[None, :, None], (height, 1, 3))
    return [np.roll(ramp, i, 1) for i in range(count)]


def test_folder_in_natural_order_without_other_files(tmp_path):
    for name in ("10.png", "2.png", "1.JPG", "a 3é.png"):
        cv2.imwrite(str(tmp_path / name), grey_frame(9))
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / "._2.png").write_bytes(b"resource fork")
    (tmp_path / "folder.png").mkdir()
    source = open_source(str(tmp_path))
    assert [frame.name for frame in source] == ["1", "2", "10", "a 3é"]
    assert (source.count, source.fps) == (4, None)


def test_glob_and_single_picture(tmp_path):
    for sequence in ("a", "b"):
        write_frames(tmp_path / sequence, [grey_frame(1), grey_frame(2)])
    assert [f.image[0, 0, 0] for f in open_source(str(tmp_path / "b" / "*[01].png"))] == [1, 2]
    assert [f.name for f in open_source(str(tmp_path / "a" / "00001.png"))] == ["00001"]
    with pytest.raises(InputError, match=r"a.00000\.png and .*b.00000\.png would have the same name, 00000"):
        open_source(str(tmp_path / "**" / "*.png"))


def test_a_real_name_comes_before_a_glob(tmp_path):
    folder = write_frames(tmp_path / "take[1]", [grey_frame(5)])
    assert open_source(str(folder)).count == 1


def test_a_link_to_nothing_is_a_frame_that_cannot_be_read(tmp_path):
    write_frames(tmp_path, [grey_frame(1)])
    (tmp_path / "00001.png").symlink_to("gone.png")
    frames, error = read_all(open_source(str(tmp_path)))
    assert len(frames) == 1 and "00001.png: cannot be read (No such file" in error


def test_pipes_and_devices_are_no_pictures(tmp_path):
    """Reading one would never end."""
    write_frames(tmp_path, [grey_frame(1)])
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to("1.png")
    (tmp_path / "3.png").symlink_to("/dev/zero")
    for text in (tmp_path, tmp_path / "*.png"):
        assert [frame.name for frame in open_source(str(text))] == ["00000"]


def test_a_recursive_glob_ends_where_folders_form_loops(tmp_path):
    """Two links back to the top make 2^n paths of n folders."""
    write_frames(tmp_path / "top" / "[a]" / "b", [grey_frame(1)])
    write_frames(tmp_path / "top" / ".hidden", [grey_frame(2)])
    cv2.imwrite(str(tmp_path / "top" / "x.png"), grey_frame(3))
    write_frames(tmp_path / "elsewhere", [grey_frame(4)] * 2)
    for name, target in (("c", "."), ("d", ".."), ("[a]/e", ".."), ("f", "../elsewhere")):
        (tmp_path / "top" / name).symlink_to(target)
    (tmp_path / "elsewhere" / "00000.png").unlink()
    for pattern in ("top/**/*.png", "**/*.png", "top/**", "to?/**/**/*.png"):
        files = open_source(str(tmp_path / pattern)).files
        places = sorted(str(path.resolve().relative_to(tmp_path.resolve())) for path in files)
        assert places == ["elsewhere/00001.png", "top/[a]/b/00000.png", "top/x.png"], pattern
        assert {tmp_path / "top" / "[a]" / "b" / "00000.png", tmp_path / "top" / "x.png"} < set(files), "not by a link"


def test_a_recursive_glob_below_the_working_folder(tmp_path, monkeypatch):
    write_frames(tmp_path / "a", [grey_frame(1)])
    monkeypatch.chdir(tmp_path)
    assert open_source("**/*.png").files == [Path("a/00000.png")]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_same_stem_is_refused_before_anything_is_read(tmp_path, suffix):
    (tmp_path / "x.bmp").write_bytes(b"never read")
    (tmp_path / f"x{suffix}").write_bytes(b"never read")
    with pytest.raises(InputError, match="would have the same name, x"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere", "No such file or directory"),
        ("nowhere/*.png", "the glob matches nothing"),
        ("empty", "the folder holds nothing"),
        ("texts", "no pictures"),
        ("zero.mp4", "empty"),
        ("noise.mp4", "cannot open it as a video"),
        ("plain.txt", "cannot open it as a video"),
        ("img001.dat", "cannot open it as a video"),
        ("zero.png", "does not decode"),
        ("n" * 300, "File name too long"),
        ("zero.png/0.png", "Not a directory"),
    ],
)
def test_bad_input_is_one_line(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("words")
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "zero.png").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "plain.txt").write_text("FFmpeg would play this as a terminal\n" * 50)
    (tmp_path / "img001.dat").write_text("OpenCV would take this for a series of pictures")
    with pytest.raises(InputError, match=message) as caught:
        list(open_source(str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_no_permission_is_said():
    with as_nobody() as (folder, drop_privileges):
        write_frames(folder / "locked", [grey_frame(1)])
        write_frames(folder / "frames", [grey_frame(1)])
        write_video(folder / "clip.mp4", [grey_frame(1)] * 3)
        (folder / "locked").chmod(0)
        (folder / "frames" / "00000.png").chmod(0)
        (folder / "clip.mp4").chmod(0)
        drop_privileges()
        for name in ("locked", "frames", "clip.mp4", "locked/00000.png"):
            with pytest.raises(InputError, match="Permission denied"):
                list(open_source(str(folder / name)))


def test_video_frames_are_numbered_and_can_be_read_twice(tmp_path):
    path = write_video(tmp_path / "take: 1 é.mp4", [grey_frame(20 * i) for i in range(12)], fps=12.5)
    source = open_source(str(path))
    assert (source.count, source.fps) == (12, 12.5)
    for _ in range(2):
        frames = list(source)
        assert [frame.name for frame in frames] == [f"{i:05d}" for i in range(12)]
        assert all(abs(frame.image.mean() - 20 * i) < 4 for i, frame in enumerate(frames))
    assert source.remark is None


def test_a_video_as_standard_input(tmp_path):
    """Its decoder is another process, whose /dev/stdin is a pipe."""
    path = write_video(tmp_path / "clip.mp4", [grey_frame(20 * i) for i in range(3)])
    with open(path) as file:
        source = open_source(f"/dev/fd/{file.fileno()}")
        assert len(list(source)) == 3 and list(source.files) == [path.resolve()]


def test_a_path_that_is_not_utf8(tmp_path):
    """OpenCV 5.0 crashes on such a path."""
    name = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    try:
        os.rename(write_video(tmp_path / "clip.mp4", [grey_frame(1)] * 3), name)
    except OSError:
        pytest.skip("needs a file system that takes any bytes as a name")
    with pytest.raises(InputError, match="must be valid UTF-8"):
        open_source(os.fsdecode(name))
    with pytest.raises(OutputError, match="must be valid UTF-8"):
        Mp4Writer(Path(os.fsdecode(name)), None)


@pytest.mark.parametrize("suffix, codec", [(".avi", "MJPG"), (".mkv", "mp4v"), ("index first.mp4", "mp4v")])
def test_truncated_video_gives_its_frames_then_the_error(tmp_path, suffix, codec):
    path = write_video(tmp_path / f"clip{suffix[-4:]}", moving(60), codec=codec)
    data = path.read_bytes()
    if suffix.startswith("index"):
        data = index_first(data)
        path.write_bytes(data)
    frames, error = read_all(open_source(str(path)))
    assert len(frames) == 60 and error is None
    path.write_bytes(data[: len(data) * 6 // 10])
    frames, error = read_all(open_source(str(path)))
    assert 20 < len(frames) < 50
    assert f"truncated or damaged, {len(frames)} of 60 frames decode" in error


def test_truncated_video_without_its_index(tmp_path):
    path = write_video(tmp_path / "clip.mp4", moving(30))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cannot open it as a video .the file is truncated"):
        open_source(str(path))


def test_frames_hidden_by_an_edit_list_are_not_missing(tmp_path):
    """Phones trim a video by an edit list: the container declares more frames than are shown."""
    path = write_video(tmp_path / "trimmed.mp4", moving(40))
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    (duration,) = struct.unpack_from(">I", data, at)
    struct.pack_into(">I", data, at, duration // 2)
    path.write_bytes(data)
    source = open_source(str(path))
    frames, error = read_all(source)
    assert len(frames) == 20 and error is None
    assert "declares 40 frames, 20 were decoded" in source.remark


def test_one_frame_lost_to_damage_is_reported(tmp_path):
    path = write_video(tmp_path / "clip.mp4", moving(40))
    data = bytearray(path.read_bytes())
    at = data.index(b"stsz") + 12
    sizes = struct.unpack_from(">40I", data, at + 4)
    offset = struct.unpack_from(">I", data, data.index(b"stco") + 12)[0] + sum(sizes[:39])
    data[offset : offset + sizes[39]] = bytes(sizes[39])
    path.write_bytes(data)
    source = open_source(str(path))
    frames, error = read_all(source)
    assert len(frames) == 39 and error is None
    assert "declares 40 frames, 39 were decoded" in source.remark


@pytest.mark.slow
def test_bytes_flipped_in_a_video_never_raise_anything_else(tmp_path):
    path = write_video(tmp_path / "clip.avi", moving(20), codec="MJPG")
    data = path.read_bytes()
    random = np.random.default_rng(3)
    for _ in range(25):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[random.integers(0, len(data), 20)] ^= 0xFF
        path.write_bytes(damaged.tobytes())
        try:
            frames, _ = read_all(open_source(str(path)))
        except InputError:
            continue
        assert len(frames) <= 25
