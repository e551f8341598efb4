"""The compiled cell against the eager one: a whole segment with noise and damping, and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eqr_ray.model import ModelConfig, Reasoner
from eqr_ray.model.cell import cell
from eqr_ray.model.network import cell_function, start_latent
from eqr_ray.model.noise import keyed_noise, row_keys

EQR = ModelConfig(vocab_size=6, length=16, grid=(4, 4), width=32, layers=1, hidden_multiple=32, h_cycles=2, l_cycles=2)
NETWORKS = {"mixer": EQR, "attention": EQR.replace(mixing="attention", heads=2, positions="rope")}
# float32: a rounding of 6e-8 grows some hundred times in the six cells of a segment.
TOLERANCE = 3e-5
# bfloat16: the compiled cell keeps float32 between matrix products, so it must be as near to float32 as the eager one.
FURTHER = 1.5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings(r"ignore:.torch\.jit\.script_method. is deprecated:DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference, relative to the norm of `theirs`."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


def results(model: Reasoner, dtype: torch.dtype) -> dict[str, Tensor]:
    """The states, the logits and every gradient of one segment from keyed starts."""
    model.zero_grad()
    inputs = torch.arange(8 * 16).view(8, 16) % 6
    keys = row_keys(1, torch.arange(8))
    readout = model(inputs, start_latent(model, keys, dtype), keyed_noise(keys, 0.1))
    (readout.logits.square().mean() + readout.halt_logit.sum()).backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    return {"z_H": readout.latent.z_H, "z_L": readout.latent.z_L, "logits": readout.logits, **gradients}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_segment_and_its_gradient(name: str, dtype: torch.dtype) -> None:
    compiled = cell_function(torch.device("cpu"))
    if compiled is cell:
        pytest.skip("needs a C++ compiler")
    torch.manual_seed(0)
    model = Reasoner(NETWORKS[name])
    exact, eager = results(model, torch.float32), results(model, dtype)
    model.cell_fn = compiled
    ours = results(model, dtype)
    assert set(ours) == set(eager)
    assert len(ours) >= 8
    # in float32 `exact` and `eager` are the same
    allowed = {key: max(TOLERANCE, FURTHER * distance(eager[key], exact[key])) for key in ours}
    assert {key: far for key in ours if (far := distance(ours[key], exact[key])) > allowed[key]} == {}
