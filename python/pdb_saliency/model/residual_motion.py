"""Residual motion: optical flow between neighbouring frames minus the motion of the camera, from early features.

The paper leaves motion to the ConvLSTMs. Features that are trained for saliency hardly show the background, so from
them alone a ConvLSTM cannot distinguish an object that moves from one at rest that a moving camera passes. Early
features can be matched from frame to frame, which gives optical flow; the part of it that an affine camera motion does
not explain is the motion of objects. There is nothing to train here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CAMERA_FITS = 4


class ResidualMotion(nn.Module):
    """Motion relative to the camera's at every pixel, at half the resolution of the features that are matched.

    forward(features, batch): features (N * T, C, h, w) of the N * T frames of clips, batch (N, T). Returns (N * T, 8,
    ceil(h / 2), ceil(w / 2)), eight channels:
        0 to 3: the motion to the next frame (x, y) and to the previous one, in pixels of the features. Before the
            camera's motion is subtracted it lies between -radius and radius
        4, 5: tanh of both lengths
        6, 7: the confidence in both, 0 to 1
    At either end of the clip the missing motion is the other one reversed; a single frame does not move. Computed in
    float32; the result has the dtype of the features.

    radius: largest motion that is found, in pixels of the features. patch: side of the patches that are compared.
    temperature: of the softmax over the mean cosine similarities of a patch at all shifts. The expected shift under
        this softmax is the motion.
    """

    CHANNELS = 8

    def __init__(self, radius: int = 5, patch: int = 5, temperature: float = 0.02):
        super().__init__()
        self.radius, self.patch, self.temperature = radius, patch, temperature

    def forward(self, features: Tensor, batch: tuple[int, int]) -> Tensor:
        clips = F.normalize(_standardised(features.float()), dim=1).unflatten(0, batch)
        if batch[1] == 1:
            shape = (batch[0], self.CHANNELS, *clips.shape[-2:])
            return _halved(clips.new_zeros(shape)).to(features.dtype)
        means = self._patch_means(clips[:, :-1].flatten(0, 1), clips[:, 1:].flatten(0, 1))
        onward, sure_onward = self._motion(self._onward(means))
        back, sure_back = self._motion(self._back(means))
        pairs = (batch[0], batch[1] - 1)
        onward, back = _of_frames(onward.unflatten(0, pairs), back.unflatten(0, pairs), sign=-1)
        sure_onward, sure_back = _of_frames(sure_onward.unflatten(0, pairs), sure_back.unflatten(0, pairs), sign=1)
        lengths = [torch.tanh(motion.square().sum(2, keepdim=True).add(1e-12).sqrt()) for motion in (onward, back)]
        maps = torch.cat([onward, back, *lengths, sure_onward, sure_back], dim=2)
        return _halved(maps.flatten(0, 1)).to(features.dtype)

    def causal(self, features: Tensor, previous: Tensor | None) -> Tensor:
        """The same for T frames of one video, (T, C, h, w), each computed from itself and the previous frame alone.

        previous: the features (1, C, h, w) of the frame before the first one; None at the beginning of the video, where
        the first frame does not move. Each frame is treated as the last one of a clip: its motion to the next frame is
        its motion to the previous one reversed.
        """
        begins = previous is None
        frames = torch.cat([features[:1] if begins else previous, features])
        maps = self(frames, (1, len(frames)))[1:, [2, 3, 2, 3, 5, 5, 7, 7]]
        maps = torch.cat([-maps[:, :2], maps[:, 2:]], dim=1)
        return torch.cat([torch.zeros_like(maps[:1]), maps[1:]]) if begins else maps

    def _patch_means(self, first: Tensor, second: Tensor) -> Tensor:
        """Patch means of the similarity between pixels of the first and of the second frames: (M, h', w', D), D shifts.

        first, second: (M, C, h, w). There are also patches whose centre lies up to half a patch outside the picture,
        h' = h + 2 (patch // 2); the similarity outside of it is 0.
        Computed row by row as a matrix product of all pixels with all pixels, in which the shifts within the radius are
        a band. That is seven times the arithmetic of going shift by shift, in a fraction of its time, because matrix
        products run at the processor's peak.
        """
        side, (height, width) = 2 * self.radius + 1, first.shape[-2:]
        rows = F.pad(first.permute(0, 2, 3, 1), (0, 0, 0, 1))  # (M, h, w + 1, C)
        second = F.pad(second, (self.radius,) * 4).permute(0, 2, 1, 3)  # (M, h + 2r, C, w + 2r)
        bands = []
        for dy in range(side):
            products = rows @ second[:, dy : dy + height]  # (M, h, w + 1, w + 2r)
            # In rows that are longer by one, diagonals become columns.
            flat = products.flatten(2)[..., : width * (width + side)]
            bands.append(flat.unflatten(2, (width, width + side))[..., :side])
        reach = self.patch // 2
        similarity = F.pad(torch.cat(bands, dim=3), (0, 0, *(reach,) * 4)).permute(0, 3, 1, 2)
        # Means, not sums (divisor_override=1), because the ONNX exporter silently ignores divisor_override.
        return F.avg_pool2d(similarity, self.patch, 1, reach).permute(0, 2, 3, 1)

    def _onward(self, means: Tensor) -> Tensor:
        """Mean similarity of the patch at each pixel of the first frames to the second frames, (M, h, w, D).

        D: the shifts, in row-major order.
        """
        reach = self.patch // 2
        means = means[:, reach : means.shape[1] - reach, reach : means.shape[2] - reach]
        return means / self._patch_shares(*means.shape[1:3], like=means)

    def _back(self, means: Tensor) -> Tensor:
        """The same from the second frames to the first: pixel q at shift -d has what pixel q - d has at shift d."""
        side, reach = 2 * self.radius + 1, self.patch // 2
        height, width = (size - 2 * reach for size in means.shape[1:3])
        # Patches with centres that far outside contain no pixels.
        means = F.pad(means, (0, 0, *(self.radius - reach,) * 4))
        y, x, dy, dx = (torch.arange(size, device=means.device) for size in (height, width, side, side))
        pixel = (y.view(-1, 1, 1, 1) + dy.view(-1, 1)) * means.shape[2] + x.view(-1, 1, 1) + dx
        shift = (side - 1 - dy).view(-1, 1) * side + (side - 1 - dx)
        taken = means.flatten(1)[:, (pixel * side**2 + shift).flatten()]
        return taken.unflatten(1, (height, width, side**2)) / self._patch_shares(height, width, like=means)

    def _patch_shares(self, height: int, width: int, like: Tensor) -> Tensor:
        """The fraction of each pixel's patch that lies inside the picture, (h, w, 1)."""
        reach, sizes = self.patch // 2, []
        for length in (height, width):
            place = torch.arange(length, device=like.device)
            sizes.append((place + reach).clamp(max=length - 1) - (place - reach).clamp(min=0) + 1)
        return (sizes[0].view(-1, 1, 1) * sizes[1].view(-1, 1)).to(like.dtype) / self.patch**2

    def _motion(self, similarity: Tensor) -> tuple[Tensor, Tensor]:
        """Motion (M, 2, h, w) minus the camera's, and the confidence in it (M, 1, h, w). similarity: (M, h, w, D)."""
        share = torch.softmax(similarity / self.temperature, dim=3)
        steps = torch.arange(-self.radius, self.radius + 1, dtype=share.dtype, device=share.device)
        y, x = steps.repeat_interleave(len(steps)), steps.repeat(len(steps))
        moments = (share @ torch.stack([x, y, x.square() + y.square()], dim=1)).permute(0, 3, 1, 2)
        motion = moments[:, :2]
        spread = moments[:, 2:] - motion.square().sum(1, keepdim=True)
        # A low similarity lowers the confidence, too: what leaves the picture has no match.
        sure = similarity.amax(3).unsqueeze(1).clamp(0, 1) / (1 + spread.clamp(min=0))
        return motion - _camera_motion(motion, sure), sure


def _standardised(features: Tensor) -> Tensor:
    """Each channel of each frame with mean 0 and variance 1; otherwise a few strong channels decide the similarity."""
    centred = features - features.mean((2, 3), keepdim=True)
    return centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


def _of_frames(onward: Tensor, back: Tensor, sign: int) -> tuple[Tensor, Tensor]:
    """From pairs of frames (N, T-1, ...) to frames (N, T, ...): the last has no next one, the first no previous one."""
    return torch.cat([onward, sign * back[:, -1:]], dim=1), torch.cat([sign * onward[:, :1], back], dim=1)


def _halved(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 3, stride=2, padding=1, count_include_pad=False)


def _camera_motion(motion: Tensor, weight: Tensor) -> Tensor:
    """The affine motion (M, 2, h, w) that fits most of the picture, by reweighted least squares."""
    height, width = motion.shape[-2:]
    options = {"dtype": motion.dtype, "device": motion.device}
    y = torch.linspace(-1, 1, height, **options).view(1, 1, height, 1).expand(1, 1, height, width)
    x = torch.linspace(-1, 1, width, **options).view(1, 1, 1, width).expand(1, 1, height, width)
    basis = torch.cat([torch.ones_like(x), x, y], dim=1).flatten(2).transpose(1, 2)  # (1, P, 3)
    target, weight = motion.flatten(2).transpose(1, 2), weight.flatten(1).unsqueeze(2)  # (M, P, 2), (M, P, 1)
    current = weight
    for _ in range(_CAMERA_FITS):
        weighted = (basis * current).transpose(1, 2)  # (M, 3, P)
        solution = _inverse(weighted @ basis) @ (weighted @ target)
        fitted = basis @ solution
        missed = (target - fitted).square().sum(2, keepdim=True)
        scale = (missed * current).sum(1, keepdim=True) / current.sum(1, keepdim=True).clamp(min=1e-6)
        current = weight / (1 + missed / (scale + 0.01)).square()
    return fitted.transpose(1, 2).unflatten(2, (height, width))


def _inverse(matrix: Tensor) -> Tensor:
    """Inverses of symmetric positive matrices (M, 3, 3) plus a small ridge; cofactors work in every exporter."""
    ridge = matrix.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1) * 1e-4 + 1e-6
    matrix = matrix + ridge * torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    a, b, c = matrix.unbind(1)
    rows = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=1)
    return rows.transpose(1, 2) / (a * rows[:, 0]).sum(1).view(-1, 1, 1)
