"""The tree of configurations: from flat keys, strictly; what the task decides; what a resume may not change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eqr_ray.config.cli import parse_arguments
from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import about
from eqr_ray.model.runtime import device_named, resolved_dtype
from eqr_ray.tasks import task_named
from eqr_ray.training.config import TrainingConfig
from eqr_ray.training.experiment import Experiment, TrainOptions, build_model, experiment_of


def made(*typed: str, task: str = "sudoku6") -> Experiment:
    return experiment_of(parse_arguments(TrainOptions, typed)[0], task_named(task), Path("data"), "hash")


def test_what_a_resume_may_change_is_the_same_for_the_keys_and_for_what_they_mean() -> None:
    for name in TrainOptions.model_fields.keys() & Experiment.model_fields.keys():
        assert about(TrainOptions.model_fields[name])["resume"] == about(Experiment.model_fields[name])["resume"], name


def test_defaults_are_the_papers() -> None:
    assert {name: value for name, value in made() if name in TrainingConfig.model_fields} == dict(
        TrainingConfig(dtype=resolved_dtype("auto", device_named("auto").type))  # type: ignore[arg-type]
    )
    model = made(task="sudoku9").model
    assert (model.width, model.layers, model.mixing, model.damping, model.noise_scale) == (512, 2, "mlp", 0.05, 0.01)
    assert (model.vocab_size, model.length, model.grid) == (11, 81, (9, 9))


def test_mazes_are_mixed_by_attention() -> None:
    model = made(task="maze15").model
    assert (model.mixing, model.positions, model.grid) == ("attention", "rope", (15, 15))
    assert made("model.positions=rope2d", task="maze15").model.positions == "rope2d"
    assert made("model.mixing=mlp", task="maze15").model.positions == "none"


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("eqr_small", {"width": 64, "layers": 1, "damping": 0.05, "start": "random", "states": "dual"}),
        ("trm", {"start": "fixed", "damping": 0.0, "noise_scale": 0.0, "states": "dual", "weights": "tied"}),
        ("weight_tied", {"states": "single", "weights": "tied", "damping": 0.0}),
        ("feed_forward", {"states": "single", "weights": "distinct", "grad_cycles": 3, "start": "fixed"}),
    ],
)
def test_presets(preset: str, expected: dict[str, Any]) -> None:
    model = made(f"model={preset}").model
    assert {name: getattr(model, name) for name in expected} == expected


def test_a_feed_forward_network_is_run_once() -> None:
    training = made("model=feed_forward")
    assert (training.max_segments, training.validate_depth) == (1, 1)
    assert made("model=feed_forward", "max_segments=3").max_segments == 3


def test_knobs_are_the_models() -> None:
    model = made("damping=0.2", "noise_scale=0.1", "init_std=0.5", "model.init_std_H=2").model
    assert (model.damping, model.noise_scale, model.init_std_H, model.init_std_L) == (0.2, 0.1, 0.5, 0.5)
    assert made("model.init_std_H=2").model.init_std_H == 2.0


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["learning_rat=1"], "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        (["widht=64"], "unknown key 'widht'"),
        (["model.widht=64"], "did you mean 'model.width'?"),
        (["model=eqr_smal"], "model=eqr_smal: no such model; did you mean 'eqr_small'?"),
        (["schedule=vanila"], "schedule=\"vanila\" is not allowed: should be 'sot', 'vanilla' or 'trajectory'"),
        (["zero=4", "workers=1"], "zero=4"),
        (["zero=2"], "workers=1 or more"),
        (["wandb=on"], "wandb=\"on\" is not allowed: should be 'disabled', 'offline' or 'online'"),
        (["steps=many"], 'steps="many" is not allowed: should be a valid integer'),
        (["steps=null"], "steps=null is not allowed: should be a valid integer"),
        (["batch=9", "workers=2"], "batch=9 cannot be dealt out to workers=2"),
        (["batch=8", "workers=2", "accumulation=3"], "accumulation=3 does not divide the 4 rows of a worker"),
        (["damping=1"], "damping=1"),
        (["seed=99999999999999999999999"], "seed=99999999999999999999999 is not allowed"),
        (["seed=-1"], "seed=-1 is not allowed"),
        (["model.states=triple"], "model.states"),
        (["model.weights=distinct"], "grad_cycles=1 is not allowed with model.weights=distinct"),
    ],
)
def test_mistakes_name_the_value_and_what_is_allowed(typed: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        made(*typed)
    assert words in str(error.value)


def test_an_experiment_is_its_json() -> None:
    experiment = made("workers=2", "zero=2", "model=trm", "minutes=1.5")
    assert Experiment.parse(json.loads(json.dumps(experiment.to_dict()))) == experiment


CHANGES: dict[str, Callable[[Experiment], Experiment]] = {
    "seed": lambda e: e.replace(seed=1),
    "batch": lambda e: e.replace(batch=4),
    "schedule": lambda e: e.replace(schedule="vanilla"),
    "model": lambda e: e.replace(model=e.model.replace(damping=0.1)),
    "data_hash": lambda e: e.replace(data_hash="other"),
    "task": lambda e: e.replace(task="sudoku4"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_computed_is_the_identity(name: str) -> None:
    assert CHANGES[name](made()).identity != made().identity


def test_how_long_and_on_what_is_not() -> None:
    free = made(
        "steps=7", "minutes=3", "workers=2", "zero=3", "accumulation=2", "log_every=1", "compile=false", "wandb=offline"
    )
    assert free.identity == made().identity


def test_weights_are_keyed_by_the_seed_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again = (build_model(made("model=eqr_small")) for _ in range(2))
    other = build_model(made("model=eqr_small", "seed=1"))
    assert torch.equal(first.lm_head, again.lm_head)
    assert not torch.equal(first.lm_head, other.lm_head)
    assert torch.equal(torch.get_rng_state(), before)
