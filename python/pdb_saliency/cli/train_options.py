"""The options of `pdb-saliency train` and their types. Imports nothing heavy, so that --help answers at once."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from .arguments import add_output, add_verbosity, path, size
from .data import add_data_options, weighted_set

STAGES = ("spatial", "temporal", "joint")
CLIP_KINDS = ("copies", "camera", "cutouts", "video")
MOTIONS = ("none", "residual")
TEMPORAL_KINDS = ("fc_lstm", "convlstm", "b_convlstm", "db_convlstm", "pdb_convlstm")

HELP = """\
Train a model in the paper's two stages, and a third one:

  --stage spatial   backbone, PDC and head, frame by frame
  --stage temporal  the temporal module and the head on clips, with the spatial
                    weights frozen; goes on from --from
  --stage joint     all weights, at a low rate; goes on from --from

OUT receives checkpoints/, log.jsonl, tensorboard/, best.safetensors (the model
with the best max F of all validations), and at the end model.safetensors and
metrics.json. The same command goes on after an interruption: Ctrl-C saves
first; a killed run goes on from its last checkpoint, to the same result.

  --preset paper    SGD at the paper's rate 1e-6, which is Caffe's for a sum
                    over 473x473 pixels and so 0.224 for the mean loss taken
                    here; momentum 0.9, weight decay 0.0005 in the same units,
                    five frames a step; the paper names no number of steps.
                    For ResNet-50, --backbone-weights should be given.
  --preset modern   AdamW, warm-up and cosine, averaged weights, bfloat16 where
                    the GPU has it, a fifth of the rate for the backbone

Batch normalisation of the ImageNet backbone stays frozen; that of the other
layers is trained in stage spatial and frozen afterwards (--batch-norm).

A SET is the name of a data set below ROOT (`pdb-saliency data --help`) or a
folder. SET=WEIGHT counts each of its pictures WEIGHT times. Clips are made in
four ways, whose shares --clips gives: copies (a still, repeated), camera (a
still under a moving camera), cutouts (masked objects moving over another
still), video.

--size is that of training, and --input-size that of validation and `predict`,
which is stored in the model. They may differ: a small --size saves time, and a
network predicts well at somewhat larger sizes than it was trained at.

Several processes (--devices, torchrun) share every batch and give the losses of
one; --batch must be a multiple of their number. Only --accumulate takes the
statistics of batch normalisation, where that is trained, from parts of it.
"""

EXAMPLES = """\
examples:
  pdb-saliency train --stage spatial --data-root data --train msra10k \\
      --train dut-omron --train davis-2016:train --val davis-2016:val \\
      --backbone-weights resnet50-imagenet.pth -o runs/spatial
  pdb-saliency train --stage temporal --from runs/spatial --data-root data \\
      --train davis-2016:train --val davis-2016:val -o runs/temporal
  pdb-saliency train --stage spatial --preset modern --model lite --size 257 \\
      --train stills/ --val videos/ -o runs/lite
  pdb-saliency train --stage temporal --preset modern --from runs/lite \\
      --train stills/ --clips camera=1,cutouts=2 --cache 4000 \\
      --val videos/ -o runs/lite-temporal
  pdb-saliency train --stage temporal --preset modern --from runs/lite \\
      --train stills/ --preview samples.png -o runs/lite-temporal
  torchrun --no-python --nproc-per-node 8 \\
      pdb-saliency train --batch 40 --stage spatial ...
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", required=True, choices=STAGES, help="what is trained, see above")
    parser.add_argument(
        "--preset", default="paper", choices=("paper", "modern"), help="hyper-parameters (default: paper)"
    )
    add_output(parser, required=True, help="folder of the run; made if absent")
    _add_model(parser.add_argument_group("model"))
    _add_data(parser.add_argument_group("data"))
    _add_hyper_parameters(parser.add_argument_group("hyper-parameters (default: the preset's)"))
    _add_machine(parser.add_argument_group("machine and records"))
    add_verbosity(parser, verbose="also tell model, device, precision and time")


def _add_model(group: Any) -> None:
    group.add_argument(
        "--model", choices=("lite", "paper", "released"), help="the network (default: paper, or that of --from)"
    )
    group.add_argument(
        "--temporal", choices=TEMPORAL_KINDS, help="temporal module (default: that of --from, or pdb_convlstm)"
    )
    help_text = "what the temporal module sees besides the features (default: that of --model or --from)"
    group.add_argument("--motion", choices=MOTIONS, help=help_text)
    group.add_argument("--from", dest="start", metavar="MODEL", type=path, help="model file or run to go on from")
    help_text = "pixels at which the model predicts (default: its own; released: fixed)"
    group.add_argument("--input-size", type=size, metavar="N|HxW", help=help_text)
    help_text = "ImageNet weights for ResNet-50: a .pth with torchvision's names and a stem of three 3x3 convolutions"
    group.add_argument("--backbone-weights", metavar="FILE", type=_path, help=help_text)


def _add_data(group: Any) -> None:
    add_data_options(group)
    help_text = "data set to train on; may be given many times"
    group.add_argument(
        "--train", metavar="SET[=WEIGHT]", type=weighted_set, action="append", required=True, help=help_text
    )
    help_text = "data set of videos to validate on; may be given many times"
    group.add_argument("--val", metavar="SET", type=path, action="append", default=[], help=help_text)
    help_text = (
        "kinds of clips and their shares, as camera=1,cutouts=2 (default: paper: video=1, or copies=1 without videos; "
    )
    help_text += "modern: all four alike; stage spatial: every still and every annotated frame alike)"
    group.add_argument("--clips", metavar="KIND=SHARE,...", type=clip_shares, help=help_text)
    group.add_argument("--cutouts", metavar="DIR", type=_path, help="folder of more cut-outs: pictures with alpha")
    help_text = "only write a picture of samples to this file, and train nothing"
    group.add_argument("--preview", metavar="FILE", type=_path, help=help_text)


def _add_hyper_parameters(group: Any) -> None:
    group.add_argument("--steps", type=positive, metavar="N", help="steps of the optimiser")
    group.add_argument("--batch", type=positive, metavar="N", help="samples a step, in all processes together")
    group.add_argument("--length", type=positive, metavar="H", help="frames of a clip")
    group.add_argument(
        "--size",
        type=size,
        metavar="N|HxW",
        help="pixels of training (default: the model's input size, square if that depends on the frames)",
    )
    group.add_argument("--lr", type=number, metavar="R", help="learning rate, for the mean loss")
    group.add_argument("--backbone-lr", type=number, metavar="F", help="factor on it for the backbone")
    group.add_argument("--weight-decay", type=number, metavar="W", help="weight decay")
    group.add_argument("--warmup", type=count, metavar="N", help="steps of linear rise")
    group.add_argument(
        "--iou", dest="iou_weight", type=number, metavar="W", help="weight of a soft IoU loss (default: 0)"
    )
    group.add_argument("--ema", type=number, metavar="D", help="decay of the average of the weights, 0 for none")
    group.add_argument("--batch-norm", choices=("frozen", "new_layers", "train"), help="batch normalisation")
    help_text = "parameters to leave as they are, by name, as 'spatial.backbone.stem.*'; may be given many times"
    group.add_argument("--freeze", metavar="PATTERN", type=path, action="append", help=help_text)
    group.add_argument("--augmentation", choices=("paper", "modern", "none"), help="changes made to each clip")
    group.add_argument("--seed", type=count, metavar="N", help="of weights and data (default: 0)")
    help_text = "stage temporal: store the frozen features of N samples, and train on these again and again"
    group.add_argument("--cache", type=count, metavar="N", help=help_text)


def _add_machine(group: Any) -> None:
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: CUDA where there is a GPU)"
    )
    help_text = "processes on this machine, one for each GPU (default: 1; torchrun's where it started this)"
    group.add_argument("--devices", type=positive, default=1, metavar="N", help=help_text)
    group.add_argument("--precision", choices=("auto", "32-true", "bf16-mixed"), help="(default: the preset's)")
    group.add_argument(
        "--accumulate", type=positive, metavar="N", help="compute a step in N parts, for less memory (default: 1)"
    )
    group.add_argument(
        "--workers", type=count, metavar="N", help="processes that make samples (default: 1, with a GPU 8)"
    )
    help_text = "steps between validations (default: %(default)s; 0: none)"
    group.add_argument("--validate", type=count, default=500, metavar="N", help=help_text)
    help_text = "validate on every N-th clip only (default: %(default)s)"
    group.add_argument("--val-every", type=positive, default=1, metavar="N", help=help_text)
    help_text = "steps between checkpoints (default: %(default)s)"
    group.add_argument("--checkpoint", type=positive, default=200, metavar="N", help=help_text)
    help_text = "steps between scalars in the log (default: %(default)s)"
    group.add_argument("--scalars", type=count, default=10, metavar="N", help=help_text)


def clip_shares(text: str) -> dict[str, float]:
    shares = {}
    for part in text.split(","):
        kind, equals, share = part.partition("=")
        if kind not in CLIP_KINDS or kind in shares:
            expected = f"expected a comma list of KIND=SHARE, each of {', '.join(CLIP_KINDS)} at most once"
            raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
        shares[kind] = number(share) if equals else 1.0
    if not any(shares.values()):
        raise argparse.ArgumentTypeError(f"expected a share above 0, got {text!r}")
    return shares


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    value = count(text)
    if not value:
        raise argparse.ArgumentTypeError("expected a whole number of at least 1, got 0")
    return value


def _path(text: str) -> Path:
    return Path(path(text))
