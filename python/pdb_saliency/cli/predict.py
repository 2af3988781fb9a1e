"""`pdb-saliency predict`: saliency maps of videos."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any

from pdb_saliency.predict.outputs import OUTPUTS
from pdb_saliency.predict.worklist import Job, Share, find_jobs, work_through
from pdb_saliency.runtime.processes import sigterm_like_ctrl_c

from .arguments import (
    add_command,
    add_model_options,
    add_output,
    add_threshold,
    add_verbosity,
    add_workers,
    kinds_list,
    path,
    path_type,
)
from .console import say
from .engine_options import add_engine_options, engine_options

_HELP_WIDTH = 79

_HELP = """\
Write a saliency map for every frame of a video, a folder of frames, or a glob.

{kinds}

Pictures have the size of their frame. NAME is the frame's file name without
its suffix; the frames of a video are 00000, 00001, ... Frames are taken in
natural order: 2.jpg before 10.jpg. Videos are H.264 with the source's sound if
ffmpeg is installed, else MPEG-4 without sound; the first frame sets their
size. The numbers in frames.jsonl describe the mask; confidence is the mean
saliency on it.

Files of an earlier run are overwritten, never deleted. If a frame cannot be
read, the results of all frames before it are written, and the exit code is 1.
OUT/run.json records the run. After an interruption, the same command with
--resume continues and gives the same results; if everything is done already,
it does nothing.

Several INPUTs, a folder of videos or of folders of frames, and the lines of
--list files form one work list. Each video gets a folder in OUT, named after
it, and a line when it is done. If a video fails, the others are still
processed, and the exit code is 1. Under torchrun the processes share the list,
and each uses the GPU with its local rank.
"""

_EXAMPLES = """\
examples:
  pdb-saliency predict clip.mp4 -o out
  pdb-saliency predict frames/ -o out --save maps,masks,video
  pdb-saliency predict 'frames/*.jpg' -o out --weights net.caffemodel
  pdb-saliency predict clip.mp4 -o out --save report,json --crf
  pdb-saliency predict clip.mp4 -o out --save cutout-webm --threshold 0.5
  pdb-saliency predict long.mkv -o out --save maps,video --resume
  pdb-saliency predict a.mp4 b.mp4 films/ -o out
  torchrun --no-python --nproc-per-node 4 \\
      pdb-saliency predict --list films.txt -o out

exit codes: 0 done, 1 failed (one line on stderr says what), 2 wrong usage,
130 interrupted by Ctrl-C or SIGTERM
"""


def add_parser(commands: Any) -> None:
    help = "saliency of a video or of frames"
    description = _HELP.format(kinds=_kinds_help())
    parser = add_command(commands, "predict", predict, help=help, description=description, epilog=_EXAMPLES)
    _add_inputs(parser)
    _add_outputs(parser)
    add_model_options(parser)
    add_engine_options(parser)
    add_verbosity(parser)


def predict(arguments: argparse.Namespace) -> None:
    engine = engine_options(arguments)
    jobs, share = _jobs(arguments), Share.from_environment()
    from pdb_saliency.predict.job import PredictOptions, predict_video

    options = PredictOptions(
        arguments.save,
        arguments.threshold,
        arguments.weights,
        arguments.device,
        arguments.crf_workers if arguments.crf else 0,
        arguments.resume,
        engine,
    )
    if len(jobs) == 1 and share.world == 1:
        with sigterm_like_ctrl_c():
            summary = predict_video(jobs[0].source, jobs[0].out, options)
        say(str(summary))
        return
    engine = options.make_engine()  # Before the work: an error here would fail every video.

    @sigterm_like_ctrl_c()
    def process(job: Job) -> str:
        return str(predict_video(job.source, job.out, options, engine))

    work_through(jobs, share, process, say)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    input_help = "a video file, a folder of frames, a quoted glob, or a folder of such; several form a work list"
    parser.add_argument("input", metavar="INPUT", type=path, nargs="*", help=input_help)
    list_help = "text file with one INPUT per line, # for comments (may be given more than once)"
    parser.add_argument("--list", metavar="FILE", type=path_type, action="append", default=[], help=list_help)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    add_output(parser, required=True, help="folder for the results; created if absent")
    save_help = "comma-separated list of kinds, see above (default: maps)"
    save = parser.add_argument("--save", type=kinds_list, default=["maps"], metavar="KINDS", help=save_help)
    save.completer = _complete_kinds
    add_threshold(parser)
    crf_help = (
        'refine the maps by a dense CRF, the paper\'s "Ours+" (the extra `crf`; about a second per frame and process)'
    )
    parser.add_argument("--crf", action="store_true", help=crf_help)
    add_workers(parser, "--crf-workers", "processes of the CRF", most=1024)
    resume_help = "continue an interrupted run in OUT; unless maps are saved, the first run needs this option too"
    parser.add_argument("--resume", action="store_true", help=resume_help)


def _jobs(arguments: argparse.Namespace) -> list[Job]:
    """Exits with code 2 if no input is named, or if the shell has expanded a glob. Raises InputError."""
    if not arguments.input and not arguments.list:
        arguments.wrong_usage("expected an INPUT, or --list FILE")
    if len(arguments.input) > 1:
        from pdb_saliency.video.pictures import IMAGE_SUFFIXES

        if all(Path(text).suffix.lower() in IMAGE_SUFFIXES for text in arguments.input):
            names = f"{arguments.input[0]}, {arguments.input[1]}"
            arguments.wrong_usage(
                f"got pictures ({names}, ...): name their folder; a glob must be quoted: 'frames/*.jpg'"
            )
    return find_jobs(arguments.input, arguments.list, arguments.output)


def _kinds_help() -> str:
    """The table of all kinds of results, two columns wide."""
    column = max(map(len, OUTPUTS))
    lines = []
    for kind in OUTPUTS.values():
        needs = f" (needs {kind.needs})" if kind.needs else ""
        first = f"  --save {kind.name:{column}} "
        lines += textwrap.wrap(
            f"OUT/{kind.files}: {kind.help}{needs}",
            _HELP_WIDTH,
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_on_hyphens=False,
            break_long_words=False,
        )
    return "\n".join(lines)


def _complete_kinds(prefix: str, **_: object) -> list[str]:
    """For shells: the last kind of the list."""
    before, comma, _rest = prefix.rpartition(",")
    return [f"{before}{comma}{kind}" for kind in OUTPUTS if kind not in before.split(",")]
