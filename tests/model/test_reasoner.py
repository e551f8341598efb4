"""The network as a map: variants are configurations, the gradient reaches what it should, rows do not meet."""

import pytest
import torch

from eqr_ray.config.errors import UserError
from eqr_ray.model import Latent, ModelConfig, Reasoner
from eqr_ray.model.network import Network, flops_per_segment, start_latent
from eqr_ray.model.noise import keyed_noise

TINY = ModelConfig(
    vocab_size=6, length=16, grid=(4, 4), width=16, layers=1, hidden_multiple=8, h_cycles=2, l_cycles=2, heads=2
)
VARIANTS = {
    "eqr": TINY,
    "attention": TINY.replace(mixing="attention", positions="rope"),
    "attention_2d": TINY.replace(mixing="attention", positions="rope2d"),
    "puzzle_tokens": TINY.replace(puzzle_tokens=3, puzzle_ids=2, puzzle_width=40),
    "puzzle_tokens_2d": TINY.replace(
        mixing="attention", positions="rope2d", puzzle_tokens=3, puzzle_ids=2, puzzle_width=40
    ),
    "trm": TINY.replace(start="fixed", damping=0.0, noise_scale=0.0),
    "weight_tied": TINY.replace(states="single", start="fixed", damping=0.0, noise_scale=0.0),
    "feed_forward": TINY.replace(
        states="single", weights="distinct", start="fixed", grad_cycles=2, damping=0.0, noise_scale=0.0
    ),
}


def run(model, rows=3, seed=0):
    torch.manual_seed(seed)
    inputs = torch.randint(0, model.config.vocab_size, (rows, model.config.length))
    keys = torch.arange(rows, dtype=torch.int64)
    latent = start_latent(model, keys, torch.float32)
    return model(inputs, latent, keyed_noise(keys, model.config.noise_scale)), inputs, keys


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_runs_and_every_parameter_learns(name):
    torch.manual_seed(1)
    model = Reasoner(VARIANTS[name])
    readout, _, _ = run(model)
    assert readout.logits.shape == (3, 16, 6)
    assert readout.halt_logit.shape == (3,)
    assert readout.halt_logit.tolist() == pytest.approx([-5.0] * 3)
    (readout.logits.square().mean() + readout.halt_logit.sum()).backward()
    silent = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # A distinct stack's embedding is injected all the way; nothing may be left without a gradient.
    assert silent == set()


def test_rows_do_not_meet():
    model = Reasoner(TINY)
    readout, inputs, keys = run(model)
    one = start_latent(model, keys[1:2], torch.float32)
    alone = model(inputs[1:2], one, keyed_noise(keys[1:2], TINY.noise_scale))
    assert torch.allclose(alone.logits[0], readout.logits[1], atol=1e-5)


def test_damping_mixes_the_old_state_in():
    torch.manual_seed(0)
    quiet = TINY.replace(noise_scale=0.0, h_cycles=1, l_cycles=1)
    models = [Reasoner(quiet.replace(damping=damping)) for damping in (0.0, 0.25)]
    models[1].load_state_dict(models[0].state_dict())
    z, e = Latent(torch.randn(2, 16, 16), torch.randn(2, 16, 16)), torch.randn(2, 16, 16)
    plain, damped = (model.segment(z, e) for model in models)
    assert torch.allclose(damped.z_L, 0.25 * z.z_L + 0.75 * plain.z_L, atol=1e-6)


def test_noise_has_the_configured_scale():
    torch.manual_seed(0)
    model = Reasoner(TINY.replace(h_cycles=1, l_cycles=1))
    z, e = Latent(torch.randn(64, 16, 16), torch.randn(64, 16, 16)), torch.randn(64, 16, 16)
    keys = torch.arange(64, dtype=torch.int64)
    noisy, quiet = model.segment(z, e, keyed_noise(keys, 0.2)), model.segment(z, e, None)
    assert (noisy.z_L - quiet.z_L).std().item() == pytest.approx(0.2, rel=0.02)


def test_only_the_last_recursions_carry_a_gradient():
    model = Reasoner(TINY.replace(h_cycles=3, grad_cycles=1, noise_scale=0.0))
    z = Latent(torch.randn(1, 16, 16, requires_grad=True), torch.randn(1, 16, 16, requires_grad=True))
    model.segment(z, torch.randn(1, 16, 16)).z_H.sum().backward()
    assert z.z_H.grad is None
    assert z.z_L.grad is None


def test_network_chunks_give_what_one_piece_gives():
    torch.manual_seed(0)
    network = Network(Reasoner(TINY), dtype=torch.float32, compile=False)
    inputs, keys = torch.randint(0, 6, (100, 16)), torch.arange(100, dtype=torch.int64)
    segment = network.segment(network.start(keys), network.embed(inputs), keys)
    last = network.segment(network.start(keys[64:]), network.embed(inputs[64:]), keys[64:])
    assert torch.allclose(segment.logits[64:], last.logits, atol=1e-5)
    assert segment.latent.z_L.shape == (100, 16, 16)


def test_flops_of_the_paper_sudoku_model():
    # 25.6 GFLOP a segment, 5 M parameters (anchors of the public literature).
    paper = ModelConfig(vocab_size=11, length=97, grid=(1, 97), width=512, layers=2)
    assert flops_per_segment(paper) == pytest.approx(25.6e9, rel=0.05)
    torch.manual_seed(0)
    parameters = sum(p.numel() for p in Reasoner(paper.replace(length=81, grid=(9, 9))).parameters())
    assert parameters == pytest.approx(4.86e6, rel=0.01)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"damping": 1.0}, "damping=1.0"),
        ({"noise_scale": float("nan")}, "noise_scale=NaN"),
        ({"width": 0}, "width=0"),
        ({"heads": 3, "mixing": "attention"}, "heads=3"),
        ({"grid": (3, 4)}, "grid="),
        ({"grad_cycles": 5}, "grad_cycles=5"),
        ({"mixing": "attention", "positions": "rope2d", "heads": 8}, "positions=rope2d"),
    ],
)
def test_impossible_shapes_are_refused_by_name(change, words):
    with pytest.raises(UserError, match=words):
        TINY.replace(**change)
