"""The times add up, and a wrong result is not timed."""

import pytest
import torch

from helpers.films import grey_frame
from helpers.models import thin_lite
from pdb_saliency.errors import SaliencyError
from pdb_saliency.inference.engine import Engine
from pdb_saliency.timing.floor import convolutions_alone
from pdb_saliency.timing.stages import measure
from pdb_saliency.video.frame import Frame

CPU = torch.device("cpu")


@pytest.fixture
def model():
    return thin_lite()


def test_the_floor_has_every_multiplication(model):
    """By PyTorch's own counter, over the same network decomposed into its operators."""
    from torch.utils.flop_counter import FlopCounterMode

    from pdb_saliency.inference.export import decompose

    _, gmac = convolutions_alone(model, Engine(model, CPU), model.config.input_size, 5)
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
        measure(model, engine, frames, 5, 0.1)


def test_a_source_shorter_than_a_clip_is_refused(model):
    with pytest.raises(SaliencyError, match="at least 5 frames, a clip, got 2"):
        measure(model, Engine(model, CPU), [Frame(str(i), grey_frame(9)) for i in range(2)], 5, 0.1)
