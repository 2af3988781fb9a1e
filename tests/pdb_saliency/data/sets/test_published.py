"""The registry of published data sets: adding one takes an entry, and everything that names data sets knows it."""

import numpy as np
import pytest

from helpers import dataset_folders as folders
from helpers.console import help_of
from helpers.console import run_data as run
from helpers.dataset_folders import box_mask, picture, save
from pdb_saliency.data.mix import mix_clips
from pdb_saliency.data.sets.catalog import find_datasets, open_dataset
from pdb_saliency.data.sets.items import Still
from pdb_saliency.data.sets.published import KNOWN
from pdb_saliency.data.sets.published.known_set import KnownSet
from pdb_saliency.data.stream import SampleStream
from pdb_saliency.errors import InputError
from pdb_saliency.model.input import InputSpec


def open_toy(folder, split):
    """TOY/SPLIT/NAME.bmp, with masks NAME.pbm, in which white is the background."""
    stills = []
    for part in ("easy", "hard"):
        if split in (None, part):
            stills += [
                Still(path.stem, path, path.with_suffix(".pbm")) for path in sorted((folder / part).glob("*.bmp"))
            ]
    return tuple(stills), ()


TOY = KnownSet(
    ("toy",),
    "TOY/{easy,hard}/NAME.bmp",
    open_toy,
    ("easy", "hard"),
    aliases={"val": "hard"},
    mask_formats={".pbm": lambda image, path: np.where(image[..., 0] > 0, np.uint8(0), np.uint8(255))},
)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A data root with the toy set, in a layout that nothing else recognises."""
    monkeypatch.setitem(KNOWN, "toy", TOY)
    for part, count in (("easy", 3), ("hard", 2)):
        for number in range(count):
            save(tmp_path / f"TOY/{part}/{number}.bmp", picture(number))
            save(tmp_path / f"TOY/{part}/{number}.pbm", 255 - box_mask(number))
    return tmp_path


def test_a_new_set_is_opened_by_name_and_split(toy):
    assert len(open_dataset("toy", toy).stills) == 5
    assert len(open_dataset("toy:easy", toy).stills) == 3
    assert open_dataset("toy:val", toy).stills == open_dataset("toy:hard", toy).stills
    assert len(open_dataset(f"{toy / 'TOY'}:hard").stills) == 2
    assert list(find_datasets(toy)) == ["toy:easy", "toy:hard"]


def test_a_new_set_is_named_in_messages(toy):
    with pytest.raises(InputError, match="toy has the splits easy, hard"):
        open_dataset("toy:train", toy)
    with pytest.raises(InputError, match="or one of msra10k, .*, toy$"):
        open_dataset("nothing", toy)
    (toy / "TOY").rename(toy / "elsewhere")
    with pytest.raises(InputError, match="toy not found; expected in .*TOY/{easy,hard}/NAME.bmp"):
        open_dataset("toy", toy)


def test_a_new_set_is_listed_and_in_the_help(toy, capsys):
    run("--data-root", toy)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "not found" not in line] == [
        "toy:easy                 3 stills",
        "toy:hard                 2 stills",
    ]
    words = help_of(["data"], capsys).split()
    for name in KNOWN:
        assert f"{name}," in words or f"{name}." in words


def test_a_new_set_becomes_training_samples(toy):
    mix = mix_clips([(open_dataset("toy:easy", toy), 1)], {"copies": 1})
    spec = InputSpec(folders.HEIGHT, folders.WIDTH, bgr=True, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    stream = SampleStream(mix.sources, mix.weights, spec, length=2, seed=0, count=4, augmentation=None)
    sample = stream[0]
    number = int(sample["name"])
    np.testing.assert_array_equal(sample["clip"][1].permute(1, 2, 0).numpy(), picture(number))
    np.testing.assert_array_equal(sample["mask"][1, 0].numpy(), box_mask(number) / 255)


def test_no_two_sets_claim_the_same_mask_format():
    """Masks are read by path, so a suffix must say to which set they belong."""
    suffixes = [suffix for known in KNOWN.values() for suffix in known.mask_formats]
    assert len(suffixes) == len(set(suffixes))
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes)
