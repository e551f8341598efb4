"""The runs that faults befall: a training, an inference and a sweep, each small enough to end within a minute.

A job knows the command that starts it and the one that goes on with it, how far it is and what it must hold in the end.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from eqr_ray.config.errors import UserError
from eqr_ray.inference.records import concatenate, read_part
from eqr_ray.storage.run_log import read_log
from eqr_ray.training.checkpoint import complete_checkpoints

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 600, 20
TINY = ["model=eqr_small", "model.width=16", "model.hidden_multiple=16", "model.h_cycles=2", "model.l_cycles=1"]
TINY += ["batch=8", "learning_rate=1e-4", "warmup=10", "max_segments=4", "dtype=float32", "compile=false"]
TINY += ["log_every=1", "validate_every=0", "validate_puzzles=8", "keep_checkpoints=3"]


class Job:
    """A command at work in `out`: how it is started and started again, how far it is, what it holds in the end."""

    name: str  # of the command

    def __init__(self, data: Path, out: Path) -> None:
        self.data, self.out = data, out

    def command(self, again: bool) -> list[str]:
        """The arguments; `again`: after a driver has ended."""
        raise NotImplementedError

    def progress(self) -> float:
        """0 to 1, from the folder."""
        raise NotImplementedError

    def holds(self) -> object:
        """What must be the same after any fault."""
        raise NotImplementedError

    def lost(self) -> str:
        """What was done twice."""
        raise NotImplementedError


class Train(Job):
    """Two workers, or one where there is room for no more."""

    name = "train"

    def command(self, again: bool) -> list[str]:
        if again and (self.out / "config.json").exists():
            return [f"resume={self.out}"]
        keys = [f"data={self.data}", f"steps={STEPS}", f"checkpoint_every={EVERY}", "workers=2", "workers_min=1"]
        return [*TINY, *keys, f"out={self.out}"]

    def _steps(self) -> list[int]:
        return [entry["step"] for entry in read_log(self.out / "log.jsonl").entries if entry["event"] == "train"]

    def progress(self) -> float:
        return max(self._steps(), default=0) / STEPS

    def holds(self) -> object:
        """Which puzzle and which draw every row is at, after all steps; weights differ in rounding by workers."""
        last = complete_checkpoints(self.out / "checkpoints")[-1]
        pieces = [load_file(path) for path in sorted(last.glob("carry-*.safetensors"))]
        names = ("rows", "puzzle", "draws", "age", "inputs")
        steps = sorted(set(self._steps()))
        return last.name, steps, [torch.cat([piece[name] for piece in pieces]).tolist() for name in names]

    def lost(self) -> str:
        steps = self._steps()
        return f"{len(steps) - len(set(steps))} steps of {STEPS}"


class Infer(Job):
    """As many actors as the cluster has room for."""

    name = "infer"

    def command(self, again: bool) -> list[str]:
        if again:
            self._remove_damaged()
        keys = ["checkpoint=zoo:sudoku6", f"data={self.data / 'test.arrow'}", "policy=full", "depth=16", "breadth=8"]
        return [*keys, "limit=100", "slots=32", "compile=false", "wait_minutes=2", f"out={self.out}"]

    def _remove_damaged(self) -> None:
        """As the driver asks for that refuses them."""
        for path in self.out.glob("records/*.parquet"):
            try:
                read_part(path)
            except UserError as error:
                print(error)
                path.unlink()

    def _units(self) -> list[dict[str, object]]:
        return [entry for entry in read_log(self.out / "log.jsonl").entries if entry["event"] == "unit"]

    def progress(self) -> float:
        starts = [entry for entry in read_log(self.out / "log.jsonl").entries if entry["event"] == "start"]
        return len(list(self.out.glob("records/*.parquet"))) / starts[0]["units"] if starts else 0.0

    def holds(self) -> object:
        rows = concatenate([read_part(path) for path in sorted(self.out.glob("records/*.parquet"))]).in_order()
        return {name: value.tobytes() for name, value in vars(rows).items()}

    def lost(self) -> str:
        parts = len(list(self.out.glob("records/*.parquet")))
        return f"{len(self._units()) - parts} units of {parts}"


class Sweep(Job):
    """Six small trainings, one after the other, each in the process of its trial."""

    name = "sweep"
    workers = 0
    reports = 14  # of six trials some end early

    def space(self) -> Path:
        return ROOT / "tune" / "smoke.yaml"

    def command(self, again: bool) -> list[str]:
        if again and (self.out / "manifest.json").exists():
            return [f"resume={self.out}"]
        keys = [f"space={self.space()}", f"data={self.data}", "finalists=0", "at_once=1"]
        return [*keys, f"workers={self.workers}", f"out={self.out}"]

    def _steps(self) -> list[tuple[str, int]]:
        logs = sorted((self.out / "trials").glob("*/log.jsonl"))
        return [
            (log.parent.name, e["step"]) for log in logs for e in read_log(log).entries if e["event"] == "validation"
        ]

    def progress(self) -> float:
        return len(set(self._steps())) / self.reports

    def holds(self) -> object:
        table = pq.read_table(self.out / "trials.parquet")
        kept = [name for name in table.column_names if not name.endswith(("time", "_s")) and name != "reason"]
        return table.select(kept).to_pylist(), json.loads((self.out / "summary.json").read_text())["winner"]

    def lost(self) -> str:
        steps = self._steps()
        return f"{len(steps) - len(set(steps))} reports of {len(set(steps))}"


class SweepOnWorkers(Sweep):
    """Three that take longer, with a Ray Train worker each."""

    workers = 1
    reports = 12  # some of them after the early end of a trial, until its workers have heard of it

    def space(self) -> Path:
        """Written beside the run: three trials of the smoke test's, ten times as long."""
        text = super().space().read_text()
        longer = {"steps: 60": "steps: 600", "first: 20": "first: 200", "report_every: 20": "report_every: 100"}
        for old, new in {**longer, "trials: 6": "trials: 3"}.items():
            assert old in text
            text = text.replace(old, new)
        path = self.out.parent / "space.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


JOBS: dict[str, type[Job]] = {"train": Train, "infer": Infer, "sweep": Sweep, "sweep-on-workers": SweepOnWorkers}
