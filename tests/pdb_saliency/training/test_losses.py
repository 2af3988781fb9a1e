"""Eq. 7-9 against the formula as printed, at logits where that formula fails, and over parts of a batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pdb_saliency.training.losses import loss_sums


def printed(logits, masks):
    """Eq. 7 as the paper prints it, in float64."""
    s, g = torch.sigmoid(logits.double()), masks.double()
    cross_entropy = -(g * s.log() + (1 - g) * (1 - s).log()).mean()
    return cross_entropy + (g - s).abs().mean()


def drawn(shape=(2, 3, 1, 5, 4), scale=3.0, dtype=torch.float64):
    return scale * torch.randn(shape, dtype=dtype), (torch.rand(shape) < 0.3).to(dtype)


def total(logits, masks, valid=None, **options):
    valid = torch.ones(logits.shape[:2], dtype=torch.bool) if valid is None else valid
    return loss_sums(logits, masks, valid).total(int(valid.sum()), logits.shape[-2] * logits.shape[-1], **options)


def test_equals_the_printed_formula():
    logits, masks = drawn()
    torch.testing.assert_close(total(logits, masks), printed(logits, masks))
    torch.testing.assert_close(
        total(logits.float(), masks.float()).double(), printed(logits, masks), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("logit", [-80.0, -30.0, 30.0, 80.0])
@pytest.mark.parametrize("mask", [0.0, 1.0])
def test_large_logits_are_right_in_float32(logit, mask):
    """In float32 the printed formula gives infinity from 17 on: sigmoid is 1 there. Exactly: log(1 + e^x) - g x."""
    logits = torch.full((1, 1, 1, 2, 2), logit, requires_grad=True)
    loss = total(logits, torch.full_like(logits, mask))
    exact = torch.tensor(logit, dtype=torch.float64)
    entropy = torch.log1p(torch.exp(-exact.abs())) + exact.clamp_min(0) - mask * exact
    torch.testing.assert_close(loss.double(), entropy + (torch.sigmoid(exact) - mask).abs(), rtol=1e-6, atol=1e-12)
    loss.backward()
    s = torch.sigmoid(exact)
    slope = (s - mask) + (1 - 2 * mask) * s * torch.sigmoid(-exact)
    torch.testing.assert_close(logits.grad.double(), (slope / 4).expand(1, 1, 1, 2, 2), rtol=1e-5, atol=1e-12)


def test_gradients():
    logits, masks = drawn()
    valid = torch.tensor([[True, False, True], [True, True, False]])
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: total(x, masks, valid, iou_weight=0.5), (logits,))


@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 1e4))
@settings(max_examples=25, deadline=None)
def test_is_finite_and_never_negative(seed, scale):
    torch.manual_seed(seed)
    logits, masks = drawn(scale=scale, dtype=torch.float32)
    logits.requires_grad_()
    loss = total(logits, masks, iou_weight=1.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss >= 0 and torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_frames_without_annotation_do_not_count():
    logits, masks = drawn()
    valid = torch.tensor([[True, False, True], [False, True, True]])
    expected = printed(logits[valid], masks[valid])
    masks[~valid] = 7.0
    logits.requires_grad_()
    loss = total(logits, masks, valid)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (logits.grad[~valid] == 0).all() and (logits.grad[valid] != 0).all()


def test_parts_add_up_to_the_joint_batch_whatever_is_annotated():
    """A mean of the parts' means would weight the second part's one annotated frame as much as the first's three."""
    logits, masks = drawn()
    valid = torch.tensor([[True, True, True], [False, True, False]])
    parts = [
        loss_sums(logits[i : i + 1], masks[i : i + 1], valid[i : i + 1]).total(4, 20, iou_weight=0.7) for i in range(2)
    ]
    torch.testing.assert_close(sum(parts), total(logits, masks, valid, iou_weight=0.7))


def test_no_annotation_at_all_gives_zero_with_a_gradient():
    logits, masks = drawn()
    logits.requires_grad_()
    loss = total(logits, masks, torch.zeros(2, 3, dtype=torch.bool), iou_weight=1.0)
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_soft_iou_of_a_sure_prediction_is_one_minus_the_overlap():
    masks = torch.zeros(1, 1, 1, 10, 10)
    masks[..., :5] = 1
    logits = torch.full_like(masks, -60.0)
    logits[..., 3:8] = 60.0
    sums = loss_sums(logits, masks, torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(sums.soft_iou, torch.tensor(1 - 21 / 81))
    assert sums.total(1, 100, iou_weight=2.0) - sums.total(1, 100) == pytest.approx(2 * (1 - 21 / 81), rel=1e-4)


def test_half_precision_is_computed_in_float32():
    logits, masks = drawn(dtype=torch.float32)
    half = logits.bfloat16()
    torch.testing.assert_close(total(half, masks), total(half.float(), masks))
    assert loss_sums(half, masks, torch.ones(2, 3, dtype=torch.bool)).cross_entropy.dtype == torch.float32


def test_shapes_must_fit():
    logits, masks = drawn()
    with pytest.raises(ValueError, match=r"expected masks like the logits, \(2, 3, 1, 5, 4\).*got \(2, 3, 5, 4\)"):
        loss_sums(logits, masks[:, :, 0], torch.ones(2, 3, dtype=torch.bool))
