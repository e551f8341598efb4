"""AdamATan2 and its learning rate: linear warm-up, constant, and an optional linear end."""

from __future__ import annotations

from collections.abc import Iterable

from adam_atan2_pytorch import AdamAtan2
from torch.nn import Parameter

from eqr_ray.training.config import TrainingConfig


def build_optimizer(parameters: Iterable[Parameter], config: TrainingConfig) -> AdamAtan2:
    """Adam-atan2 (Everett et al. 2024, arXiv 2407.05872): no epsilon, decay coupled to the rate as in AdamW.

    With the factor 1.27 of that paper, which the reference's kernel does not have: its rates are 1.27 times ours.
    """
    betas = (config.beta1, config.beta2)
    return AdamAtan2(parameters, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The rate of update `step` (from 0)."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    left = (config.steps - step) / config.steps
    cool = min(1.0, left / config.cooldown) if config.cooldown else 1.0
    return config.learning_rate * warm * cool
