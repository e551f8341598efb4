"""What a training run is: `TrainOptions` are the keys of `train`, an `Experiment` what they mean for a dataset (the
content of config.json, what a worker receives and what Tune varies), and what its parts become."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, about, content_hash, flat, option
from eqr_ray.data.arrow_store import Split
from eqr_ray.data.sampler import Sampler
from eqr_ray.model import ModelConfig, Reasoner
from eqr_ray.model.config import ModelOptions
from eqr_ray.model.pretrained import ModelCard, load_model, load_weights, save_model
from eqr_ray.model.runtime import device_named, resolved_dtype
from eqr_ray.storage.run_dir import CHECKPOINTS, RunDir
from eqr_ray.storage.run_log import RunLog, WandbMode
from eqr_ray.tasks import Task, task_named
from eqr_ray.training.backend import Backend
from eqr_ray.training.config import TrainingConfig, TrainingOptions
from eqr_ray.training.loop import ReportMetrics, TrainingJob, rows_of, train

# The method's own knobs stand at the top level of the command, where sweeps and studies turn them.
KNOBS = {
    "damping": ("model.damping",),
    "noise_scale": ("model.noise_scale",),
    "init_std": ("model.init_std_H", "model.init_std_L"),
}


class WorkerOptions(Options):
    """Where it runs:"""

    workers: int = option(
        0,
        "Ray workers, a GPU or an equal share of the CPUs each; 0: this process, without Ray",
        ge=0,
        resume=True,
        sweep=False,
    )
    workers_min: int | None = option(None, "go on with so few while there are no more; null: all", resume=True)
    wait_minutes: float = option(
        0.0, "for nodes that a cluster's autoscaler brings; a run that has begun waits 10 at least", ge=0, resume=True
    )
    zero: Literal[0, 1, 2, 3] = option(0, "stage of DeepSpeed's ZeRO on the workers: 0, 1, 2, 3", resume=True)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto, cpu, cuda", resume=True, sweep=False)
    address: str | None = option(
        None, "a Ray cluster to join; null: RAY_ADDRESS, or one is started here", resume=True, sweep=False
    )
    max_failures: int = option(
        3, "new starts in a row without a new checkpoint, after a worker died", ge=0, resume=True
    )
    wandb: WandbMode = option("disabled", "Weights & Biases: disabled, offline, online", resume=True, sweep=False)
    mirror: str | None = option(
        None, "s3://bucket/path, gs://...: holds a copy of the run's folder, for other machines", resume=True
    )


class TrainOptions(TrainingOptions, WorkerOptions):
    """Trains a network by segmented online training: every segment ends in a loss and an update. Without data= puzzles
    are generated. An interrupted or killed run goes on with resume=RUN, on any number of workers.

    Example: python -m eqr_ray.train task=sudoku6 model=eqr_small batch=128 learning_rate=2e-3 minutes=5
             python -m eqr_ray.train data=data/sudoku9 workers=2 zero=2 out=runs/sudoku9
             python -m eqr_ray.train resume=runs/sudoku9 steps=100000
    """

    task: str | None = option(
        None, "sudoku4, sudoku6, sudoku9, sudoku16, maze15, any mazeN; null: that of data=, else sudoku9", sweep=False
    )
    data: str | None = option(
        None, "a folder that prepare made; null: 1,000 generated puzzles in the run's data/", resume=True, sweep=False
    )
    out: str | None = option(None, "the run's folder; null: runs/TASK-TIME", sweep=False)
    resume: str | None = option(
        None, "a run's folder: go on there. Limits, workers, logging, where the data is may change", sweep=False
    )
    recipe: str | None = option(None, "FILE.yaml of keys (best.yaml of a sweep); typed ones count more", sweep=False)
    model: ModelOptions = option(ModelOptions(), "the network", preset=True)
    damping: float | None = option(None, "share of the old state that a cell keeps; null: the model's", ge=0, lt=1)
    noise_scale: float | None = option(None, "noise of every cell call; null: the model's", ge=0)
    init_std: float | None = option(None, "standard deviation of random starts; null: the model's", ge=0)

    def changes(self, typed: Collection[str]) -> dict[str, Any]:
        """Key -> value of what was typed beside `resume`, as an experiment names and writes it."""
        data = self.data and str(Path(self.data).resolve())
        values = {**flat(self.to_dict()), "weights": placed(self.weights), "data": data}
        changes: dict[str, Any] = {}
        for key in set(typed) - {"resume", *(("data",) if data is None else ())}:
            if key == "model":
                changes |= {name: value for name, value in values.items() if name.startswith("model.")}
            else:
                changes |= dict.fromkeys(KNOBS.get(key, (key,)), values[key])
        return changes


class Experiment(TrainingConfig, WorkerOptions):
    """A training run, completely resolved."""

    task: str = option(..., "what is solved")
    data: str = option(..., "a folder with train.arrow and validation.arrow", resume=True)
    data_hash: str = option(..., "of the content of both")
    model: ModelConfig = option(..., "the network")

    @model_validator(mode="after")
    def _check(self) -> Experiment:
        model, least = self.model, self.least_workers
        if self.zero and not self.workers:
            raise UserError(f"zero={self.zero} divides the training state among Ray workers: workers=1 or more")
        if self.workers_min is not None and not 1 <= least <= self.workers:
            allowed = f"1 to workers={self.workers}" if self.workers else "it goes with workers=1 or more"
            raise UserError(f"workers_min={least} is not allowed: {allowed}")
        for workers in {self.workers or 1, least or 1}:
            rows = len(rows_of(0, workers, self.batch))
            if rows % self.accumulation:
                raise UserError(f"accumulation={self.accumulation} does not divide the {rows} rows of a worker")
        if model.weights == "distinct" and model.grad_cycles != model.h_cycles:
            why = f"with model.weights=distinct: h_cycles={model.h_cycles}, or some weights would never learn"
            raise UserError(f"model.grad_cycles={model.grad_cycles} is not allowed {why}")
        return self

    @property
    def least_workers(self) -> int:
        """Fewer do not go on."""
        return self.workers if self.workers_min is None else self.workers_min

    def can_use(self, workers: int) -> bool:
        """Whether the batch can be dealt out to so many."""
        return self.batch % (workers * self.accumulation) == 0

    @property
    def fixed(self) -> dict[str, Any]:
        """The part of its dict that a resume must find again."""
        return {
            name: value for name, value in self.to_dict().items() if not about(Experiment.model_fields[name])["resume"]
        }

    @property
    def identity(self) -> str:
        """Hash of what a resume may not change."""
        return content_hash(self.fixed)


def placed(weights: str | None) -> str | None:
    """The name of a trained network, as a run keeps it: a pretrained one, or an absolute path."""
    return weights if weights is None or weights.startswith("zoo:") else str(Path(weights).resolve())


def experiment_of(options: TrainOptions, task: Task, data: Path, data_hash: str) -> Experiment:
    """What the options mean for `data`, of which `describe_data` told the rest. UserError: they do not go together."""
    names = Experiment.model_fields.keys() & TrainOptions.model_fields.keys()
    values = {name: getattr(options, name) for name in names}
    model, segments = model_of(task, options), options.max_segments
    if segments is None:  # a feed-forward network is not iterated
        segments = 1 if model.weights == "distinct" else TrainingConfig.model_fields["max_segments"].default
    values |= {"task": task.name, "data": str(data.resolve()), "data_hash": data_hash, "model": model}
    values |= {"weights": placed(options.weights), "max_segments": segments}
    values["validate_depth"] = segments if options.validate_depth is None else options.validate_depth
    # The GPUs of a cluster are not known before it is joined.
    joins = options.workers > 0 and (options.address or os.environ.get("RAY_ADDRESS"))
    likely = "cuda" if joins else device_named("auto").type
    values["dtype"] = resolved_dtype(options.dtype, likely if options.device == "auto" else options.device)
    return Experiment(**values)


def model_of(task: Task, options: TrainOptions) -> ModelConfig:
    """The network of `options.model` for a task, with the knobs set over it; null leaves them be."""
    parts = {name: value for name, value in options.model if value is not None}
    for knob, names in KNOBS.items():
        if (value := getattr(options, knob)) is not None:
            parts |= {name.removeprefix("model."): value for name in names}
    # A maze is a graph of cells: attention with rotary positions. A sudoku's 81 places are mixed by an MLP.
    parts.setdefault("mixing", "attention" if task.name.startswith("maze") else "mlp")
    parts.setdefault("positions", "rope" if parts["mixing"] == "attention" else "none")
    parts |= {"vocab_size": task.vocab_size, "length": task.length, "grid": task.grid}
    return ModelConfig.parse(parts, "model")


def describe_data(data: Path, task: str | None) -> tuple[Task, str]:
    """(its task, the hash of its content) of a dataset folder. UserError: a split is missing, or of another task."""
    train, validation = open_splits(data)
    wanted = train.task if task is None else task_named(task)
    for split in (train, validation):
        if split.task != wanted:
            raise UserError(f"task={wanted.name}: {split.path} holds {split.task_name} puzzles")
    return wanted, content_hash([train.content_hash, validation.content_hash])


def open_splits(data: Path) -> tuple[Split, Split]:
    """The training and the validation puzzles of a dataset folder, all compared with their hash (a second for 4
    million). UserError: missing or damaged."""
    return Split.open(data / "train.arrow", verify=True), Split.open(data / "validation.arrow", verify=True)


def build_model(experiment: Experiment) -> Reasoner:
    """The network at its keyed random start, or with the weights of another one; the process's own generator is left
    alone. UserError: weights of another shape."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        model = Reasoner(experiment.model)
    if experiment.weights is not None:
        trained, _ = load_model(experiment.weights)
        load_weights(model, trained.state_dict(), f"weights={experiment.weights} do not fit model=")
    return model


def training_job(
    experiment: Experiment, folder: Path, log: RunLog, report: ReportMetrics, interrupted: Callable[[], bool]
) -> TrainingJob:
    """What one worker needs besides its backend. UserError where the data is not what the experiment was made with."""
    train, validation = open_splits(Path(experiment.data))
    if content_hash([train.content_hash, validation.content_hash]) != experiment.data_hash:
        raise UserError(f"data={experiment.data} is not what the run began with: its content has another hash")
    sampler = Sampler(train, experiment.batch, experiment.seed, experiment.augment)
    checkpoints, identity = folder / CHECKPOINTS, experiment.identity
    return TrainingJob(experiment, sampler, validation, checkpoints, identity, log, report, interrupted)


def train_here(
    experiment: Experiment, folder: Path, report: ReportMetrics, interrupted: Callable[[], bool] = bool
) -> dict[str, Any]:
    """Train in this process, without Ray, and return the summary. `report` gets the metrics of every checkpoint;
    `interrupted`: whether to end with a checkpoint after this step."""
    backend = Backend(build_model(experiment), experiment, device_named(experiment.device))
    with RunLog(folder, wandb=experiment.wandb, config=experiment.to_dict()) as log:
        job = training_job(experiment, folder, log, report, interrupted)
        begin(experiment, folder)
        return finish(experiment, folder, train(backend, job))


def begin(experiment: Experiment, folder: Path) -> None:
    """Say in the folder what the run is. Not before training begins: a run that was finished stays so when Ray does
    not start."""
    RunDir(folder, "train").create(experiment.fixed, experiment.to_dict())


def finish(experiment: Experiment, folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Write model.safetensors, model.json and, last, summary.json, whose presence says that the run is finished.
    `result` is what the training loop returned. Returns the summary."""
    config, weights = experiment.to_dict(), result.pop("ema")
    private = ("model", "data", "address", "wandb")  # in the card already, or nobody else's business
    recipe = {key: value for key, value in config.items() if key not in private}
    card = ModelCard(task=experiment.task, config=experiment.model, step=result["step"], recipe=recipe)
    model_hash = save_model(folder, weights, card).hash
    summary = {"task": experiment.task, **result, **{key: config[key] for key in ("workers", "zero", "seed")}}
    summary |= {"model_hash": model_hash, "data_hash": experiment.data_hash}
    RunDir(folder, "train").write_summary(summary)
    return summary
