"""Two working directories with one store: what the one has made the other links."""

import json
from pathlib import Path

from tinyrun import Run

SHARED = (
    "data/hammer/train.arrow",
    "data/spindle/test.arrow",
    "enhance/hammer/model.safetensors",
    "enhance/hammer/test.arrow",
    "embed/frozen/enhanced-none/beats/hammer/train.arrow",
)


def test_a_second_working_directory_computes_neither_audio_nor_enhancement_nor_frozen_embeddings(
    tiny_run: Run, tmp_path: Path
) -> None:
    second = Run.fresh(tmp_path / "second")
    second.configure(store=str(tiny_run.folder / "results/.store"), experiment="other")
    second.experiment = "other"
    done = second.run(*(f"results/other/{file}" for file in SHARED))
    assert done.computed == {"data_index/hammer", "data_index/spindle", "noise_index"}
    assert {
        "data_synthesise",
        "data_pack/hammer/train",
        "enhance_train/hammer",
        "enhance_apply/hammer/test",
    } < done.relinked
    for file in SHARED:
        assert (second.results / file).samefile(tiny_run.results / file), file
        side = Path(file).with_suffix(".json")
        ours, theirs = (json.loads((run.results / side).read_text()) for run in (second, tiny_run))
        assert ours == theirs
