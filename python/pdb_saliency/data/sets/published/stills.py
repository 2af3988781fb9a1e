"""Published sets of stills, as their archives look unpacked.

MSRA10K    MSRA10K_Imgs_GT/Imgs: NAME.jpg and NAME.png
DUT-OMRON  DUT-OMRON/DUT-OMRON-image + pixelwiseGT-new-PNG
DUTS       DUTS/DUTS-TR/DUTS-TR-Image + DUTS-TR-Mask (train), DUTS/DUTS-TE likewise (test)
ECSSD      ECSSD/images + ground_truth_mask
"""

from __future__ import annotations

from pathlib import Path

from pdb_saliency.data.sets.items import Still
from pdb_saliency.data.sets.layouts import stills_in_one_folder, subfolder

from .known_set import Items, KnownSet, still_folders


def _msra10k(folder: Path, split: str | None) -> Items:
    images = subfolder(folder, "Imgs")
    return (stills_in_one_folder(images) if images else ()), ()


def _duts(folder: Path, split: str | None) -> Items:
    stills: tuple[Still, ...] = ()
    for name, part in {"train": "DUTS-TR", "test": "DUTS-TE"}.items():
        if split in (None, name):
            inner = still_folders((f"{part}/{part}-Image", f"{part}/{part}-Mask"), (f"{part}-Image", f"{part}-Mask"))
            stills += inner(folder, None)[0]
    return stills, ()


MSRA10K = KnownSet(("msra10kimgsgt", "msra10k"), "MSRA10K_Imgs_GT/Imgs", _msra10k)
DUT_OMRON = KnownSet(
    ("dutomron", "dutsomron"),
    "DUT-OMRON/DUT-OMRON-image and DUT-OMRON/pixelwiseGT-new-PNG",
    still_folders(
        ("DUT-OMRON-image", "pixelwiseGT-new-PNG"),
        ("DUT-OMRON-image/DUT-OMRON-image", "DUT-OMRON-gt-pixelwise.zip/pixelwiseGT-new-PNG"),
    ),
)
DUTS = KnownSet(
    ("duts",), "DUTS/DUTS-TR/DUTS-TR-Image and DUTS-TR-Mask, and DUTS/DUTS-TE likewise", _duts, ("train", "test")
)
ECSSD = KnownSet(("ecssd",), "ECSSD/images and ECSSD/ground_truth_mask", still_folders(("images", "ground_truth_mask")))
