"""How a training runs: batch, schedule, optimizer, halting. The paper's values are the defaults (arXiv 2605.21488)."""

from __future__ import annotations

from typing import Literal

from eqr_ray.config.schema import Options, option


class TrainingOptions(Options):
    """How it learns:"""

    weights: str | None = option(
        None, "start from these: a run, a folder with model.safetensors, FILE.pth, zoo:NAME; null: random"
    )
    steps: int = option(50_000, "optimizer steps", ge=1, resume=True)
    minutes: float = option(0.0, "stop after so many minutes of training; 0: no limit", ge=0, resume=True, sweep=False)
    batch: int = option(768, "rows of all workers together", ge=1)
    accumulation: int = option(1, "micro-batches per worker and update", ge=1, resume=True)
    schedule: Literal["sot", "vanilla", "trajectory"] = option(
        "sot", "sot; vanilla: loss after the last segment; trajectory: losses along it, one update"
    )
    supervise_every: int = option(4, "trajectory: a loss every so many segments", ge=1)
    halting: Literal["learned", "oracle", "fixed"] = option(
        "learned", "learned; oracle: halt when right; fixed: always max_segments"
    )
    max_segments: int | None = option(
        None, "a row is replaced after so many; null: 16, and 1 for a feed-forward network", ge=1
    )
    exploration: float = option(0.1, "share of rows with a random minimum length", ge=0, le=1)
    learning_rate: float = option(1e-4, "constant after warmup", gt=0)
    warmup: int = option(2_000, "steps of linear warm-up", ge=0)
    cooldown: float = option(0.0, "share of steps= at their end in which the rate falls to zero", ge=0, le=1)
    weight_decay: float = option(1.0, "of AdamATan2", ge=0)
    beta1: float = option(0.9, "of AdamATan2", ge=0, lt=1)
    beta2: float = option(0.95, "of AdamATan2", ge=0, lt=1)
    ema: float = option(0.999, "of the weights; what is validated and saved", ge=0, lt=1)
    gradient_clipping: float = option(0.0, "0: none", ge=0)
    dtype: Literal["auto", "bfloat16", "float32"] = option(
        "auto", "of the states: bfloat16, float32; auto: bfloat16 where the processor has it, else float32"
    )
    compile: bool = option(True, "torch.compile", resume=True)
    augment: bool = option(True, "a random symmetry of the grid for every puzzle drawn")
    seed: int = option(0, "of weights, starts, noise, order of puzzles", ge=0, lt=2**63, sweep=False)
    log_every: int = option(20, "steps", ge=1, resume=True)
    validate_every: int = option(1_000, "steps; 0: only at the end", ge=0, resume=True, sweep=False)
    validate_puzzles: int = option(256, "at most", ge=1, resume=True)
    validate_depth: int | None = option(None, "segments; null: max_segments", ge=1, resume=True)
    checkpoint_every: int = option(1_000, "steps", ge=1, resume=True, sweep=False)
    keep_checkpoints: int = option(2, "the newest", ge=1, resume=True, sweep=False)


class TrainingConfig(TrainingOptions):
    """The same with what follows from the network and the device."""

    dtype: Literal["bfloat16", "float32"] = option("bfloat16", "of the states: bfloat16, float32")
    max_segments: int = option(16, "a row is replaced after so many", ge=1)
    validate_depth: int = option(16, "segments", ge=1, resume=True)

    @property
    def supervised(self) -> tuple[bool, ...]:
        """Which segments of one update end with a loss: SOT has one segment, the others run whole trajectories."""
        if self.schedule == "sot":
            return (True,)
        last, along = self.max_segments, self.schedule == "trajectory"
        return tuple(k == last or (along and k % self.supervise_every == 0) for k in range(1, last + 1))

    @property
    def backwards_per_step(self) -> int:
        return self.accumulation * sum(self.supervised)
