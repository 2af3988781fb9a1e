"""`pdb-saliency data`: which data sets are there, and whether all their files can be read."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from .arguments import add_verbosity, path

_HELP = """\
List the data sets below ROOT, or only the SETs, and decode all their files.

A SET is a name with or without a split (duts, duts:train, davis-2016:val), or
the path of a folder. Known by name are msra10k, dut-omron, duts, ecssd,
davis-2016, davis-2017, fbms, visal and segtrack-v2, each in the layout in
which it is published; where one is missing, the folders that were expected are
named. Besides, any folder with images/ and masks/, or with
JPEGImages/SEQUENCE/ and Annotations/SEQUENCE/, is a data set.

A pair is broken when a file is missing or does not decode, picture and mask
differ in size, or a mask has no foreground. Each is told by name on stderr.
With --broken refuse, the exit code is then 1.
"""

_EXAMPLES = """\
examples:
  pdb-saliency data --data-root datasets
  pdb-saliency data --data-root datasets duts:train davis-2016
  pdb-saliency data my/own/set --broken skip
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "data",
        help="list and check data sets",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=show)
    parser.add_argument(
        "sets", nargs="*", metavar="SET", type=path, help="a name or a folder (default: all below ROOT)"
    )
    add_data_options(parser)
    add_verbosity(
        parser,
        "only errors, broken pairs and the listing: no progress and notes",
        "also tell where each set is, and the time",
    )


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--data-root and --broken, for all commands that read data sets."""
    parser.add_argument(
        "--data-root", metavar="ROOT", type=lambda text: Path(path(text)), help="folder that holds the data sets"
    )
    parser.add_argument(
        "--broken",
        choices=("refuse", "skip"),
        default="refuse",
        help="what to do about broken pairs (default: %(default)s)",
    )


def weighted_set(text: str) -> tuple[str, float]:
    """The type of `--train SET[=WEIGHT]`: the set and its weight, 1 unless given."""
    name, separator, number = path(text).rpartition("=")
    if not separator:
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if not 0 < weight < float("inf") or not name:
        raise argparse.ArgumentTypeError(f"expected SET or SET=WEIGHT with a positive number, got {text!r}")
    return name, weight


def show(arguments: argparse.Namespace) -> None:
    """The work of `pdb-saliency data`."""
    from pdb_saliency.data.sets.catalog import expected_at, find_datasets, open_dataset
    from pdb_saliency.data.sets.check import check_dataset
    from pdb_saliency.data.sets.published import KNOWN
    from pdb_saliency.errors import InputError

    from .console import tell, write_line

    root, refused = arguments.data_root, []
    if arguments.sets:
        datasets = [open_dataset(name, root) for name in arguments.sets]
    elif root is None:
        raise InputError("which data sets? expected --data-root ROOT, SETs, or both")
    else:
        unlisted: dict[str, InputError] = {}
        found = find_datasets(root, unlisted.__setitem__)
        datasets = list(found.values())
        for name in KNOWN:
            if not any(title.partition(":")[0] == name for title in [*found, *unlisted]):
                write_line(f"{name:24} not found; expected {expected_at(name, root)}")
        for title, error in unlisted.items():
            refused.append(title)
            tell("error", error)
            write_line(f"{title:24} cannot be listed; refused")
    for dataset in datasets:
        tell("info", f"{dataset.name}: below {_place(dataset)}")
        try:
            whole = check_dataset(dataset, broken=arguments.broken)
        except InputError as error:
            refused.append(dataset.name)
            tell("error", error)
            write_line(f"{dataset.name:24} {describe(dataset)}; refused")
        else:
            write_line(f"{dataset.name:24} {describe(whole)}")
    if refused:
        raise InputError(f"{len(refused)} data set{'s' * (len(refused) != 1)} refused: {', '.join(refused)}")
    if not datasets:
        raise InputError(f"no data set found in {root}")


def describe(dataset) -> str:
    """How many stills, videos and frames a Dataset has, in words."""
    parts = [_number(len(dataset.stills), "still")] if dataset.stills else []
    if dataset.videos:
        frames = sum(len(video.frames) for video in dataset.videos)
        annotated = sum(bool(paths) for video in dataset.videos for paths in video.masks)
        parts.append(f"{_number(len(dataset.videos), 'video')} of {_number(frames, 'frame')}, {annotated} annotated")
    return ", ".join(parts)


def _place(dataset) -> str:
    """The folder that all its frames are below."""
    files = [still.image for still in dataset.stills] + [frame for video in dataset.videos for frame in video.frames]
    return os.path.commonpath([file.parent for file in files]) if files else "a folder without frames"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
