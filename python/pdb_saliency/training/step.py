"""The parts of one training step."""

from __future__ import annotations

import math

from torch import Tensor, nn

from pdb_saliency.errors import SaliencyError
from pdb_saliency.model.saliency import SaliencyModel


class Network(nn.Module):
    """The model as one forward, which is what DistributedDataParallel and mixed precision wrap.

    forward(batch): "clip" (N, T, 3, H, W); or "features" as SaliencyModel.encode gives them, each (N, T, c, h, w), with
    "mask" (N, T, 1, H, W) for the size. Returns logits (N, T, 1, H, W).
    """

    def __init__(self, model: SaliencyModel):
        super().__init__()
        self.model = model

    def forward(self, batch: dict) -> Tensor:
        if "clip" in batch:
            return self.model(batch["clip"])
        features = tuple(feature.flatten(0, 1) for feature in batch["features"])
        return self.model.decode(features, batch["mask"].shape[:2], batch["mask"].shape[-2:])


def split(batch: dict, count: int) -> list[dict]:
    """The batch's tensors in `count` parts, or in as many as it has samples if these are fewer."""
    count = min(count, len(batch["valid"]))
    pieces = {name: batch[name].chunk(count) for name in ("clip", "mask", "valid") if name in batch}
    if "features" in batch:
        pieces["features"] = list(zip(*(feature.chunk(count) for feature in batch["features"])))
    return [dict(zip(pieces, values)) for values in zip(*pieces.values())]


def mean_scalars(sums: Tensor, frames: int, pixels: int, iou_weight: float) -> dict[str, float]:
    """The loss and its parts as means, from the sum of `LossSums.detached` over the whole batch."""
    cross_entropy, mae, soft_iou = sums.tolist()
    count = max(frames * pixels, 1)
    values = {"cross_entropy": cross_entropy / count, "mae": mae / count, "soft_iou": soft_iou / max(frames, 1)}
    return {"loss": values["cross_entropy"] + values["mae"] + iou_weight * values["soft_iou"]} | values


def not_finite(loss: float, step: int, names: list[str]) -> SaliencyError:
    """The error that ends a run whose loss, or else gradient, is not finite. names: of the samples of step `step`."""
    what = "the gradient" if math.isfinite(loss) else f"the loss is {loss}, which"
    return SaliencyError(
        f"{what} is not finite at step {step}, with the samples {', '.join(names)}; nothing was saved after it"
    )
