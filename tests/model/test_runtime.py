from __future__ import annotations

import pytest
import torch

from eqr_ray.model.runtime import resolved_dtype


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_a_cpu_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16)
    assert resolved_dtype("auto", "cpu") == ("bfloat16" if has_bfloat16 else "float32")


@pytest.mark.parametrize(("supported", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_before_ampere_computes_in_float32(monkeypatch: pytest.MonkeyPatch, supported: bool, dtype: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert resolved_dtype("auto", "cuda") == dtype


def test_gpus_of_another_machine_are_taken_to_have_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolved_dtype("auto", "cuda") == "bfloat16"


@pytest.mark.parametrize("name", ["bfloat16", "float32", "float16"])
def test_a_type_that_is_named_is_taken(name: str) -> None:
    assert resolved_dtype(name, "cpu") == name
