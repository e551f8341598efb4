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

from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, content_hash, leaves, option


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
        ({"optim": {"lrr": 1}}, "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
        ({"legs": 3}, "legs= was removed: populations are gone"),
        ({"data": 7}, "data=7 is not allowed: should be a valid string"),
        ({"steps": "many"}, 'steps="many" is not allowed: should be a valid integer'),
        ({"steps": 1.5}, "steps=1.5 is not allowed: should be a valid integer"),
        ({"steps": True}, "steps=true is not allowed: should be a valid integer"),
        ({"steps": None}, "steps=null is not allowed: should be a valid integer"),
        ({"steps": []}, "steps=[] is not allowed: should be a valid integer"),
        ({"steps": 0}, "steps=0 is not allowed: should be greater than or equal to 1"),
        ({"damping": 1}, "damping=1 is not allowed: should be less than 1"),
        ({"damping": math.nan}, "damping=NaN is not allowed: should be a finite number"),
        ({"damping": "x"}, 'damping="x" is not allowed: should be a valid number'),
        ({"below": math.nan}, "below=NaN is not allowed: should be greater than or equal to 0"),
        ({"below": -math.inf}, "below=-Infinity is not allowed: should be greater than or equal to 0"),
        ({"seed": 2**63}, f"seed={2**63} is not allowed: should be less than {2**63}"),
        ({"compiled": 1}, "compiled=1 is not allowed: should be a valid boolean"),
        ({"limit": "x"}, 'limit="x" is not allowed: should be a valid integer'),
        ({"limit": []}, "limit=[] is not allowed: should be a valid integer"),
        ({"limit": 11}, "limit=11 is more than steps=10, which it may not be"),
        ({"workers": "x"}, "workers=\"x\" is not allowed: should be a valid integer or should be 'auto'"),
        ({"workers": 13}, "workers=13 is not allowed: bad luck"),
        ({"zero": True}, "zero=true is not allowed: should be a choice, not true or false"),
        ({"depths": [1, "x"]}, 'depths[1]="x" is not allowed: should be a valid integer'),
        ({"depths": ["x"]}, 'depths[0]="x" is not allowed: should be a valid integer'),
        ({"depths": [0]}, "depths[0]=0 is not allowed: should be greater than or equal to 1"),
        ({"depths": []}, "depths=[] is not allowed: should have at least 1 item after validation, not 0"),
        ({"depths": 1}, "depths=1 is not allowed: should be a valid list"),
        (
            {"levels": []},
            "levels=[] is not allowed: should be a valid number or should have at least 1 item after validation, not 0",
        ),
        ({"levels": -1}, "levels=-1 is not allowed: should be greater than or equal to 0 or should be a valid list"),
        ({"levels": "x"}, 'levels="x" is not allowed: should be a valid number or should be a valid list'),
        ({"records": [1]}, "records[0]=1 is not allowed: should be a valid string"),
        ({"optim": {"lr": True}}, "optim.lr=true is not allowed: should be a valid number"),
        ({"optim": {"lr": -1.0}}, "optim.lr=-1.0 is not allowed: should be greater than 0"),
        ({"optim": {"kind": "adan"}}, "optim.kind=\"adan\" is not allowed: should be 'adam' or 'sgd'"),
        ({"optim": {"kind": "lion"}}, "optim.kind=lion was removed: it was slower"),
        ({"optim": 3}, "optim=3 is not allowed: should be a valid dictionary or instance of Optim"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(values: dict[str, Any], message: str) -> None:
    for make in (Run.parse, lambda values: Run(**values)):
        with pytest.raises(UserError) as caught:
            make({"data": "d", **values})
        assert str(caught.value) == message


def test_the_place_of_the_values_is_named() -> None:
    with pytest.raises(UserError, match=r"^data= must be given$"):
        Run.parse({})
    with pytest.raises(UserError, match=r"^a\.b\.lr=0 is not allowed: should be greater than 0$"):
        Optim.parse({"lr": 0}, "a.b")
    with pytest.raises(UserError, match=r"^unknown key 'a\.lrr'; did you mean 'a.lr'"):
        Optim.parse({"lrr": 0}, "a")
    with pytest.raises(UserError, match=r"^a=\[1\] is not allowed: should be a valid dictionary or instance of Optim$"):
        Optim.parse([1], "a")  # type: ignore[arg-type]


def test_values_are_replaced_with_their_checks_and_nothing_else_changes_them() -> None:
    run = Run(data="d", depths=(2,), optim=Optim(lr=2.0))
    assert run.replace(steps=3) == Run(data="d", steps=3, depths=(2,), optim=Optim(lr=2.0))
    with pytest.raises(UserError, match="steps=0 is not allowed"):
        run.replace(steps=0)
    with pytest.raises(ValueError, match="frozen"):
        run.steps = 4
    assert pickle.loads(pickle.dumps(run)) == run


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
