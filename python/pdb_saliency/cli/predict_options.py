"""How `predict` cuts a video into clips and runs the network: the options, and their check."""

from __future__ import annotations

import argparse

from pdb_saliency.options import CLIP_LENGTH, PRECISIONS, EngineOptions


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("clips and speed")
    length_help = "frames that the network sees together (default: %(default)s, the authors')"
    group.add_argument("--clip-length", type=positive, default=CLIP_LENGTH, metavar="N", help=length_help)
    overlap_help = "frames that neighbouring clips share; the maps there are blended (default: 0, the authors')"
    group.add_argument("--overlap", type=natural, default=0, metavar="N", help=overlap_help)
    causal_help = (
        "for live sources: every map comes with its frame, from this and earlier frames alone; the forward layer's state "
        "is carried on from frame to frame, and there are no clips"
    )
    group.add_argument("--causal", action="store_true", help=causal_help)
    batch_help = "frames that go through the backbone together (default: one on a CPU, 16 on a GPU)"
    group.add_argument("--batch", type=positive, metavar="N", help=batch_help)
    precision_help = f"{', '.join(PRECISIONS)} (default: auto, float16 on a CUDA GPU, else float32)"
    group.add_argument("--precision", choices=PRECISIONS, default="auto", metavar="P", help=precision_help)
    group.add_argument(
        "--compile", action="store_true", help="torch.compile the network first; needs a compiler, and minutes"
    )
    parser.set_defaults(wrong_usage=parser.error)


def engine_options(arguments: argparse.Namespace) -> EngineOptions:
    """Ends the program with exit code 2, as argparse does, where options contradict each other."""
    names = ("clip_length", "overlap", "causal", "batch", "precision", "compile")
    try:
        return EngineOptions(**{name: getattr(arguments, name) for name in names})
    except ValueError as error:
        arguments.wrong_usage(str(error))


def positive(text: str) -> int:
    return _at_least(1, text)


def natural(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= 10**6:
        raise argparse.ArgumentTypeError(f"expected a number from {least} to 1000000, got {text!r}")
    return int(text)
