"""The engine's trusted twin: one trajectory at a time, written from the method's text."""

from __future__ import annotations

import numpy as np
import torch

from eqr_ray.dynamics.noise import mix
from eqr_ray.inference.records import STATUSES, Records, concatenate
from eqr_ray.inference.settings import Settings
from tests.inference.fake import FakeNetwork


def mean(values: list[torch.Tensor]) -> float:
    """Mean of the last three, summed newest first."""
    if not values:
        return float("inf")
    last = values[::-1][:3]
    total = last[0]
    for value in last[1:]:
        total = total + value
    return float(total / len(last))


def trajectory(
    network: FakeNetwork, settings: Settings, puzzle: int, restart: int, inputs: np.ndarray
) -> list[Records]:
    """The records of one trajectory: its snapshots and its end."""
    word = torch.tensor([puzzle]), torch.tensor([restart])
    latent = network.start(mix(settings.seed, *word, -1))
    embedding = network.embed(torch.from_numpy(inputs[puzzle : puzzle + 1]))
    logits, logit_changes, latent_changes, calm, rows = None, [], [], 0, []
    for k in range(settings.depth):
        after = network.segment(latent, embedding, mix(settings.seed, *word, k))
        if logits is not None:
            logit_changes.append((after.logits - logits).norm(dim=-1).mean(dim=-1)[0])
        moved = sum((new - old).flatten(1).norm(dim=1).square() for new, old in zip(after.latent, latent, strict=True))
        size = sum(new.flatten(1).norm(dim=1).square() for new in after.latent)
        latent_changes.append((moved / size).sqrt()[0])
        latent, logits = after.latent, after.logits
        residual = mean(logit_changes)
        calm = calm + 1 if residual <= settings.settle_below else 0
        settled = calm >= settings.settle_for
        stops = {"settle": settled, "sequential": settled, "halt": bool(after.halt_logit[0] > 0)}
        stop = stops.get(settings.policy, False)
        done = stop or k + 1 == settings.depth
        if done or k + 1 in settings.snapshots:
            name = "running" if not done else {"halt": "halted"}.get(settings.policy, "settled") if stop else "depth"
            rows.append(
                Records(
                    np.array([puzzle], np.int64),
                    np.array([restart], np.int32),
                    np.array([k + 1], np.int32),
                    np.array([settled]),
                    np.array([residual], np.float32),
                    np.array([mean(latent_changes)], np.float32),
                    after.halt_logit.numpy(),
                    logits.argmax(dim=-1).numpy().astype(np.uint8),
                    np.array([STATUSES.index(name)], np.uint8),
                )
            )
        if done:
            return rows
    raise AssertionError


def run(network: FakeNetwork, settings: Settings, inputs: np.ndarray) -> Records:
    """All records in order."""
    rows: list[Records] = []
    for puzzle in range(len(inputs)):
        for restart in range(settings.breadth):
            rows += trajectory(network, settings, puzzle, restart, inputs)
            if settings.policy == "sequential" and rows[-1].settled[0]:
                break
    return concatenate(rows).in_order()
