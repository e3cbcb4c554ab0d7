"""The losses against the paper's formulas (Liu et al. 2018, section 3), their identities and their limits."""

import math

import pytest
import torch

from DDSPSegmentationLib.engine.losses import (
    LOSSES,
    dsc_cross_entropy,
    dsc_loss,
    jaccard_loss,
    multi_supervision,
    reweighted_cross_entropy,
)

CROP = (48, 96, 96)
OVERLAP_LOSSES = [dsc_loss, jaccard_loss]


def a_case(shape, dtype, share=0.1, seed=0):
    """A random prediction and a random reference of which ``share`` is prostate, with a batch axis in front."""
    random = torch.Generator().manual_seed(seed)
    prediction = torch.rand(1, *shape, generator=random, dtype=dtype)
    reference = (torch.rand(1, *shape, generator=random) < share).to(dtype)
    return prediction, reference


def gradient(loss, prediction, reference):
    prediction = prediction.clone().requires_grad_()
    loss(prediction, reference).backward()
    return prediction.grad


def paper_gradient(loss, prediction, reference):
    """The derivatives as the paper prints them, with U = sum P^2 + sum R^2 and K = sum PR."""
    p, r = prediction.double(), reference.double()
    k, u = (p * r).sum(), (p**2).sum() + (r**2).sum()
    if loss is dsc_loss:
        return -2 * (r * u - 2 * k * p) / u**2
    return -(r * (u - k) - k * (2 * p - r)) / (u - k) ** 2


def relative_error(found, expected):
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("share", [0.5, 0.05, 0.0])
@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
def test_autograd_gives_the_gradient_of_the_paper_in_double_precision(loss, share):
    prediction, reference = a_case((8, 8, 8), torch.float64, share)
    found = gradient(loss, prediction, reference)
    expected = paper_gradient(loss, prediction, reference)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-16)


@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
def test_autograd_gives_the_gradient_of_the_paper_on_a_full_crop(loss):
    prediction, reference = a_case(CROP, torch.float32, 0.06)
    found = gradient(loss, prediction, reference)
    assert found.dtype == torch.float32
    assert relative_error(found, paper_gradient(loss, prediction, reference)) < 1e-3


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_gradient_agrees_with_finite_differences(loss):
    prediction, reference = a_case((8, 8, 8), torch.float64, 0.2)
    prediction = (0.05 + 0.9 * prediction).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: loss(p, reference), prediction)


@pytest.mark.parametrize("share", [0.5, 0.01, 0.0])
def test_jaccard_loss_follows_from_the_dsc_loss(share):
    prediction, reference = a_case((8, 8, 8), torch.float64, share)
    dsc = float(dsc_loss(prediction, reference))
    assert float(jaccard_loss(prediction, reference)) == pytest.approx(2 * dsc / (1 + dsc), rel=1e-12)
    assert float(jaccard_loss(prediction, reference)) >= dsc


@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
def test_loss_is_symmetric(loss):
    one, other = a_case((8, 8, 8), torch.float64)
    assert float(loss(one, other)) == pytest.approx(float(loss(other, one)), rel=1e-14)


@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
@pytest.mark.parametrize("seed", range(5))
def test_loss_lies_between_0_and_1(loss, seed):
    prediction, reference = a_case((4, 4, 4), torch.float64, share=seed / 4, seed=seed)
    assert 0 <= float(loss(prediction, reference)) <= 1


@pytest.mark.parametrize(("loss", "half"), [(dsc_loss, 0.5), (jaccard_loss, 2 / 3)])
def test_loss_of_perfect_half_and_disjoint_masks(loss, half):
    mask = torch.zeros(1, 4, 4, 4)
    mask[:, :2] = 1
    shifted = mask.roll(1, dims=1)
    assert float(loss(mask, mask)) == 0
    assert float(loss(shifted, mask)) == pytest.approx(half)
    assert float(loss(1 - mask, mask)) == 1


@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
def test_loss_and_gradient_stay_finite_where_the_divergence_is_infinite(loss):
    """Theorem 1: P = 0 where the prostate is makes the Kullback-Leibler divergence infinite."""
    reference = torch.zeros(1, 4, 4, 4, dtype=torch.float64)
    reference[:, :2] = 1
    prediction = 1 - reference
    assert torch.isinf(torch.nn.functional.kl_div(prediction.log(), reference, reduction="sum"))
    assert float(loss(prediction, reference)) == 1
    assert gradient(loss, prediction, reference).isfinite().all()


@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
@pytest.mark.parametrize(("predicted", "expected"), [(0.0, 0.0), (0.3, 1.0), (1.0, 1.0)])
def test_an_empty_reference_gives_0_for_nothing_and_1_for_anything(loss, predicted, expected):
    reference = torch.zeros(1, 4, 4, 4)
    prediction = torch.full_like(reference, predicted)
    assert float(loss(prediction, reference)) == expected
    assert gradient(loss, prediction, reference).isfinite().all()


@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
def test_an_empty_prediction_still_pulls_every_prostate_voxel_up(loss):
    _, reference = a_case((8, 8, 8), torch.float64)
    found = gradient(loss, torch.zeros_like(reference), reference)
    assert float(loss(torch.zeros_like(reference), reference)) == 1
    assert (found[reference == 1] < 0).all() and (found[reference == 0] == 0).all()


@pytest.mark.parametrize("probability", [0.5, 0.2, 0.05])
def test_ratio_of_foreground_to_background_gradient_has_its_closed_form(probability):
    """For a constant prediction P: |g_fg| / |g_bg| = (2 - 4 P K/U) / (4 P K/U) per voxel."""
    _, reference = a_case((8, 8, 8), torch.float64, share=0.03)
    prediction = torch.full_like(reference, probability)
    found = gradient(dsc_loss, prediction, reference)
    n, foreground = reference.numel(), float(reference.sum())
    share = probability * foreground / (n * probability**2 + foreground)
    closed_form = (2 - 4 * probability * share) / (4 * probability * share)
    ratio = found[reference == 1].abs() / found[reference == 0].abs().mean()
    assert torch.allclose(ratio, torch.full_like(ratio, closed_form), rtol=1e-10)
    assert closed_form > 1  # one voxel of the prostate weighs more than one around it


def test_without_the_square_a_good_and_a_bad_voxel_would_get_the_same_gradient():
    def unsquared(prediction, reference):
        return 1 - 2 * (prediction * reference).sum() / (prediction.sum() + reference.sum())

    prediction, reference = a_case((8, 8, 8), torch.float64)
    foreground = reference == 1
    flat = gradient(unsquared, prediction, reference)[foreground]
    assert float(flat.max() - flat.min()) < 1e-15
    ours = gradient(dsc_loss, prediction, reference)[foreground]
    worst, best = prediction[foreground].argmin(), prediction[foreground].argmax()
    assert abs(float(ours[worst])) > 1.1 * abs(float(ours[best]))


def test_cross_entropy_weighs_both_classes_alike():
    reference = torch.zeros(1, 2, 5, 5, dtype=torch.float64)
    reference[0, 0, 0] = 1  # 5 of 50 voxels
    prediction = torch.full_like(reference, 0.2)
    weights = {"foreground": 50 / (2 * 5), "background": 50 / (2 * 45)}
    expected = -(5 * weights["foreground"] * math.log(0.2) + 45 * weights["background"] * math.log(0.8)) / 50
    assert float(reweighted_cross_entropy(prediction, reference)) == pytest.approx(expected, rel=1e-12)
    found = gradient(reweighted_cross_entropy, torch.full_like(reference, 0.5), reference)
    assert float(found[reference == 1].sum()) == pytest.approx(-float(found[reference == 0].sum()), rel=1e-12)


@pytest.mark.parametrize("present", [0.0, 1.0])
def test_cross_entropy_of_an_absent_class_has_weight_1_for_that_class(present):
    reference = torch.full((1, 4, 4, 4), present, dtype=torch.float64)
    prediction = torch.full_like(reference, 0.3)
    of_the_present = 0.3 if present else 0.7
    # The class that fills the volume has weight N / (2N).
    assert float(reweighted_cross_entropy(prediction, reference)) == pytest.approx(-math.log(of_the_present) / 2)


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_cross_entropy_of_a_certain_but_wrong_prediction_is_finite(wrong):
    reference = torch.full((1, 4, 4, 4), 1 - wrong)
    prediction = torch.full_like(reference, wrong)
    assert math.isfinite(float(reweighted_cross_entropy(prediction, reference)))
    assert gradient(reweighted_cross_entropy, prediction, reference).isfinite().all()


def test_dsc_and_cross_entropy_are_added():
    prediction, reference = a_case((4, 4, 4), torch.float64)
    plain = torch.nn.functional.binary_cross_entropy(prediction, reference)
    expected = float(dsc_loss(prediction, reference) + plain)
    assert float(dsc_cross_entropy(prediction, reference)) == pytest.approx(expected, rel=1e-12)


def test_multi_supervision_adds_the_weighted_losses_of_the_outputs():
    prediction, reference = a_case((4, 4, 4), torch.float64)
    outputs = (prediction, prediction**2, prediction**3)
    expected = 0.8 * dsc_loss(outputs[0], reference) + 0.15 * dsc_loss(outputs[1], reference)
    expected = expected + 0.05 * dsc_loss(outputs[2], reference)
    assert float(multi_supervision(outputs, reference, dsc_loss, (0.8, 0.15, 0.05))) == pytest.approx(float(expected))


def test_an_output_of_weight_0_is_not_evaluated():
    prediction, reference = a_case((4, 4, 4), torch.float64)
    broken = torch.full_like(prediction, math.nan)
    found = multi_supervision((prediction, broken, broken), reference, dsc_loss, (1, 0, 0))
    assert float(found) == float(dsc_loss(prediction, reference))


def test_an_output_without_its_weight_is_refused():
    prediction, reference = a_case((4, 4, 4), torch.float64)
    with pytest.raises(ValueError):
        multi_supervision((prediction, prediction, prediction), reference, dsc_loss, (0.8, 0.2))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_every_case_counts_alike_in_a_batch_however_large_its_gland(loss):
    cases = [a_case((4, 4, 4), torch.float64, share, seed) for seed, share in enumerate((0.05, 0.6))]
    batch = [torch.stack(parts) for parts in zip(*cases, strict=True)]
    alone = [float(loss(*case)) for case in cases]
    assert alone[0] != pytest.approx(alone[1], abs=0.01)
    assert float(loss(*batch)) == pytest.approx(sum(alone) / 2, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_loss_is_computed_in_float32_under_mixed_precision(loss):
    prediction, reference = a_case((8, 16, 16), torch.float32)
    prediction = (0.05 + 0.9 * prediction).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(prediction, reference)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(loss(prediction.double(), reference.double())), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_reference_of_another_shape_is_refused(loss):
    with pytest.raises(ValueError, match="differ in shape"):
        loss(torch.zeros(2, 1, 4, 4, 4), torch.zeros(2, 4, 4, 4))
