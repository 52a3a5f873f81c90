"""Target signal enhancement (TSE) of one machine type: the network, its file, and its application (paper §2.1).

The supplemental clips of a machine type are either clean recordings of it or its in-domain noise: their kind. The
network f has learnt to extract what they hold (see `firstshot.enhance_training`); the enhanced sound is f(x) for kind
`clean` and x - f(x) for kind `noise`.

Settings are of the `enhance` section of the config: n_fft, hop, normalise_variance, network, chunk, checkpointing.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from firstshot.errors import UserError
from firstshot.loop import autocast
from firstshot.networks.tflocoformer import Enhancer, TFLocoformerDims
from firstshot.packed import PackedAudio


def build(options: Mapping[str, Any]) -> Enhancer:
    """The network with the sizes of the config, new weights."""
    sizes: dict[str, Any] = {**options["network"], "ffn_hidden_dim": tuple(options["network"]["ffn_hidden_dim"])}
    return Enhancer(
        TFLocoformerDims(**sizes),
        options["n_fft"],
        options["hop"],
        normalise_variance=options["normalise_variance"],
        chunk=options.get("chunk"),
        checkpointing=options.get("checkpointing", False),
    )


def write_model(path: Path, enhancer: Enhancer, kind: str) -> None:
    """Safetensors of the network; what it extracts stands in the metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in enhancer.state_dict().items()}
    # Not save_file, whose files only their owner may read.
    path.write_bytes(save(tensors, metadata={"kind": kind}))


def load_model(path: Path, options: Mapping[str, Any]) -> tuple[Enhancer, str]:
    """The network of a model file, with the sizes of the config, and its kind, `clean` or `noise`.

    Raises UserError where the file is no such network.
    """
    enhancer = build(options)
    try:
        with safe_open(path, "pt") as file:
            kind = file.metadata()["kind"]
            enhancer.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: no TSE model of the sizes under enhance.network ({error}); train it again") from None
    return enhancer.eval(), kind


def enhance(
    enhancer: Enhancer,
    kind: str,
    audio: PackedAudio,
    *,
    device: torch.device,
    precision: str,
    rows: Sequence[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """The clips of `audio` (or its `rows`), each enhanced as a whole, as `packed.write_audio` takes them (float32)."""
    enhancer.to(device).eval()
    for row in range(len(audio)) if rows is None else rows:
        clip = audio.clip[row]
        noisy = torch.from_numpy(audio.wave(row).copy()).to(device).unsqueeze(0)
        with torch.no_grad(), autocast(device, precision):
            estimate = enhancer(noisy)
        enhanced = (estimate if kind == "clean" else noisy - estimate)[0]
        if not enhanced.isfinite().all():
            raise UserError(
                f"{audio.machine}, {clip}: the enhanced sound is not finite; train this machine type's TSE again or "
                "put it on enhance.skip"
            )
        yield {
            "clip": clip,
            "section": audio.section[row],
            "domain": audio.domain[row],
            "attributes": audio.attributes[row],
            "samples": enhanced.cpu().numpy(),
        }
