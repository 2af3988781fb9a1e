"""`pdb-saliency bench` on a thin network."""

import json

import pytest

from helpers.films import grey_frame, write_video
from helpers.models import thin_lite
from pdb_saliency import cli

STAGES = (
    ["decode", "resize", "spatial", "motion", "temporal", "temporal, head, upsample", "network", "floor"]
    + ["to frame size", "encode png", "end to end"]
)  # fmt: skip


@pytest.mark.slow
def test_every_stage_is_measured(tmp_path, capsys, use_model):
    use_model(thin_lite())
    film = write_video(tmp_path / "clip.mp4", [grey_frame(20 * i) for i in range(7)])
    numbers = tmp_path / "bench.json"
    assert cli.main(["bench", str(film), "--frames", "6", "--seconds", "1", "--json", str(numbers)]) == 0
    result = json.loads(numbers.read_text())
    assert list(result["seconds_per_frame"]) == STAGES and result["end_to_end_frames"] == 6
    assert all(len(rounds) >= 3 and min(rounds) > 0 for rounds in result["seconds_per_frame"].values())
    assert result["relative_rms_difference"] < 1e-3
    printed = capsys.readouterr().out
    assert all(f"\n{stage} " in printed for stage in STAGES) and "the convolutions alone" in printed


@pytest.mark.slow
def test_a_drawn_clip_and_random_weights(capsys):
    assert cli.main(["bench", "--architecture", "lite", "--clip-length", "1", "--frames", "1", "--seconds", "1"]) == 0
    printed = capsys.readouterr()
    assert "\nend to end " in printed.out and "note: random weights" in printed.err
