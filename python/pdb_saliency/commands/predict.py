"""`pdb-saliency predict`: the main job, with its words to the user."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..options import THRESHOLD, EngineOptions
from ..streams import Verbosity, tell, write
from . import output_options
from .arguments import add_model_options, add_verbosity, path
from .predict_options import add_engine_options, engine_options

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
"""

_EXAMPLES = """\
examples:
  pdb-saliency predict clip.mp4 -o out
  pdb-saliency predict frames/ -o out --save maps,masks,video
  pdb-saliency predict 'frames/*.jpg' -o out --weights net.caffemodel
  pdb-saliency predict clip.mp4 -o out --save report,json --crf
  pdb-saliency predict clip.mp4 -o out --save cutout-webm --threshold 0.5
  pdb-saliency predict long.mkv -o out --save maps,video --resume
"""


@dataclass(frozen=True)
class Job:
    """What to do: see `pdb-saliency predict --help`."""

    input: str
    out: Path
    kinds: Sequence[str]
    threshold: float = THRESHOLD
    weights: str | None = None
    device: str = "auto"
    crf_workers: int = 0  # 0: no CRF.
    resume: bool = False
    engine: EngineOptions = EngineOptions()

    def settings(self, source: Any) -> dict[str, Any]:
        """Everything that the results depend on, for resume.Run."""
        from pdb_ext._version import __version__
        from ..resume import fingerprint

        weights = f"{self.weights} {fingerprint([self.weights])}" if self.weights and Path(self.weights).exists() else self.weights
        return {
            "version": __version__,
            "input": self.input,
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
    parser.add_argument("input", metavar="INPUT", type=path, help="a video file, a folder of frames, or a quoted glob")
    output_options.add_output_options(parser)
    add_model_options(parser)
    add_engine_options(parser)
    add_verbosity(parser)


def _predict(arguments: argparse.Namespace) -> None:
    job = Job(
        arguments.input,
        arguments.output,
        arguments.save,
        arguments.threshold,
        arguments.weights,
        arguments.device,
        arguments.crf_workers if arguments.crf else 0,
        arguments.resume,
        engine_options(arguments),
    )
    process(job)


def process(job: Job) -> None:
    """Do it. Raises SaliencyError."""
    from ..source import open_source

    source = open_source(job.input)

    # Only now, so that a mistyped path is told at once.
    from ..resume import Run

    run_of = Run(job.out, job.settings(source), "maps" in job.kinds, job.resume)
    earlier = run_of.earlier() if job.resume else None
    if earlier == "complete":
        tell("note", f"{job.out}: everything is there already, by the same command")
        return
    from ..engine import Engine, resolve_device
    from ..predict import run
    from ..weights import load_model

    device = resolve_device(job.device)
    model = load_model(job.weights)
    if model.untrained:
        tell("note", model.untrained)
    engine = Engine(model, device, job.engine)
    rate = f"{source.fps:.3f} frames/s" if source.fps else "no frame rate"
    tell("info", f"{job.input}: {'unknown number of' if source.count is None else source.count} frames, {rate}")
    tell("info", f"{model.description}, on {device}")
    began = time.monotonic()
    with _writers(job, source, model, run_of.store) as (writer, results):
        if earlier:
            source = run_of.known(source)
        else:
            run_of.begin()
        run(source, engine, writer, progress=not Verbosity.quiet)
    run_of.complete()
    for remark in [source.remark, *results.remarks()]:
        if remark:
            tell("note", remark)
    seconds = time.monotonic() - began
    tell("info", f"{seconds:.1f} s, {results.frames / seconds:.1f} frames/s, reading and writing included")
    if not Verbosity.quiet:
        write(f"{results.frames} frame{'s' * (results.frames != 1)} -> {', '.join(map(str, results.outputs()))}")


@contextmanager
def _writers(job: Job, source: Any, model: Any, store: Path | None) -> Iterator[tuple[Any, Any]]:
    """(where results are to be written, the ResultWriter that receives them in the end)."""
    from pdb_ext._version import __version__
    from ..crf import RefiningWriter
    from ..outputs.videos import Film
    from ..video import VideoFile
    from ..writer import ResultWriter

    film = Film(source.fps, source.count, source.path if isinstance(source, VideoFile) else None)
    facts = {"model": model.description, "threshold": f"{job.threshold:g}", "CRF": "yes" if job.crf_workers else "no"}
    facts["made by"] = f"pdb-saliency {__version__}"
    about = {"film": film, "title": Path(job.input).name, "facts": facts, "store": store}
    with ResultWriter(job.out, job.kinds, job.threshold, source.fps, source.files, **about) as results:
        if job.crf_workers:
            with RefiningWriter(results, job.crf_workers) as refining:
                yield refining, results
        else:
            yield results, results
