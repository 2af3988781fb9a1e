"""Options for how a video is cut into clips and how the network runs; `predict` and `bench` have them."""

from __future__ import annotations

import argparse

from pdb_saliency.options import CLIP_LENGTH, PRECISIONS, EngineOptions

from .arguments import whole_number

_MOST = 10**6


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("clips and speed")
    length_help = "frames that the network sees together (default: %(default)s, the authors')"
    group.add_argument("--clip-length", type=whole_number(1, _MOST), default=CLIP_LENGTH, metavar="N", help=length_help)
    overlap_help = "frames that neighbouring clips share; the maps there are blended (default: 0, the authors')"
    group.add_argument("--overlap", type=whole_number(0, _MOST), default=0, metavar="N", help=overlap_help)
    causal_help = (
        "for live sources: every map comes with its frame, computed from this and earlier frames alone; the state of "
        "the forward layer is carried from frame to frame, and there are no clips"
    )
    group.add_argument("--causal", action="store_true", help=causal_help)
    batch_help = "frames that go through the backbone together (default: 1 on a CPU, 16 on a GPU)"
    group.add_argument("--batch", type=whole_number(1, _MOST), metavar="N", help=batch_help)
    precision_help = f"{', '.join(PRECISIONS)} (default: auto: float16 on a CUDA GPU, else float32)"
    group.add_argument("--precision", choices=PRECISIONS, default="auto", metavar="P", help=precision_help)
    compile_help = "torch.compile the network first; needs a compiler and takes minutes"
    group.add_argument("--compile", action="store_true", help=compile_help)


def engine_options(arguments: argparse.Namespace) -> EngineOptions:
    """Exits with code 2, as argparse does, where options contradict each other."""
    names = ("clip_length", "overlap", "causal", "batch", "precision", "compile")
    try:
        return EngineOptions(**{name: getattr(arguments, name) for name in names})
    except ValueError as error:
        arguments.wrong_usage(str(error))
