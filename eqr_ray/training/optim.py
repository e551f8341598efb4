"""AdamATan2 with its learning rate, and the moving average of the weights that is evaluated and saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from adam_atan2_pytorch import AdamAtan2
from torch import Tensor, nn

from eqr_ray.training.config import TrainingConfig


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> AdamAtan2:
    """Adam-atan2 (Everett et al. 2024, arXiv 2407.05872): no epsilon, decay coupled to the rate as in AdamW.

    With the factor 1.27 of that paper, which the reference's kernel does not have: its rates are 1.27 times ours.
    """
    betas = (config.beta1, config.beta2)
    return AdamAtan2(parameters, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The rate of update `step` (from 0): linear warm-up, constant, and an optional linear end."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    left = (config.steps - step) / config.steps
    cool = min(1.0, left / config.cooldown) if config.cooldown else 1.0
    return config.learning_rate * warm * cool


class Ema:
    """shadow <- decay * shadow + (1 - decay) * weight, in float32, for every parameter by name."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.shadow = {name: p.detach().clone().float() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor]) -> None:
        ours = [self.shadow[name] for name in parameters]
        torch._foreach_lerp_(ours, [p.detach().float() for p in parameters.values()], 1.0 - self.decay)

    def load(self, shadow: Mapping[str, Tensor]) -> None:
        """Take over a saved average."""
        assert shadow.keys() == self.shadow.keys()
        for name, tensor in shadow.items():
            self.shadow[name].copy_(tensor)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the average into a model of the same shape (its buffers are left alone)."""
        for name, parameter in model.named_parameters():
            parameter.copy_(self.shadow[name])
