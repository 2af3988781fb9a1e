"""The published data sets, each read from the layout in which its authors publish it.

What the archives look like unpacked was taken from the code of others that reads them:

msra10k      MSRA10K_Imgs_GT/Imgs: NAME.jpg and NAME.png
dut-omron    DUT-OMRON/DUT-OMRON-image + pixelwiseGT-new-PNG
duts         DUTS/DUTS-TR/DUTS-TR-Image + DUTS-TR-Mask (train), DUTS/DUTS-TE likewise (test)
ecssd        ECSSD/images + ground_truth_mask
davis-2016   DAVIS/JPEGImages/480p + Annotations/480p; ImageSets/480p/{train,val}.txt list pairs of files.
             The paper's test set is "val"
davis-2017   DAVIS/JPEGImages/480p + Annotations/480p; ImageSets/2017/{train,val}.txt list sequences.
             The colours of a palette are objects
fbms         FBMS_Trainingset/Trainingset and FBMS_Testset/Testset, or FBMS/Trainingset and FBMS/Testset: <sequence>/*.jpg
             with <sequence>/GroundTruth/*.ppm, or *.pgm where there are no .ppm; *PROB* are no masks, and *Def.dat tells
             which colour is the background
visal        ViSal/ViSal/<sequence> + ViSal/GroundTruth with the masks of all sequences
segtrack-v2  SegTrackv2/JPEGImages/<sequence> + GroundTruth/<sequence>, or GroundTruth/<sequence>/1, 2, ..., one an object
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pdb_saliency.errors import InputError

from .items import Still, Video
from .layouts import make_video, pictures_in, stills_in, stills_in_one_folder, subfolder, subfolders, videos_in

Items = tuple[tuple[Still, ...], tuple[Video, ...]]


@dataclass(frozen=True)
class KnownSet:
    """folders: names of its folder, as `layouts.plain` writes them. expected: the layout, for people. splits: published.

    open: stills and videos in a folder, of one split or of all (None); none where it is not in the set's own layout.
        Raises InputError when a list of frames cannot be read, or lists what is not there.
    """

    folders: tuple[str, ...]
    expected: str
    open: Callable[[Path, str | None], Items]
    splits: tuple[str, ...] = ()


def _msra10k(folder: Path, split: str | None) -> Items:
    images = subfolder(folder, "Imgs")
    return (stills_in_one_folder(images) if images else ()), ()


def _still_set(*layouts: tuple[str, str]) -> Callable[[Path, str | None], Items]:
    """A still set whose pictures and masks are in two folders, given in all forms in which they are found."""

    def open_still_set(folder: Path, split: str | None) -> Items:
        for images, masks in layouts:
            places = subfolder(folder, images), subfolder(folder, masks)
            if all(places):
                return stills_in(*places), ()
        return (), ()

    return open_still_set


def _duts(folder: Path, split: str | None) -> Items:
    stills: tuple[Still, ...] = ()
    for name, part in {"train": "DUTS-TR", "test": "DUTS-TE"}.items():
        if split in (None, name):
            inner = _still_set((f"{part}/{part}-Image", f"{part}/{part}-Mask"), (f"{part}-Image", f"{part}-Mask"))
            stills += inner(folder, None)[0]
    return stills, ()


def _davis_2016(folder: Path, split: str | None) -> Items:
    lists = folder / "ImageSets" / "480p"
    files = [lists / f"{name}.txt" for name in ("train", "val") if split in (None, name)]
    sequences: dict[str, list[tuple[Path, Path]]] = {}
    for file in filter(Path.is_file, files if all(_davis_folders(folder)) else ()):
        for line in _lines(file):
            pair = [folder / part.lstrip("/") for part in line.split()]
            if len(pair) != 2:
                raise InputError(f"{file}: expected a picture and a mask in each line, got {line!r}")
            sequences.setdefault(pair[0].parent.name, []).append((pair[0], pair[1]))
    # The lists are the whole truth here: what they name and is not there is missing.
    videos = [
        Video(name, tuple(frame for frame, _ in pairs), tuple((mask,) for _, mask in pairs))
        for name, pairs in sequences.items()
    ]
    return (), tuple(videos)


def _davis_2017(folder: Path, split: str | None) -> Items:
    lists = folder / "ImageSets" / "2017"
    files = [lists / f"{name}.txt" for name in ("train", "val") if split in (None, name)]
    frames, masks = _davis_folders(folder)
    videos = []
    for file in filter(Path.is_file, files if frames and masks else ()):
        for name in _lines(file):
            objects = [(masks / name, pictures_in(masks / name))]
            videos.append(make_video(name, frames / name, pictures_in(frames / name), objects))
    return (), tuple(videos)


def _davis_folders(folder: Path) -> tuple[Path | None, Path | None]:
    return subfolder(folder, "JPEGImages/480p"), subfolder(folder, "Annotations/480p")


def _fbms(folder: Path, split: str | None) -> Items:
    videos: list[Video] = []
    for name, part in {"train": "Trainingset", "test": "Testset"}.items():
        forms = (f"FBMS_{part}/{part}", f"FBMS_{part}", part)
        place = next(filter(None, (subfolder(folder, form) for form in forms)), None)
        if place and split in (None, name):
            videos += map(_fbms_video, subfolders(place))
    return (), tuple(video for video in videos if video.frames)


def _fbms_video(folder: Path) -> Video:
    truth = folder / "GroundTruth"
    # Beside .ppm with all regions lie .pgm of the same names that lack some of them.
    by_suffix = (pictures_in(truth, (suffix,)) for suffix in (".ppm", ".pgm", ".png"))
    masks = next((found for found in map(_without_prob, by_suffix) if found), {})
    return make_video(folder.name, folder, pictures_in(folder, (".jpg", ".png")), [(truth, masks)])


def _without_prob(masks: dict[str, Path]) -> dict[str, Path]:
    return {stem: path for stem, path in masks.items() if "PROB" not in stem}


def _video_set(frames: str, masks: str) -> Callable[[Path, str | None], Items]:
    """A video set whose frames and masks are in two folders."""

    def open_video_set(folder: Path, split: str | None) -> Items:
        places = subfolder(folder, frames), subfolder(folder, masks)
        return (), (videos_in(*places) if all(places) else ())

    return open_video_set


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not a text'})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


_OMRON = _still_set(
    ("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
    ("DUT-OMRON-image/DUT-OMRON-image", "DUT-OMRON-gt-pixelwise.zip/pixelwiseGT-new-PNG"),
)
_DAVIS = ("davis", "davis2016", "davis2017", "davisdata", "davis2017trainval480p", "davis2017trainval")

KNOWN = {
    "msra10k": KnownSet(("msra10kimgsgt", "msra10k"), "MSRA10K_Imgs_GT/Imgs", _msra10k),
    "dut-omron": KnownSet(
        ("dutomron", "dutsomron"), "DUT-OMRON/DUT-OMRON-image and DUT-OMRON/pixelwiseGT-new-PNG", _OMRON
    ),
    "duts": KnownSet(
        ("duts",), "DUTS/DUTS-TR/DUTS-TR-Image and DUTS-TR-Mask, and DUTS/DUTS-TE likewise", _duts, ("train", "test")
    ),
    "ecssd": KnownSet(
        ("ecssd",), "ECSSD/images and ECSSD/ground_truth_mask", _still_set(("images", "ground_truth_mask"))
    ),
    "davis-2016": KnownSet(
        _DAVIS,
        "DAVIS/JPEGImages/480p, Annotations/480p and ImageSets/480p/{train,val}.txt",
        _davis_2016,
        ("train", "val"),
    ),
    "davis-2017": KnownSet(
        _DAVIS,
        "DAVIS/JPEGImages/480p, Annotations/480p and ImageSets/2017/{train,val}.txt",
        _davis_2017,
        ("train", "val"),
    ),
    "fbms": KnownSet(
        ("fbms", "fbms59"),
        "FBMS_Trainingset/Trainingset/SEQUENCE and FBMS_Testset/Testset/SEQUENCE (or FBMS/Trainingset and FBMS/Testset)",
        _fbms,
        ("train", "test"),
    ),
    "visal": KnownSet(("visal",), "ViSal/ViSal/SEQUENCE and ViSal/GroundTruth", _video_set("ViSal", "GroundTruth")),
    "segtrack-v2": KnownSet(
        ("segtrackv2", "segtrack2"),
        "SegTrackv2/JPEGImages/SEQUENCE and SegTrackv2/GroundTruth/SEQUENCE",
        _video_set("JPEGImages", "GroundTruth"),
    ),
}
