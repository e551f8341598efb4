"""The owner of weights and optimizer, as the training loop sees it; AdamATan2, its rate, the average of the weights.

Losses arrive as means over the rows of a micro-batch; a backend averages over micro-batches and workers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from adam_atan2_pytorch import AdamAtan2
from torch import Tensor, nn

from eqr_ray.config.errors import UserError
from eqr_ray.model import Latent, Readout, Reasoner
from eqr_ray.model.cell import Noise
from eqr_ray.training.config import TrainingConfig

T = TypeVar("T")
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamATan2, besides the number of updates
LONGEST_MESSAGE = 2_000  # bytes
# A mistake of the user, and a disk that may answer better another time.
ERRORS: tuple[type[UserError] | type[OSError], ...] = (UserError, OSError)


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

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the average into a model of the same shape (its buffers are left alone)."""
        for name, parameter in model.named_parameters():
            parameter.copy_(self.shadow[name])


class Backend:
    """Owns the weights and the optimizer of one worker: here of the only one, in plain torch, the twin that DeepSpeed's
    is checked against. All methods are collective: every worker calls them in the same order."""

    rank, workers = 0, 1

    def __init__(self, model: Reasoner, config: TrainingConfig, device: torch.device) -> None:
        self.model, self.config, self.device = model.to(device), config, device
        self.optimizer = build_optimizer(self.model.parameters(), config)
        self._backwards = 0

    def forward(self, inputs: Tensor, latent: Latent, noise: Noise | None) -> Readout:
        """One segment of some rows."""
        readout: Readout = self.model(inputs, latent, noise)
        return readout

    def accumulate(self, loss: Tensor) -> None:
        """Take a micro-batch's mean loss backward; the last micro-batch of a step updates the weights."""
        (loss / self.config.backwards_per_step).backward()  # type: ignore[no-untyped-call]
        self._backwards += 1
        if self._backwards == self.config.backwards_per_step:
            if self.config.gradient_clipping:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clipping)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self._backwards = 0

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def parameters(self) -> dict[str, Tensor]:
        """All weights in full, float32, by name."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimizer's tensors in full, as `exp_avg/NAME`, `exp_avg_sq/NAME`."""
        moments = {name: self.optimizer.state[parameter] for name, parameter in self.model.named_parameters()}
        return {f"{key}/{name}": found[key] for name, found in moments.items() for key in MOMENTS if key in found}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], updates: int) -> None:
        """Take over the state of a checkpoint after `updates` updates, whatever backend and worker count wrote it."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])
            if f"{MOMENTS[0]}/{name}" in optimizer:
                moments = {key: optimizer[f"{key}/{name}"].to(self.device).clone() for key in MOMENTS}
                self.optimizer.state[parameter] = {"steps": updates, **moments}

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all workers."""
        return values

    def barrier(self) -> None:
        """Wait for all workers."""


def collective_call(backend: Backend, make: Callable[[], T]) -> T:
    """`make()` on every worker. UserError or OSError on any of them is raised by all. Collective; `make` is not."""
    # A row per worker: the kind of its error (0: none) and the bytes of its message.
    messages = torch.zeros(backend.workers, 1 + LONGEST_MESSAGE, dtype=torch.int64, device=backend.device)
    try:
        made = make()
    except ERRORS as error:
        kind = 1 + isinstance(error, OSError)
        words = f"{socket.gethostname()}: {error}" if kind == 2 else str(error)
        message = torch.tensor([kind, *words.encode()[:LONGEST_MESSAGE]], dtype=torch.int64)
        messages[backend.rank, : len(message)] = message
        backend.sum(messages)
        raise
    for kind, *letters in backend.sum(messages).tolist():
        if kind:
            raise ERRORS[kind - 1](bytes(letters).rstrip(b"\0").decode(errors="replace"))
    return made
