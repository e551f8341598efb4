"""Rates over a moving window, and the one display, with a clock of our own."""

from __future__ import annotations

import io
import time

import pytest

from eqr_ray.storage.progress import Progress, Rate, duration, polled


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_slow_start_is_soon_forgotten() -> None:
    clock = Clock()
    rate = Rate(window_s=30.0, clock=clock)
    assert rate.per_s() is None
    rate.add(0)
    clock.now_s += 100  # compilation
    rate.add(1)
    assert rate.per_s() == pytest.approx(0.01)
    for count in range(2, 62):
        clock.now_s += 1
        rate.add(count)
    assert rate.per_s() == pytest.approx(1.0)


def test_rare_counts_keep_a_rate() -> None:
    clock = Clock()
    rate = Rate(window_s=30.0, clock=clock)
    for count in (0, 10, 30):
        rate.add(count)
        clock.now_s += 100
    assert rate.per_s() == pytest.approx(0.2)  # of the newest two
    rate.add(30)
    assert rate.per_s() is None  # nothing has been done since


def test_on_a_pipe_a_line_now_and_then_messages_at_once_and_the_last_state() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(1000, "puzzles", stream, clock) as progress:
        for done in range(0, 700, 10):
            progress.update(done)
            clock.now_s += 1
        progress({"event": "warning", "message": "actor 2 died"})
        progress({"event": "unit"})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "300/1,000 puzzles  10 puzzles/s  70 s left"
    assert lines[1].startswith("600/1,000 puzzles")
    assert lines[2] == "warning: actor 2 died"
    assert lines[3] == "690/1,000 puzzles  10 puzzles/s  31 s left"
    assert len(lines) == 4


def test_what_the_caller_knows_of_the_time_left_counts() -> None:
    stream = io.StringIO()
    with Progress(10, "steps", stream) as progress:
        progress.update(5, "loss 0.5", 7200)
    assert stream.getvalue() == "5/10 steps  loss 0.5  2 h 0 min left\n"


def test_nothing_is_shown_of_nothing() -> None:
    stream = io.StringIO()
    with Progress(0, "puzzles", stream):
        pass
    assert stream.getvalue() == ""


def test_on_a_terminal_one_line_is_rewritten_and_messages_stay() -> None:
    stream = Terminal()
    with Progress(1000, "puzzles", stream) as progress:
        progress.update(10, "settled [5%]")
        progress.message("warning: [bold] is no markup")
        time.sleep(0.7)
    shown = stream.getvalue()
    assert "10/1,000 puzzles  settled [5%]" in shown
    assert "warning: [bold] is no markup\n" in shown


def test_a_log_is_looked_at_once_more_at_the_end() -> None:
    looks: list[int] = []
    with polled(lambda: looks.append(0)):
        pass
    assert len(looks) >= 1


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (89.4, "89 s"), (91, "2 min"), (5340, "89 min"), (5400, "1 h 30 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
