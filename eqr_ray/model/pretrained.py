"""Trained networks on disk: `model.safetensors` beside `model.json`, and every name a user may give one by.

Nothing read here executes pickled code: safetensors, JSON, and the reference's `.pth` through a restricted reader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_of_tensors
from torch import Tensor

from eqr_ray.config.errors import UserError, nearest
from eqr_ray.config.schema import Options, option
from eqr_ray.model.config import ModelConfig
from eqr_ray.model.reasoner import Reasoner
from eqr_ray.model.reference import read_reference
from eqr_ray.storage.atomic import write_bytes, write_json

WEIGHTS, CARD = "model.safetensors", "model.json"
PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"
REFERENCE_TASKS = {(11, 81): "sudoku9", (6, 900): "maze30"}  # (vocabulary, length) of the published checkpoints


class ModelCard(Options):
    """What a file of weights is: its task, its shape, how it was made."""

    task: str
    config: ModelConfig
    step: int
    hash: str = option("", "sha256 of the weights file")
    recipe: dict[str, Any] = option({}, "what it was trained with")
    settle_below: float | None = option(
        None, "the logit residual at which this network's right answers settle, where that has been measured", inf=True
    )


def save_model(folder: Path, weights: Mapping[str, Tensor], card: ModelCard) -> ModelCard:
    """Write the two files of a network, each atomically, and return the card with its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    content = bytes_of_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    card = card.replace(hash=hashlib.sha256(content).hexdigest())
    write_bytes(folder / WEIGHTS, content)
    write_json(folder / CARD, card.to_dict())
    return card


def load_model(name: str) -> tuple[Reasoner, ModelCard]:
    """The network called `name`: `zoo:NAME`, a folder with model.safetensors (a run is one), or a reference FILE.pth.

    Raises UserError for a name that leads nowhere and for files that are damaged or do not fit each other.
    """
    if name.startswith("zoo:"):
        return _load_folder(_pretrained_folder(name.removeprefix("zoo:")))
    path = Path(name)
    if path.suffix == ".pth":
        return _load_reference(path)
    if path.name == WEIGHTS:
        path = path.parent
    if not path.is_dir():
        raise UserError(
            f"checkpoint={name}: no such folder; allowed: a run, a folder with {WEIGHTS}, FILE.pth, zoo:NAME"
        )
    return _load_folder(path)


def pretrained_names() -> list[str]:
    """The networks that ship with the package."""
    return sorted(card.parent.name for card in PRETRAINED.glob(f"*/{CARD}"))


def _pretrained_folder(name: str) -> Path:
    if name not in pretrained_names():
        raise UserError(f"checkpoint=zoo:{name} is not a pretrained network{nearest(name, pretrained_names())}")
    return PRETRAINED / name


def _load_folder(folder: Path) -> tuple[Reasoner, ModelCard]:
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise UserError(f"checkpoint {folder} has no {name}")
    try:
        card = ModelCard.parse(json.loads((folder / CARD).read_text()))
    except (ValueError, OSError) as error:
        raise UserError(f"{folder / CARD} is damaged: {error}") from error
    content = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(content).hexdigest() != card.hash:
        raise UserError(
            f"{folder / WEIGHTS} is damaged: its sha256 is not the one that {CARD} names ({card.hash[:12]}...)"
        )
    try:
        weights = tensors_from_bytes(content)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS} is damaged: {error}") from error
    return _build(card.config, weights, folder), card


def _load_reference(path: Path) -> tuple[Reasoner, ModelCard]:
    checkpoint = read_reference(path)
    c = checkpoint.config
    task = REFERENCE_TASKS.get((c.vocab_size, c.length))
    if task is None:
        raise UserError(f"{path}: vocabulary {c.vocab_size} and length {c.length} belong to no known task")
    model = _build(c, checkpoint.weights, path)
    content_hash = hashlib.sha256(path.read_bytes()).hexdigest()
    return model, ModelCard(task=task, config=c, step=checkpoint.step, hash=content_hash, recipe={"source": path.name})


def _build(config: ModelConfig, weights: Mapping[str, Tensor], source: Path) -> Reasoner:
    model = Reasoner(config)
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise UserError(
            f"{source}: the weights do not fit their configuration ({str(error).splitlines()[-1].strip()})"
        ) from error
    return model
