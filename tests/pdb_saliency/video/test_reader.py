"""Videos as cameras, phones and editors make them, written by ffmpeg, through the whole tool."""

import json
import shutil
import struct
import subprocess

import cv2
import numpy as np
import pytest

from helpers.films import the_line, write_frames
from pdb_saliency.errors import InputError
from pdb_saliency.video import encoder as ffmpeg
from pdb_saliency.video.source import open_source

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg and ffprobe")


def encode(path, *options):
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, options), str(path)], check=True)
    return path


def probe(path, entries, stream):
    command = ["ffprobe", "-v", "error", "-select_streams", stream, "-show_entries", entries, "-of", "json", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


HALVES = "color=black:s=64x48:r=10:d=0.6,drawbox=x=32:w=32:h=48:color=white:t=fill"  # Left black, right white.


@pytest.mark.parametrize(
    "matrix, bright",
    [((0, 1, -1, 0), np.s_[36:]), ((-1, 0, 0, -1), np.s_[:, :28]), ((0, -1, 1, 0), np.s_[:28])],
    ids=["clockwise", "upside down", "counterclockwise"],
)
def test_rotation_is_applied(tmp_path, matrix, bright):
    """As a phone writes it, in the track's matrix; ffmpeg's option for it has been renamed."""
    clip = encode(tmp_path / "turned.mp4", "-f", "lavfi", "-i", HALVES, "-c:v", "libx264")
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value * 65536 for value in matrix)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip.write_bytes(data)
    frames = list(open_source(str(clip)))
    assert len(frames) == 6 and frames[0].image.shape == ((48, 64, 3) if matrix[0] else (64, 48, 3))
    assert frames[0].image[bright].min() > 200 and (frames[0].image < 50).mean() > 0.4


@pytest.mark.parametrize(
    "pixels, codec, suffix",
    [
        ("gray", "ffv1", ".mkv"),
        ("gray10le", "ffv1", ".mkv"),
        ("yuv420p10le", "libx265", ".mp4"),
        ("yuv422p10le", "prores_ks", ".mov"),
        ("yuva420p", "libvpx-vp9", ".webm"),
        ("rgba", "png", ".mov"),
        ("bgra", "ffv1", ".mkv"),
        ("pal8", "gif", ".gif"),
        ("rgb48le", "ffv1", ".mkv"),
    ],
)
def test_kinds_of_pixels(tmp_path, predict, pixels, codec, suffix):
    options = ["-x265-params", "log-level=none"] if codec == "libx265" else []
    clip = encode(tmp_path / f"clip{suffix}", "-f", "lavfi", "-i", HALVES, "-c:v", codec, "-pix_fmt", pixels, *options)
    assert predict(clip, "-o", tmp_path / "out", "--save", "maps,video") == 0
    maps = sorted((tmp_path / "out/maps").iterdir())
    assert len(maps) == 6
    saliency = cv2.imread(str(maps[3]), cv2.IMREAD_UNCHANGED)
    tolerance = 30 if pixels == "pal8" else 12  # A palette has few colours.
    assert (
        saliency.shape == (48, 64) and saliency[:, :28].max() < tolerance and saliency[:, 36:].min() > 255 - tolerance
    )


@pytest.mark.parametrize("size", ["63x47", "1x1", "2x99"])
def test_odd_sizes(tmp_path, predict, size):
    clip = encode(tmp_path / "odd.mkv", "-f", "lavfi", "-i", f"testsrc=s={size}:r=5:d=1", "-c:v", "ffv1")
    assert predict(clip, "-o", tmp_path / "out", "--save", "maps,video,side-video") == 0
    width, height = map(int, size.split("x"))
    assert cv2.imread(str(tmp_path / "out/maps/00004.png"), cv2.IMREAD_UNCHANGED).shape == (height, width)
    (stream,) = probe(tmp_path / "out/overlay.mp4", "stream=width,height,nb_frames", "v:0")["streams"]
    assert stream == {"width": width + width % 2, "height": height + height % 2, "nb_frames": "5"}


@pytest.mark.slow
def test_4k(tmp_path, predict):
    source = ["-f", "lavfi", "-i", "color=gray:s=3840x2160:r=25:d=0.12", "-c:v", "libx264", "-preset", "ultrafast"]
    clip = encode(tmp_path / "4k.mp4", *source)
    assert predict(clip, "-o", tmp_path / "out", "--save", "maps,video") == 0
    assert [cv2.imread(str(path), -1).shape for path in (tmp_path / "out/maps").iterdir()] == [(2160, 3840)] * 3


# Time and sound


def varying(tmp_path, durations, sound=True):
    """A video whose frame i is grey 20 i + 20 and is shown for durations[i] seconds."""
    folder = write_frames(
        tmp_path / "frames", [np.full((48, 64, 3), 20 * i + 20, np.uint8) for i in range(len(durations))]
    )
    lines = [f"file '{folder}/{i:05d}.png'\nduration {seconds}\n" for i, seconds in enumerate(durations)]
    (tmp_path / "list.txt").write_text("".join(lines))
    tone = ["-f", "lavfi", "-i", f"sine=d={sum(durations)}"] if sound else []
    options = ["-f", "concat", "-safe", "0", "-i", tmp_path / "list.txt", *tone, "-fps_mode", "vfr", "-c:v", "libx264"]
    return encode(tmp_path / "varying.mp4", *options, "-qp", "4", "-pix_fmt", "yuv420p", "-c:a", "aac")


def test_a_varying_rate_keeps_time(tmp_path, predict, capsys):
    durations = [0.12, 0.12, 0.52, 0.12, 0.28, 0.12, 0.04, 0.12]
    starts = np.cumsum([0, *durations[:-1]])
    clip = varying(tmp_path, durations)
    frames = list(open_source(str(clip)))
    assert [frame.seconds for frame in frames] == pytest.approx(starts, abs=0.002)
    assert predict(clip, "-o", tmp_path / "out", "--save", "video,json") == 0
    note = the_line(capsys.readouterr())
    assert "frame rate varies" in note and "repeated" in note
    video = tmp_path / "out/overlay.mp4"
    rate = open_source(str(video)).fps
    lines = [json.loads(line) for line in (tmp_path / "out/frames.jsonl").read_text().splitlines()]
    assert [line["time"] for line in lines] == pytest.approx(starts, abs=0.002)
    middle = [frame.image[24, 32].astype(int) for frame in open_source(str(video))]
    assert len(middle) == pytest.approx(starts[-1] * rate, abs=1.5), "as long as the source, up to its last frame"
    still = [pixel for index, pixel in enumerate(middle) if 0.26 < (index - 0.5) / rate and (index + 0.5) / rate < 0.74]
    assert len(still) >= 2 and all(abs(pixel - still[0]).max() < 4 for pixel in still), "the long third frame"
    assert abs(middle[round(0.88 * rate)] - still[0]).max() > 10


@pytest.mark.slow
def test_a_constant_rate_is_written_frame_by_frame(tmp_path, predict, capsys):
    for rate in ("30000/1001", "25", "60", "12.5"):
        clip = encode(
            tmp_path / "constant.mkv", "-f", "lavfi", "-i", f"testsrc=s=64x48:r={rate}:d=3", "-c:v", "libx264"
        )
        expected = len(list(open_source(str(clip))))
        assert predict(clip, "-o", tmp_path / "out", "--save", "video") == 0
        assert open_source(str(tmp_path / "out/overlay.mp4")).count == expected
        assert "note: nothing here is trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    "suffix, codec", [(".mp4", "aac"), (".mkv", "libvorbis"), (".mkv", "flac"), (".avi", "pcm_s16le")]
)
def test_sound_is_carried_over(tmp_path, predict, suffix, codec):
    source = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=2", "-f", "lavfi", "-i", "sine=d=4"]
    clip = encode(tmp_path / f"ünï: 1{suffix}", *source, "-c:v", "mpeg4", "-c:a", codec)
    assert ffmpeg.has_sound(clip)
    assert predict(clip, "-o", tmp_path / "out", "--save", "video") == 0
    (sound,) = probe(tmp_path / "out/overlay.mp4", "stream=codec_type,duration", "a")["streams"]
    assert float(sound["duration"]) == pytest.approx(2, abs=0.15), "no longer than the video"
    assert len(list(open_source(str(tmp_path / "out/overlay.mp4")))) == 20
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["overlay.mp4", "run.json"]


def test_a_sound_track_longer_than_the_video_is_no_damage(tmp_path):
    """The frames that Matroska "declares" are its duration, here that of the sound, times the rate."""
    source = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=2", "-f", "lavfi", "-i", "sine=d=4", "-c:v", "libx264"]
    clip = encode(tmp_path / "clip.mkv", *source)
    assert len(list(open_source(str(clip)))) == 20
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(InputError, match="truncated or damaged"):
        list(open_source(str(clip)))


def test_sound_without_ffmpeg_is_one_note(tmp_path, predict, capsys, monkeypatch):
    silent = encode(tmp_path / "silent.mp4", "-f", "lavfi", "-i", HALVES)
    loud = encode(tmp_path / "loud.mp4", "-i", silent, "-f", "lavfi", "-i", "sine=d=1", "-c:v", "copy")
    assert not ffmpeg.has_sound(silent)
    for module in ("pdb_saliency.video.encoder", "pdb_saliency.predict.outputs.videos"):
        monkeypatch.setattr(f"{module}.find_ffmpeg", lambda: None)
    monkeypatch.setattr("pdb_saliency.predict.outputs.videos.can_encode", lambda _: False)
    assert predict(silent, "-o", tmp_path / "out", "--save", "video") == 0
    assert predict(loud, "-o", tmp_path / "out", "--save", "video,maps") == 0
    assert "without the source's sound, because ffmpeg is not installed" in the_line(capsys.readouterr())


def test_colours_survive_the_video(tmp_path, predict):
    """High definition has another colour matrix (BT.709) than the one that ffmpeg uses for RGB by default."""
    colours = np.zeros((720, 1280, 3), np.uint8)
    for i, colour in enumerate(([0, 160, 0], [160, 0, 0], [0, 0, 90], [90, 90, 0])):
        colours[:, 320 * i : 320 * (i + 1)] = colour
    folder = write_frames(tmp_path / "in", [colours] * 2)
    assert predict(folder, "-o", tmp_path / "out", "--save", "video,overlay", "--threshold", 1) == 0
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(tmp_path / "out/overlay.mp4"),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "bgr24",
        "-",
    ]
    video = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8).reshape(
        2, 720, 1280, 3
    )
    picture = cv2.imread(str(tmp_path / "out/overlay/00000.png"))
    for column in (160, 480, 800, 1120):
        assert np.abs(video[0, 360, column].astype(int) - picture[360, column]).max() <= 4
    (stream,) = probe(tmp_path / "out/overlay.mp4", "stream=color_space,color_range", "v:0")["streams"]
    assert stream == {"color_space": "bt709", "color_range": "tv"}
