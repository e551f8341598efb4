"""DeepSpeed as the backend of the training loop: data parallel, ZeRO 0-3. The only file that knows DeepSpeed.

ZeRO 0 keeps everything on every worker, 1 divides the optimizer's moments, 2 the gradients too, 3 the weights too.
A checkpoint gets the state in full at every stage, so that it fits any stage and worker count; the moving average of
the weights is in full on every worker, at stage 3 too.

Weights stay float32: the compute type is the latent's, and the network casts its weights once a segment. DeepSpeed
therefore runs in float32, and its master weights are the weights.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.ops import __compatible_ops__ as compatible_ops
from torch import Tensor
from torch.nn import Parameter

from eqr_ray.model import Latent, Readout, Reasoner
from eqr_ray.model.cell import Noise
from eqr_ray.training.backend import MOMENTS, Backend
from eqr_ray.training.config import TrainingConfig

Stage = Literal[0, 1, 2, 3]

# On CPU DeepSpeed compiles an extension for all-reduce through shared memory: a minute at the first start, and a stale
# lock file of a killed build hangs every later one. gloo is as fast here. There is no public switch but this table.
compatible_ops["deepspeed_shm_comm"] = False
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns of any optimizer but its own
# DeepSpeed calls collectives of stage 3 by names that newer torch gives up, at every step.
warnings.filterwarnings("ignore", message="`torch.distributed.*is deprecated", category=FutureWarning)


class DeepSpeedBackend(Backend):
    """A backend on every worker of an initialised torch.distributed group, whoever made it."""

    def __init__(self, model: Reasoner, config: TrainingConfig, stage: Stage, device: torch.device) -> None:
        super().__init__(model, config, device)
        self.stage, self.rank, self.workers = stage, dist.get_rank(), dist.get_world_size()
        os.environ["LOCAL_RANK"] = str(device.index or 0)  # where DeepSpeed reads which device is its own
        self.set_learning_rate(0.0)  # ZeRO may warm the optimizer up with an empty step: it must not decay the weights
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=self.optimizer,
            config=zero_config(config, stage, self.workers),
            dist_init_required=False,
        )
        if stage == 3:
            # The blocks' weights are used by the network itself, 21 times a segment: they are gathered with its own,
            # once. (A ZeRO-3 leaf module would reduce its gradients too early: no input of a segment has a gradient.)
            for parameter in model.blocks.parameters():
                deepspeed.zero.register_external_parameter(model, parameter)
        self._reset_moments(updates=0)

    def forward(self, inputs: Tensor, latent: Latent, noise: Noise | None) -> Readout:
        readout: Readout = self._engine(inputs, latent, noise)
        return readout

    def accumulate(self, loss: Tensor) -> None:
        """DeepSpeed counts the calls: it divides by their number and updates the weights at the last one."""
        self._engine.backward(loss)
        self._engine.step()

    def sum(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    def barrier(self) -> None:
        dist.barrier()

    def parameters(self) -> dict[str, Tensor]:
        """Views at stages 0-2, which cost nothing; gathered copies at stage 3."""
        named = dict(self.model.named_parameters())
        if self.stage < 3:
            return {name: parameter.detach() for name, parameter in named.items()}
        with deepspeed.zero.GatheredParameters(list(named.values())):
            return {name: parameter.detach().clone() for name, parameter in named.items()}

    def optimizer_state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            for key in MOMENTS:
                if self.stage == 0:
                    state[f"{key}/{name}"] = self.optimizer.state[parameter][key]
                else:
                    state[f"{key}/{name}"] = deepspeed.utils.safe_get_full_optimizer_state(parameter, key)
        return state

    def load(self, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], updates: int) -> None:
        self._reset_moments(updates)
        named = dict(self.model.named_parameters())
        gathered = deepspeed.zero.GatheredParameters(list(named.values()), modifier_rank=0, enabled=self.stage == 3)
        with torch.no_grad(), gathered:
            if self.stage < 3 or self.rank == 0:
                for name, parameter in named.items():
                    parameter.copy_(weights[name])
        for name, parameter in named.items():
            keys = [key for key in MOMENTS if f"{key}/{name}" in optimizer]
            moments = {key: optimizer[f"{key}/{name}"].to(self.device) for key in keys}
            self._load_parameter(parameter, weights[name].to(self.device), moments)

    def _load_parameter(self, parameter: Parameter, weight: Tensor, moments: Mapping[str, Tensor]) -> None:
        """Set the master weight and the moments of one parameter: this worker's part of them, from stage 1 on."""
        if self.stage == 0:
            for key, value in moments.items():
                self.optimizer.state[parameter][key].copy_(value)
        elif self.stage < 3:
            deepspeed.utils.safe_set_full_fp32_param(parameter, weight)
            for key, value in moments.items():
                deepspeed.utils.safe_set_full_optimizer_state(parameter, value, key)
        else:
            size = deepspeed.utils.safe_get_local_fp32_param(parameter).numel()
            deepspeed.utils.safe_set_local_fp32_param(parameter, self._own(weight, size))
            for key, value in moments.items():
                deepspeed.utils.safe_set_local_optimizer_state(parameter, self._own(value, size), key)

    def _own(self, full: Tensor, size: int) -> Tensor:
        """This worker's `size` numbers of a flattened tensor, which stage 3 fills up with zeros to equal parts."""
        flat = torch.zeros(size * self.workers, dtype=full.dtype, device=full.device)
        flat[: full.numel()] = full.flatten()
        return flat[size * self.rank : size * (self.rank + 1)]

    def _reset_moments(self, updates: int) -> None:
        """Zero moments after `updates` updates, there before the first step, so that they can be read and set."""
        updated = [tensor for group in self.optimizer.param_groups for tensor in group["params"]]
        if self.stage == 3:  # one flat part of all
            updated = self._engine.optimizer.fp32_partitioned_groups_flat
        self.optimizer.state.clear()
        for tensor in updated:
            self.optimizer.state[tensor] = {"steps": updates, **{key: torch.zeros_like(tensor) for key in MOMENTS}}
        if self.stage in (1, 2):
            optimizer = self._engine.optimizer
            optimizer._hp_optimizer_states_linked = False  # names of parameters point into the tensors made above
            optimizer._lazy_init_hp_params_optimizer_state()


def zero_config(config: TrainingConfig, stage: Stage, workers: int) -> dict[str, Any]:
    """DeepSpeed's configuration. Every key that changes the arithmetic is written out, whatever its default."""
    return {
        "train_micro_batch_size_per_gpu": config.batch // (workers * config.accumulation),
        "gradient_accumulation_steps": config.backwards_per_step,
        "gradient_clipping": config.gradient_clipping,  # 1.0 by DeepSpeed's own default
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "stage3_param_persistence_threshold": 0,  # all weights are divided, small ones too
        },
        "steps_per_print": 2**31,
    }
