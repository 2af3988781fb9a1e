"""A stand-in for the saliency network, and the command line with it: python tests/helpers/fake_model.py predict ..."""

import os
import sys
import time

import torch
from torch import nn

from pdb_saliency.model.input import InputSpec
from pdb_saliency.model.output import OutputSpec


class GreyModel(nn.Module):
    """Saliency = mean of the three channels over 255, so that the expected map is known."""

    input_spec = InputSpec(height=36, width=64, bgr=True, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
    output_spec = OutputSpec()
    description = "grey"
    untrained = "nothing here is trained"

    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds

    def encode(self, frames):
        return (frames,)

    def saliency(self, encoded, batch, size):
        return self(encoded[0].unflatten(0, batch))[:, :, 0].sigmoid()

    def forward(self, clip):
        assert clip.shape[1:] == (5, 3, 36, 64) and clip.dtype == torch.float32
        time.sleep(self.seconds)
        if "FAKE_MODEL_LOG" in os.environ:
            with open(os.environ["FAKE_MODEL_LOG"], "a") as log:
                log.write("clip\n")
        return torch.logit(clip.mean(2, keepdim=True))


class PositionModel(GreyModel):
    """Saliency = (position in the clip + 1) / 10: a map shows which prediction was kept."""

    def forward(self, clip):
        position = torch.arange(1, 6).view(1, 5, 1, 1, 1) / 10
        return torch.logit(position.expand(clip.shape[0], 5, 1, *clip.shape[-2:]))


def endless_refine(image, saliency):
    """A CRF that takes longer than any test waits."""
    time.sleep(3600)


if __name__ == "__main__":
    import pdb_saliency.inference.crf
    import pdb_saliency.model.weights
    from pdb_saliency.cli.program import main

    pdb_saliency.model.weights.load_model = lambda _: GreyModel(seconds=0.05)
    if "FAKE_ENDLESS_CRF" in os.environ:
        pdb_saliency.inference.crf.refine = endless_refine
    sys.exit(main())
