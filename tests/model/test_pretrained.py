"""Networks on disk: round trips, damage, and the reference's format without running pickled code."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from eqr_ray.config.errors import UserError
from eqr_ray.model import ModelConfig, Reasoner
from eqr_ray.model.pretrained import ModelCard, load_model, pretrained_names, save_model
from eqr_ray.model.reference import our_weights, read_reference

CONFIG = ModelConfig(vocab_size=6, length=16, grid=(4, 4), width=16, layers=1, hidden_multiple=8)
REFERENCE = Path(__file__).parents[2].parent / "shared" / "data" / "parity" / "eqr_sudoku_mixer.pth"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="the reference's own checkpoint is not at hand")
ARCH = {
    "H_cycles": 3,
    "L_cycles": 6,
    "H_layers": 0,
    "L_layers": 1,
    "expansion": 4,
    "num_heads": 2,
    "hidden_size": 8,
    "mlp_t": True,
    "pos_encodings": "rope",
    "lambda_": 0.95,
    "noise_scale": 0.01,
    "H_init_std": 1.0,
    "L_init_std": 1.0,
}


@pytest.fixture
def saved(tmp_path):
    model = Reasoner(CONFIG)
    card = save_model(
        tmp_path / "run", model.state_dict(), ModelCard(task="sudoku4", config=CONFIG, step=7, recipe={"lr": 1e-3})
    )
    return tmp_path / "run", model, card


def test_a_model_comes_back_bit_for_bit(saved):
    folder, model, card = saved
    loaded, loaded_card = load_model(str(folder))
    assert loaded_card == card
    assert loaded_card.recipe == {"lr": 1e-3}
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_damage_is_named(saved):
    folder, _, _ = saved
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_model(str(folder))
    (folder / "model.json").write_text("{")
    with pytest.raises(UserError, match=r"model\.json is damaged"):
        load_model(str(folder))


def test_an_unknown_key_in_a_card_is_refused(saved):
    folder, _, _ = saved
    card = json.loads((folder / "model.json").read_text())
    card["config"]["witdh"] = 3
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="witdh"):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["nowhere", "zoo:nothing", "missing.pth"])
def test_names_that_lead_nowhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=name.removeprefix("zoo:")):
        load_model(name)


def test_every_pretrained_network_loads():
    assert pretrained_names() == ["maze15", "sudoku6", "sudoku9"]
    for name in pretrained_names():
        model, card = load_model(f"zoo:{name}")
        assert card.config == model.config
        assert card.recipe


class Bomb:
    def __reduce__(self) -> tuple:
        return (print, ("the pickled code ran",))


def test_pickled_code_is_refused_and_does_not_run(tmp_path, capsys):
    path = tmp_path / "bomb.pth"
    torch.save({"model": Bomb()}, path)
    with pytest.raises(UserError, match="refused"):
        load_model(str(path))
    path.write_bytes(pickle.dumps({"model": Bomb()}, protocol=2))
    with pytest.raises(UserError, match=r"bomb\.pth"):
        load_model(str(path))
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pth"):
        load_model(str(path))


def test_unknown_parameters_are_not_dropped_in_silence():
    with pytest.raises(UserError, match="H_level"):
        our_weights({"model.inner.H_level.layers.0.mlp.down_proj.weight": torch.zeros(1)})


def reference_file(path):
    """A small checkpoint as the reference writes them: its EMA weights are 1.01 times its weights."""
    layer = "L_level.layers.0."
    shapes = {
        "embed_tokens.embedding_weight": (11, 8),
        "lm_head.weight": (11, 8),
        "q_head.weight": (2, 8),
        "q_head.bias": (2,),
        f"{layer}mlp_t.gate_up_proj.weight": (512, 81),
        f"{layer}mlp_t.down_proj.weight": (81, 256),
        f"{layer}mlp.gate_up_proj.weight": (512, 8),
        f"{layer}mlp.down_proj.weight": (8, 256),
    }
    model = {f"_orig_mod.model.inner.{name}": torch.randn(shape) for name, shape in shapes.items()}
    shadow = {name.removeprefix("_orig_mod."): 1.01 * tensor for name, tensor in model.items()}
    content = {"model": model, "ema": {"mu": 0.999, "shadow": shadow}, "config": {"arch": ARCH}, "step": 1234}
    torch.save(content, path)
    return path


@pytest.fixture(params=["written here", pytest.param("the reference's", marks=needs_reference)])
def reference(request, tmp_path):
    return REFERENCE if request.param == "the reference's" else reference_file(tmp_path / "small.pth")


def test_the_reference_checkpoint_and_its_ema(reference):
    ema, raw = read_reference(reference, ema=True), read_reference(reference, ema=False)
    assert ema.step == 1234
    assert ema.config.damping == pytest.approx(0.05)
    assert (ema.config.length, ema.config.vocab_size) == (81, 11)
    assert set(ema.weights) == set(raw.weights) == set(Reasoner(ema.config).state_dict())
    for name, tensor in raw.weights.items():
        assert torch.allclose(ema.weights[name], 1.01 * tensor, rtol=1e-5)
    model, card = load_model(str(reference))
    assert card.task == "sudoku9"
    assert torch.equal(model.embed, ema.weights["embed"])


def test_a_reference_file_exports_to_safetensors(reference, tmp_path):
    model, card = load_model(str(reference))
    save_model(tmp_path / "ours", model.state_dict(), card)
    again, _ = load_model(str(tmp_path / "ours"))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_truncated_reference_file_is_damaged_not_a_traceback(reference, tmp_path):
    path = tmp_path / "cut.pth"
    path.write_bytes(reference.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut\.pth"):
        load_model(str(path))


@pytest.mark.parametrize("missing", ["model", "ema", "config"])
def test_a_reference_file_that_lacks_a_part_is_named(tmp_path, missing):
    path = reference_file(tmp_path / "small.pth")
    content = torch.load(path, weights_only=True)
    del content[missing]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"small\.pth is no checkpoint of the reference"):
        load_model(str(path))
