"""Scores made by different code or parameters are told apart, whatever machine type or seed they belong to."""

import json
import os
from pathlib import Path

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


def results(folder: Path, machine: str, score_code: str = "a", seeds: tuple[str, ...] = ("t", "t")) -> Path:
    models = [
        side(folder / f"train/all/noisy-org/spec/seed{k}.safetensors", "train", code, folder / "data/x.arrow")
        for k, code in enumerate(seeds)
    ]
    embedded = side(folder / f"embed/all/noisy-org/spec/{machine}/test.arrow", "embed", "e", *models)
    score = side(folder / f"score/all/noisy-org/spec/{machine}.csv", "score", score_code, embedded)
    ensemble = side(folder / f"ensemble/1/{machine}.csv", "ensemble", "m", score)
    return side(folder / f"metric/{machine}.csv", "metric_machine", "m", ensemble, folder / f"truth/{machine}.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lineage._record.cache_clear()
    return tmp_path


def test_machine_types_made_alike_agree_in_every_stage(folder: Path) -> None:
    fan, valve = (lineage.made_by(results(folder, machine), machine) for machine in ("fan", "valve"))
    assert fan == valve
    assert set(fan) == {
        "metric_machine",
        "ensemble/1",
        "score/all/noisy-org/spec",
        "embed/all/noisy-org/spec/test",
        "train/all/noisy-org/spec",
    }


def test_another_code_of_one_stage_is_refused(folder: Path) -> None:
    found = lineage.made_by(results(folder, "fan"), "fan")
    other = lineage.made_by(results(folder, "valve", score_code="b"), "valve")
    with pytest.raises(UserError, match="valve: score/all/noisy-org/spec was made by other code"):
        lineage.merge(found, other, "valve")


def test_seeds_of_other_code_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="train/all/noisy-org/spec was made by other code"):
        lineage.made_by(results(folder, "fan", seeds=("t", "u")), "fan")


def test_artefacts_without_a_side_file_say_nothing(tmp_path: Path) -> None:
    assert lineage.made_by(tmp_path / "metric/fan.csv", "fan") == {}
