"""The engine's trusted twin: one trajectory at a time, written from the method's text."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from eqr_ray.inference.records import STATUSES, Records, concatenate
from eqr_ray.inference.settings import Settings
from eqr_ray.model.noise import row_keys
from tests.inference.fake import FakeNetwork

ACCEPTED_TOKEN = 1  # at the first position: what the stand-in's verifier asks for


class FirstToken:
    """Stands in for a task whose rules judge an answer."""

    def suspects(self, inputs_NL: np.ndarray, answers_NL: np.ndarray) -> np.ndarray:
        return answers_NL[:, 0] != ACCEPTED_TOKEN


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
    network: FakeNetwork, settings: Settings, puzzle: int, restart: int, inputs: np.ndarray, until: int | None = None
) -> list[Records]:
    """The records of one trajectory: its snapshots and its end, after `until` segments at most."""
    last = settings.depth if until is None else until
    word = torch.tensor([puzzle]), torch.tensor([restart])
    latent = network.start(row_keys(settings.seed, *word, -1))
    embedding = network.embed(torch.from_numpy(inputs[puzzle : puzzle + 1]))
    logits, logit_changes, latent_changes, streak, rows = None, [], [], 0, []
    for k in range(last):
        after = network.segment(latent, embedding, row_keys(settings.seed, *word, k))
        if logits is not None:
            logit_changes.append((after.logits - logits).norm(dim=-1).mean(dim=-1)[0])
        moved = sum((new - old).flatten(1).norm(dim=1).square() for new, old in zip(after.latent, latent, strict=True))
        size = sum(new.flatten(1).norm(dim=1).square() for new in after.latent)
        latent_changes.append((moved / size).sqrt()[0])
        latent, logits = after.latent, after.logits
        residual = mean(logit_changes)
        streak = streak + 1 if residual <= settings.settle_below else 0
        settled = streak >= settings.settle_for
        accepted = bool(logits.argmax(dim=-1)[0, 0] == ACCEPTED_TOKEN)
        stops = {"full": False, "halt": bool(after.halt_logit[0] > 0), "verify": accepted}
        stop = stops.get(settings.policy, settled)
        done = stop or k + 1 == last
        if done or k + 1 in settings.snapshots:
            stopped = {"halt": "halted", "verify": "accepted"}.get(settings.policy, "settled")
            ended = "depth" if k + 1 == settings.depth else "pruned"
            name = "running" if not done else stopped if stop else ended
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
    one_puzzle = {"sequential": one_by_one, "verify": one_by_one, "race": race}
    rows: list[Records] = []
    for puzzle in range(len(inputs)):
        rows += one_puzzle.get(settings.policy, every)(network, settings, puzzle, inputs)
    return concatenate(rows).in_order()


def every(network: FakeNetwork, settings: Settings, puzzle: int, inputs: np.ndarray) -> list[Records]:
    return [
        row for restart in range(settings.breadth) for row in trajectory(network, settings, puzzle, restart, inputs)
    ]


def one_by_one(network: FakeNetwork, settings: Settings, puzzle: int, inputs: np.ndarray) -> list[Records]:
    rows: list[Records] = []
    left = settings.budget or 10**9
    for restart in range(settings.breadth):
        if left == 0:
            break
        rows += trajectory(network, settings, puzzle, restart, inputs, min(left, settings.depth))
        left -= int(rows[-1].segments[0])
        if STATUSES[rows[-1].status[0]] in ("settled", "accepted"):
            break
    return rows


def race(network: FakeNetwork, settings: Settings, puzzle: int, inputs: np.ndarray) -> list[Records]:
    ends = every(network, settings, puzzle, inputs)
    settled = [row for row in ends if STATUSES[row.status[0]] == "settled"]
    if not settled:
        return ends
    winner = min(settled, key=lambda row: (row.segments[0], row.restart[0]))
    none = np.array([np.inf], np.float32)
    blank = {
        "segments": winner.segments,
        "settled": np.array([False]),
        "logit_residual": none,
        "latent_residual": none,
        "halt_logit": -none,
        "prediction": np.zeros_like(winner.prediction),
        "status": np.array([STATUSES.index("cancelled")], np.uint8),
    }
    return [row if row is winner else dataclasses.replace(row, **blank) for row in ends]
