"""The options of `pdb-saliency train` and their types. Imports nothing heavy, so that --help answers at once."""

from __future__ import annotations

import argparse
from typing import Any

from pdb_saliency.options import (
    AUGMENTATIONS,
    BATCH_NORMS,
    CLIP_KINDS,
    MOTIONS,
    NETWORKS,
    PRESETS,
    STAGES,
    TEMPORAL_KINDS,
    TRAINING_PRECISIONS,
)

from .arguments import add_data_options, add_output, add_verbosity, number, path, path_type, size, whole_number

positive, count = whole_number(1), whole_number(0)

HELP = """\
Train a model in the paper's two stages, and in a third one:

  --stage spatial   backbone, PDC and head, frame by frame
  --stage temporal  the temporal module and the head on clips, with the spatial
                    weights frozen; starts from --from
  --stage joint     all weights, at a low rate; starts from --from

OUT receives checkpoints/, log.jsonl, tensorboard/, best.safetensors (the model
with the best max F of all validations), and at the end model.safetensors and
metrics.json. After an interruption, give the same command again: Ctrl-C saves
before it stops, and a run that was killed goes on from its last checkpoint. The
result is the same as without the interruption.

  --preset paper    SGD at the paper's rate of 1e-6. That is Caffe's rate for a
                    sum over 473x473 pixels, and so 0.224 for the mean loss used
                    here; momentum 0.9, weight decay 0.0005 in the same units,
                    five frames a step. The paper does not name the number of
                    steps. Use it for ResNet-50 with --backbone-weights.
  --preset modern   AdamW, warm-up and cosine, averaged weights, bfloat16 if
                    the GPU supports it, a fifth of the rate for the backbone

The batch normalisation of the ImageNet backbone stays frozen; that of the other
layers is trained in stage spatial and frozen in later stages (--batch-norm).

A SET is the name of a data set below ROOT (see `pdb-saliency data --help`) or a
folder. SET=WEIGHT counts each of its pictures WEIGHT times. There are four
kinds of clips, and --clips gives their shares: copies (a still, repeated),
camera (a still under a moving camera), cutouts (objects cut out by their masks,
moving over another still), and video.

--size is the size of the frames in training; --input-size, that of validation
and `predict`, is stored in the model. They may differ: a small --size saves
time, and a network predicts well at sizes somewhat larger than it was trained
at.

With several processes (--devices, torchrun), every batch is divided among them,
and the losses are those of one process; --batch must be a multiple of their
number. With --accumulate, batch normalisation that is trained uses the
statistics of the parts of a batch.
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
    parser.add_argument("--preset", default="paper", choices=PRESETS, help="hyper-parameters (default: paper)")
    add_output(parser, required=True, help="folder of the run; created if absent")
    _add_model(parser.add_argument_group("model"))
    _add_data(parser.add_argument_group("data"))
    _add_hyper_parameters(parser.add_argument_group("hyper-parameters (default: those of the preset)"))
    _add_machine(parser.add_argument_group("machine and records"))
    add_verbosity(parser, verbose="also report model, device, precision and time")


def _add_model(group: Any) -> None:
    help_text = "the network (default: that of --from, or paper without --from)"
    group.add_argument("--model", choices=NETWORKS, help=help_text)
    help_text = "temporal module (default: that of --from, or pdb_convlstm)"
    group.add_argument("--temporal", choices=TEMPORAL_KINDS, help=help_text)
    help_text = "what the temporal module sees besides the features (default: that of --model or --from)"
    group.add_argument("--motion", choices=MOTIONS, help=help_text)
    group.add_argument("--from", dest="start", metavar="MODEL", type=path, help="model file or run to start from")
    help_text = "pixels at which the model predicts (default: its own; released: fixed)"
    group.add_argument("--input-size", type=size, metavar="N|HxW", help=help_text)
    help_text = "ImageNet weights for ResNet-50: a .pth with torchvision's names and a stem of three 3x3 convolutions"
    group.add_argument("--backbone-weights", metavar="FILE", type=path_type, help=help_text)


def _add_data(group: Any) -> None:
    add_data_options(group)
    help_text = "data set to train on; may be given several times"
    group.add_argument(
        "--train", metavar="SET[=WEIGHT]", type=weighted_set, action="append", required=True, help=help_text
    )
    help_text = "data set of videos to validate on; may be given several times"
    group.add_argument("--val", metavar="SET", type=path, action="append", default=[], help=help_text)
    help_text = (
        "kinds of clips and their shares, as camera=1,cutouts=2 (default: paper: video=1, or copies=1 without videos; "
        "modern: all four alike; stage spatial: every still and every annotated frame alike)"
    )
    group.add_argument("--clips", metavar="KIND=SHARE,...", type=clip_shares, help=help_text)
    help_text = "folder of further cut-outs: pictures with an alpha channel"
    group.add_argument("--cutouts", metavar="DIR", type=path_type, help=help_text)
    help_text = "only write a picture of some samples to this file, and train nothing"
    group.add_argument("--preview", metavar="FILE", type=path_type, help=help_text)


def _add_hyper_parameters(group: Any) -> None:
    group.add_argument("--steps", type=positive, metavar="N", help="steps of the optimizer")
    group.add_argument("--batch", type=positive, metavar="N", help="samples a step, in all processes together")
    group.add_argument("--length", type=positive, metavar="H", help="frames of a clip")
    help_text = "pixels of training (default: the model's input size, square if that depends on the frames)"
    group.add_argument("--size", type=size, metavar="N|HxW", help=help_text)
    group.add_argument("--lr", type=number, metavar="R", help="learning rate, for the mean loss")
    group.add_argument("--backbone-lr", type=number, metavar="F", help="factor on the rate for the backbone")
    group.add_argument("--weight-decay", type=number, metavar="W", help="weight decay")
    group.add_argument("--warmup", type=count, metavar="N", help="steps of linear rise of the rate")
    help_text = "weight of a soft IoU loss (default: 0)"
    group.add_argument("--iou", dest="iou_weight", type=number, metavar="W", help=help_text)
    group.add_argument("--ema", type=number, metavar="D", help="decay of the moving average of the weights, 0 for none")
    group.add_argument("--batch-norm", choices=BATCH_NORMS, help="which batch normalisation is trained")
    help_text = "parameters that are not trained, by name, as 'spatial.backbone.stem.*'; may be given several times"
    group.add_argument("--freeze", metavar="PATTERN", type=path, action="append", help=help_text)
    group.add_argument("--augmentation", choices=AUGMENTATIONS, help="random changes made to each clip")
    group.add_argument("--seed", type=count, metavar="N", help="of weights and data (default: 0)")
    help_text = "stage temporal: store the frozen features of N samples, and train on these again and again"
    group.add_argument("--cache", type=count, metavar="N", help=help_text)


def _add_machine(group: Any) -> None:
    help_text = "(default: auto, which uses a CUDA GPU if there is one)"
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=help_text)
    help_text = "processes on this machine, one for each GPU (default: 1; under torchrun, its number)"
    group.add_argument("--devices", type=positive, default=1, metavar="N", help=help_text)
    group.add_argument("--precision", choices=TRAINING_PRECISIONS, help="(default: the preset's)")
    help_text = "compute a step in N parts, to save memory (default: 1)"
    group.add_argument("--accumulate", type=positive, metavar="N", help=help_text)
    help_text = "processes that make samples (default: 8 with a GPU, else 1)"
    group.add_argument("--workers", type=count, metavar="N", help=help_text)
    help_text = "steps between validations (default: %(default)s; 0: none)"
    group.add_argument("--validate", type=count, default=500, metavar="N", help=help_text)
    help_text = "validate on every n-th clip only (default: %(default)s)"
    group.add_argument("--val-every", type=positive, default=1, metavar="N", help=help_text)
    help_text = "steps between checkpoints (default: %(default)s)"
    group.add_argument("--checkpoint", type=positive, default=200, metavar="N", help=help_text)
    help_text = "steps between scalars in the log (default: %(default)s)"
    group.add_argument("--scalars", type=count, default=10, metavar="N", help=help_text)


def clip_shares(text: str) -> dict[str, float]:
    """The type of `--clips KIND=SHARE,...`: shares by kind; a kind alone has share 1."""
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


def weighted_set(text: str) -> tuple[str, float]:
    """The type of `--train SET[=WEIGHT]`: the set and its weight, 1 by default."""
    name, separator, weight = path(text).rpartition("=")
    if not separator:
        return text, 1.0
    try:
        parsed = number(weight)
    except argparse.ArgumentTypeError:
        parsed = 0.0
    if not parsed or not name:
        raise argparse.ArgumentTypeError(f"expected SET or SET=WEIGHT with a positive number, got {text!r}")
    return name, parsed
