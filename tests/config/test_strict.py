"""Strict construction: what is accepted, what is refused and with which words."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqr_ray.config.errors import UserError
from eqr_ray.config.strict import content_hash, from_dict, to_dict


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    kind: Literal["adam", "sgd"] = "adam"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr={self.lr} must be positive")


@dataclass(frozen=True)
class Run:
    data: str
    steps: int = 10
    compiled: bool = False
    limit: int | None = None
    workers: int | Literal["auto"] = "auto"
    depths: tuple[int, ...] = (1, 4)
    out: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    optim: Optim = Optim()


def test_a_nested_dict_becomes_the_tree() -> None:
    run = from_dict(
        Run, {"data": "d", "depths": [2, 8], "out": "runs/a", "optim": {"lr": 1, "kind": "sgd"}, "extra": {"a": [1]}}
    )
    assert run == Run("d", depths=(2, 8), out=Path("runs/a"), optim=Optim(lr=1.0, kind="sgd"), extra={"a": [1]})
    assert type(run.optim.lr) is float


def test_none_literal_and_union() -> None:
    assert from_dict(Run, {"data": "d", "limit": None, "workers": 2}).workers == 2
    assert from_dict(Run, {"data": "d", "limit": 5, "workers": "auto"}).limit == 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"data": "d", "stepz": 1}, "unknown key 'stepz'; did you mean 'steps'?"),
        ({"data": "d", "optim": {"lrr": 1}}, "unknown key 'optim.lrr'; did you mean 'lr'?"),
        ({}, "data is missing: expected text"),
        ({"data": 7}, "data=7: expected text"),
        ({"data": "d", "steps": "many"}, 'steps="many": expected a whole number'),
        ({"data": "d", "steps": 1.5}, "steps=1.5: expected a whole number"),
        ({"data": "d", "steps": True}, "steps=true: expected a whole number"),
        ({"data": "d", "compiled": 1}, "compiled=1: expected true or false"),
        ({"data": "d", "steps": None}, "steps=null: expected a whole number"),
        ({"data": "d", "limit": "x"}, 'limit="x": expected a whole number'),
        ({"data": "d", "workers": "x"}, 'workers="x": expected a whole number or one of "auto"'),
        ({"data": "d", "depths": [1, "x"]}, 'depths[1]="x": expected a whole number'),
        ({"data": "d", "depths": 1}, "depths=1: expected a list of a whole number"),
        ({"data": "d", "optim": {"betas": [1]}}, "optim.betas=[1]: expected a list of 2 values"),
        ({"data": "d", "optim": {"lr": True}}, "optim.lr=true: expected a number"),
        (
            {"data": "d", "optim": {"kind": "adan"}},
            'optim.kind="adan": expected one of "adam", "sgd"; did you mean \'adam\'?',
        ),
        ({"data": "d", "optim": 3}, "optim=3: expected a group of keys: lr, betas, kind"),
        ({"data": "d", "optim": {"lr": -1.0}}, "optim: lr=-1.0 must be positive"),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(Run, data)
    assert str(caught.value) == message


def test_a_choice_of_numbers_is_strict_about_booleans() -> None:
    @dataclass(frozen=True)
    class Zero:
        stage: Literal[0, 1, 2, 3] = 0

    globals()["Zero"] = Zero
    assert from_dict(Zero, {"stage": 1}).stage == 1
    with pytest.raises(UserError, match="stage=true: expected one of 0, 1, 2, 3"):
        from_dict(Zero, {"stage": True})


@given(
    st.builds(
        Run,
        data=st.text(),
        limit=st.none() | st.integers(),
        depths=st.lists(st.integers()).map(tuple),
        out=st.none() | st.just(Path("a/b c")),
        optim=st.builds(Optim, lr=st.floats(min_value=1e-9, max_value=1e9)),
    )
)
def test_the_tree_survives_json(run: Run) -> None:
    plain = json.loads(json.dumps(to_dict(run)))
    assert plain == to_dict(run)
    again = from_dict(Run, plain)
    assert again == run
    assert content_hash(again) == content_hash(run) == content_hash(plain)


def test_the_hash_sees_content_and_not_order() -> None:
    assert content_hash({"a": 1, "b": (2, 3)}) == content_hash({"b": [2, 3], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert from_dict(Optim, {"lr": 1}) == from_dict(Optim, {"lr": 1.0})
