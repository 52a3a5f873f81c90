"""The benchmarks run, at sizes that take no time, and check before they time that both forms agree."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from firstshot.networks.beats import BEATsDims
from firstshot.networks.eat import EATDims
from firstshot.networks.spec import SpecDims
from firstshot.networks.tflocoformer import TFLocoformerDims

FOLDER = Path(__file__).parents[1] / "benchmarks"
BEATS = BEATsDims(
    embed_dim=16, encoder_layers=2, encoder_embed_dim=32, encoder_ffn_embed_dim=48, encoder_attention_heads=4,
    relative_position_embedding=True, gru_rel_pos=True, deep_norm=True,
)  # fmt: skip
TSE = TFLocoformerDims(n_layers=1, emb_dim=8, n_heads=2, attention_dim=8, ffn_hidden_dim=(8, 8), num_groups=2)
CASES: list[tuple[str, float, dict[str, Any]]] = [
    ("beats", 0.5, {"dims": BEATS}),
    ("eat", 0.5, {"dims": EATDims(embed_dim=32, depth=2, num_heads=4, max_length=40)}),
    ("spec", 1.0, {"dims": SpecDims(dim=16, dft_sizes=(256,), spectrum_kernels=(64, 16), spectrum_strides=(16, 8))}),
    ("tflocoformer", 0.1, {"dims": TSE}),
]
SHORT = ["--batch", "2", "--steps", "1", "--threads", "1"]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark by name; they import one another by name, too."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    yield importlib.import_module
    for name in [path.stem for path in FOLDER.glob("*.py")]:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("options", [[], ["--no-plain"]], ids=["both", "ours"])
@pytest.mark.parametrize("case", CASES, ids=[name for name, *_ in CASES])
def test_a_benchmark_compares_both_forms_and_times_them(
    capsys: pytest.CaptureFixture[str], load: Any, case: tuple[str, float, dict[str, Any]], options: list[str]
) -> None:
    name, seconds, dims = case
    few = ["--clips", "8"] if name == "spec" else []
    load(name).main([*SHORT, "--seconds", str(seconds), *options, *few], **dims)
    said = capsys.readouterr().out
    assert ("plain" in said) == ("cosine" in said) == ("--no-plain" not in options)
    assert said.count("ours ") >= 2 and "glibc allocator" in said
    assert ("fed" in said) == (name == "spec")


def test_the_training_step_of_enhancement_is_timed_with_and_without_checkpointing(
    capsys: pytest.CaptureFixture[str], load: Any
) -> None:
    load("tflocoformer").main([*SHORT, "--seconds", "0.3", "--as-trained"], dims=TSE, beats_dims=BEATS)
    said = capsys.readouterr().out
    assert "2 x 0.3 s, float32, kept" in said and "2 x 0.3 s, float32, checkpointing" in said


def test_forms_that_disagree_are_not_timed(load: Any) -> None:
    common: ModuleType = load("_common")
    x = torch.randn(2, 50)
    for form in ({"exact": True}, {"exact": False, "snr_db": 40.0}):
        common.outputs_agree(x + 1e-5, x, **form)
        with pytest.raises(SystemExit, match="disagree"):
            common.outputs_agree(x + 0.011, x, **form)
    common.gradients_agree([x], [x + 1e-5], exact=True)
    with pytest.raises(SystemExit, match="disagree"):
        common.gradients_agree([x], [x + 0.01], exact=True)


def test_scoring_metrics_and_tables_are_timed(capsys: pytest.CaptureFixture[str], load: Any) -> None:
    load("metric").main(["--machines", "1", "--resamples", "2"])
    said = capsys.readouterr().out
    assert "scoring one machine type and system: " in said and "1 machine types, 55 systems, " in said


def test_packed_clips_are_compared_before_reading_is_timed(
    capsys: pytest.CaptureFixture[str], load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: ModuleType = load("packed")
    packed.main(["--clips", "3", "--seconds", "0.1"])
    said = capsys.readouterr().out
    assert "sample by sample equal" in said and "resident memory" in said and "glibc allocator" in said
    wave = packed.PackedAudio.wave
    monkeypatch.setattr(packed.PackedAudio, "wave", lambda self, row: wave(self, row) * 0.5)
    with pytest.raises(SystemExit, match="different samples"):
        packed.main(["--clips", "3", "--seconds", "0.1"])
