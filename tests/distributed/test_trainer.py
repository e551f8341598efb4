"""The attempts of a training, one after the other, with a Ray Train that is made up; no cluster is started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.execution.failure_handling import FailureDecision, create_failure_policy
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, TrainingFailedError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from eqr_ray.config.errors import Failure, UserError
from eqr_ray.distributed import trainer
from eqr_ray.distributed.resources import ResourceRequest
from eqr_ray.distributed.trainer import Patience
from eqr_ray.distributed.worker import RESTART, STOP, STOP_REQUEST
from eqr_ray.training.loop import TrainingDiverged

EXPERIMENT = SimpleNamespace(
    workers=3, least_workers=1, max_failures=1, wait_minutes=0.0, device="cpu", can_use=lambda workers: True
)


class Bench:
    """A run whose attempts end as planned: an exception, or what the first worker returns."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.plan = folder, list[Any]()
        self.requests: list[ResourceRequest] = []
        self.restarts: Counter[str] = Counter()
        self.nodes = [{"CPU": 1.0}] * 3
        counter = SimpleNamespace(count=lambda name: self.restarts.update([name]))
        monkeypatch.setattr(trainer, "RayMetrics", lambda run: counter)
        monkeypatch.setattr(trainer, "nodes", lambda: self.nodes)
        monkeypatch.setattr(trainer, "wait_for_nodes", lambda place, wait_s, interrupted: place(self.nodes))
        monkeypatch.setattr(trainer, "ray_trainer", self.trainer)

    def trainer(self, experiment: Any, folder: Path, ray_files: Path, request: ResourceRequest) -> Any:
        self.requests.append(request)
        return SimpleNamespace(fit=self.fit)

    def fit(self) -> Any:
        step = self.plan.pop(0)
        if callable(step):
            step = step()
        if isinstance(step, Exception):
            raise step
        return SimpleNamespace(return_value=step)

    def run(self, *plan: Any, interrupted: Callable[[], bool] = bool) -> dict[str, Any]:
        self.plan = list(plan)
        attempts = trainer._Attempts(EXPERIMENT, self.folder, None, False, interrupted)  # type: ignore[arg-type]
        try:
            return attempts.to_the_end()
        finally:
            attempts.clean_up()
            assert not (self.folder / STOP_REQUEST).exists()

    def checkpoint(self, step: int) -> None:
        folder = self.folder / "checkpoints" / f"{step:08d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


DEATH = WorkerGroupError("a worker died", {1: ValueError("collective failed")})
NOT_PLACED = ControllerError(RuntimeError("placement timed out"))
PREEMPTED = PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"node": [1]}))


def test_failures_count_in_a_row_without_a_new_checkpoint() -> None:
    patience = Patience(max_failures=2)
    assert [patience.lasts(step) for step in (-1, -1)] == [True, True]
    assert [patience.lasts(step) for step in (10, 10, 20, 20)] == [True, True, True, True]
    assert patience.lasts(20) is False
    assert not Patience(max_failures=0).lasts(5)


def test_workers_that_come_or_go_start_again(bench: Bench) -> None:
    bench.nodes = [{"CPU": 1.0}]

    def grown() -> dict[str, str]:
        bench.nodes = [{"CPU": 1.0}] * 2
        return {"ended": RESTART}

    assert bench.run(grown, {"summary": {"step": 9}}) == {"step": 9}
    assert [request.workers for request in bench.requests] == [1, 2]
    assert bench.restarts == {"restarts": 1}


def test_deaths_without_a_new_checkpoint_end_the_run(bench: Bench) -> None:
    with pytest.raises(Failure, match=r"^the workers failed 2 times in a row \(worker 1: collective failed\); resume="):
        bench.run(DEATH, DEATH)

    def died_later() -> Exception:
        bench.checkpoint(10)
        return DEATH

    assert bench.run(DEATH, died_later, {"summary": {"step": 20}}) == {"step": 20}


def test_workers_that_cannot_be_placed_are_fewer_next_time(bench: Bench) -> None:
    assert bench.run(NOT_PLACED, {"summary": {"step": 9}}) == {"step": 9}
    assert [request.workers for request in bench.requests] == [3, 2]
    bench.nodes = [{"CPU": 1.0}]
    with pytest.raises(UserError, match=r"^1 workers with 1 CPUs each could not be started .* has 0 GPUs, 1 CPUs \("):
        bench.run(NOT_PLACED)


def test_a_preempted_node_is_the_loss_of_a_worker(bench: Bench) -> None:
    bench.nodes = [{"CPU": 1.0}] * 2

    def preempted() -> Exception:
        bench.nodes.pop()
        return PREEMPTED

    assert bench.run(preempted, {"summary": {"step": 9}}) == {"step": 9}
    assert [request.workers for request in bench.requests] == [2, 1]
    assert bench.restarts == {"restarts": 1}
    with pytest.raises(
        Failure, match=r"^the workers failed 2 times in a row \(Training was interrupted by node preempt"
    ):
        bench.run(PREEMPTED, PREEMPTED)


@pytest.mark.parametrize("error", [DEATH, PREEMPTED])
def test_ray_train_leaves_the_next_attempt_to_us(error: TrainingFailedError, tmp_path: Path) -> None:
    """Its own would be on as many workers, which may not be there any more."""
    experiment: Any = SimpleNamespace(to_dict=dict)
    made = trainer.ray_trainer(experiment, tmp_path, tmp_path / "ray", ResourceRequest(1, 1.0, 0.0))
    assert create_failure_policy(made.run_config.failure_config).make_decision(error) is FailureDecision.RAISE


@pytest.mark.parametrize(("key", "kind"), [("mistake", UserError), ("diverged", TrainingDiverged)])
def test_what_would_come_to_the_same_end_again_is_raised(bench: Bench, key: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^the loss is nan$"):
        bench.run({key: "the loss is nan"})
    assert len(bench.requests) == 1


def test_an_interruption_asks_the_workers_to_stop(bench: Bench) -> None:
    looks: list[str] = []

    def interrupted() -> bool:
        looks.append((bench.folder / STOP_REQUEST).read_text() if (bench.folder / STOP_REQUEST).exists() else "none")
        return len(looks) > 1

    def workers() -> dict[str, str]:
        while (bench.folder / STOP_REQUEST).read_text() != STOP:
            pass
        return {"ended": STOP}

    with pytest.raises(KeyboardInterrupt):
        bench.run(workers, interrupted=interrupted)
    assert looks[:2] == ["none", ""]
    with pytest.raises(KeyboardInterrupt):
        bench.run(interrupted=lambda: True)
    assert len(bench.requests) == 1


def test_a_stop_is_never_taken_back(bench: Bench) -> None:
    attempts = trainer._Attempts(EXPERIMENT, bench.folder, None, False, bool)  # type: ignore[arg-type]
    for reason, asked in ((RESTART, RESTART), (STOP, STOP), (RESTART, STOP)):
        attempts._ask(reason)
        assert (bench.folder / STOP_REQUEST).read_text() == asked
    attempts.clean_up()
