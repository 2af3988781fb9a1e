"""`pdb-saliency predict`: the main job, with its words to the user."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdb_saliency.options import THRESHOLD, EngineOptions
from pdb_saliency.predict.worklist import Share, device_of_process, work_through
from pdb_saliency.runtime.processes import sigterm_like_ctrl_c

from . import output_options
from .arguments import add_model_options, add_verbosity
from .console import say, tell
from .predict_inputs import add_inputs, jobs_of
from .predict_options import add_engine_options, engine_options

if TYPE_CHECKING:
    from pdb_saliency.inference.engine import Engine
    from pdb_saliency.predict.outputs.writer import ResultWriter

_HELP = f"""\
Write a saliency map for every frame of a video, a folder of frames, or a glob.

{output_options.HELP}
Pictures have the size of their frame. NAME is the frame's file name without
its suffix; a video's frames are 00000, 00001, ... Frames are taken in natural
order: 2.jpg before 10.jpg. Videos are H.264 with the source's sound where
ffmpeg is at hand, else silent MPEG-4. Files of an earlier run are overwritten,
never deleted. When a frame cannot be read, the results of all frames before it
are written, and the exit code is 1. OUT/run.json records the run; with
--resume the same command goes on after an interruption, to the same results,
and does nothing where all is done.

Several INPUTs, a folder of videos, or of folders of frames, and the lines of
--list files are one work list: each video gets a folder below OUT, called by
its name, and a line when it is done. One that fails does not stop the rest;
the exit code is then 1. Under torchrun the processes share the list, and each
takes the GPU of its number.
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


@dataclass(frozen=True)
class Options:
    """How to do it: see `pdb-saliency predict --help`."""

    kinds: Sequence[str]
    threshold: float = THRESHOLD
    weights: str | None = None
    device: str = "auto"
    crf_workers: int = 0  # 0: no CRF.
    resume: bool = False
    engine: EngineOptions = EngineOptions()

    def make_engine(self) -> Engine:
        from pdb_saliency.inference.engine import Engine, resolve_device
        from pdb_saliency.model.weights import load_model

        device = resolve_device(device_of_process(self.device))
        model = load_model(self.weights)
        if model.untrained:
            tell("note", model.untrained)
        tell("info", f"{model.description}, on {device}")
        return Engine(model, device, self.engine)

    def settings(self, text: str, source: Any) -> dict[str, Any]:
        """Everything that the results depend on, for resume.Run."""
        from pdb_ext import __version__
        from pdb_saliency.predict.resume import fingerprint

        weights = (
            f"{self.weights} {fingerprint([self.weights])}"
            if self.weights and Path(self.weights).exists()
            else self.weights
        )
        return {
            "version": __version__,
            "input": text,
            "content": fingerprint(source.files),
            "weights": weights,
            "save": sorted(set(self.kinds)),
            "threshold": self.threshold,
            "crf": self.crf_workers > 0,
            "clip length": self.engine.clip_length,
            "overlap": self.engine.overlap,
            "causal": self.engine.causal,
            "precision": self.engine.precision,
        }


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "predict",
        help="saliency of a video or of frames",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_predict)
    add_inputs(parser)
    output_options.add_output_options(parser)
    add_model_options(parser)
    add_engine_options(parser)
    add_verbosity(parser)


def _predict(arguments: argparse.Namespace) -> None:
    options = Options(
        arguments.save,
        arguments.threshold,
        arguments.weights,
        arguments.device,
        arguments.crf_workers if arguments.crf else 0,
        arguments.resume,
        engine_options(arguments),
    )
    jobs, share = jobs_of(arguments), Share.from_environment()
    if len(jobs) == 1 and share.world == 1:
        line = process(jobs[0].source, jobs[0].out, options, options.make_engine)
        say(line)
    else:
        engine = options.make_engine()  # Before the work: what is wrong with it would fail every video.
        work_through(jobs, share, lambda job: process(job.source, job.out, options, lambda: engine), say)


@sigterm_like_ctrl_c()
def process(text: str, out: Path, options: Options, make_engine: Callable[[], Engine]) -> str:
    """Do one video; returns a line about what was written. Raises SaliencyError."""
    from pdb_saliency.video.source import open_source

    source = open_source(text)

    # Only now, so that a mistyped path is told at once.
    from pdb_saliency.predict.job import run
    from pdb_saliency.predict.resume import Run

    run_of = Run(out, options.settings(text, source), "maps" in options.kinds, options.resume)
    earlier = run_of.earlier() if options.resume else None
    if earlier == "complete":
        return f"{out}: everything is there already, by the same command"
    engine = make_engine()
    rate = f"{source.fps:.3f} frames/s" if source.fps else "no frame rate"
    tell("info", f"{text}: {'unknown number of' if source.count is None else source.count} frames, {rate}")
    began = time.monotonic()
    with _writers(text, out, options, source, engine, run_of.store) as (writer, results):
        if earlier:
            source = run_of.known(source)
        else:
            run_of.begin()
        run(source, engine, writer)
    run_of.complete(results.frames)
    for remark in [source.remark, *results.remarks()]:
        if remark:
            tell("note", remark)
    seconds = time.monotonic() - began
    tell("info", f"{seconds:.1f} s, {results.frames / seconds:.1f} frames/s, reading and writing included")
    return f"{results.frames} frame{'s' * (results.frames != 1)} -> {', '.join(map(str, results.outputs()))}"


@contextmanager
def _writers(
    text: str, out: Path, options: Options, source: Any, engine: Engine, store: Path | None
) -> Iterator[tuple[Any, ResultWriter]]:
    """(where results are to be written, the ResultWriter that receives them in the end)."""
    from pdb_ext import __version__
    from pdb_saliency.inference.crf import RefiningWriter, require
    from pdb_saliency.predict.outputs.videos import Film
    from pdb_saliency.predict.outputs.writer import ResultWriter
    from pdb_saliency.video.reader import VideoFile

    if options.crf_workers:
        require()  # Before any folder is made.
    film = Film(source.fps, source.count, source.path if isinstance(source, VideoFile) else None)
    facts = {
        "model": engine.network.description,
        "clips": _clips(options.engine),
        "threshold": f"{options.threshold:g}",
    }
    facts |= {"CRF": "yes" if options.crf_workers else "no", "made by": f"pdb-saliency {__version__}"}
    about = {"film": film, "title": Path(text).name, "facts": facts, "store": store}
    with ResultWriter(out, options.kinds, options.threshold, source.fps, source.files, **about) as results:
        if options.crf_workers:
            with RefiningWriter(results, options.crf_workers) as refining:
                yield refining, results
        else:
            yield results, results


def _clips(options: EngineOptions) -> str:
    if options.causal:
        return "none, causal"
    return f"{options.clip_length} frames" + (f", overlapping by {options.overlap}" if options.overlap else "")
