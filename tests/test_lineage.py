"""Scores made by different code or parameters are told apart, whatever machine type or seed they belong to."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from firstshot import lineage
from firstshot.errors import UserError


def side(path: Path, rule: str, code: str, *inputs: Path, **params: object) -> Path:
    """Write a side file as stage programs do; returns the artefact's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"file": os.path.relpath(item, path.parent), "sha256": ""} for item in inputs]
    record = {"rule": rule, "code": code, "params": params, "inputs": {"files": entries}}
    path.with_suffix(".json").write_text(json.dumps(record))
    return path


def results(
    folder: Path,
    machine: str,
    *,
    score_code: str = "a",
    seeds: tuple[str, ...] = ("t", "t"),
    pool: str = "all",
    enhance_code: str = "n",
    max_clusters: int = 8,
) -> Path:
    """Metrics of one machine type, by frontends trained on its own enhanced clips and pseudo labels."""
    model = side(folder / f"enhance/{machine}/model.safetensors", "enhance_train", enhance_code, folder / "noise/i.csv")
    clips = side(folder / f"enhance/{machine}/train.arrow", "enhance_apply", "n", model)
    frozen = side(folder / f"embed/frozen/enhanced-none/beats/{machine}/train.arrow", "embed_frozen", "f", clips)
    labels = side(
        folder / f"pseudo_label/enhanced/{machine}.csv", "pseudo_label", "p", frozen, max_clusters=max_clusters
    )
    models = [
        side(folder / f"train/{pool}/noisy-org/spec/seed{k}.safetensors", "train", code, clips, labels)
        for k, code in enumerate(seeds)
    ]
    embedded = side(folder / f"embed/{pool}/noisy-org/spec/{machine}/test.arrow", "embed", "e", *models)
    score = side(folder / f"score/{pool}/noisy-org/spec/{machine}.csv", "score", score_code, embedded)
    ensemble = side(folder / f"ensemble/1/{machine}.csv", "ensemble", "m", score)
    return side(folder / f"metric/{machine}.csv", "metric_machine", "m", ensemble, folder / f"truth/{machine}.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lineage._record.cache_clear()
    return tmp_path


def test_machine_types_made_alike_agree_in_every_stage(folder: Path) -> None:
    fan, valve = (lineage.made_by(results(folder, machine, pool=machine)) for machine in ("fan", "valve"))
    assert fan == valve
    assert set(fan) == {
        "metric_machine",
        "ensemble/1",
        "score/noisy-org/spec",
        "embed/noisy-org/spec",
        "train/noisy-org/spec",
        "pseudo_label/enhanced",
        "embed_frozen/enhanced-none/beats",
        "enhance_apply",
        "enhance_train",
    }


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"score_code": "b"}, "score/noisy-org/spec"),
        ({"seeds": ("u", "u")}, "train/noisy-org/spec"),
        ({"enhance_code": "o"}, "enhance_train"),
        ({"max_clusters": 2}, "pseudo_label/enhanced"),
    ],
    ids=["scores", "training", "enhancement", "pseudo labels"],
)
def test_one_stage_made_otherwise_for_one_machine_type_is_refused(
    folder: Path, change: dict[str, Any], place: str
) -> None:
    made = [results(folder, "fan", pool="fan"), results(folder, "valve", pool="valve", **change)]
    with pytest.raises(UserError, match=f"valve.*: {place} was made by other code"):
        lineage.of_one_making(made)


def test_seeds_of_other_code_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="train/noisy-org/spec was made by other code"):
        lineage.made_by(results(folder, "fan", seeds=("t", "u")))


def test_artefacts_without_a_side_file_say_nothing(tmp_path: Path) -> None:
    assert lineage.made_by(tmp_path / "metric/fan.csv") == {}
