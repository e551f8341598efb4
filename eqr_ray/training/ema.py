"""The exponential moving average of the weights: what is evaluated, saved as the model, and never reset by a resume."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


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

    def copy_to(self, model: nn.Module) -> None:
        """Write the average into a model of the same shape (its buffers are left alone)."""
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.shadow[name])
