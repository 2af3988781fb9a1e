"""Contact sheets of training clips."""

import cv2
import numpy as np
import pytest
import torch

from pdb_saliency.data.clip import TrainingClip
from pdb_saliency.data.preview import preview, preview_sheet, to_clip
from pdb_saliency.errors import InputError, OutputError
from pdb_saliency.model.input import InputSpec

SPECS = [
    InputSpec(48, 64, bgr=True, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0)),
    InputSpec(48, 64, bgr=False, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)),
]


def clip(length=3, size=(48, 64), name="a clip"):
    rng = np.random.default_rng(0)
    masks = [np.zeros(size, np.uint8) for _ in range(length)]
    for time, mask in enumerate(masks):
        mask[10:30, 10 + time : 30 + time] = 255
    return TrainingClip(name, [rng.integers(0, 200, (*size, 3), dtype=np.uint8) for _ in range(length)], masks)


class Stream(list):
    """Prepared samples by number, like those of SampleStream."""

    def __init__(self, clips, spec):
        self.spec = spec
        for clip in clips:
            masks = [np.zeros(clip.frames[0].shape[:2], np.uint8) if mask is None else mask for mask in clip.masks]
            self.append(
                {
                    "clip": spec.prepare(clip.frames),
                    "mask": torch.from_numpy(np.stack(masks)[:, None] / np.float32(255)),
                    "valid": torch.tensor([mask is not None for mask in clip.masks]),
                    "name": clip.name,
                }
            )


@pytest.mark.parametrize("spec", SPECS, ids=["bgr", "rgb"])
def test_samples_are_turned_back_into_the_pictures_they_were(spec):
    given = clip()
    given.masks[1] = None
    back = to_clip(Stream([given], spec)[0], spec)
    assert back.name == given.name
    assert all(np.array_equal(a, b) for a, b in zip(back.frames, given.frames))
    assert back.masks[1] is None
    assert np.array_equal(back.masks[0], given.masks[0]) and np.array_equal(back.masks[2], given.masks[2])


def yellow(image):
    blue, green, red = cv2.split(image.astype(int))
    return (green > 240) & (red > 240) & (blue < 60)


def red(image):
    blue, green, red = cv2.split(image.astype(int))
    return (red > 240) & (green < 40) & (blue < 40)


def test_a_sheet_has_a_row_for_each_clip_and_outlines_of_its_masks(tmp_path):
    path = tmp_path / "sheet.png"
    preview_sheet([clip(3), clip(2, size=(96, 64)), clip(1, name="größer")], path)
    sheet = cv2.imread(str(path))
    rows = np.split(sheet, 3)
    assert len({row.shape for row in rows}) == 1
    for row, length in zip(rows, (3, 2, 1)):
        for column in range(length):
            width = {3: 213, 2: 107, 1: 213}[length] + 2
            frame = row[16:, column * width : (column + 1) * width]
            y, x = np.nonzero(yellow(frame))
            left = (10 + column) / 64 * (width - 2)
            assert x.min() == pytest.approx(left, abs=3) and len(x) > 100
            assert not yellow(
                frame[y.min() + 5 : y.max() - 4, x.min() + 5 : x.max() - 4]
            ).any()  # An outline, not an area.
        assert row[:16].max() > 200  # Its name.
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.png"]


def test_a_frame_without_annotation_is_marked(tmp_path):
    given = clip(2)
    given.masks[1] = None
    preview_sheet([given], tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert yellow(sheet[:, :215]).any() and not red(sheet[:, :215]).any()
    assert red(sheet[:, 215:]).any() and not yellow(sheet[:, 215:]).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 5)])
def test_frames_of_any_size_fit_on_a_sheet(tmp_path, size):
    frames = [np.full((*size, 3), 90, np.uint8)] * 2
    preview_sheet([TrainingClip("odd", frames, [np.full(size, 255, np.uint8), None])], tmp_path / "sheet.png")
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[0] == 160 + 16 + 2


def test_the_first_clips_of_a_stream_are_previewed(tmp_path):
    stream = Stream([clip(2), clip(2, name="another"), clip(2, name="never read")], SPECS[1])
    stream[2] = None
    preview(stream, 2, tmp_path / "sheet.png")
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[0] == 2 * (160 + 16 + 2)


def test_what_cannot_be_written_leaves_the_old_sheet_alone(tmp_path):
    path = tmp_path / "sheet.png"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="at least one clip"):
        preview_sheet([], path)
    assert path.read_bytes() == b"precious"
    with pytest.raises(OutputError, match=r"nowhere.*sheet\.png: cannot be written"):
        preview_sheet([clip()], tmp_path / "nowhere" / "sheet.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.png"]
