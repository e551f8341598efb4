"""The loss of one segment: stablemax cross-entropy of the tokens and binary cross-entropy of the halting logit.

Per row: mean over tokens of -log stablemax(logits)[label] + 0.5 * BCE(q, [row exactly right]) (method.md). Rows are
averaged by the caller, who knows the global batch.

Shapes: B rows, L tokens, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
HALT_WEIGHT = 0.5


class RowLosses(NamedTuple):
    """Per row (B,): token loss (float64), halting loss, and what was right."""

    tokens: Tensor
    halt: Tensor
    exact: Tensor  # bool: every token that has a label is right
    token_accuracy: Tensor

    @property
    def total(self) -> Tensor:
        return self.tokens + HALT_WEIGHT * self.halt


def log_stablemax(logits: Tensor) -> Tensor:
    """log(s(x) / sum s(x)), s(x) = x + 1 for x >= 0 and 1 / (1 - x) below; (..., V), in float64 as in the reference."""
    x = logits.double()
    s = torch.where(x < 0, 1.0 / (1.0 - x.clamp(max=0.0)), x + 1.0)
    return s.log() - s.sum(-1, keepdim=True).log()


def row_losses(logits: Tensor, halt_logit: Tensor, labels: Tensor) -> RowLosses:
    """logits (B, L, V), halt_logit (B,), labels (B, L) int64 with IGNORE where nothing is asked."""
    asked = labels != IGNORE
    count = asked.sum(-1).clamp(min=1)
    log_p = log_stablemax(logits).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    right = (logits.argmax(-1) == labels) & asked
    exact = right.sum(-1) == asked.sum(-1)
    halt = F.binary_cross_entropy_with_logits(halt_logit, exact.to(halt_logit.dtype), reduction="none")
    return RowLosses((-log_p * asked).sum(-1) / count, halt, exact, right.sum(-1) / count)
