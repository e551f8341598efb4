"""A tiny network, a tiny dataset, and the loop on one thread without compilation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eqr_ray.data.arrow_store import Split, write_split
from eqr_ray.data.sampler import Sampler
from eqr_ray.model import ModelConfig, Reasoner
from eqr_ray.tasks import task_named
from eqr_ray.training.backend import Backend
from eqr_ray.training.config import TrainingConfig
from eqr_ray.training.loop import TrainingJob, train

torch.set_num_threads(1)
TASK = task_named("sudoku4")


@dataclass
class Notes:
    """A run log that remembers."""

    entries: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)

    def log(self, event: str, step: int, **metrics: Any) -> None:
        self.entries.append((event, step, metrics))


@dataclass
class Bench:
    """Where tests get their parts."""

    data: Path
    config: TrainingConfig
    notes: Notes = field(default_factory=Notes)

    def model(self, **changes: Any) -> Reasoner:
        values = {"width": 8, "layers": 1, "hidden_multiple": 8, "h_cycles": 2, "l_cycles": 1, **changes}
        torch.manual_seed(0)
        return Reasoner(ModelConfig(vocab_size=TASK.vocab_size, length=TASK.length, grid=TASK.grid, **values))

    def sampler(self, config: TrainingConfig) -> Sampler:
        return Sampler(Split.open(self.data / "train.arrow"), config.batch, config.seed, config.augment)

    def backend(self, config: TrainingConfig | None = None, **model: Any) -> Backend:
        return Backend(self.model(**model), config or self.config, torch.device("cpu"))

    def job(self, folder: Path, config: TrainingConfig | None = None, **changes: Any) -> TrainingJob:
        config = config or self.config
        validation = Split.open(self.data / "validation.arrow")
        job = TrainingJob(config, self.sampler(config), validation, folder, "same", self.notes, lambda figures: None)
        return replace(job, **changes)

    def train(self, folder: Path, **changes: Any) -> tuple[Backend, dict[str, Any]]:
        config = self.config.replace(**changes)
        backend = self.backend(config)
        return backend, train(backend, self.job(folder, config))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sudoku4")
    puzzles = TASK.generate(24, 0)
    for name, rows in (("train", np.arange(16)), ("validation", np.arange(16, 24))):
        part = puzzles.take(rows)
        write_split(folder / f"{name}.arrow", TASK, part, source="generate", seed=0)
    return folder


@pytest.fixture
def bench(data: Path) -> Bench:
    config = TrainingConfig(
        steps=20,
        batch=8,
        dtype="float32",
        compile=False,
        learning_rate=1e-3,
        warmup=5,
        weight_decay=0.1,
        max_segments=4,
        log_every=5,
        validate_every=0,
        validate_puzzles=8,
        validate_depth=2,
        checkpoint_every=10,
    )
    return Bench(data, config)
