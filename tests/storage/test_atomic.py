"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eqr_ray.storage.atomic import atomic, write_bytes


def test_a_failure_midway_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x"
    target.write_text("old")

    def half() -> None:
        with atomic(target) as temporary:
            temporary.write_text("new, ha")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        half()
    assert target.read_text() == "old"

    def no_rename(*_: object) -> None:
        raise OSError("no rename")

    monkeypatch.setattr(os, "replace", no_rename)
    with pytest.raises(OSError, match="no rename"):
        write_bytes(target, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert target.read_text() == "old"
