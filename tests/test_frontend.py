"""Frontends: attention and dropout are exact, only adapters and head are trained, merging keeps the output."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from firstshot.errors import UserError
from firstshot.networks import frontend
from firstshot.networks.attention import Noise, attention, dropout
from firstshot.networks.linear import Linear
from firstshot.untrained import write_checkpoint

N_SAMPLES = 8_000
CFG: dict[str, dict[str, Any]] = {
    "beats": {"dim": 8, "lora": {"rank": 2, "alpha": 8, "targets": ["q_proj", "k_proj"]}},
    "eat": {"dim": 8, "lora": {"rank": 2, "alpha": 8, "targets": ["qkv"]}, "drop_path": 0.5},
}
CFG["sslam"] = CFG["eat"]


@pytest.fixture(params=["beats", "eat", "sslam"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def checkpoint(name: str, tmp_path: Path) -> Path:
    sizes = {"width": 32, "heads": 4, "layers": 3, "embed_dim": 16, "position_rows": 24}
    write_checkpoint(tmp_path / f"{name}.pt", name, sizes, seed=0)
    return tmp_path / f"{name}.pt"


@pytest.fixture
def wave() -> Tensor:
    return 0.1 * torch.randn(3, N_SAMPLES, generator=torch.Generator().manual_seed(0))


def build(name: str, checkpoint: Path, **changes: Any) -> frontend.SSLFrontend:
    torch.manual_seed(0)
    model = frontend.build(name, CFG[name] | changes, n_samples=N_SAMPLES, checkpoint=checkpoint)
    assert isinstance(model, frontend.SSLFrontend)
    return model


def a_few_steps(model: frontend.SSLFrontend, wave: Tensor) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model.train()(wave).square().sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
        optimiser.step()


def test_training_changes_only_what_is_saved(name: str, checkpoint: Path, wave: Tensor) -> None:
    model = build(name, checkpoint)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    a_few_steps(model, wave)
    saved = frontend.trainable_state(model)
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed <= saved.keys()
    assert all("lora_" in key for key in saved if key.startswith("backbone."))
    assert {"head.weight", "head.bias"} <= changed and any("lora_B" in key for key in changed)


def test_saved_and_merged_models_embed_as_the_trained_one(name: str, checkpoint: Path, wave: Tensor) -> None:
    model = build(name, checkpoint)
    a_few_steps(model, wave)
    with torch.inference_mode():
        expected = model.eval()(wave)
        state = frontend.trainable_state(model)
        merged = frontend.merged(name, CFG[name], checkpoint, state)
        assert torch.allclose(merged(wave), expected, atol=1e-5)
        again = build(name, checkpoint)
        frontend.load_trainable(again, state)
        assert torch.equal(again.eval()(wave), expected)
        frozen = frontend.pretrained(name, checkpoint).frozen(wave)
        assert not torch.allclose(merged.frozen(wave), frozen, atol=1e-4)


def test_a_state_of_another_configuration_is_refused(name: str, checkpoint: Path) -> None:
    state = frontend.trainable_state(build(name, checkpoint))
    with pytest.raises(UserError, match=r"does not fit the config: head\."):
        frontend.load_trainable(build(name, checkpoint, dim=9), state)
    other = {key.replace(".0.", ".7."): tensor for key, tensor in state.items()}
    with pytest.raises(UserError, match="adapter"):
        frontend.merged(name, CFG[name], checkpoint, other)


def test_embedding_imports_neither_peft_nor_other_networks(name: str, checkpoint: Path, tmp_path: Path) -> None:
    torch.save(frontend.trainable_state(build(name, checkpoint)), tmp_path / "state.pt")
    code = f"""
import sys, torch
from firstshot.networks import frontend
state = torch.load({str(tmp_path / "state.pt")!r})
frontend.merged({name!r}, {CFG[name]!r}, {str(checkpoint)!r}, state)
assert "peft" not in sys.modules
others = {{"beats", "eat", "spec"}} - {{{name!r}.replace("sslam", "eat")}}
assert not [x for x in others if f"firstshot.networks.{{x}}" in sys.modules]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_clip_with_nan_is_refused(name: str, checkpoint: Path, wave: Tensor, bad: float) -> None:
    wave[1, 5] = bad
    model, backbone = build(name, checkpoint), frontend.pretrained(name, checkpoint)
    for network in (model, model.frozen, backbone, backbone.frozen):
        with pytest.raises(UserError, match="clip 2 of a batch of 3 has NaN or infinite"):
            network(wave)


def test_a_clip_without_a_frame_is_refused(name: str, checkpoint: Path) -> None:
    with pytest.raises(UserError, match="399 samples"):
        build(name, checkpoint).frozen(torch.zeros(1, 399))


def test_a_clip_without_a_patch_is_refused_by_beats(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "b.pt", "beats", {"width": 32, "heads": 4, "layers": 1, "embed_dim": 16}, seed=0)
    with pytest.raises(UserError, match="fewer than one patch"):
        frontend.pretrained("beats", tmp_path / "b.pt").frozen(torch.zeros(1, 2_000))


def test_a_clip_beyond_the_position_table_is_refused_by_eat(tmp_path: Path) -> None:
    sizes = {"width": 32, "heads": 4, "layers": 1, "embed_dim": 16, "position_rows": 2}
    write_checkpoint(tmp_path / "e.pt", "eat", sizes, seed=0)
    with pytest.raises(UserError, match="longer than the 16 positions"):
        frontend.pretrained("eat", tmp_path / "e.pt").frozen(torch.zeros(1, N_SAMPLES))


def test_a_lora_target_that_does_not_exist_is_refused(name: str, checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"lora\.targets: \['qqq'\] not in .*choose from .*fc1"):
        build(name, checkpoint, lora={"rank": 2, "alpha": 8, "targets": [*CFG[name]["lora"]["targets"], "qqq"]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 0}, "found rank 0"),
        ({"rank": 2.0}, "found rank 2.0"),
        ({"alpha": 0}, "alpha 0"),
        ({"targets": "qkv"}, "expected a list of names"),
        ({"targets": []}, "empty"),
    ],
)
def test_lora_settings_that_make_no_adapter_are_refused(checkpoint: Path, name: str, change: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(name, checkpoint, lora=CFG[name]["lora"] | change)


def test_unknown_frontend_and_missing_checkpoint_are_refused() -> None:
    with pytest.raises(UserError, match="unknown frontend 'wav'"):
        frontend.build("wav", {}, n_samples=N_SAMPLES, checkpoint=None)
    with pytest.raises(UserError, match=r"checkpoints\.beats\.file"):
        frontend.build("beats", CFG["beats"], n_samples=N_SAMPLES, checkpoint=None)


def explicit(qkv: list[Tensor], bias: Tensor, gate: Tensor, noise: Noise | None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in qkv)
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + gate * bias).softmax(-1)
    if noise:
        weights = weights * noise.kept(weights.detach()) * noise.scale
    return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_attention_and_its_gradients_are_those_of_explicit_matrices(probability: float) -> None:
    torch.manual_seed(0)
    batch, length, heads, dim = 2, 12, 3, 4  # 12 x 12: each head's mask ends on a whole number of random words
    given = [torch.randn(batch, length, heads, dim) for _ in range(3)]
    bias, gate = torch.randn(heads, length, length), torch.rand(batch, heads, length, 1)
    results = []
    for fast in (True, False):
        torch.manual_seed(1)
        leaves = [x.clone().requires_grad_() for x in (*given, gate)]
        q, k, v, g = leaves
        if fast:
            out = attention(q, k, v, bias=bias, gate=g, probability=probability)
        else:
            out = explicit([q, k, v], bias, g, Noise(probability) if probability else None)
        out.square().sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, atol=1e-4), (found - expected).abs().max()


def test_dropout_drops_at_its_rate_keeps_the_mean_and_follows_the_seed() -> None:
    x = torch.ones(1_000, 1_003)
    torch.manual_seed(0)
    y = dropout(x, 0.1, training=True)
    assert abs((y == 0).float().mean() - 0.1) < 1e-3
    assert abs(y.mean() - 1) < 1e-3
    assert len(y.unique()) == 2
    rows = (y == 0).float().mean(1)
    assert abs(rows.std() - (0.1 * 0.9 / x.shape[1]) ** 0.5) < 1e-3  # independent elements
    torch.manual_seed(0)
    assert torch.equal(y, dropout(x, 0.1, training=True))
    assert not torch.equal(y, dropout(x, 0.1, training=True))
    assert dropout(x, 0.1, training=False) is x


def test_linear_layer_and_its_gradients_are_pytorchs() -> None:
    torch.manual_seed(0)
    fast, plain = Linear(16, 24), torch.nn.Linear(16, 24)
    plain.load_state_dict(fast.state_dict())
    results = []
    for layer in (fast, plain):
        x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out = layer(x)
        out.square().sum().backward()
        results.append([out.detach(), x.grad, layer.weight.grad, layer.bias.grad])
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, atol=1e-4)


def test_stochastic_depth_drops_whole_branches() -> None:
    from firstshot.networks.eat import drop_branch

    torch.manual_seed(0)
    kept = drop_branch(torch.ones(1_000, 2, 3), 0.25).flatten(1)
    assert kept.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert (kept == kept[:, :1]).all()
    assert abs((kept[:, 0] == 0).float().mean() - 0.25) < 0.05


def test_the_checkpoints_dropouts_act_in_training_and_not_in_evaluation(tmp_path: Path, wave: Tensor) -> None:
    write_checkpoint(tmp_path / "b.pt", "beats", {"width": 32, "heads": 4, "layers": 2, "embed_dim": 16}, seed=0)
    model = build("beats", tmp_path / "b.pt")
    model.eval()
    assert torch.equal(model(wave), model(wave))
    model.train()
    assert not torch.allclose(model.backbone(wave), model.backbone(wave), atol=1e-3)


def test_bfloat16_embeds_and_trains_in_the_same_direction(name: str, checkpoint: Path, wave: Tensor) -> None:
    model = build(name, checkpoint)
    model.eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0.0, 0.1, generator=torch.Generator().manual_seed(0))
    results = []
    for bf16 in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            embedding = model(wave)
        assert embedding.dtype == torch.float32
        embedding.square().mean().backward()
        gradients = [p.grad.flatten().clone() for p in model.parameters() if p.grad is not None]
        results.append((embedding.detach().flatten(), torch.cat(gradients)))
    (embedding, gradient), (embedding_16, gradient_16) = results
    assert torch.cosine_similarity(embedding, embedding_16, 0) >= 0.999
    assert torch.cosine_similarity(gradient, gradient_16, 0) >= 0.99
