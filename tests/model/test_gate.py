"""The gate's own kernel against torch's expression in float64, forward and backward, and what stands in for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eqr_ray.model import gate as gates
from eqr_ray.model.gate import gate, plain_gate

TOLERANCE = 2.0**-8 + 3e-4  # relative: half the distance of two neighbours in bfloat16, and the kernel's own error


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    if not gates.build():
        pytest.skip("needs a C++ compiler and a CPU with AMX")
    monkeypatch.setattr(gates, "_ready", True)


def kernel_gate(x: Tensor) -> Tensor:
    gated: Tensor = torch.ops.eqr_ray.gate(x)
    return gated


def with_gradient(function: object, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = function(x)  # type: ignore[operator]
    y.backward(dy.to(y.dtype))
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (7, 48), (300, 256)])
def test_is_as_near_as_bfloat16_allows(scale: float, rows: int, width: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = (scale * torch.randn(rows, 2 * width, generator=generator)).bfloat16()
    dy = torch.randn(rows, width, generator=generator).bfloat16()
    for ours, true in zip(with_gradient(kernel_gate, x, dy), with_gradient(plain_gate, x.double(), dy), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), true, rtol=TOLERANCE, atol=1e-4 * scale)


@pytest.mark.usefixtures("kernel")
def test_ends_of_the_range() -> None:
    ends = torch.tensor([0.0, 300.0, -300.0, torch.inf, -torch.inf, torch.nan, 88.0, -88.0] * 2)
    x = torch.stack([torch.cat([ends, torch.full((16,), up)]) for up in (1.0, 1e30)]).bfloat16()
    torch.testing.assert_close(kernel_gate(x), plain_gate(x), equal_nan=True)


@pytest.mark.usefixtures("kernel")
def test_rows_do_not_depend_on_each_other_or_on_the_threads() -> None:
    x = torch.randn(65, 128).bfloat16()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.cat([kernel_gate(row[None]) for row in x])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(kernel_gate(x), alone)


@pytest.mark.usefixtures("kernel")
def test_is_an_operator_that_torch_can_trace() -> None:
    x = torch.randn(64, 64).bfloat16()
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_static")
    for argument in (x, x.clone().t()):
        torch.library.opcheck(torch.ops.eqr_ray.gate.default, (argument.requires_grad_(),), test_utils=tests)


@pytest.mark.filterwarnings(r"ignore:.torch\.jit\.script_method. is deprecated:DeprecationWarning")  # torch's own
@pytest.mark.usefixtures("kernel")
def test_a_compiled_cell_has_it_and_an_eager_one_has_not() -> None:
    x = torch.randn(100, 128).bfloat16()
    assert not torch.equal(kernel_gate(x), plain_gate(x))
    assert torch.equal(gate(x), plain_gate(x))
    assert torch.equal(torch.compile(gate, dynamic=False)(x), kernel_gate(x))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("x", [torch.randn(3, 64), torch.randn(3, 40).bfloat16()], ids=["float32", "width 20"])
def test_what_it_cannot_do_torch_does(x: Tensor) -> None:
    assert torch.equal(gate(x), plain_gate(x))


def test_without_a_compiler_or_with_one_that_fails_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_ready", False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    for compiler in (None, "false", "/nowhere/g++"):
        monkeypatch.setattr(gates, "cxx", lambda compiler=compiler: compiler)
        assert not gates.build.__wrapped__()
    x = torch.randn(3, 64).bfloat16()
    assert torch.equal(gate(x), plain_gate(x))
