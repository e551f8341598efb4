"""The options of answering: what shapes the records of a run, and what the commands that answer are asked for.

The settings, the data and the weights decide every bit of the records; how many actors work, and which restart is
chosen afterwards, do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option, read_json
from eqr_ray.model.pretrained import ModelCard

BUDGETED = ("sequential", "verify")  # policies whose restarts follow each other

PolicyName = Literal["full", "halt", "settle", "sequential", "race", "verify"]
REMOVED_POLICIES = {"halving": "it lost to full and sequential in every measurement (docs/log.md)"}
DtypeName = Literal["auto", "bfloat16", "float32", "float16"]
Selection = Literal["logit_residual", "latent_residual", "halt"]
REMOVED_SELECTIONS = {"vote": "summary.json has the majority vote of every run (docs/log.md)"}


class Settings(Options):
    """`depth` segments per trajectory at most, `breadth` trajectories per puzzle, `seed` of all draws.

    A trajectory counts as settled when its logit residual is at most `settle_below` after `settle_for` segments in a
    row. `snapshots`: numbers of segments at which every trajectory is recorded on its way, besides at its end.
    `budget`: segments per puzzle at most. `verifier`: the task whose rules may accept answers.
    """

    depth: int = option(16, "", ge=1)
    breadth: int = option(1, "", ge=1)
    seed: int = option(0, "", ge=0, lt=2**63)
    policy: PolicyName = option("full", "", removed=REMOVED_POLICIES)
    settle_below: float = option(1.0, "", ge=0, inf=True)
    settle_for: int = option(2, "", ge=1)
    snapshots: tuple[int, ...] = ()
    budget: int | None = option(None, "", ge=1)
    verifier: str = ""

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.budget is not None and self.policy not in BUDGETED:
            raise UserError(f"budget={self.budget} goes with policy={' or '.join(BUDGETED)}, not {self.policy}")
        if self.snapshots and self.policy == "race":
            raise UserError("snapshots= do not go with policy=race: its restarts end each other")
        wrong = [at for at in self.snapshots if not 1 <= at <= self.depth]
        if wrong:
            raise UserError(f"snapshots={wrong[0]} is not allowed: 1 .. depth={self.depth}")
        return self


class ActorOptions(Options):
    """Which puzzles, and where it runs:"""

    seed: int = option(0, "of all draws", ge=0, lt=2**63)
    limit: int | None = option(None, "the first so many puzzles; null: all", ge=1)
    actors: int | None = option(
        None, "Ray actors; 0: this process, no Ray; null: a cluster or several GPUs, else 0", ge=0, resume=True
    )
    gpus_each: float = option(1.0, "GPUs of an actor; 0.5 puts two on each GPU", gt=0, resume=True)
    address: str | None = option(None, "a Ray cluster to join; null: RAY_ADDRESS, or none", resume=True)
    device: str = option("auto", "auto, cpu, cuda, mps", resume=True)


class NetworkRunOptions(ActorOptions):
    """How the network is run:"""

    noise_scale: float | None = option(None, "noise of every cell call; null: as in training", ge=0)
    init_std: float | None = option(None, "standard deviation of random starts; null: as in training", ge=0)
    slots: int | None = option(None, "trajectories side by side on a device; null: what suits it", ge=1)
    dtype: DtypeName = option("auto", "of the states; auto: bfloat16 where the processor has it, else float32")
    compile: bool | None = option(None, "torch.compile; null: for long jobs")


CHECKPOINT = "a run's folder, a folder with model.safetensors, FILE.pth of the reference, or zoo:NAME"


class AnsweringOptions(NetworkRunOptions):
    """What is answered, and how:"""

    checkpoint: str | None = option(None, CHECKPOINT)
    data: str | None = option(None, "puzzles with answers: FILE.csv, FILE.arrow or a folder; null: those of records=")
    depth: int | None = option(None, "segments per trajectory at most; null: as in infer, or as recorded", ge=1)
    breadth: int | None = option(None, "trajectories (restarts) per puzzle at most; null: likewise", ge=1)
    select: Selection = option("logit_residual", "which restart answers", removed=REMOVED_SELECTIONS)


class ReplayOptions(AnsweringOptions):
    """What is answered, and how:"""

    out: str | None = option(None, "folder of results; null: beside what it is about")

    @model_validator(mode="after")
    def _check_source(self) -> ReplayOptions:
        records = getattr(self, "records", None)
        if (self.checkpoint is None) == (records is None):
            raise UserError("either checkpoint= or records= must be given (--help shows an example)")
        if self.checkpoint is not None and self.data is None:
            raise UserError("data= must be given with checkpoint= (--help shows an example)")
        return self


class InferConfig(AnsweringOptions):
    """Answers puzzles: depth x breadth trajectories each, the one of least residual wins. A folder that exists is
    continued when model, data and settings are the same, and refused otherwise.

    Example: python -m eqr_ray.infer checkpoint=zoo:sudoku9 data=mine.csv depth=64 breadth=16
    """

    REMOVED: ClassVar[Mapping[str, str]] = {
        "budget_total": "budget= is per puzzle",
        "halving_from": f"so was policy=halving: {REMOVED_POLICIES['halving']}",
    }

    checkpoint: str = option(..., CHECKPOINT)
    data: str = option(
        ..., "FILE.csv or text (a puzzle a line, answer optional), FILE.arrow, or a folder (test split, npy arrays)"
    )
    out: str | None = option(None, "folder of results; null: runs/infer-HASH, named by model, data and settings")
    mirror: str | None = option(None, "s3://bucket/path, gs://...: holds a copy of out=, for other machines")
    recipe: str | None = option(None, "FILE.yaml of keys (best.yaml of a sweep); what is typed counts more")
    depth: int = option(16, "segments per trajectory at most", ge=1)
    breadth: int = option(8, "trajectories (restarts) per puzzle at most", ge=1)
    policy: PolicyName = option(
        "full",
        "full: all of depth x breadth; halt: stop at a positive halting logit; settle: stop when settled; sequential: "
        "... and restart only while none has settled; race: restarts side by side until one settles; verify: until the "
        "task's rules accept an answer",
        removed=REMOVED_POLICIES,
    )
    budget: int | None = option(None, "sequential, verify: segments per puzzle at most", ge=1)
    settle_below: float | None = option(
        None, "settled: the logit residual is at most this ...; null: as the model's card says, else 1", ge=0, inf=True
    )
    settle_for: int | None = option(None, "... after so many segments in a row; null: 2", ge=1)
    calibration: str | None = option(
        None, "calibration.json of eqr_ray.calibrate: gives settle_below and settle_for; for its model and policy only"
    )
    snapshots: tuple[int, ...] = option((), "record at these segments too, e.g. [1,4,16]: gives a table of depths")
    wait_minutes: float = option(0.0, "for nodes that a cluster's autoscaler brings", ge=0)

    @model_validator(mode="after")
    def _check(self) -> InferConfig:
        if self.mirror is not None and self.out is None:
            raise UserError("mirror= needs out=: the folder that is copied")
        for name in ("settle_below", "settle_for"):
            if self.calibration is not None and getattr(self, name) is not None:
                raise UserError(f"{name}={getattr(self, name)} does not go with calibration=, which gives it")
        return self

    def settings(self, card: ModelCard | None = None) -> Settings:
        """What is asked for, with what the model's card knows better than a default."""
        names = ("depth", "breadth", "seed", "policy", "budget", "settle_below", "settle_for")
        values = {name: value for name in names if (value := getattr(self, name)) is not None}
        if card is not None and card.settle_below is not None:
            values.setdefault("settle_below", card.settle_below)
        if card is not None and self.policy == "verify":
            if not card.task:
                raise UserError("policy=verify needs a task whose rules can check an answer; this model names none")
            values["verifier"] = card.task
        return Settings(**values, snapshots=tuple(sorted(set(self.snapshots))))


CALIBRATION = "calibration.json"
# Whatever may move the share of wrong answers among settled ones must be the same where a calibration is used: also a
# smaller depth or breadth, for a puzzle that would have settled late is then answered otherwise. The seed may differ,
# for its draws do not depend on the puzzles; so may slots, compile and device, which change only how sums are rounded.
CONDITIONS = ("checkpoint_hash", "noise_scale", "init_std", "dtype", "depth", "breadth", "policy", "budget")


def conditions(identity: Mapping[str, Any], task: str, select: str) -> dict[str, Any]:
    """What a threshold is made for, as JSON values; `identity` of the run."""
    return {"task": task, "select": select, **{name: identity[name] for name in CONDITIONS}}


def calibrated(settings: Settings, here: Mapping[str, Any], path: Path) -> Settings:
    """`settings` with the threshold of a calibration.json, or of the one in this folder; `here` are their `conditions`.
    UserError: it was made for others, has no threshold, or is not there."""
    path = path / CALIBRATION if path.is_dir() else path
    try:
        found = read_json(path)
    except FileNotFoundError:
        raise UserError(f"calibration={path}: no such file; `eqr_ray.calibrate` makes it") from None
    if not {"settle_below", "settle_for", "risk", "confidence"} <= found.keys():
        raise UserError(f"calibration={path} was not made by `eqr_ray.calibrate`")
    differing = [f"{name}={found.get(name)}, not {value}" for name, value in here.items() if found.get(name) != value]
    if differing:
        raise UserError(f"calibration={path} was made for {'; '.join(differing)}")
    if found["settle_below"] is None:
        raise UserError(
            f"calibration={path} has no threshold: none kept risk={found['risk']} with confidence={found['confidence']}"
        )
    return settings.replace(settle_below=found["settle_below"], settle_for=found["settle_for"])
