"""Argument types, and options that several commands share. Imports nothing heavy, so that --help answers at once."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pdb_saliency.options import THRESHOLD
from pdb_saliency.predict.outputs import OUTPUTS

_DEVICE_HELP = "auto, cpu, cuda, cuda:1, ... (default: auto, which uses a CUDA GPU if there is one)"


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    *,
    help: str,
    description: str,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    """The parser of a command, which calls `run` with the parsed arguments.

    Among them is `wrong_usage(message)`, which exits with code 2 as argparse does.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(name, help=help, description=description, epilog=epilog, formatter_class=raw)
    parser.set_defaults(command=run, wrong_usage=parser.error)
    return parser


# Options


def add_output(parser: argparse.ArgumentParser, **options: Any) -> None:
    parser.add_argument("-o", "--output", metavar="OUT", type=path_type, **options)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    weights_help = (
        "a name (`pdb-saliency info` lists them), or a .safetensors, .pth or .caffemodel file "
        "(default: the light model that comes with the package)"
    )
    parser.add_argument("--weights", metavar="W", help=weights_help)
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="D", help=_DEVICE_HELP)


def add_data_options(parser: Any) -> None:
    """--data-root and --broken, for all commands that read data sets. parser: or a group of options."""
    parser.add_argument("--data-root", metavar="ROOT", type=path_type, help="folder that holds the data sets")
    broken_help = "what to do about broken pairs (default: %(default)s)"
    parser.add_argument("--broken", choices=("refuse", "skip"), default="refuse", help=broken_help)


def add_threshold(parser: argparse.ArgumentParser, of: str = "the masks") -> None:
    threshold_help = f"threshold of {of}, 0 to 1 (default: %(default)s, the paper's)"
    parser.add_argument("--threshold", type=probability, default=THRESHOLD, metavar="T", help=threshold_help)


def add_workers(parser: argparse.ArgumentParser, name: str = "--workers", what: str = "processes", most: Any = None):
    """The number of processes, by default that of the CPUs. most: the largest number that is accepted."""
    workers_help = f"{what} (default: one per CPU, here %(default)s)"
    parser.add_argument(name, type=whole_number(1, most), default=os.cpu_count() or 1, metavar="N", help=workers_help)


def add_verbosity(
    parser: argparse.ArgumentParser,
    quiet: str = "print only errors: no progress, notes or final line",
    verbose: str = "also report source, model, device and speed",
) -> None:
    """--quiet and --verbose, which every command has; see `console.Verbosity`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help=quiet)
    group.add_argument("-v", "--verbose", action="store_true", help=verbose)


# Types. Each raises ArgumentTypeError, which argparse prints with the option's name.


def path(text: str) -> str:
    """For arguments that may also be a glob or a name."""
    if not text:  # An unset shell variable; Path("") would be the current folder.
        raise argparse.ArgumentTypeError("expected a path, got nothing")
    return text


def path_type(text: str) -> Path:
    return Path(path(text))


def whole_number(least: int = 1, most: int | None = None) -> Callable[[str], int]:
    """The type of whole numbers from `least` to `most`; None accepts up to 15 digits."""
    expected = f"from {least} to {most}" if most is not None else f"of at least {least}"

    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"[0-9]{1,15}", text) else -1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"expected a whole number {expected}, got {text!r}")
        return value

    return parse


def number(text: str) -> float:
    """A finite number of at least 0."""
    value = _float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def probability(text: str) -> float:
    value = _float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def size(text: str) -> tuple[int, int]:
    """(height, width)."""
    match = re.fullmatch(r"(\d{2,5})(?:x(\d{2,5}))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"expected pixels, as 257 or 257x449 (height x width), got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def kinds_list(text: str) -> list[str]:
    kinds = text.split(",")
    for kind in kinds:
        if kind not in OUTPUTS:
            raise argparse.ArgumentTypeError(f"expected a comma list of {', '.join(OUTPUTS)}, got {text!r}")
    return kinds


def _float(text: str) -> float:
    """NaN for text that is no number: every comparison with NaN is false."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
