"""What the workers of a training are asked between two steps: to write a checkpoint and end, and why.

The driver asks through a file of the run folder, which all of them see; Ray Train tells a worker that its node is about
to be taken away. One worker's word is all workers' word, since they end together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from eqr_ray.training.backend import Engine

STOP, AGAIN = "stop", "again"  # end the run; make room for a start on other workers
WORDS = (STOP, AGAIN)
FILE = ".wish"
LOOK_EVERY_S = 1.0


class Wish:
    """The driver's side. The file is there before the workers are, empty: a shared disk is slow to show a new one."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._word = ""

    def begin(self) -> None:
        """Another attempt: nothing is asked of it yet."""
        self._word = ""
        self._file.write_text("")

    def ask(self, word: str) -> None:
        """Ask, once or more often; STOP is never taken back."""
        if self._word not in (word, STOP):
            self._word = word
            self._file.write_text(word)

    def end(self) -> None:
        """Nobody is asked any more."""
        self._file.unlink(missing_ok=True)


class Asked:
    """The workers' side: whether to end after this step. `leaving`: this worker's node is about to go. Collective.

    Costs one small sum over the workers at every step.
    """

    word = ""

    def __init__(self, engine: Engine, folder: Path, leaving: Callable[[], bool]) -> None:
        self._engine, self._file, self._leaving = engine, folder / FILE, leaving
        self._looked_s = -LOOK_EVERY_S
        self._read = ""

    def __call__(self) -> bool:
        mine = {self._look(), AGAIN if self._leaving() else ""}
        votes = torch.tensor([word in mine for word in WORDS], dtype=torch.float32, device=self._engine.device)
        heard = self._engine.sum(votes).tolist()
        self.word = next((word for word, count in zip(WORDS, heard, strict=True) if count), "")
        return bool(self.word)

    def _look(self) -> str:
        """What the file says; the first worker looks, and not at every step."""
        if self._engine.rank == 0 and time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            try:
                self._read = self._file.read_text()
            except OSError:  # the driver has gone
                self._read = ""
        return self._read
