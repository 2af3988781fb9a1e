"""Arguments that several commands share, and their types. Imports nothing heavy, so that --help answers at once."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from pdb_saliency.options import KINDS


def add_output(parser: argparse.ArgumentParser, **options: Any) -> None:
    parser.add_argument("-o", "--output", metavar="OUT", type=lambda text: Path(path(text)), **options)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        metavar="W",
        help="a name (`pdb-saliency info` lists them), or a .safetensors, .pth or .caffemodel file "
        "(default: the light model that comes with the package)",
    )
    device_help = "auto, cpu, cuda, cuda:1, ... (default: auto, which is CUDA where there is a GPU)"
    parser.add_argument("--device", default="auto", metavar="D", help=device_help)


def add_verbosity(
    parser: argparse.ArgumentParser,
    quiet: str = "only errors: no progress, notes and last line",
    verbose: str = "also tell source, model, device and speed",
) -> None:
    """--quiet and --verbose, which every command has; see `streams.Verbosity`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help=quiet)
    group.add_argument("-v", "--verbose", action="store_true", help=verbose)


def path(text: str) -> str:
    if not text:  # What an unset shell variable gives; Path("") would be the current folder.
        raise argparse.ArgumentTypeError("expected a path, got nothing")
    return text


def kinds_list(text: str) -> list[str]:
    kinds = text.split(",")
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"expected a comma list of {', '.join(KINDS)}, got {text!r}")
    return kinds


def probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # Also false for NaN.
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{2,5})(?:x(\d{2,5}))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected pixels, as 257 or 257x449 (height x width), got {text!r}")
    return int(match[1]), int(match[2] or match[1])
