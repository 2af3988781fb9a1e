"""What predict writes besides maps and masks, each kind read back by other software."""

import json
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers.films import the_line, write_frames
from pdb_saliency.predict.outputs import result
from pdb_saliency.predict.outputs.report import MOST_PICTURES
from pdb_saliency.predict.outputs.result import draw_contour, to_cutout, to_mask, to_overlay
from pdb_saliency.predict.outputs.writer import ResultWriter
from pdb_saliency.video import encoder as ffmpeg
from pdb_saliency.video.frame import Frame

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg and ffprobe")


@pytest.fixture
def no_ffmpeg(monkeypatch):
    for function in (ffmpeg.find_ffmpeg, ffmpeg.can_encode):
        function.cache_clear()
    monkeypatch.setattr(ffmpeg, "find_program", lambda _: None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    yield
    for function in (ffmpeg.find_ffmpeg, ffmpeg.can_encode):
        function.cache_clear()


def frame_with_box(index, height=90, width=160):
    """A bright box on dark ground, at rows 20 to 59; GreyModel finds it salient (0.784)."""
    image = np.full((height, width, 3), (30, 60, 20), np.uint8)
    image[20:60, 30 + 4 * index : 70 + 4 * index] = 200
    return image


@pytest.fixture
def boxes(tmp_path):
    return write_frames(tmp_path / "in", [frame_with_box(i) for i in range(6)] + [np.zeros((90, 160, 3), np.uint8)])


def test_large_pictures_are_made_in_bands_of_rows(monkeypatch):
    """The result is that for the whole frame, but never holds all its pixels as floats at the same time."""
    monkeypatch.setattr(result, "_BAND", 1 << 14)
    rng = np.random.default_rng(0)
    image, map_ = rng.integers(0, 256, (801, 1003, 3), np.uint8), rng.integers(0, 256, (801, 1003), np.uint8)
    map_ = cv2.GaussianBlur(map_, (0, 0), 30)
    threshold = float(np.median(map_)) / 255
    made = {}
    for part in ("overlay", "cutout"):
        tracemalloc.start()
        made[part] = getattr(result.Result(Frame("0", image), 0, map_, threshold), part)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 14 * map_.size, "bytes a pixel: 4 saliency, 3 or 4 result, 2 mask; whole, the overlay took 35"
    saliency = map_ / np.float32(255)
    mask = to_mask(saliency, threshold)
    assert np.array_equal(made["overlay"], draw_contour(to_overlay(image, saliency), mask))
    assert np.array_equal(made["cutout"], to_cutout(image, saliency, threshold))


def probe(path, entries, stream="v:0"):
    command = ["ffprobe", "-v", "error", "-select_streams", stream, "-show_entries", entries, "-of", "json", str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def decoded(path, pixels, *options):
    """Frames as ffmpeg decodes them, flat."""
    command = ["ffmpeg", "-v", "error", *options, "-i", str(path), "-f", "rawvideo", "-pix_fmt", pixels, "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)


# Pictures


def test_cutout_and_side(boxes, tmp_path, predict):
    assert predict(boxes, "-o", tmp_path / "out", "--save", "cutout,side,masks") == 0
    cutout = np.asarray(Image.open(tmp_path / "out/cutout/00002.png"))
    assert cutout.shape == (90, 160, 4)
    alpha = cutout[..., 3]
    assert (
        (alpha[25:55, 45:70] == 255).all()
        and (alpha[:12] == 0).all()
        and 0 < ((alpha > 0) & (alpha < 255)).mean() < 0.1
    )
    assert (cutout[alpha == 0] == 0).all(), "the background cannot be recovered"
    assert (cutout[30, 50, :3] == 200).all()
    side = cv2.imread(str(tmp_path / "out/side/00002.png"))
    assert side.shape == (90, 3 * 160 + 8, 3) and (side[:, :160] == frame_with_box(2)).all()
    assert (side[30, 164 + 50] == 200).all() and side[30, 328 + 50, 2] > side[30, 328 + 50, 0]


def test_the_contour_follows_the_mask(boxes, tmp_path, predict):
    assert predict(boxes, "-o", tmp_path / "out", "--save", "overlay,masks") == 0
    overlay, mask = (cv2.imread(str(tmp_path / "out" / kind / "00003.png")) for kind in ("overlay", "masks"))
    yellow = (overlay == (0, 255, 255)).all(2)
    outline = mask[..., 0] & ~cv2.erode(mask[..., 0], np.ones((3, 3), np.uint8))
    assert (yellow[outline > 0]).mean() > 0.95 and yellow.sum() < 1.2 * (outline > 0).sum()


# Numbers


def test_json_lines(boxes, tmp_path, predict):
    assert predict(boxes, "-o", tmp_path / "out", "--save", "json,masks,maps") == 0
    lines = [json.loads(line) for line in (tmp_path / "out/frames.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["index"]) for line in lines] == [(f"{i:05d}", i) for i in range(7)]
    for line in lines[:6]:
        mask = cv2.imread(str(tmp_path / "out/masks" / f"{line['frame']}.png"), 0) > 0
        saliency = cv2.imread(str(tmp_path / "out/maps" / f"{line['frame']}.png"), 0) / 255
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert line["box"] == box and line["area"] == mask.sum() and (line["width"], line["height"]) == (160, 90)
        assert line["centroid"] == pytest.approx([columns.mean(), rows.mean()], abs=0.01)
        assert line["confidence"] == pytest.approx(saliency[mask].mean(), abs=1e-4)
    assert lines[6] | {"area": 0, "box": None, "centroid": None, "confidence": None} == lines[6]


def test_json_lines_are_complete_at_every_moment(tmp_path):
    with ResultWriter(tmp_path, ["json"]) as writer:
        for i in range(3):
            writer.write(Frame(f"é{i}", frame_with_box(i)), np.ones((90, 160), np.float32))
            lines = (tmp_path / "frames.jsonl").read_text(encoding="utf-8").splitlines()
            assert [json.loads(line)["frame"] for line in lines] == [f"é{n}" for n in range(i + 1)]


def test_coco(boxes, tmp_path, predict, capsys):
    COCO = pytest.importorskip("pycocotools.coco").COCO
    assert predict(boxes, "-o", tmp_path / "out", "--save", "coco,masks") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["coco.json", "masks", "run.json"]
    coco = COCO(str(tmp_path / "out/coco.json"))
    assert len(coco.imgs) == 7 and len(coco.anns) == 6, "the last frame has no mask"
    for annotation in coco.anns.values():
        name = coco.imgs[annotation["image_id"]]["file_name"]
        mask = cv2.imread(str(tmp_path / "out/masks" / f"{name}.png"), 0)
        assert (coco.annToMask(annotation) * 255 == mask).all() and annotation["area"] == (mask > 0).sum()


def test_coco_of_empty_masks(tmp_path):
    pytest.importorskip("pycocotools")
    with ResultWriter(tmp_path, ["coco"]) as writer:
        writer.write(Frame("0", frame_with_box(0)), np.zeros((90, 160), np.float32))
        writer.finish()
    assert json.loads((tmp_path / "coco.json").read_text())["annotations"] == []


@pytest.mark.parametrize(
    "kind, missing", [("coco", "pycocotools"), ("cutout-webm", "ffmpeg"), ("cutout-prores", "ffmpeg")]
)
def test_what_is_missing_is_reported_first(boxes, tmp_path, predict, capsys, monkeypatch, no_ffmpeg, kind, missing):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert predict(boxes, "-o", tmp_path / "out", "--save", kind) == 1
    assert re.search(rf"--save {kind} needs {missing}: .*pip install 'pdb-ext\[\w+\]'", the_line(capsys.readouterr()))
    assert not (tmp_path / "out").exists()


# Videos


@needs_ffmpeg
def test_overlay_and_side_video_are_h264(boxes, tmp_path, predict):
    assert predict(boxes, "-o", tmp_path / "out", "--save", "video,side-video,overlay") == 0
    for name, width in (("overlay.mp4", 160), ("side.mp4", 488)):
        (stream,) = probe(tmp_path / "out" / name, "stream=codec_name,width,height,pix_fmt,nb_frames")["streams"]
        expected = {"codec_name": "h264", "pix_fmt": "yuv420p", "width": width, "height": 90, "nb_frames": "7"}
        assert stream == expected
    frames = decoded(tmp_path / "out/overlay.mp4", "bgr24").reshape(7, 90, 160, 3)
    picture = cv2.imread(str(tmp_path / "out/overlay/00002.png"))
    assert cv2.PSNR(cv2.blur(frames[2], (5, 5)), cv2.blur(picture, (5, 5))) > 30


@needs_ffmpeg
@pytest.mark.parametrize(
    "kind, name, options", [("cutout-webm", "cutout.webm", ["-c:v", "libvpx-vp9"]), ("cutout-prores", "cutout.mov", [])]
)
def test_cutout_videos_have_alpha(boxes, tmp_path, predict, kind, name, options):
    if not ffmpeg.can_encode({"cutout.webm": "vp9", "cutout.mov": "prores"}[name]):
        pytest.skip("this ffmpeg lacks the encoder")
    assert predict(boxes, "-o", tmp_path / "out", "--save", f"cutout,{kind}") == 0
    frames = decoded(tmp_path / "out" / name, "bgra", *options).reshape(-1, 90, 160, 4)
    assert len(frames) == 7
    for index, frame in enumerate(frames):
        picture = cv2.imread(str(tmp_path / "out/cutout" / f"{index:05d}.png"), cv2.IMREAD_UNCHANGED)
        assert np.abs(frame[..., 3].astype(int) - picture[..., 3]).mean() < 2
    assert np.abs(frames[0][30:50, 40:60, :3].astype(int) - 200).mean() < 4


def test_mp4_without_ffmpeg(boxes, tmp_path, predict, no_ffmpeg, capsys):
    assert predict(boxes, "-o", tmp_path / "out", "--save", "video") == 0
    capture = cv2.VideoCapture(str(tmp_path / "out/overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 7


# Report


def page_data(path):
    page = path.read_text(encoding="utf-8")
    text = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1]
    return page, json.loads(text)


def test_report_needs_no_other_file(tmp_path, predict):
    evil = tmp_path / "<!-- <script><b>é&.d"
    write_frames(evil, [frame_with_box(i) for i in range(3)])
    (evil / "00001.png").rename(evil / "00001<!--<script>.png")
    assert predict(evil, "-o", tmp_path / "out", "--save", "report", "--overlap", "2") == 0
    page, data = page_data(tmp_path / "out/report.html")
    assert not re.search(r"(src|href)=|https?://|@import|url\(", page)
    assert "<dd>5 frames, overlapping by 2</dd>" in page and "<dd>0.42</dd>" in page
    assert "<b>" not in re.sub(r'<b class="\w+">', "", page) and "&lt;b&gt;é&amp;.d" in page and "<!--" not in page
    assert [picture[1] for picture in data["pictures"]] == ["00000", "00001<!--<script>", "00002"]
    assert data["curves"]["area"][0] == pytest.approx(40 * 40 / (90 * 160), abs=0.02)


def test_a_long_report_stays_small(tmp_path):
    count = 2 * MOST_PICTURES + 7
    with ResultWriter(tmp_path, ["report"]) as writer:
        for i in range(count):
            writer.write(Frame(str(i), np.full((8, 12, 3), i % 256, np.uint8)), np.zeros((8, 12), np.float32))
        writer.finish()
    page, data = page_data(tmp_path / "report.html")
    indices = [picture[0] for picture in data["pictures"]]
    assert indices == list(range(0, count, 4)) and len(data["curves"]["area"]) == count and "one frame in 4," in page


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_report_in_a_browser(boxes, tmp_path, predict):
    """Opened from the disk, the page shows a frame on its canvas, and the scrubber selects another one."""
    assert predict(boxes, "-o", tmp_path / "out", "--save", "report") == 0
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    script = """<script>
    const middle = () => [...canvas.getContext("2d").getImageData(80, 40, 1, 1).data].join(",");
    const after = (what, then) => { what(); setTimeout(then, 300); };
    const seen = [];
    const note = () => seen.push(document.body.dataset.shown + ":" + middle());
    setTimeout(() => { note();
      after(() => { scrub.value = 5; scrub.oninput(); }, () => { note();
        after(() => { view.value = "map"; view.onchange(); }, () => { note();
          after(() => document.onkeydown({key: "ArrowRight", target: document.body}), () => { note();
            document.body.dataset.seen = seen.join(" "); }); }); }); }, 500);
    </script></body>"""
    (tmp_path / "out/tested.html").write_text(page.replace("</body>", script), encoding="utf-8")
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "out/tested.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen, done.stderr[-2000:]
    shown = [
        (name, [int(value) for value in pixel.split(",")])
        for name, pixel in (part.split(":") for part in seen[1].split())
    ]
    assert [name for name, _ in shown] == ["00000", "00005", "00005", "00006"]
    colours = [colour for _, colour in shown]
    assert colours[0][1] > colours[0][0] and max(colours[0][:3]) < 80, "dark ground, greenish"
    assert colours[1][0] > colours[1][1] + 60, "the box, tinted red"
    assert len(set(colours[2][:3])) == 1 and abs(colours[2][0] - 200) < 12, "its saliency, grey"
    assert max(colours[3][:3]) < 12, "the black frame"
    assert Counter(done.stdout.split())["Infinity"] == 0
