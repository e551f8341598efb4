"""One torch thread: these tests are many small tensors, and other processes may want the other cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
