"""One segment of the network, its configuration and its files. Knows no task, no solver and no device."""

from eqr_ray.model.config import ModelConfig
from eqr_ray.model.reasoner import Latent, Readout, Reasoner

__all__ = ["Latent", "ModelConfig", "Readout", "Reasoner"]
