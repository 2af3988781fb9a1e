"""The paper's loss, Eq. 7-9, from logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LossSums:
    """Sums over annotated frames rather than means, so that parts of a batch can be added up, also across processes.

    cross_entropy, mae: scalars, summed over pixels. soft_iou: scalar, summed over frames.
    """

    cross_entropy: Tensor
    mae: Tensor
    soft_iou: Tensor

    def total(self, frames: int, pixels: int, iou_weight: float = 0.0) -> Tensor:
        """Eq. 7, as a mean: cross entropy + MAE, plus `iou_weight` times the soft IoU loss (not in the paper).

        frames, pixels: annotated frames of the whole batch, in all processes, and pixels of one frame; N of Eq. 8 and 9
            is their product. Without any annotated frame the loss is 0.
        """
        loss = (self.cross_entropy + self.mae) / max(frames * pixels, 1)
        return loss + iou_weight * self.soft_iou / max(frames, 1) if iou_weight else loss

    def detached(self) -> Tensor:
        """The three sums as a float64 tensor (3,), to be added up."""
        return torch.stack([self.cross_entropy, self.mae, self.soft_iou]).detach().double()


def loss_sums(logits: Tensor, masks: Tensor, valid: Tensor) -> LossSums:
    """The sums in Eq. 8 and 9 over the frames that are annotated.

    logits: (N, T, 1, H, W), floating point; half precision is converted to float32. masks: the same shape, 0 or 1.
    valid: bool (N, T), False for frames without annotation; the content of `masks` there has no influence.

    Stable for all finite logits: cross entropy is max(x, 0) - x g + log(1 + exp(-|x|)), never log(sigmoid(x)).
    """
    if logits.shape != masks.shape or logits.shape[:2] != valid.shape:
        raise ValueError(f"expected masks like the logits, {tuple(logits.shape)}, and valid {tuple(logits.shape[:2])}, "
                         f"got {tuple(masks.shape)} and {tuple(valid.shape)}")  # fmt: skip
    logits = logits[valid]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    masks = masks[valid].to(logits.dtype)
    saliency = torch.sigmoid(logits)
    overlap = (saliency * masks).flatten(1).sum(1)
    union = (saliency + masks).flatten(1).sum(1) - overlap
    return LossSums(
        cross_entropy=F.binary_cross_entropy_with_logits(logits, masks, reduction="sum"),
        mae=(saliency - masks).abs().sum(),
        # 1 - (I + 1) / (U + 1): one pixel more in both, so that an empty mask has a gradient and no division by zero.
        soft_iou=(1 - (overlap + 1) / (union + 1)).sum(),
    )
