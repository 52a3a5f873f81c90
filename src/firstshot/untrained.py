"""Small UNTRAINED checkpoints of BEATs, EAT and SSLAM in the published file formats, for the demo and the tests.

Key names, nesting and settings are those of the published files, sizes are free, weights are random: norm gains 1,
biases 0, linear and convolution weights uniform in +-1/sqrt(fan-in). Formats: github.com/microsoft/unilm (BEATs),
cwx-worst-one/EAT and ta012/SSLAM (fairseq training checkpoints).
"""

import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from firstshot.errors import UserError
from firstshot.synthetic import UNTRAINED, stream

MEL_PATCHES = 8  # 128 mel bands in patches of 16


class Weights(OrderedDict):
    """State dict that fills itself with random weights, name by name."""

    def __init__(self, *names: object):
        super().__init__()
        self.rng = stream(*names)

    def uniform(self, name: str, *shape: int, fan_in: int) -> None:
        bound = fan_in**-0.5
        self[name] = torch.from_numpy(self.rng.uniform(-bound, bound, shape).astype(np.float32))

    def linear(self, name: str, out: int, into: int) -> None:
        self.uniform(f"{name}.weight", out, into, fan_in=into)
        self[f"{name}.bias"] = torch.zeros(out)

    def norm(self, name: str, dim: int) -> None:
        self[f"{name}.weight"] = torch.ones(dim)
        self[f"{name}.bias"] = torch.zeros(dim)

    def plain(self) -> OrderedDict[str, torch.Tensor]:
        return OrderedDict(self)


def beats(sizes: Mapping[str, int], seed: int) -> dict[str, Any]:
    """BEATs checkpoint {'cfg', 'model'} of width, heads, layers and embed_dim (width of the patches)."""
    width, heads, layers, embed = sizes["width"], sizes["heads"], sizes["layers"], sizes["embed_dim"]
    cfg = {
        "encoder_layers": layers, "encoder_embed_dim": width, "encoder_ffn_embed_dim": 4 * width,
        "encoder_attention_heads": heads, "activation_fn": "gelu", "dropout": 0.1, "attention_dropout": 0.1,
        "activation_dropout": 0.0, "encoder_layerdrop": 0.05, "dropout_input": 0.1, "layer_norm_first": False,
        "conv_bias": False, "conv_pos": 128, "conv_pos_groups": 16, "relative_position_embedding": True,
        "num_buckets": 320, "max_distance": 800, "gru_rel_pos": True, "deep_norm": True, "input_patch_size": 16,
        "layer_wise_gradient_decay_ratio": 1.0, "embed_dim": embed, "finetuned_model": False,
    }  # fmt: skip
    model = Weights(seed, "beats")
    if embed != width:
        model.linear("post_extract_proj", width, embed)
    model.uniform("patch_embedding.weight", embed, 1, 16, 16, fan_in=256)
    model["encoder.pos_conv.0.bias"] = torch.zeros(width)
    model.uniform("encoder.pos_conv.0.weight_v", width, width // 16, 128, fan_in=128 * width // 16)
    model["encoder.pos_conv.0.weight_g"] = model["encoder.pos_conv.0.weight_v"].norm(dim=(0, 1), keepdim=True)
    table = torch.from_numpy(0.02 * model.rng.standard_normal((320, heads)).astype(np.float32))
    for i in range(layers):
        layer = f"encoder.layers.{i}"
        model[f"{layer}.self_attn.grep_a"] = torch.ones(1, heads, 1, 1)
        model[f"{layer}.self_attn.relative_attention_bias.weight"] = table
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            model.linear(f"{layer}.self_attn.{name}", width, width)
        model.linear(f"{layer}.self_attn.grep_linear", 8, width // heads)
        model.norm(f"{layer}.self_attn_layer_norm", width)
        model.linear(f"{layer}.fc1", 4 * width, width)
        model.linear(f"{layer}.fc2", width, 4 * width)
        model.norm(f"{layer}.final_layer_norm", width)
    model.norm("encoder.layer_norm", width)
    model.norm("layer_norm", embed)
    return {"cfg": cfg, "model": model.plain(), "note": UNTRAINED}


def position_table(rows: int, width: int) -> torch.Tensor:
    """Fixed sine and cosine positions (1, rows * 8, width), time-major; first half frequency, second half time."""
    omega = 10_000.0 ** (-np.arange(width // 4) / (width // 4))
    time, frequency = (axis.reshape(-1, 1) * omega for axis in np.mgrid[:rows, :MEL_PATCHES])
    table = np.concatenate([np.sin(frequency), np.cos(frequency), np.sin(time), np.cos(time)], axis=1)
    return torch.from_numpy(table[None].astype(np.float32))


def _eat_weights(weights: Weights, sizes: Mapping[str, int], decoder: bool) -> OrderedDict[str, torch.Tensor]:
    width, image = sizes["width"], "modality_encoders.IMAGE"
    weights[f"{image}.extra_tokens"] = torch.from_numpy(weights.rng.standard_normal((1, 1, width)).astype(np.float32))
    weights.uniform(f"{image}.local_encoder.proj.weight", width, 1, 16, 16, fan_in=256)
    weights[f"{image}.local_encoder.proj.bias"] = torch.zeros(width)
    weights[f"{image}.fixed_positional_encoder.positions"] = position_table(sizes["position_rows"], width)
    weights.norm(f"{image}.context_encoder.norm", width)
    if decoder:
        weights.uniform(f"{image}.decoder.blocks.0.0.weight", width, width // 16, 3, 3, fan_in=9 * width // 16)
        weights[f"{image}.decoder.blocks.0.0.bias"] = torch.zeros(width)
        weights.linear(f"{image}.decoder.proj", width, width)
    for i in range(sizes["layers"]):
        weights.norm(f"blocks.{i}.norm1", width)
        weights.linear(f"blocks.{i}.attn.qkv", 3 * width, width)
        weights.linear(f"blocks.{i}.attn.proj", width, width)
        weights.norm(f"blocks.{i}.norm2", width)
        weights.linear(f"blocks.{i}.mlp.fc1", 4 * width, width)
        weights.linear(f"blocks.{i}.mlp.fc2", width, 4 * width)
    # Published weights come from half-precision training: float32 tensors of half-precision values.
    return OrderedDict((name, value.half().float()) for name, value in weights.items())


def eat(sizes: Mapping[str, int], seed: int, name: str = "eat") -> dict[str, Any]:
    """EAT checkpoint as fairseq writes it: settings, student weights, and a nested teacher that readers ignore."""
    image = {
        "type": "IMAGE", "prenet_depth": 0, "prenet_layerdrop": 0.0, "prenet_dropout": 0.0, "start_drop_path_rate": 0.0,
        "end_drop_path_rate": 0.0, "num_extra_tokens": 1, "init_extra_token_zero": False, "mask_prob": 0.8,
        "inverse_mask": True, "mask_length": 5, "encoder_zero_mask": True, "ema_local_encoder": True,
        "use_alibi_encoder": False, "alibi_scale": 1.0, "num_alibi_heads": sizes["heads"],
        "model_depth": sizes["layers"], "embed_dim": sizes["width"], "input_size": 224, "in_chans": 1, "patch_size": 16,
        "fixed_positions": True, "target_length": 16 * sizes["position_rows"], "max_length": sizes["position_rows"],
        "decoder": {"decoder_dim": sizes["width"], "decoder_groups": 16, "decoder_kernel": 3, "decoder_layers": 1},
    }  # fmt: skip
    model_cfg = {
        "_name": "data2vec_multi", "depth": sizes["layers"], "embed_dim": sizes["width"], "num_heads": sizes["heads"],
        "mlp_ratio": 4.0, "norm_eps": 1e-6, "norm_affine": True, "layer_norm_first": False,
        "end_of_block_targets": False, "start_drop_path_rate": 0.0, "end_drop_path_rate": 0.0, "encoder_dropout": 0.0,
        "post_mlp_drop": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "dropout_input": 0.0,
        "layerdrop": 0.0, "average_top_k_layers": sizes["layers"], "clone_batch": 16, "ema_decay": 0.9998,
        "ema_encoder_only": False, "supported_modality": "IMAGE", "modalities": {"image": image},
    }  # fmt: skip
    task = {"_name": "mae_image_pretraining", "target_length": image["target_length"], "downsr_16hz": True}
    model = _eat_weights(Weights(seed, name), sizes, decoder=True)
    model["_ema"] = dict(_eat_weights(Weights(seed, name, "teacher"), sizes, decoder=False))  # type: ignore[assignment]
    return {
        "args": None,
        "cfg": {"_name": None, "common": {"seed": seed, "fp16": True}, "model": model_cfg, "task": task},
        "model": model,
        "criterion": None,
        "optimizer_history": [{"optimizer_name": "FP16Optimizer", "num_updates": 0}],
        "task_state": {},
        "extra_state": {"metrics": OrderedDict(), "train_iterator": {"epoch": 1}, "note": UNTRAINED},
    }


def sslam(sizes: Mapping[str, int], seed: int) -> dict[str, Any]:
    """SSLAM checkpoint: EAT's format, with the optimiser state that the last checkpoint of a training run keeps."""
    moments = {"step": 0, "exp_avg": torch.zeros(4), "exp_avg_sq": torch.zeros(4)}
    groups = [{"lr": 5e-5, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.05, "params": [0]}]
    state = {"default": {"state": {0: moments}, "param_groups": groups}, "loss_scale": 128.0}
    return eat(sizes, seed, "sslam") | {"last_optimizer_state": state}


FORMATS = {"beats": beats, "eat": eat, "sslam": sslam}


def write_checkpoint(path: Path, name: str, sizes: Mapping[str, int], seed: int) -> None:
    """Write an untrained checkpoint of `name` (beats | eat | sslam): same sizes and seed, same bytes.

    sizes: width, heads, layers, embed_dim (BEATs patches), position_rows (EAT, SSLAM: longest input in patches of
    16 frames, 0.16 s each).
    """
    if sizes["width"] % 16 or sizes["width"] % sizes["heads"]:
        raise UserError(
            f"data.synthetic.checkpoints: width is {sizes['width']} with {sizes['heads']} heads; expected a multiple "
            "of 16 and of the number of heads."
        )
    # Written through memory: torch.save would put the file's own, temporary name into the archive.
    buffer = io.BytesIO()
    torch.save(FORMATS[name](sizes, seed), buffer)
    path.write_bytes(buffer.getvalue())
