"""Learning curves from planted logs."""

import json
import struct

import pytest

from eqr_ray.config.errors import UserError
from eqr_ray.plots.curve import draw_curve, read_log


def line(kind, step, **figures):
    return json.dumps({"kind": kind, "step": step, **figures})


def test_a_step_that_was_run_again_counts_as_it_was_run_last(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join([line("train", 20, token_loss=9), line("resume", 10), line("train", 20, token_loss=2)]))
    train, validation = read_log(log)
    assert [entry["token_loss"] for entry in train] == [2]
    assert validation == []


def test_the_picture_appears(tmp_path):
    log = tmp_path / "log.jsonl"
    lines = [line("train", s, token_loss=3 - s / 30, exact_accuracy=s / 90, elapsed_s=60 * s) for s in (20, 40, 60)]
    log.write_text("\n".join([*lines, line("validation", 40, validation_exact=0.4, depth=16)]))
    draw_curve(log, "title", tmp_path / "curve.png")
    assert struct.unpack(">II", (tmp_path / "curve.png").read_bytes()[16:24]) == (1000, 400)


@pytest.mark.parametrize("content", ["{", "[1]", '{"step": 1}'])
def test_a_damaged_log_is_named_by_its_line(tmp_path, content):
    log = tmp_path / "log.jsonl"
    log.write_text(line("train", 1) + "\n" + content)
    with pytest.raises(UserError, match=r"log\.jsonl:2"):
        read_log(log)
