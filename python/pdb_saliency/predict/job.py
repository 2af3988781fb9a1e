"""One video: from its source through the engine to the writers of its results."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdb_saliency.errors import InputError
from pdb_saliency.inference import crf
from pdb_saliency.options import THRESHOLD, EngineOptions
from pdb_saliency.runtime.progress import progress_bar
from pdb_saliency.video.frame import Source
from pdb_saliency.video.reader import VideoFile
from pdb_saliency.video.source import open_source

from .outputs import OUTPUTS
from .outputs.result import RunInfo
from .outputs.writer import ResultWriter
from .resume import RunRecord, fingerprint

if TYPE_CHECKING:  # torch takes seconds to import: a source that cannot be opened is reported before that.
    from pdb_saliency.inference.engine import Engine

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictOptions:
    """How videos are processed and what is written.

    kinds: names in `outputs.OUTPUTS`. threshold: of the masks, 0 to 1. weights: as for `load_model`. device: as for
    `resolve_device`. crf_workers: processes of the CRF that refines the maps, 0 for none. resume: continue an
    interrupted run. engine: see `EngineOptions`.

    Raises ValueError for an unknown kind.
    """

    kinds: Sequence[str] = ("maps",)
    threshold: float = THRESHOLD
    weights: str | None = None
    device: str = "auto"
    crf_workers: int = 0
    resume: bool = False
    engine: EngineOptions = EngineOptions()

    def __post_init__(self):
        if unknown := [kind for kind in self.kinds if kind not in OUTPUTS]:
            raise ValueError(f"kinds must be among {', '.join(OUTPUTS)}, got {unknown[0]!r}")

    def make_engine(self) -> Engine:
        """Load the model onto the device. Raises WeightsError, and SaliencyError if the device cannot be used."""
        from pdb_saliency.inference.devices import device_of_process, resolve_device
        from pdb_saliency.inference.engine import Engine
        from pdb_saliency.model.weights import load_model

        device = resolve_device(device_of_process(self.device))
        model = load_model(self.weights)
        if model.untrained:
            _log.warning("%s", model.untrained)
        _log.info("%s, on %s", model.description, device)
        return Engine(model, device, self.engine)

    def settings(self, text: str, source: Source) -> dict[str, Any]:
        """Everything that the results of the source called `text` depend on, for `RunRecord`."""
        is_file = self.weights and Path(self.weights).exists()
        return {
            "version": _version(),
            "input": text,
            "content": fingerprint(source.files),
            "weights": f"{self.weights} {fingerprint([self.weights])}" if is_file else self.weights,
            "save": sorted(set(self.kinds)),
            "threshold": self.threshold,
            "crf": self.crf_workers > 0,
            "clip length": self.engine.clip_length,
            "overlap": self.engine.overlap,
            "causal": self.engine.causal,
            "precision": self.engine.precision,
        }

    def run_info(self, text: str, source: Source, engine: Engine) -> RunInfo:
        """What the outputs need to know about the run of the source called `text`."""
        facts = {
            "model": engine.network.description,
            "clips": _clips(self.engine),
            "threshold": f"{self.threshold:g}",
            "CRF": "yes" if self.crf_workers else "no",
            "made by": f"pdb-saliency {_version()}",
        }
        sound = source.path if isinstance(source, VideoFile) else None
        return RunInfo(source.fps, source.count, sound, self.threshold, Path(text).name, facts)


@dataclass(frozen=True)
class Summary:
    """What `predict_video` has done; as text, a line for the user.

    out: the folder. paths: the folders and files written. frames: how many, None if an earlier run had done all.
    """

    out: Path
    paths: Sequence[Path] = ()
    frames: int | None = None

    def __str__(self) -> str:
        if self.frames is None:
            return f"{self.out}: everything is there already, from the same command"
        return f"{_frames(self.frames)} -> {', '.join(map(str, self.paths))}"


def predict_video(text: str, out: Path, options: PredictOptions, engine: Engine | None = None) -> Summary:
    """Write the results of one video into the folder `out`, and record the run there for `options.resume`.

    text: a video file, a folder of pictures or a glob, see `open_source`. engine: by default `options.make_engine()`,
    which is called only when there is work to do; for several videos make it once.

    Raises InputError for a source that cannot be opened, or for a frame that cannot be read, after the results of all
    frames before it have been written; OutputError; WeightsError; SaliencyError for other options than those of the
    run to resume, for a missing program or package, and when the network fails.
    """
    source = open_source(text)
    record = RunRecord(out, options.settings(text, source), "maps" in options.kinds, options.resume)
    earlier = record.earlier() if options.resume else None
    if earlier == "complete":
        return Summary(out)
    if engine is None:
        engine = options.make_engine()
    rate = f"{source.fps:.3f} frames/s" if source.fps else "no frame rate"
    count = "unknown number of" if source.count is None else source.count
    _log.info("%s: %s frames, %s", text, count, rate)
    began = time.monotonic()
    if options.crf_workers:
        crf.require()  # Before any folder is created.
    info = options.run_info(text, source, engine)
    with ResultWriter(out, options.kinds, info, source.files, record.store) as results:
        if earlier:
            source = record.known(source)
        else:
            record.begin()
        with _refining(results, options.crf_workers) as writer:
            run(source, engine, writer)
    record.complete(results.frames)
    for remark in [source.remark, *results.remarks()]:
        if remark:
            _log.warning("%s", remark)
    seconds = time.monotonic() - began
    _log.info("%.1f s, %.1f frames/s, reading and writing included", seconds, results.frames / seconds)
    return Summary(out, results.outputs(), results.frames)


def run(source: Source, engine: Engine, writer: crf.Writer, progress: bool = True) -> None:
    """Write the results of every frame of the source, and finish the writer.

    writer: a ResultWriter, or a RefiningWriter in front of one. progress: whether to show a bar; see `progress_bar`.
    Raises InputError for a frame that cannot be read, after everything before it has been written; OutputError;
    SaliencyError.
    """
    with progress_bar(show=None if progress else False, total=source.count, unit="frame") as bar:
        try:
            with closing(engine.maps(source)) as maps:
                for frame, saliency in maps:
                    writer.write(frame, saliency)
                    bar.update()
        except InputError as error:
            writer.finish()
            raise InputError(f"{error}; {_frames(writer.frames)} written to {writer.out}") from error
    writer.finish()


@contextmanager
def _refining(results: ResultWriter, workers: int) -> Iterator[crf.Writer]:
    """The writer that refines maps before `results` receives them; `results` itself without workers."""
    if not workers:
        yield results
        return
    with crf.RefiningWriter(results, workers) as refining:
        yield refining


def _version() -> str:
    from pdb_ext import __version__  # With torch, see above.

    return __version__


def _clips(options: EngineOptions) -> str:
    if options.causal:
        return "none, causal"
    return f"{options.clip_length} frames" + (f", overlapping by {options.overlap}" if options.overlap else "")


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"
