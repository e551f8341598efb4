"""The one tree of configurations: what a training run is, wherever it runs.

`Experiment` is what `config.json` holds, what a worker receives and what Tune varies; the doors make it from their flat
keys with `experiment_of`. What its parts become (network, job, saved model) is here too, so that the process of a
laptop and the workers of a cluster build the same things.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from eqr_ray.config.errors import UserError
from eqr_ray.config.strict import content_hash, from_dict, to_dict
from eqr_ray.data.arrow_store import Split
from eqr_ray.data.sampler import Sampler
from eqr_ray.model import ModelConfig, Reasoner
from eqr_ray.model.pretrained import ModelCard, load_model, save_model
from eqr_ray.model.runtime import device_named
from eqr_ray.storage.run_dir import CHECKPOINTS, RunDir
from eqr_ray.storage.run_log import RunLog, WandbMode
from eqr_ray.tasks import Task, task_named
from eqr_ray.training.backend import LocalBackend
from eqr_ray.training.config import TrainingConfig
from eqr_ray.training.loop import TrainingJob, rows_of, train

TRAINING_KEYS = tuple(field.name for field in dataclasses.fields(TrainingConfig))
# The method's own knobs stand at the top level of a door, where sweeps and studies turn them.
KNOBS = {"damping": ("damping",), "noise_scale": ("noise_scale",), "init_std": ("init_std_H", "init_std_L")}
BY_TASK = ("mixing", "positions")  # of a model preset: null leaves them to the task
DEFAULTS = TrainingConfig()
# What a resume may change: how long, on what and how closely watched, never what is computed.
FREE_TRAINING = (
    *("steps", "minutes", "accumulation", "compile", "log_every", "checkpoint_every", "keep_checkpoints"),
    *("validate_every", "validate_puzzles", "validate_depth"),
)
FREE = (
    "mirror",
    "data",
    "workers",
    "workers_min",
    "wait_minutes",
    "zero",
    "device",
    "wandb",
    "address",
    "max_failures",
)


@dataclass(frozen=True)
class Experiment:
    """A training run, completely resolved."""

    task: str
    data: str  # a folder with train.arrow and validation.arrow
    data_hash: str  # of the content of both
    model: ModelConfig
    training: TrainingConfig = field(default_factory=TrainingConfig)
    workers: int = 0  # Ray Train workers; 0: this process, no Ray
    workers_min: int | None = None  # go on with so few where there are no more; None: all of them or none
    wait_minutes: float = 0.0  # for nodes of a cluster that was joined; once begun, at least 10
    weights: str | None = None  # a trained network to start from (`load_model`); None: random weights
    zero: Literal[0, 1, 2, 3] = 0  # stage of DeepSpeed's ZeRO
    device: Literal["auto", "cpu", "cuda"] = "auto"
    wandb: WandbMode = "disabled"
    address: str | None = None  # of a Ray cluster
    mirror: str | None = None  # an object store that has a copy of the run's folder
    max_failures: int = 3  # new starts in a row without a new checkpoint

    def __post_init__(self) -> None:
        for name in ("workers", "max_failures"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} is not allowed: 0 or more")
        if self.zero and not self.workers:
            raise UserError(f"zero={self.zero} divides the training state among Ray workers: workers=1 or more")
        if not 0 <= self.wait_minutes < float("inf"):
            raise UserError(f"wait_minutes={self.wait_minutes} is not allowed: 0 or more")
        if self.workers_min is not None and not 1 <= self.workers_min <= self.workers:
            allowed = f"1 to workers={self.workers}" if self.workers else "it goes with workers=1 or more"
            raise UserError(f"workers_min={self.workers_min} is not allowed: {allowed}")
        for workers in {max(self.workers, 1), max(self.least_workers, 1)}:
            rows = len(rows_of(0, workers, self.training.batch))
            if rows % self.training.accumulation:
                words = f"accumulation={self.training.accumulation} does not divide the {rows} rows of a worker"
                raise UserError(words)
        if self.model.weights == "distinct" and self.model.grad_cycles != self.model.h_cycles:
            raise UserError(
                f"model.grad_cycles={self.model.grad_cycles} is not allowed with model.weights=distinct: "
                f"h_cycles={self.model.h_cycles}, or some weights would never learn"
            )

    @property
    def least_workers(self) -> int:
        """Fewer do not go on."""
        return self.workers if self.workers_min is None else self.workers_min

    def can_use(self, workers: int) -> bool:
        """Whether the batch can be dealt out to so many."""
        return self.training.batch % (workers * self.training.accumulation) == 0

    @property
    def identity(self) -> str:
        """Hash of what a resume may not change."""
        return content_hash(kept(to_dict(self)))


def kept(values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an experiment's dict that a resume must find again."""
    training = {key: value for key, value in values["training"].items() if key not in FREE_TRAINING}
    return {**{key: value for key, value in values.items() if key not in FREE}, "training": training}


def placed(weights: str | None) -> str | None:
    """The name of a trained network, as a run keeps it: a pretrained one, or an absolute path."""
    return weights if weights is None or weights.startswith("zoo:") else str(Path(weights).resolve())


def experiment_of(values: Mapping[str, Any], task: Task, data: Path, data_hash: str) -> Experiment:
    """From the flat keys of a door (`steps`, `damping`, `model.width`, ...) and what `describe_data` says of `data`.

    UserError for unknown keys and for values that are not allowed, alone or together.
    """
    model = model_of(task, values)
    training = {key: values[key] for key in TRAINING_KEYS if key in values}
    if training.get("max_segments") is None:  # a feed-forward network is not iterated
        training["max_segments"] = 1 if model.weights == "distinct" else DEFAULTS.max_segments
    if training.get("validate_depth") is None:
        training["validate_depth"] = training["max_segments"]
    rest = {key: value for key, value in values.items() if key not in (*TRAINING_KEYS, *KNOBS, "task", "data", "model")}
    rest["weights"] = placed(rest.get("weights"))
    fixed = {
        "task": task.name,
        "data": str(data.resolve()),
        "data_hash": data_hash,
        "model": to_dict(model),
        "training": to_dict(from_dict(TrainingConfig, training)),
    }
    return from_dict(Experiment, {**rest, **fixed})


def describe_data(data: Path, task: str | None) -> tuple[Task, str]:
    """(its task, the hash of its content) of a dataset folder. UserError: a split is missing, or of another task."""
    train, validation = open_splits(data)
    wanted = train.task if task is None else task_named(task)
    for split in (train, validation):
        if split.task != wanted:
            raise UserError(f"task={wanted.name}: {split.path} holds {split.task_name} puzzles")
    return wanted, content_hash([train.content_hash, validation.content_hash])


def open_splits(data: Path) -> tuple[Split, Split]:
    """The training and the validation puzzles of a dataset folder, all of them read once and compared with their hash
    (a second for 4 million). UserError: missing or damaged."""
    return Split.open(data / "train.arrow", verify=True), Split.open(data / "validation.arrow", verify=True)


def model_of(task: Task, values: Mapping[str, Any]) -> ModelConfig:
    """The network of `values["model"]` for a task, with the knobs of `values` set over it; null leaves them be."""
    parts = {key: value for key, value in values["model"].items() if value is not None or key not in BY_TASK}
    for knob, names in KNOBS.items():
        if values.get(knob) is not None:
            parts |= dict.fromkeys(names, values[knob])
    # A maze is a graph of cells: attention with rotary positions. A sudoku's 81 places are mixed by an MLP (method.md).
    parts.setdefault("mixing", "attention" if task.name.startswith("maze") else "mlp")
    parts.setdefault("positions", "rope" if parts["mixing"] == "attention" else "none")
    given = {"vocab_size": task.vocab_size, "length": task.length, "grid": list(task.grid)}
    if clash := given.keys() & parts.keys():
        raise UserError(f"model.{min(clash)} belongs to the task and cannot be set")
    return from_dict(ModelConfig, {**parts, **given}, "model")


def build_model(experiment: Experiment) -> Reasoner:
    """The network at its keyed random start, or with the weights of another one; the process's own generator is left
    alone. UserError: weights of another shape."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.training.seed)
        model = Reasoner(experiment.model)
    if experiment.weights is not None:
        trained, _ = load_model(experiment.weights)
        try:
            model.load_state_dict(trained.state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"weights={experiment.weights} do not fit model= ({reason})") from error
    return model


def check_data(experiment: Experiment) -> None:
    """UserError where the data is missing or not what the experiment was made with."""
    if describe_data(Path(experiment.data), experiment.task)[1] != experiment.data_hash:
        raise UserError(f"data={experiment.data} is not what the run began with: its content has another hash")


def training_job(
    experiment: Experiment, folder: Path, log: RunLog, report: Callable[[dict[str, Any]], None]
) -> TrainingJob:
    """What one worker needs besides its backend. UserError where the data is not what the experiment was made with."""
    check_data(experiment)
    config = experiment.training
    train, validation = open_splits(Path(experiment.data))
    sampler = Sampler(train, task_named(experiment.task), config.batch, config.seed, config.augment)
    return TrainingJob(config, sampler, validation, folder / CHECKPOINTS, experiment.identity, log, report)


def train_here(
    experiment: Experiment,
    folder: Path,
    report: Callable[[dict[str, Any]], None],
    interrupted: Callable[[], bool] = bool,
) -> dict[str, Any]:
    """Train in this process, without Ray, and return the summary. `report` hears the figures of every checkpoint;
    `interrupted`: a wish to end with a checkpoint after this step."""
    backend = LocalBackend(build_model(experiment), experiment.training, device_named(experiment.device))
    with RunLog(folder, wandb=experiment.wandb, config=to_dict(experiment)) as log:
        job = training_job(experiment, folder, log, report)
        begin(experiment, folder)
        return finish(experiment, folder, train(backend, dataclasses.replace(job, interrupted=interrupted)))


def begin(experiment: Experiment, folder: Path) -> None:
    """Say in the folder what the run is. Not before training begins: a run that was finished stays so when Ray does
    not start."""
    values = to_dict(experiment)
    RunDir(folder, "train").create(kept(values), values)


def finish(experiment: Experiment, folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Write model.safetensors, model.json and, last, summary.json, whose presence says that the run is finished.

    `result` is what the training loop returned. Returns the summary.
    """
    weights = result.pop("ema")
    private = ("model", "data", "address", "wandb")  # in the card already, or nobody else's business
    recipe = {key: value for key, value in to_dict(experiment).items() if key not in private}
    card = save_model(folder, weights, ModelCard(experiment.task, experiment.model, result["step"], "", recipe))
    summary = {
        "task": experiment.task,
        **result,
        "workers": experiment.workers,
        "zero": experiment.zero,
        "seed": experiment.training.seed,
        "model_hash": card.hash,
        "data_hash": experiment.data_hash,
    }
    RunDir(folder, "train").write_summary(summary)
    return summary
