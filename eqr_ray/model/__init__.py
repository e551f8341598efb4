"""The network: one segment, its configuration, its files, and how it runs on a device. Knows no solver."""

from eqr_ray.model.config import ModelConfig
from eqr_ray.model.reasoner import Latent, Readout, Reasoner

__all__ = ["Latent", "ModelConfig", "Readout", "Reasoner"]
