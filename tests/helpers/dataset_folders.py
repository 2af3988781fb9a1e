"""Tiny data sets in the layouts of the published ones. Only the names are real."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH = 24, 32


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def box_mask(left: int = 4, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """White from column `left` to `left` + 7, in rows 5 to 14."""
    mask = np.zeros((height, width), np.uint8)
    mask[5:15, left : left + 8] = 255
    return mask


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def stills(images: Path, masks: Path, count: int = 3) -> None:
    for number in range(count):
        save(images / f"{number}.jpg", picture(number))
        save(masks / f"{number}.png", box_mask(number))


def video(frames: Path, masks: Path, count: int = 12, every: int = 1) -> None:
    for number in range(count):
        save(frames / f"{number:05d}.jpg", picture(number))
        if number % every == 0:
            save(masks / f"{number:05d}.png", box_mask(number))


def msra10k(root: Path) -> None:
    stills(root / "MSRA10K_Imgs_GT/Imgs", root / "MSRA10K_Imgs_GT/Imgs")


def dut_omron(root: Path) -> None:
    stills(root / "DUT-OMRON/DUT-OMRON-image", root / "DUT-OMRON/pixelwiseGT-new-PNG")


def duts(root: Path) -> None:
    stills(root / "DUTS/DUTS-TR/DUTS-TR-Image", root / "DUTS/DUTS-TR/DUTS-TR-Mask", 4)
    stills(root / "DUTS/DUTS-TE/DUTS-TE-Image", root / "DUTS/DUTS-TE/DUTS-TE-Mask", 2)


def ecssd(root: Path) -> None:
    stills(root / "ECSSD/images", root / "ECSSD/ground_truth_mask")


def davis_2016(root: Path, name: str = "DAVIS") -> None:
    folder = root / name
    lists = folder / "ImageSets/480p"
    lists.mkdir(parents=True)
    for split, sequences in {"train": ("bear", "bus"), "val": ("cows",)}.items():
        lines = []
        for sequence in sequences:
            video(folder / f"JPEGImages/480p/{sequence}", folder / f"Annotations/480p/{sequence}")
            places = (f"480p/{sequence}/{number:05d}" for number in range(12))
            lines += [f"/JPEGImages/{place}.jpg /Annotations/{place}.png \n" for place in places]
        (lists / f"{split}.txt").write_text("".join(lines))


def davis_2017(root: Path, name: str = "DAVIS-2017") -> None:
    """Two objects, with the indices 1 and 2 of a palette."""
    folder = root / name / "DAVIS"
    (folder / "ImageSets/2017").mkdir(parents=True)
    for split, sequences in {"train": ("bear",), "val": ("bus",)}.items():
        (folder / f"ImageSets/2017/{split}.txt").write_text("".join(f"{sequence}\n" for sequence in sequences))
        for sequence in sequences:
            for number in range(6):
                save(folder / f"JPEGImages/480p/{sequence}/{number:05d}.jpg", picture(number))
                indices = (box_mask(2) > 0) + 2 * (box_mask(20) > 0)
                path = folder / f"Annotations/480p/{sequence}/{number:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(palette_png(indices.astype(np.uint8), [(0, 0, 0), (128, 0, 0), (0, 128, 0)]))


def palette_png(indices: np.ndarray, colours: list[tuple[int, int, int]]) -> bytes:
    """A PNG of colour type 3, which OpenCV cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = indices.shape
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    palette = bytes(value for colour in colours for value in colour)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, data)
        for kind, data in ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def fbms(root: Path) -> None:
    """bear01: coloured masks on white, and .pgm files beside them that lack an object. cars1, tennis: grey masks."""
    bear = root / "FBMS_Trainingset/Trainingset/bear01"
    for number in range(1, 31):
        save(bear / f"bear01_{number:04d}.jpg", picture(number))
    for number in (1, 20, 30):
        colours = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        colours[box_mask(2) > 0] = (0, 0, 255)
        colours[box_mask(20) > 0] = (255, 0, 0)
        save(bear / f"GroundTruth/bear01_{number:04d}_gt.ppm", colours)
        save(bear / f"GroundTruth/bear01_{number:04d}_gt.pgm", box_mask(2))
        save(bear / f"GroundTruth/PROB_bear01_{number:04d}_gt.ppm", picture(number))
    cars, tennis = root / "FBMS_Testset/Testset/cars1", root / "FBMS_Testset/Testset/tennis"
    for number in range(1, 20):
        save(cars / f"cars1_{number:02d}.jpg", picture(number))
        save(tennis / f"tennis{454 + number}.jpg", picture(number))
    for number in (1, 10, 19):
        save(cars / f"GroundTruth/cars1_{number:02d}.pgm", box_mask(2) // 3 + box_mask(20) // 6)
        save(tennis / f"GroundTruth/tennis_{454 + number}.pgm", box_mask())


def visal(root: Path) -> None:
    for sequence in ("boat", "boat2"):
        for number in range(1, 13):
            save(root / f"ViSal/ViSal/{sequence}/{sequence}_{number:03d}.png", picture(number))
            if number % 5 == 1:
                save(root / f"ViSal/GroundTruth/{sequence}_{number:03d}.png", box_mask())


def segtrack_v2(root: Path) -> None:
    folder = root / "SegTrackv2"
    for number in range(5):
        save(folder / f"JPEGImages/frog/frog_{number:05d}.png", picture(number))
        save(folder / f"GroundTruth/frog/frog_{number:05d}.png", box_mask())
        save(folder / f"JPEGImages/bmx/bmx_{number:05d}.bmp", picture(number))
        for index, left in ((1, 2), (2, 20)):
            save(folder / f"GroundTruth/bmx/{index}/bmx_{number:05d}.png", box_mask(left))


ALL = (msra10k, dut_omron, duts, ecssd, davis_2016, davis_2017, fbms, visal, segtrack_v2)
