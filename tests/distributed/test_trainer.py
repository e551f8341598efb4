"""The attempts of a training, one after the other, with a Ray Train that is made up; no cluster is started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from eqr_ray.config.errors import Failure, UserError
from eqr_ray.distributed import trainer
from eqr_ray.distributed.attempts import FILE, RESTART, STOP
from eqr_ray.distributed.resources import ResourceRequest

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
            assert not (self.folder / FILE).exists()

    def checkpoint(self, step: int) -> None:
        folder = self.folder / "checkpoints" / f"{step:08d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


DEATH = WorkerGroupError("a worker died", {1: ValueError("collective failed")})
NOT_PLACED = ControllerError(RuntimeError("placement timed out"))


def test_workers_that_come_or_go_start_again(bench: Bench) -> None:
    bench.nodes = [{"CPU": 1.0}]

    def grown() -> dict[str, str]:
        bench.nodes = [{"CPU": 1.0}] * 2
        return {"ended": RESTART}

    assert bench.run(grown, {"summary": {"step": 9}}) == {"summary": {"step": 9}}
    assert [request.workers for request in bench.requests] == [1, 2]
    assert bench.restarts == {"restarts": 1}


def test_deaths_without_a_new_checkpoint_end_the_run(bench: Bench) -> None:
    with pytest.raises(Failure, match=r"^the workers failed 2 times in a row \(worker 1: collective failed\); resume="):
        bench.run(DEATH, DEATH)

    def died_later() -> Exception:
        bench.checkpoint(10)
        return DEATH

    assert bench.run(DEATH, died_later, {"summary": {}}) == {"summary": {}}


def test_workers_that_cannot_be_placed_are_fewer_next_time(bench: Bench) -> None:
    assert bench.run(NOT_PLACED, {"summary": {}}) == {"summary": {}}
    assert [request.workers for request in bench.requests] == [3, 2]
    bench.nodes = [{"CPU": 1.0}]
    with pytest.raises(UserError, match=r"^1 workers with 1 CPUs each could not be started .* has 0 GPUs, 1 CPUs \("):
        bench.run(NOT_PLACED)


def test_an_interruption_asks_the_workers_to_stop(bench: Bench) -> None:
    looks: list[str] = []

    def interrupted() -> bool:
        looks.append((bench.folder / FILE).read_text() if (bench.folder / FILE).exists() else "none")
        return len(looks) > 1

    def workers() -> dict[str, str]:
        while (bench.folder / FILE).read_text() != STOP:
            pass
        return {"ended": STOP}

    with pytest.raises(KeyboardInterrupt):
        bench.run(workers, interrupted=interrupted)
    assert looks[:2] == ["none", ""]
    with pytest.raises(KeyboardInterrupt):
        bench.run(interrupted=lambda: True)
    assert len(bench.requests) == 1
