"""`pdb-saliency bench` on a thin network: what it measures is there, adds up, and a wrong answer is not timed."""

import dataclasses
import json

import pytest
import torch

from helpers.films import grey_frame, write_video
from pdb_saliency import cli
from pdb_saliency.errors import SaliencyError
from pdb_saliency.inference.engine import Engine
from pdb_saliency.model.config import LITE
from pdb_saliency.model.saliency import SaliencyModel
from pdb_saliency.timing import stages as bench
from pdb_saliency.video.frame import Frame

CPU = torch.device("cpu")
STAGES = [
    "decode",
    "resize",
    "spatial",
    "motion",
    "temporal",
    "temporal, head, upsample",
    "network",
    "floor",
    "to frame size",
    "encode png",
    "end to end",
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = dataclasses.replace(LITE, input_size=(65, 65), pdc_channels=4, reduced_channels=4, hidden_channels=4)
    return SaliencyModel(config).eval()


def test_every_stage_is_measured(tmp_path, capsys, monkeypatch, model):
    monkeypatch.setattr("pdb_saliency.model.weights.load_model", lambda _: model)
    film = write_video(tmp_path / "clip.mp4", [grey_frame(20 * i) for i in range(7)])
    numbers = tmp_path / "bench.json"
    assert cli.main(["bench", str(film), "--frames", "6", "--seconds", "1", "--json", str(numbers)]) == 0
    result = json.loads(numbers.read_text())
    assert list(result["seconds_per_frame"]) == STAGES and result["end_to_end_frames"] == 6
    assert all(len(rounds) >= 3 and min(rounds) > 0 for rounds in result["seconds_per_frame"].values())
    assert result["relative_rms_difference"] < 1e-3
    printed = capsys.readouterr().out
    assert all(f"\n{stage} " in printed for stage in STAGES) and "the convolutions alone" in printed


def test_the_floor_has_every_multiplication(model):
    """By PyTorch's own counter, over the same network decomposed into its operators."""
    from torch.utils.flop_counter import FlopCounterMode

    from pdb_saliency.inference.export import decompose

    _, gmac = bench.convolutions_alone(model, Engine(model, CPU), model.config.input_size, 5)
    clip = torch.zeros(1, 5, 3, 65, 65)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        decompose(model)(clip)
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 2 / 5 / 1e9
    assert gmac == pytest.approx(counted, rel=0.02)  # Padding of strided layers may be outside of either.


def test_a_wrong_answer_is_not_timed(model):
    engine = Engine(model, CPU)
    frames = [Frame(str(i), grey_frame(40 * i)) for i in range(5)]
    with torch.no_grad():
        for parameter in engine.network.head.parameters():
            parameter.add_(1.0)
    with pytest.raises(SaliencyError, match="differ from the model's"):
        bench.measure(model, engine, frames, 5, 0.1)


def test_a_source_shorter_than_a_clip_is_refused(model):
    with pytest.raises(SaliencyError, match="at least 5 frames, a clip, got 2"):
        bench.measure(model, Engine(model, CPU), [Frame(str(i), grey_frame(9)) for i in range(2)], 5, 0.1)
