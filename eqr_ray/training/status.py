"""How far a training run is, how fast, how well, and what it lost on the way, from its folder and log alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eqr_ray.storage.progress import Progress, duration
from eqr_ray.storage.run_dir import CHECKPOINTS, LOG
from eqr_ray.storage.run_log import Entry, RunStatus, number, read_log
from eqr_ray.training.checkpoint import complete_checkpoints
from eqr_ray.training.config import TrainingConfig


def show_entry(display: Progress, steps: int, entry: Entry) -> None:
    """Show what a training run has just logged."""
    step = f"step {entry.get('step', 0):,}/{steps:,}"
    match entry.get("event"):
        case "train":
            words = f"{entry['segments_per_s']:.3g} segments/s  {entry['rows_per_s']:,.0f} rows/s  "
            words += f"loss {entry['loss']:.4f}  exact {entry['exact_accuracy']:.2%}"
            display.update(entry["step"], words, entry["left_s"])
        case "validation":
            exact, puzzles = f"{entry['validation_exact']:.2%}", f"{entry['puzzles']:,} puzzles"
            display.message(f"validation at {step}: exact {exact} of {puzzles} at depth {entry['depth']}")
        case "resume":
            display.message(f"continuing from {step} ({entry['checkpoint']}), workers={entry['workers']}")
        case "warning":
            display.message(f"warning: {entry['message']}")


def status_of_training(path: Path, config: TrainingConfig, summary: Mapping[str, Any] | None) -> RunStatus:
    """`summary`: of a finished run. UserError: the log cannot be read."""
    log = read_log(path / LOG)
    metrics, validation = ((log.of(event) or [{}])[-1] for event in ("train", "validation"))
    checkpoints = complete_checkpoints(path / CHECKPOINTS)
    facts = {
        "how far": _how_far(config, metrics, summary),
        "speed": _filled(metrics, "{segments_per_s:.3g} segments/s, {rows_per_s:,.0f} rows/s"),
        "loss": _filled(metrics, "{loss:.4f}, {exact_accuracy:.2%} of the rows in training exactly right"),
        "validation": _filled(validation, "{validation_exact:.2%} exact at step {step:,.0f}, depth {depth:.0f}"),
        "checkpoints": ", ".join(folder.name for folder in checkpoints),
    }
    facts = {label: words for label, words in facts.items() if words}
    diverged = bool(log.entries) and log.entries[-1].get("event") == "diverged"
    lost = _restarts(log.of("train", "resume"))
    if damaged := sorted(folder.name for folder in (path / CHECKPOINTS).glob("*.damaged")):
        lost.append(f"damaged checkpoints, set aside: {', '.join(damaged)}")
    if diverged:
        lost.append(f"diverged: {log.entries[-1].get('message')}")
    elif not checkpoints and summary is None:
        lost.append("no checkpoint yet: it would begin again at step 0")
    lost += log.lost()
    needs = ["a new run with a smaller learning_rate="] if diverged else []
    return RunStatus(facts, lost, needs, goes_on=summary is None and not diverged)


def _how_far(config: TrainingConfig, metrics: Entry, summary: Mapping[str, Any] | None) -> str:
    entry = summary or metrics
    step = number(entry, "step") or 0.0
    words = f"step {step:,.0f} of {config.steps:,} ({step / config.steps:.0%})"
    elapsed_s, left_s = number(entry, "seconds" if summary else "elapsed_s"), number(entry, "left_s")
    if elapsed_s is not None:
        words += f", {duration(elapsed_s)} of training" + (f" of {config.minutes:g} min" if config.minutes else "")
    return words if summary or left_s is None else f"{words}, {duration(left_s)} left when it last wrote"


def _filled(entry: Entry, words: str) -> str:
    """`words` with the numbers of an entry; empty where one of them is missing."""
    try:
        return words.format_map({key: value for key in entry if (value := number(entry, key)) is not None})
    except KeyError:
        return ""


def _restarts(entries: Sequence[Entry]) -> list[str]:
    """How often the run went back to an earlier step, and how many steps were done again for it."""
    step, times, again = 0.0, 0, 0.0
    for entry in entries:
        now = number(entry, "step")
        if now is None:
            continue
        if entry["event"] == "resume" or now <= step:
            times += 1
            again += max(0.0, step - now) if entry["event"] == "resume" else step  # else it began without a checkpoint
        step = now
    return [f"restarted {times} times, {again:,.0f} steps done again"] if times else []
