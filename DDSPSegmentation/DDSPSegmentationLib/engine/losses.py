"""DSC, Jaccard and re-weighted cross-entropy losses, and their sum over the outputs (Liu et al. 2018, section 3).

P is the prediction in [0, 1], R the reference in {0, 1}, both (batch, ...); every loss is computed per case over all
its voxels in float32 (or float64 when given), then averaged over the batch. With K = sum(P R), U = sum(P^2) + sum(R^2):

    L_DSC = 1 - 2K / U            dL/dP_i = -2 (R_i U - 2 K P_i) / U^2
    L_Jaccard = 1 - K / (U - K)   dL/dP_i = -(R_i (U - K) - K (2 P_i - R_i)) / (U - K)^2

No smoothing term is added, since it would break L_Jaccard = 2 L_DSC / (1 + L_DSC): U = 0 (nothing predicted where
nothing is) gives 0, an empty reference with any prediction gives 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def dsc_loss(prediction: Tensor, reference: Tensor) -> Tensor:
    """Mean over the batch of 1 - 2K/U, in [0, 1]."""
    overlap, total = _overlap_and_total(prediction, reference)
    return _ratio_loss(2 * overlap, total)


def jaccard_loss(prediction: Tensor, reference: Tensor) -> Tensor:
    """Mean over the batch of 1 - K/(U - K), in [0, 1]."""
    overlap, total = _overlap_and_total(prediction, reference)
    return _ratio_loss(overlap, total - overlap)


def reweighted_cross_entropy(prediction: Tensor, reference: Tensor) -> Tensor:
    """Mean over voxels of -w_c log(P_c) with w_c = N / (2 n_c), 1 where a class is absent: the paper's baseline."""
    p, r = _per_case(prediction, reference)
    count = r.shape[1]
    foreground = r.sum(dim=1, keepdim=True)
    background = count - foreground
    one = torch.ones_like(foreground)
    weight_fg = torch.where(foreground > 0, count / (2 * foreground.clamp_min(1)), one)
    weight_bg = torch.where(background > 0, count / (2 * background.clamp_min(1)), one)
    tiny = torch.finfo(p.dtype).tiny  # log of 0 would be infinite; the gradient stays finite too
    entropy = weight_fg * r * p.clamp_min(tiny).log() + weight_bg * (1 - r) * (1 - p).clamp_min(tiny).log()
    return -entropy.mean()


def dsc_cross_entropy(prediction: Tensor, reference: Tensor) -> Tensor:
    """DSC loss plus plain cross entropy, which speaks of every voxel alike (Isensee et al. 2021, nnU-Net)."""
    p, r = _per_case(prediction, reference)
    tiny = torch.finfo(p.dtype).tiny
    entropy = r * p.clamp_min(tiny).log() + (1 - r) * (1 - p).clamp_min(tiny).log()
    return dsc_loss(prediction, reference) - entropy.mean()


def multi_supervision(outputs: Sequence[Tensor], reference: Tensor, loss: Loss, weights: Sequence[float]) -> Tensor:
    """LOSS = alpha L_main + beta L_stage2 + gamma L_stage3 (section 2.1); an output of weight 0 is not evaluated."""
    used = [weight * loss(output, reference) for output, weight in zip(outputs, weights, strict=True) if weight > 0]
    return sum(used[1:], used[0])


LOSSES: dict[str, Loss] = {
    "dsc": dsc_loss,
    "jaccard": jaccard_loss,
    "reweighted_cross_entropy": reweighted_cross_entropy,
    "dsc_cross_entropy": dsc_cross_entropy,
}


def _per_case(prediction: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    if prediction.shape != reference.shape:
        shapes = f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)}"
        raise ValueError(f"{shapes} differ in shape.")
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    return prediction.to(dtype).flatten(1), reference.to(dtype).flatten(1)


def _overlap_and_total(prediction: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast(device_type=prediction.device.type, enabled=False):
        p, r = _per_case(prediction, reference)
        return (p * r).sum(dim=1), (p * p).sum(dim=1) + (r * r).sum(dim=1)


def _ratio_loss(numerator: Tensor, denominator: Tensor) -> Tensor:
    nothing = denominator == 0  # neither predicted nor there: perfect agreement
    ratio = numerator / torch.where(nothing, torch.ones_like(denominator), denominator)
    return torch.where(nothing, torch.zeros_like(ratio), 1 - ratio).mean()
