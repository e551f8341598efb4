"""The command `parity`: does this network reproduce reference numbers?

An untrained network is chaotic: it multiplies a rounding error by some hundreds within a segment, so that two correct
float32 implementations can lie further apart than the tolerance. The same code therefore also runs in float64, which
measures float32's own rounding in each quantity. A quantity may differ by a small multiple of that, up to a ceiling.
"""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from eqr_ray.config.cli import run_command
from eqr_ray.config.errors import UserError
from eqr_ray.config.schema import Options, option
from eqr_ray.model import Latent, Reasoner
from eqr_ray.model.reference import our_config, our_name, our_weights
from eqr_ray.training.step import row_losses

TOLERANCE = 1e-5
ROUNDING_FACTOR = 4.0
# Where float32's rounding is more than the tolerance. The largest error on the reference's own fixtures is 5e-5.
CEILING = 2e-4
STATE = "state/"  # in front of the names of weights
Arrays = dict[str, Tensor]


class ParityOptions(Options):
    """Compares this network with reference numbers: every NAME.json + NAME.npz of a folder. Exit status 1 where they
    differ. The format is in docs/guide/parity.md.

    Example: python -m eqr_ray.parity fixtures
    """

    folder: str = option(..., "folder of fixtures")
    tolerance: float = option(
        TOLERANCE, "relative error that always passes; more only where float32's own rounding is more", gt=0, lt=1
    )
    strict: bool = option(False, "the tolerance is flat: float32's own rounding is no excuse")


class Quantity(NamedTuple):
    """Of one compared array: the distance of ours from theirs and float32's own rounding, relative to its norm."""

    error: float
    rounding: float

    def agrees(self, tolerance: float = TOLERANCE, strict: bool = False) -> bool:
        allowed = 0.0 if strict else min(ROUNDING_FACTOR * self.rounding, CEILING)
        return self.error <= max(tolerance, allowed)


def compare(ours: Tensor, exact: Tensor, theirs: Tensor) -> Quantity:
    """`ours` was computed in float32, and `exact` by the same code in float64."""
    reference = theirs.double()
    ours64 = ours.detach().double().reshape(reference.shape)
    rounding = ours64 - exact.detach().reshape(reference.shape)
    size = reference.norm().clamp(min=1e-30)
    return Quantity(float((ours64 - reference).norm() / size), float(rounding.norm() / size))


def load_fixture(stem: Path) -> tuple[Reasoner, Arrays, int] | None:
    """The network of a fixture with its weights, its arrays, and how many segments it has; None where its rows have
    puzzle ids (HRM, TRM's own code), which is not supported. UserError: a part is missing or of another network."""
    try:
        description = json.loads(stem.with_suffix(".json").read_text())
        with np.load(stem.with_suffix(".npz"), allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(array) for name, array in file.items()}
        if "puzzle_identifiers" in arrays:
            return None
        state = {name.removeprefix(STATE): tensor for name, tensor in arrays.items() if name.startswith(STATE)}
        weights, arch = our_weights(state), description["config"]
        model = Reasoner(our_config(arch, weights, int(arch["seq_len"])))
        model.load_state_dict(weights)
        segments = int(description["segments"])
        parts = (f"{name}_{k + 1}" for k in range(segments) for name in ("z_H", "z_L", "logits", "q_halt"))
        for name in ("labels", "z_H_0", "z_L_0", *parts):
            if len(arrays[name]) != len(arrays["inputs"]):
                raise ValueError(f"{name} has shape {tuple(arrays[name].shape)} for {len(arrays['inputs'])} rows")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{stem}.json/.npz is no readable fixture: {type(error).__name__} {reason}") from error
    return model, arrays, segments


def check_fixture(stem: Path) -> dict[str, Quantity]:
    """Every quantity of one fixture; none where it is not supported. Each segment starts from the fixture's own
    previous state, as in training."""
    report: dict[str, Quantity] = {}
    if (fixture := load_fixture(stem)) is None:
        return report
    model, arrays, segments = fixture
    exact_model = copy.deepcopy(model).double()
    for k in range(1, segments + 1):
        ours, exact = (_segment(network, arrays, k) for network in (model, exact_model))
        report |= {name: compare(ours[name], exact[name], arrays[name]) for name in ours if name in arrays}
    return report


def _segment(model: Reasoner, arrays: Arrays, k: int) -> dict[str, Tensor]:
    """Segment k in the type of the model's weights: every quantity by its name in the fixture."""
    before = Latent(*(arrays[f"{z}_{k - 1}"].to(model.embed.dtype) for z in ("z_H", "z_L")))
    latent, logits, halt_logit = model(arrays["inputs"].long(), before)
    losses = row_losses(logits, halt_logit, arrays["labels"].long())
    quantities = {"z_H": latent.z_H, "z_L": latent.z_L, "logits": logits, "q_halt": halt_logit}
    quantities |= {"loss": losses.total.sum(), "lm_loss": losses.tokens.sum(), "q_loss": losses.halt.sum()}
    names = {name: our_name(name.partition("/")[2]) for name in arrays if name.startswith(f"grad_{k}/")}
    if unknown := [name for name, ours in names.items() if ours is None]:
        raise UserError(f"fixture quantity '{unknown[0]}' names no parameter of the network")
    parameters = [model.get_parameter(str(ours)) for ours in names.values()]
    gradients = torch.autograd.grad(quantities["loss"], parameters, materialize_grads=True) if names else ()
    found = {f"{name}_{k}": tensor for name, tensor in quantities.items()}
    return found | dict(zip(names, gradients, strict=True))


def main(options: ParityOptions, typed: frozenset[str] = frozenset()) -> int:
    """Print every fixture's errors; 0 where all agree, else 1."""
    folder = Path(options.folder)
    if not folder.is_dir():
        raise UserError(f"folder={folder} is no folder")
    stems = sorted(path.with_suffix("") for path in folder.glob("*.json") if path.with_suffix(".npz").exists())
    if not stems:
        raise UserError(f"{folder} holds no fixture (NAME.json with NAME.npz)")
    failed = compared = 0
    for stem in stems:
        report = check_fixture(stem)
        compared += len(report)
        if not report:
            print(f"{stem.name}: not compared, networks with puzzle ids (HRM, TRM's own code) are not supported")
            continue
        print(f"{stem.name}: {len(report)} quantities (relative error, float32's own rounding, name)")
        for name, quantity in sorted(report.items(), key=lambda item: -item[1].error):
            agrees = quantity.agrees(options.tolerance, options.strict)
            failed += not agrees
            within = "" if quantity.error <= options.tolerance else "   within float32's rounding"
            print(f"  {quantity.error:9.2e} {quantity.rounding:9.2e}  {name}{within if agrees else '   DIFFERS'}")
    if not compared:
        raise UserError(f"{folder} holds no fixture that is supported")
    rounding = "" if options.strict else f", or {ROUNDING_FACTOR:.0f} times float32's rounding up to {CEILING:.0e}"
    outcome = f"{failed} quantities differ" if failed else "all quantities agree"
    print(f"{outcome} (tolerance {options.tolerance:.0e}{rounding})")
    return 1 if failed else 0


def cli() -> NoReturn:
    """`python -m eqr_ray.parity`, `eqr-parity`."""
    run_command("parity", ParityOptions, main, positional="folder")


if __name__ == "__main__":
    cli()
