"""Training plans: the paper's own, and the improved one that ships."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..engine.losses import LOSSES
from ..engine.network import NetworkSettings
from ..engine.preprocessing import PreprocessingSettings
from .augmentation import PAPER_AUGMENTATION, AugmentationSettings


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides a training run, besides its cases.

    Attributes:
        optimizer: ``adamw`` or ``sgd``; ``momentum`` is SGD's.
        schedule: ``steps``: times 0.2 every 10 000 steps (Liu et al. 2018, section 4); ``decay``: a short warm-up,
            a plateau, then a linear fall over the last ``decay_share`` of the steps, so that a run can be prolonged
            from its plateau.
        batch_size: cases per process and step; ``accumulation``: batches per step.
        small_crop: size (z, y, x) of the crops over the first ``small_crop_share`` of the steps, which are cheaper;
            ``None``: all crops have the network's input size.
        loss: a name of ``losses.LOSSES``.
        ema_decay: decay of the exponential moving average of the weights that is published; 0 publishes the last.
        gradient_clip: largest gradient norm, 0 for none.
        frozen_batch_norm: batch norm uses its running statistics in training too (fine-tuning on few cases).
        anchor: after each step the weights go back towards those they started with by this share of the learning
            rate (L2 towards the old weights, decoupled as AdamW's weight decay is); 0 for none.
        new_share: the published weights lie so far on the way from those it started with to the trained ones; below
            1 it keeps more of the old ability (Wortsman et al. 2022, arXiv:2109.01903).
        replay_share: share of the samples that come from the replay cases, when there are any.
        validation_interval: steps between checks on the validation cases.
    """

    name: str
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.99
    weight_decay: float = 0.01
    schedule: str = "decay"
    decay_share: float = 0.4
    steps: int = 4000
    batch_size: int = 2
    accumulation: int = 1
    small_crop: tuple[int, int, int] | None = None
    small_crop_share: float = 0.5
    loss: str = "dsc"
    ema_decay: float = 0.995
    gradient_clip: float = 12.0
    frozen_batch_norm: bool = False
    anchor: float = 0.0
    new_share: float = 1.0
    replay_share: float = 0.5
    validation_interval: int = 250
    seed: int = 0
    network: NetworkSettings = field(default_factory=NetworkSettings)
    preprocessing: PreprocessingSettings = field(default_factory=PreprocessingSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)

    def __post_init__(self) -> None:
        for name, known in (("optimizer", ("adamw", "sgd")), ("schedule", ("decay", "steps")), ("loss", tuple(LOSSES))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} '{getattr(self, name)}' is unknown; use one of {', '.join(known)}.")
        for name in ("steps", "batch_size", "accumulation", "validation_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the given step (from 0)."""
        if self.schedule == "steps":
            return self.learning_rate * 0.2 ** (step // 10_000)
        warm_up = min(1.0, (step + 1) / min(100, max(1, self.steps // 10)))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay_share * self.steps))
        return self.learning_rate * warm_up * max(fall, 0.01)

    def crop_size_at(self, step: int) -> tuple[int, int, int]:
        """Size (z, y, x) in voxels of the crops of the given step (from 0)."""
        whole = self.network.input_size
        if self.small_crop is None or step >= self.small_crop_share * self.steps:
            return whole
        z, y, x = map(min, self.small_crop, whole)
        return z, y, x


PLANS = {
    "paper": TrainingPlan(
        "paper", optimizer="sgd", weight_decay=0.005, schedule="steps", steps=40_000, ema_decay=0.0,
        gradient_clip=0.0, augmentation=PAPER_AUGMENTATION,
    ),
    # What helped on whole patients that were left out, see the training runs in docs/evaluation.md.
    "improved": TrainingPlan(
        "improved", small_crop=(32, 64, 64), network=NetworkSettings(fusion=(1, 0, 0)),
        augmentation=AugmentationSettings(thick=0.35, noise=0.3, bias=0.8),
    ),
}  # fmt: skip


def choose_plan(name: str, **changes: Any) -> TrainingPlan:
    """A plan by name, with named settings changed."""
    return replace(PLANS[name], **changes)
