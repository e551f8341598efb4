"""The parts of a block against plain formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from eqr_ray.model.layers import attention, linear_weight, rms_norm, rotary_table, rotate, rotate_grid, swiglu


def test_linear_weight_has_the_exact_std_and_is_cut_at_two_deviations():
    torch.manual_seed(0)
    weight = linear_weight(2000, 400)
    std = 1 / math.sqrt(400)
    assert weight.std().item() == pytest.approx(std, rel=5e-3)
    assert weight.abs().max().item() <= 2 * std / 0.8796 + 1e-6


def test_rms_norm_gives_unit_rms_in_any_type():
    x = torch.randn(3, 5, 64) * 7
    assert torch.allclose(rms_norm(x).square().mean(-1), torch.ones(3, 5), atol=1e-4)
    assert rms_norm(x.bfloat16()).dtype == torch.bfloat16
    assert torch.allclose(rms_norm(x.bfloat16()).float(), rms_norm(x), atol=0.04)
    assert torch.allclose(rms_norm(x), F.rms_norm(x, (64,), eps=1e-5), atol=1e-6)


def test_swiglu_is_gate_first():
    x, gate, up, down = torch.randn(2, 3, 8), torch.randn(6, 8), torch.randn(6, 8), torch.randn(8, 6)
    expected = (F.silu(x @ gate.T) * (x @ up.T)) @ down.T
    assert torch.allclose(swiglu(x, torch.cat([gate, up]), down), expected, atol=1e-5)


def test_rotary_keeps_lengths_and_knows_only_distances():
    table = rotary_table(torch.arange(12), 8)
    q, k = torch.randn(1, 1, 1, 8).expand(1, 12, 1, 8), torch.randn(1, 1, 1, 8).expand(1, 12, 1, 8)
    turned_q, turned_k = rotate(q, table)[0, :, 0], rotate(k, table)[0, :, 0]
    assert torch.allclose(turned_q.norm(dim=-1), q[0, :, 0].norm(dim=-1), atol=1e-5)
    scores = turned_q @ turned_k.T
    for distance in (0, 1, 5):
        band = torch.diagonal(scores, distance)
        assert torch.allclose(band, band[:1].expand_as(band), atol=1e-4)


def test_grid_rotary_sees_rows_and_columns_apart():
    place = torch.arange(16)
    rows, columns = rotary_table(place // 4, 4), rotary_table(place % 4, 4)
    x = torch.randn(1, 1, 1, 8).expand(1, 16, 1, 8)
    turned = rotate_grid(x, rows, columns)[0, :, 0]
    assert torch.allclose(turned[1, :4], turned[2, :4])  # same row
    assert torch.allclose(turned[1, 4:], turned[5, 4:])  # same column
    assert not torch.allclose(turned[1, 4:], turned[2, 4:])


def test_attention_against_a_loop():
    B, T, D, N = 2, 5, 8, 2
    x, qkv, out = torch.randn(B, T, D), torch.randn(3 * D, D), torch.randn(D, D)
    q, k, v = (x @ qkv.T).split(D, dim=-1)
    expected = torch.zeros(B, T, D)
    for b in range(B):
        for n in range(N):
            part = slice(n * D // N, (n + 1) * D // N)
            weights = torch.softmax(q[b, :, part] @ k[b, :, part].T / math.sqrt(D // N), dim=-1)
            expected[b, :, part] = weights @ v[b, :, part]
    assert torch.allclose(attention(x, qkv, out, N, ()), expected @ out.T, atol=1e-4)
