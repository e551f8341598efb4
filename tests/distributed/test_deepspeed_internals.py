"""What deepspeed_backend.py uses of DeepSpeed that is not public is still there by its name."""

from __future__ import annotations

import inspect

import pytest


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # read at the import; else DeepSpeed guesses, aloud


def test_the_table_that_decides_whether_the_extension_is_compiled() -> None:
    from deepspeed.ops import __compatible_ops__ as compatible_ops  # noqa: PLC0415

    assert "deepspeed_shm_comm" in compatible_ops


@pytest.mark.parametrize(
    ("module", "optimizer", "names"),
    [
        (
            "stage_1_and_2",
            "DeepSpeedZeroOptimizer",
            ["_hp_optimizer_states_linked", "_lazy_init_hp_params_optimizer_state"],
        ),
        ("stage3", "DeepSpeedZeroOptimizer_Stage3", ["fp32_partitioned_groups_flat"]),
    ],
)
def test_the_optimizers_of_zero_have(module: str, optimizer: str, names: list[str]) -> None:
    import deepspeed.runtime.zero.stage3  # noqa: PLC0415
    import deepspeed.runtime.zero.stage_1_and_2  # noqa: PLC0415

    source = inspect.getsource(getattr(getattr(deepspeed.runtime.zero, module), optimizer))
    for name in names:
        assert f"self.{name}" in source or f"def {name}(" in source, f"{optimizer} has no {name}"
    assert "_hp_optimizer_states_linked" not in names or "if not self._hp_optimizer_states_linked:" in source
