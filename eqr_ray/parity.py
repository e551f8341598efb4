"""The parity door: does our network reproduce reference numbers?

    python -m eqr_ray.parity FOLDER [tolerance=1e-5]

reads every fixture of FOLDER (`NAME.json` + `NAME.npz`: docs/guide/parity.md), runs our network from the given
states in float32 without noise, and prints the relative error of every quantity. Exit status 1 where one differs.

An untrained network is chaotic: it multiplies a rounding error by some hundreds within a segment, so that two correct
float32 implementations can lie further apart than the tolerance. The same code therefore also runs in float64, which
measures float32's own rounding in each quantity, and a quantity may differ by a small multiple of that.
"""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from eqr_ray.config.cli import run_command
from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option
from eqr_ray.model import Latent, Reasoner
from eqr_ray.model.reference import our_config, our_name, our_weights
from eqr_ray.training.loss import row_losses

TOLERANCE = 1e-5
ROUNDING_FACTOR = 4.0
STATE = "state/"  # in front of the names of weights


class ParityOptions(Options):
    """Compares this network with reference numbers: every NAME.json + NAME.npz of a folder. Exit status 1 where they
    differ. The format is in docs/guide/parity.md.

    Example: python -m eqr_ray.parity fixtures
    """

    folder: str = option(..., "folder of fixtures")
    tolerance: float = option(
        TOLERANCE, "relative error that always passes; more only where float32's own rounding is more", gt=0, lt=1
    )


class Quantity(NamedTuple):
    """One compared array: the distance of ours from theirs, and float32's own rounding in it, both relative."""

    error: float
    rounding: float

    def agrees(self, tolerance: float) -> bool:
        return self.error <= max(tolerance, ROUNDING_FACTOR * self.rounding)


def relative(difference: Tensor, reference: Tensor) -> float:
    """Norm of a difference, relative to the norm of the reference's quantity."""
    return float(difference.norm() / reference.norm().clamp(min=1e-30))


def compare(ours: Tensor, exact: Tensor, theirs: np.ndarray[Any, Any]) -> Quantity:
    """`ours` was computed in float32 and `exact` by the same code in float64."""
    reference = torch.from_numpy(np.asarray(theirs)).double()
    ours64 = ours.detach().double().reshape(reference.shape)
    rounding = ours64 - exact.detach().reshape(reference.shape)
    return Quantity(relative(ours64 - reference, reference), relative(rounding, reference))


def load_fixture(stem: Path) -> tuple[Reasoner, dict[str, np.ndarray[Any, Any]], int]:
    """The network of a fixture with its weights, its arrays, and how many segments it has."""
    try:
        description = json.loads(stem.with_suffix(".json").read_text())
        with np.load(stem.with_suffix(".npz"), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        arch, segments = description["config"], int(description["segments"])
        state = {
            name[len(STATE) :]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith(STATE)
        }
        weights = our_weights(state)
        model = Reasoner(our_config(arch, weights, int(arch["seq_len"])))
        model.load_state_dict(weights)
        check_arrays(arrays, segments)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{stem}.json/.npz is no readable fixture: {type(error).__name__} {reason}") from error
    return model, arrays, segments


def check_arrays(arrays: Mapping[str, np.ndarray[Any, Any]], segments: int) -> None:
    """ValueError where an array that every fixture has is missing or has another shape than it must."""
    rows, length = arrays["inputs"].shape
    for k in range(segments + 1):
        for name in ("z_H", "z_L") if k == 0 else ("z_H", "z_L", "logits", "q_halt", "loss", "lm_loss", "q_loss"):
            shape = arrays[f"{name}_{k}"].shape
            if shape[:1] != (() if "loss" in name else (rows,)):
                raise ValueError(f"{name}_{k} has shape {shape} for {rows} rows")
    if arrays["labels"].shape != (rows, length):
        raise ValueError(f"labels have shape {arrays['labels'].shape}, inputs {(rows, length)}")


def check_fixture(stem: Path) -> dict[str, Quantity]:
    """Every quantity of one fixture. Each segment starts from the fixture's own previous state, as in training."""
    model, arrays, segments = load_fixture(stem)
    exact_model = copy.deepcopy(model).double()
    report: dict[str, Quantity] = {}
    for k in range(1, segments + 1):
        ours, exact = (_segment(network, arrays, k) for network in (model, exact_model))
        report |= {name: compare(ours[name], exact[name], arrays[name]) for name in ours}
    return report


def _segment(model: Reasoner, arrays: dict[str, np.ndarray[Any, Any]], k: int) -> dict[str, Tensor]:
    """Segment k in the type of the model's weights: every quantity by its name in the fixture."""
    inputs, labels = (torch.from_numpy(arrays[name]).long() for name in ("inputs", "labels"))
    before = Latent(*(torch.from_numpy(arrays[f"{z}_{k - 1}"]).to(model.embed.dtype) for z in ("z_H", "z_L")))
    model.zero_grad()
    latent, logits, halt_logit = model(inputs, before)
    losses = row_losses(logits, halt_logit, labels)
    loss = losses.total.sum()
    quantities = {
        f"z_H_{k}": latent.z_H,
        f"z_L_{k}": latent.z_L,
        f"logits_{k}": logits,
        f"q_halt_{k}": halt_logit,
        f"loss_{k}": loss,
        f"lm_loss_{k}": losses.tokens.sum(),
        f"q_loss_{k}": losses.halt.sum(),
    }
    gradients = [name for name in arrays if name.startswith(f"grad_{k}/")]
    if gradients:
        loss.backward()  # type: ignore[no-untyped-call]
        quantities |= {name: _gradient(model, name) for name in gradients}
    return quantities


def _gradient(model: Reasoner, name: str) -> Tensor:
    ours = our_name(name.split("/", 1)[1])
    if ours is None:
        raise UserError(f"fixture quantity '{name}' names no parameter of the network")
    gradient = model.get_parameter(ours).grad
    return torch.zeros_like(model.get_parameter(ours)) if gradient is None else gradient


def run(folder: Path, tolerance: float = TOLERANCE) -> int:
    """Print every fixture's errors; 0 where all agree, else 1."""
    stems = sorted(path.with_suffix("") for path in folder.glob("*.json") if path.with_suffix(".npz").exists())
    if not stems:
        raise UserError(f"{folder} holds no fixture (NAME.json with NAME.npz)")
    failed = 0
    for stem in stems:
        report = check_fixture(stem)
        print(f"{stem.name}: {len(report)} quantities (relative error, float32's own rounding, name)")
        for name, quantity in sorted(report.items(), key=lambda item: -item[1].error):
            agrees = quantity.agrees(tolerance)
            failed += not agrees
            verdict = "" if quantity.error <= tolerance else "   within float32's rounding" if agrees else "   DIFFERS"
            print(f"  {quantity.error:9.2e} {quantity.rounding:9.2e}  {name}{verdict}")
    print(f"{failed} quantities differ" if failed else "all quantities agree", end=" ")
    print(f"(tolerance {tolerance:.0e}, or {ROUNDING_FACTOR:.0f} times the rounding of float32 where that is more)")
    return 1 if failed else 0


def main(options: ParityOptions, typed: frozenset[str] = frozenset()) -> int:
    """Check the folder that the command line names."""
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"folder={folder} is no folder")
    return run(folder, options.tolerance)


def cli() -> NoReturn:
    """`python -m eqr_ray.parity`, `eqr-parity`."""
    run_command("parity", ParityOptions, main, positional="folder")


if __name__ == "__main__":
    cli()
