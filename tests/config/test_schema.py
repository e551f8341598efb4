"""The schema: what is accepted, what is refused and with which words."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from eqr_ray.config import schema
from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, allowed, content_hash, leaves, option


class Optim(Options):
    lr: float = option(1e-4, "rate", gt=0)
    betas: tuple[float, float] = option((0.9, 0.95), "of Adam")
    kind: Literal["adam", "sgd"] = option("adam", "which", removed={"lion": "it was slower"})


class Run(Options):
    REMOVED: ClassVar[Mapping[str, str]] = {"legs": "populations are gone"}

    data: str = option(..., "puzzles")
    steps: int = option(10, "steps", ge=1)
    damping: float = option(0.0, "share", ge=0, lt=1)
    below: float = option(1.0, "threshold", ge=0, inf=True)
    compiled: bool = option(False, "compile")
    limit: int | None = option(None, "at most", ge=1)
    workers: int | Literal["auto"] = option("auto", "how many")
    zero: Literal[0, 1, 2, 3] = option(0, "stage")
    seed: int = option(0, "of draws", ge=0, lt=2**63)
    depths: tuple[Annotated[int, Field(ge=1)], ...] = option((1, 4), "where", min_length=1)
    levels: Annotated[float, Field(ge=0)] | Annotated[tuple[float, ...], Field(min_length=1)] | None = option(None, "")
    records: str | tuple[str, ...] | None = option(None, "folders")
    extra: Mapping[str, Any] = option({}, "anything")
    optim: Optim = option(Optim(), "the optimizer")

    @model_validator(mode="after")
    def _check(self) -> Run:
        if self.limit is not None and self.limit > self.steps:
            raise ValueError(f"limit={self.limit} is more than steps={self.steps}, which it may not be")
        if self.workers == 13:
            raise UserError("workers=13 is not allowed: bad luck")
        return self


def test_a_nested_dict_becomes_the_tree() -> None:
    run = Run.parse({"data": "d", "depths": [2, 8], "optim": {"lr": 1, "kind": "sgd"}, "extra": {"a": [1]}})
    assert run == Run(data="d", depths=(2, 8), optim=Optim(lr=1.0, kind="sgd"), extra={"a": [1]})
    assert type(run.optim.lr) is float
    assert Run.parse({"data": "d", "below": math.inf, "workers": 2, "limit": 5, "records": ["a"]}).records == ("a",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 1}, "unknown key 'stepz'; did you mean 'steps'?"),
        ({"optim": {"lrr": 1}}, "unknown key 'optim.lrr'; did you mean 'lr'?"),
        ({"legs": 3}, "legs= was removed: populations are gone"),
        ({"data": 7}, "data=7: expected text"),
        ({"steps": "many"}, 'steps="many": expected a whole number'),
        ({"steps": 1.5}, "steps=1.5: expected a whole number"),
        ({"steps": True}, "steps=true: expected a whole number"),
        ({"steps": None}, "steps=null: expected a whole number"),
        ({"steps": []}, "steps=[]: expected a whole number"),
        ({"steps": 0}, "steps=0 is not allowed: at least 1"),
        ({"damping": 1}, "damping=1 is not allowed: 0 <= damping < 1"),
        ({"damping": math.nan}, "damping=nan is not allowed: a finite number, 0 <= damping < 1"),
        ({"damping": "x"}, 'damping="x": expected a number'),
        ({"below": math.nan}, "below=nan is not allowed: 0 or more"),
        ({"below": -math.inf}, "below=-inf is not allowed: 0 or more"),
        ({"seed": 2**63}, f"seed={2**63} is not allowed: 0 <= seed < {2**63}"),
        ({"compiled": 1}, "compiled=1: expected true or false"),
        ({"limit": "x"}, 'limit="x": expected a whole number'),
        ({"limit": []}, "limit=[]: expected a whole number"),
        ({"limit": 11}, "limit=11 is more than steps=10, which it may not be"),
        ({"workers": "x"}, 'workers="x": expected a whole number or one of "auto"'),
        ({"workers": 13}, "workers=13 is not allowed: bad luck"),
        ({"zero": True}, "zero=true: expected one of 0, 1, 2, 3"),
        ({"depths": [1, "x"]}, 'depths[1]="x": expected a whole number'),
        ({"depths": ["x"]}, 'depths[0]="x": expected a whole number'),
        ({"depths": [0]}, "depths[0]=0 is not allowed: at least 1"),
        ({"depths": []}, "depths=[] is not allowed: at least 1"),
        ({"depths": 1}, "depths=1: expected a list of a whole number"),
        ({"levels": []}, "levels=[] is not allowed: at least 1"),
        ({"levels": -1}, "levels=-1 is not allowed: 0 or more"),
        ({"levels": "x"}, 'levels="x": expected a number or a list of a number'),
        ({"records": [1]}, "records[0]=1: expected text"),
        ({"optim": {"lr": True}}, "optim.lr=true: expected a number"),
        ({"optim": {"lr": -1.0}}, "optim.lr=-1.0 is not allowed: more than 0"),
        ({"optim": {"kind": "adan"}}, 'optim.kind="adan": expected one of "adam", "sgd"; did you mean \'adam\'?'),
        ({"optim": {"kind": "lion"}}, "optim.kind=lion was removed: it was slower"),
        ({"optim": 3}, "optim=3: expected a group of keys: lr, betas, kind"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(values: dict[str, Any], message: str) -> None:
    for make in (Run.parse, lambda values: Run(**values)):
        with pytest.raises(UserError) as caught:
            make({"data": "d", **values})
        assert str(caught.value) == message


def test_the_place_of_the_values_is_named() -> None:
    with pytest.raises(UserError, match=r"^data is missing: expected text$"):
        Run.parse({})
    with pytest.raises(UserError, match=r"^a\.b\.lr=0 is not allowed: more than 0$"):
        Optim.parse({"lr": 0}, "a.b")
    with pytest.raises(UserError, match=r"^unknown key 'a\.lrr'; did you mean 'lr'"):
        Optim.parse({"lrr": 0}, "a")
    with pytest.raises(UserError, match=r"^a=\[1\]: expected a group of keys: lr, betas, kind$"):
        Optim.parse([1], "a")  # type: ignore[arg-type]


def test_a_renamed_key_is_told_its_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(schema.RENAMED, "rate", "lr")
    with pytest.raises(UserError, match=r"^optim\.rate= is called lr= now$"):
        Run.parse({"data": "d", "optim": {"rate": 1}})


def test_values_are_replaced_with_their_checks_and_nothing_else_changes_them() -> None:
    run = Run(data="d", depths=(2,), optim=Optim(lr=2.0))
    assert run.replace(steps=3) == Run(data="d", steps=3, depths=(2,), optim=Optim(lr=2.0))
    with pytest.raises(UserError, match="steps=0 is not allowed"):
        run.replace(steps=0)
    with pytest.raises(ValueError, match="frozen"):
        run.steps = 4
    assert pickle.loads(pickle.dumps(run)) == run


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"ge": 0}, "0 or more"),
        ({"ge": 2}, "at least 2"),
        ({"gt": 0}, "more than 0"),
        ({"le": 3}, "at most 3"),
        ({"lt": 3}, "less than 3"),
        ({"ge": 0, "le": 1}, "0..1"),
        ({"ge": 0, "lt": 1}, "0 <= ema < 1"),
        ({"gt": 0, "lt": 1}, "0 < ema < 1"),
        ({"gt": 0, "le": 1}, "0 < ema <= 1"),
    ],
)
def test_a_range_in_words(bounds: dict[str, float], words: str) -> None:
    assert allowed(bounds, "ema") == words


def test_keys_that_can_be_typed() -> None:
    keys = [key for key, _ in leaves(Run)]
    assert keys[0] == "data"
    assert keys[-3:] == ["optim.lr", "optim.betas", "optim.kind"]


@given(
    st.builds(
        Run,
        data=st.text(),
        limit=st.none() | st.integers(1, 10),
        depths=st.lists(st.integers(1, 2**70), min_size=1).map(tuple),
        below=st.floats(min_value=0),
        optim=st.builds(Optim, lr=st.floats(min_value=1e-9, max_value=1e9)),
    )
)
def test_the_tree_survives_json(run: Run) -> None:
    written = json.loads(json.dumps(run.to_dict()))
    assert written == run.to_dict()
    again = Run.parse(written)
    assert again == run
    assert content_hash(again) == content_hash(run) == content_hash(written)


def test_the_hash_sees_content_and_not_order() -> None:
    assert content_hash({"a": 1, "b": (2, 3)}) == content_hash({"b": [2, 3], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})
    assert Optim.parse({"lr": 1}) == Optim.parse({"lr": 1.0})
