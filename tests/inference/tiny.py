"""A tiny untrained network and a few 4x4 Sudokus on disk, for tests that want the real parts."""

from __future__ import annotations

from pathlib import Path

import torch

from eqr_ray.model import ModelConfig, Reasoner
from eqr_ray.model.pretrained import ModelCard, save_model
from eqr_ray.tasks.puzzles import Puzzles
from eqr_ray.tasks.registry import task_named

TASK = task_named("sudoku4")


def config() -> ModelConfig:
    return ModelConfig(
        vocab_size=6, length=16, grid=(4, 4), width=16, layers=1, hidden_multiple=16, h_cycles=2, l_cycles=2
    )


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """A folder with an untrained network; weights enlarged, so that answers differ between restarts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Reasoner(config())
        with torch.no_grad():
            model.q_head.weight.normal_()
            model.q_head.bias.zero_()
    save_model(folder, model.state_dict(), ModelCard(task="sudoku4", config=config(), step=0))
    return folder


def save_echo(folder: Path) -> Path:
    """A network that answers with the question: its blocks only add and normalise, its readout undoes the embedding."""
    model = Reasoner(config())
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.zero_()
        model.embed.copy_(torch.eye(6, 16))
        model.lm_head.copy_(torch.eye(6, 16))
    save_model(folder, model.state_dict(), ModelCard(task="sudoku4", config=config(), step=0))
    return folder


def sudokus(count: int, seed: int = 0) -> Puzzles:
    return TASK.generate(count, seed)


def write_csv(path: Path, puzzles: Puzzles, answers: bool = True) -> Path:
    assert puzzles.labels is not None
    lines = ["question,answer" if answers else "question"]
    for question, answer in zip(puzzles.inputs, puzzles.labels, strict=True):
        lines.append(TASK.decode(question) + (f",{TASK.decode(answer)}" if answers else ""))
    path.write_text("\n".join(lines) + "\n")
    return path
