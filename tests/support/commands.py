"""Commands of the package: called in this process, or started in one of their own where signals and deaths matter."""

from __future__ import annotations

import importlib
import io
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest

ROOT = Path(__file__).parents[2]


class Done(NamedTuple):
    """A command that has ended: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


def call(command: str, *arguments: str) -> Done:
    """`python -m eqr_ray.COMMAND ARGUMENTS` without a process: an import of torch and Ray takes seconds."""
    return _left(importlib.import_module(f"eqr_ray.{command}").cli, f"eqr-{command}", *arguments)


def call_script(script: str, *arguments: str) -> Done:
    """`python -m jobs.SCRIPT ARGUMENTS`, without a process too."""
    before = signal.getsignal(signal.SIGTERM)  # a script sets its own
    try:
        return _left(
            partial(runpy.run_path, str(ROOT / "jobs" / f"{script}.py"), run_name="__main__"), script, *arguments
        )
    finally:
        signal.signal(signal.SIGTERM, before)


def _left(work: Callable[[], object], name: str, *arguments: str) -> Done:
    """What it wrote until its `sys.exit`."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", [name, *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        work()
    assert isinstance(left.value.code, int)
    return Done(left.value.code, out.getvalue(), err.getvalue())


def succeed(command: str, *arguments: str) -> str:
    """The same; all that it wrote, where its status is 0."""
    done = call(command, *arguments)
    assert done.status == 0, done.out + done.err
    return done.out + done.err


class Started:
    """A command in a process of its own; what it says goes to a file, since nobody reads it as it comes."""

    def __init__(self, command: str, *arguments: str, log: Path, environment: Mapping[str, str] = os.environ) -> None:
        self._log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"eqr_ray.{command}", *arguments],
                cwd=ROOT,
                env=dict(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def when(self, ready: Callable[[], bool], seconds: float = 240.0) -> None:
        """Wait until it is so, while the command goes on."""
        end_s = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, self.said()[-3000:]
            assert time.monotonic() < end_s, self.said()[-3000:]
            time.sleep(0.02)

    def said(self) -> str:
        """All so far."""
        return self._log.read_text()

    def ended(self, status: int = 0, seconds: float = 300.0) -> str:
        """All that it said, at its end."""
        assert self.process.wait(timeout=seconds) == status, self.said()[-3000:]
        return self.said()
