"""One video, as Python code runs it."""

import logging
import resource
from pathlib import Path

import pytest

from helpers.fake_model import GreyModel
from helpers.films import grey_frame, read_maps, write_frames
from helpers.models import CPU
from pdb_saliency.errors import InputError
from pdb_saliency.inference.engine import Engine
from pdb_saliency.predict.job import PredictOptions, predict_video, run
from pdb_saliency.predict.outputs.result import RunInfo
from pdb_saliency.predict.outputs.writer import ResultWriter
from pdb_saliency.video.frame import Frame


def test_a_video_without_the_command_line(tmp_path, grey_model, capfd, caplog):
    """The call returns a summary, logs notes, and prints nothing."""
    folder, out = write_frames(tmp_path / "in", [grey_frame(40)] * 3), tmp_path / "out"
    options = PredictOptions(["masks", "maps"], resume=True)
    with caplog.at_level(logging.INFO, "pdb_saliency"):
        summary = predict_video(str(folder), out, options)
    assert (summary.frames, summary.paths) == (3, [out / "maps", out / "masks"])
    assert str(summary) == f"3 frames -> {out / 'maps'}, {out / 'masks'}"
    assert set(read_maps(out / "maps").values()) == {40}
    logged = {(record.levelname, record.getMessage()) for record in caplog.records}
    assert ("WARNING", "nothing here is trained") in logged and ("INFO", "grey, on cpu") in logged
    again = predict_video(str(folder), out, options)
    assert (again.frames, again.paths) == (None, ()) and "everything is there already" in str(again)
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_given_engine_is_used(tmp_path, grey_model):
    folder = write_frames(tmp_path / "in", [grey_frame(40)])

    class Bright(GreyModel):
        def forward(self, clip):
            return super().forward(clip.clamp(min=0.8))

    summary = predict_video(str(folder), tmp_path / "out", PredictOptions(), Engine(Bright(), CPU))
    assert str(summary).startswith("1 frame ->")
    assert set(read_maps(tmp_path / "out" / "maps").values()) == {204}


def test_wrong_kinds_and_sources(tmp_path):
    with pytest.raises(ValueError, match="kinds must be among maps, masks, .*, got 'film'"):
        PredictOptions(["maps", "film"])
    with pytest.raises(InputError, match="absent"):
        predict_video(str(tmp_path / "absent"), tmp_path / "out", PredictOptions())
    assert not (tmp_path / "out").exists()


class GeneratedFilm:
    """Frames that are generated when they are read."""

    fps = 24.0
    files = ()
    remark = None

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        for i in range(self.count):
            yield Frame(f"{i:05d}", grey_frame(i % 256, 240, 320))


def test_memory_does_not_grow_with_the_video(tmp_path):
    resident = []

    class Watched(ResultWriter):
        def write(self, frame, saliency):
            super().write(frame, saliency)
            if frame.name in ("00149", "00599"):
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                resident.append(pages * resource.getpagesize())

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to measure resident memory")
    with Watched(tmp_path, ["maps", "video"], RunInfo(fps=24.0)) as writer:
        run(GeneratedFilm(600), Engine(GreyModel(), CPU), writer)
    maps = 450 * 240 * 320  # Bytes of the maps between the two samples; the frames have three times as many.
    assert resident[1] - resident[0] < maps / 3
    assert writer.frames == 600
