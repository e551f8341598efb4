"""Answering as a library: `load` a model, `solve` puzzles, in plain PyTorch.

    from eqr_ray import load, solve
    model = load("zoo:sudoku9")
    for answer in solve(model, ["53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"]):
        print(answer.text, answer.settled, answer.residual)

The same engine, keys and selection as the command `infer`, without files, Ray or Hydra; equal settings give equal
answers.

    N puzzles, L tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eqr_ray.config.errors import UserError
from eqr_ray.inference.engine import BreadthEngine, run_units
from eqr_ray.inference.records import STATUSES, Records, Tokens, concatenate
from eqr_ray.inference.selection import answers_of
from eqr_ray.inference.settings import DtypeName, InferConfig, PolicyName, Selection
from eqr_ray.inference.units import plan
from eqr_ray.model import Reasoner
from eqr_ray.model.pretrained import ModelCard, load_model
from eqr_ray.model.runtime import NetworkFactory, slots_for
from eqr_ray.tasks.registry import task_named


class Model(NamedTuple):
    """A network and what is known of it."""

    reasoner: Reasoner
    card: ModelCard


@dataclass(frozen=True)
class Answer:
    """What one puzzle was answered with. `tokens` (L,) uint8, `text` the same in characters ("" where the model names
    no task); `residual` is that of the chosen restart, by what was selected; `segments` were spent on all restarts."""

    text: str
    tokens: Tokens
    residual: float
    settled: bool
    restart: int
    segments: int
    status: str


def load(path: str) -> Model:
    """A run folder, a folder with model.safetensors, FILE.pth of the reference, or `zoo:NAME`. UserError: damaged."""
    return Model(*load_model(path))


def solve(
    model: Model,
    puzzles: Sequence[str] | npt.ArrayLike,
    *,
    depth: int = 16,
    breadth: int = 8,
    noise_scale: float | None = None,
    init_std: float | None = None,
    policy: PolicyName = "full",
    select: Selection = "logit_residual",
    settle_below: float | None = None,
    settle_for: int | None = None,
    budget: int | None = None,
    slots: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: DtypeName = "auto",
    compile: bool = False,
) -> list[Answer]:
    """Answer each puzzle with the best of up to `breadth` trajectories of up to `depth` segments.

    puzzles: lines of characters, or tokens (N, L). `noise_scale` and `init_std`: None as the model was trained.
    `settle_below`: None as the model's card says, else 1. `budget`: segments per puzzle at most. `compile` pays for
    thousands of trajectories. UserError: a puzzle that the model cannot read, an option that is not allowed.
    """
    config = InferConfig(  # which checks them, and knows the other defaults
        checkpoint="",
        data="",
        depth=depth,
        breadth=breadth,
        noise_scale=noise_scale,
        init_std=init_std,
        policy=policy,
        select=select,
        settle_below=settle_below,
        settle_for=settle_for,
        budget=budget,
        slots=slots,
        seed=seed,
        device=device,
        dtype=dtype,
        compile=compile,
    )
    settings = config.settings(model.card)
    inputs = _tokens(model, puzzles)
    if len(inputs) == 0:
        return []
    noise_scale = model.reasoner.config.noise_scale if noise_scale is None else noise_scale
    network = NetworkFactory(model.reasoner, noise_scale, init_std, dtype, compile, device)()
    engine = BreadthEngine(network, settings, slots_for(len(inputs) * breadth, network.device.type, slots))
    units = plan(len(inputs), breadth, depth, whole=engine.policy.restarts.whole)
    parts = [rows for report in run_units(engine, units, inputs) for _, rows in report.finished]
    return _answers(model, concatenate(parts).in_order(), select)


def _tokens(model: Model, puzzles: Sequence[str] | npt.ArrayLike) -> Tokens:
    length, vocab_size = model.reasoner.config.length, model.reasoner.config.vocab_size
    if isinstance(puzzles, str):
        raise UserError("puzzles is one string; give a list of them")
    if isinstance(puzzles, Sequence) and all(isinstance(one, str) for one in puzzles):
        if not model.card.task:
            raise UserError("this model names no task: give tokens (N, L) instead of strings")
        task = task_named(model.card.task)
        rows = [task.encode(str(one)) for one in puzzles]
        return np.stack(rows) if rows else np.zeros((0, length), dtype=np.uint8)
    tokens = np.asarray(puzzles)
    if tokens.ndim != 2 or tokens.shape[1] != length:
        raise UserError(f"puzzles of shape {tokens.shape} where the model takes (N, {length})")
    if tokens.dtype.kind not in "iu" or (tokens.size and not 0 <= tokens.min() <= tokens.max() < vocab_size):
        raise UserError(f"puzzles hold {tokens.dtype} values that are not tokens 0..{vocab_size - 1}")
    return tokens.astype(np.uint8)


def _answers(model: Model, rows: Records, select: str) -> list[Answer]:
    chosen, residual, spent = answers_of(rows, select)
    task = task_named(model.card.task) if model.card.task else None
    numbers = (residual.tolist(), chosen.settled.tolist(), chosen.restart.tolist(), spent.tolist())
    return [
        Answer(task.decode(tokens) if task else "", tokens, value, settled, restart, segments, STATUSES[status])
        for tokens, status, value, settled, restart, segments in zip(
            chosen.prediction, chosen.status, *numbers, strict=True
        )
    ]
