"""Reads the tables and packed files that the report shows, and brings them into the order of the truth table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from firstshot import data, job, lineage, metric, tables
from firstshot.errors import UserError
from firstshot.packed import Embeddings, PackedAudio
from firstshot.report_pages import Machine, Map, System, Wave

STAGES = (
    "data", "noise", "enhance", "embed_frozen", "pseudo_label", "train", "embed", "score", "ensemble", "truth",
    "metric", "tables", "submission", "report",
)  # fmt: skip


def machine(
    name: str,
    *,
    scores: Mapping[str, Path],
    names: Mapping[str, str],
    pauc_p: float,
    truth: Path,
    metric_file: Path,
    train: Path,
    test: Path,
    enhanced: Path | None,
    enhance_curve: Path | None,
    embeddings: Sequence[Path] | None,
    map_name: str,
    labels: Mapping[str, Path],
    bic: Mapping[str, Path],
) -> Machine:
    """Everything a machine type's page shows; `scores` is system -> csv, `labels` and `bic` are audio kind -> csv."""
    known = metric.read_truth(truth)
    packed, train_clips = PackedAudio.open(test), PackedAudio.open(train)
    metrics = _metrics(metric_file, names)
    thresholds = {row["system"]: float(row["threshold"]) for row in metric.read_rows(metric_file, ["threshold"])}
    heard = metric.join_order(known.clip, packed.clip, test)
    return Machine(
        name=name,
        clip=known.file,
        anomalous=known.anomaly,
        known=known.known,
        domain=known.domain,
        sampling_rate=packed.sampling_rate,
        wave=lambda i: packed.wave(int(heard[i])),
        metrics=metrics,
        systems=[
            _system(names.get(system, system), path, known, thresholds[system]) for system, path in scores.items()
        ],
        pauc_p=pauc_p,
        map=_map(map_name, embeddings, known, train_clips, labels) if embeddings else None,
        enhanced=_waves(enhanced, known.clip) if enhanced else None,
        enhance_curve=curve(enhance_curve) if enhance_curve else None,
        bic={audio: _bic(path) for audio, path in bic.items()},
        clusters={audio: _clusters(path, train_clips) for audio, path in labels.items()},
    )


def _metrics(path: Path, names: Mapping[str, str]) -> list[tuple[str, dict[str, float]]]:
    """Metrics of every system, one row per section where there are several."""
    rows = metric.read_rows(path, ["system", "section", "official", "threshold", "false_alarms_per_day"])
    several = len({row["section"] for row in rows}) > 1
    columns = ("official", *metric.OFFICIAL, "threshold", "false_alarms_per_day")
    return [
        (
            names.get(row["system"], row["system"]) + (f", section {row['section']}" if several else ""),
            {name: metric.as_float(row[name]) for name in columns},
        )
        for row in rows
    ]


def _system(name: str, path: Path, truth: metric.Truth, threshold: float) -> System:
    read = metric.read_scores(path)
    scores = read.test[metric.join_order(truth.clip, read.clip, path), 0]
    return System(name, scores, threshold, read.train)


def _waves(path: Path, clips: Sequence[str]) -> Wave:
    packed = PackedAudio.open(path)
    order = metric.join_order(clips, packed.clip, path)
    return lambda i: packed.wave(int(order[i]))


def _map(name: str, files: Sequence[Path], truth: metric.Truth, clips: PackedAudio, labels: Mapping[str, Path]) -> Map:
    train, test = (Embeddings.open(path) for path in files)
    column = next(iter(train.columns))
    order = metric.join_order(truth.clip, test.clip, files[1])
    domain = np.array([text or "" for text in train.domain])
    if labels:
        classes = _labels(next(iter(labels.values())), train.clip)
    else:
        attributes = dict(zip(clips.clip, clips.attributes, strict=True))
        classes = np.array([attributes.get(clip) or "no attributes" for clip in train.clip])
    return Map(f"{name} ({column})", train.columns[column], domain, classes, test.columns[column][order])


def _labels(path: Path, clips: Sequence[str]) -> np.ndarray:
    by_clip = {row["clip"]: row["label"] for row in data.read_csv(path)}
    if missing := [clip for clip in clips if clip not in by_clip]:
        raise UserError(f"{path}: no label for training clip {missing[0]!r}; run pseudo_label again")
    return np.array([by_clip[clip] for clip in clips])


def _bic(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = data.read_csv(path)
    return np.array([int(row["clusters"]) for row in rows]), np.array([float(row["bic"]) for row in rows])


def _clusters(path: Path, clips: PackedAudio) -> tuple[np.ndarray, np.ndarray, str]:
    """Pseudo classes against attributes where the clips have some, else against domains."""
    groups, name = (clips.attributes, "attributes") if any(clips.attributes) else (clips.domain, "domain")
    return _labels(path, clips.clip), np.array([group or "" for group in groups]), name


def curve(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of one training run."""
    rows = data.read_csv(path)
    return np.array([float(row["step"]) for row in rows]), np.array([float(row["loss"]) for row in rows])


def _stage(rule: str) -> tuple[int, str]:
    """Where a rule stands in the order of the stages; their names are the first words of the rules' names."""
    longest = max((stage for stage in STAGES if rule.startswith(stage)), key=len, default="")
    return (STAGES.index(longest) if longest else len(STAGES), rule)


def cost(benchmarks: Path) -> dict[str, list[Any]]:
    """Jobs, summed seconds and largest memory (MB) of every rule, in the order of the stages.

    `benchmarks` holds what Snakemake's `benchmark:` wrote, one folder (or file) per rule.
    """
    table: dict[str, list[float]] = {}
    for path in sorted(benchmarks.rglob("*.tsv")):
        rule = path.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        with path.open(newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                jobs, seconds, peak = table.get(rule, [0, 0.0, 0.0])
                memory = 0.0 if row["max_rss"] in ("-", "NA") else float(row["max_rss"])
                table[rule] = [jobs + 1, seconds + float(row["s"]), max(peak, memory)]
    table = dict(sorted(table.items(), key=lambda row: _stage(row[0])))
    columns = zip(*table.values(), strict=True) if table else ((), (), ())
    return {"rule": list(table), **dict(zip(("jobs", "seconds", "peak_mb"), map(list, columns), strict=True))}


def data_rows(manifests: Mapping[str, Path]) -> list[list[Any]]:
    """Per machine type: clips of each split and the digest of their list."""
    rows = []
    for name, path in manifests.items():
        splits = [row["split"] for row in data.read_csv(path)]
        counts = [splits.count(split) for split in data.SPLITS]
        rows.append([name, *counts, job.digest(path)[:12]])
    return rows


def provenance(official: Path, config: Mapping[str, Any], commit: str) -> list[tuple[str, str]]:
    """Named facts about a run: from the config and the side files of its official scores and of all behind them.

    `commit` is that of the code at the time the page is made, "" where there is none.
    """
    made = lineage.history(official)
    versions = {text for side in made.values() if (text := _versions(side))}
    outside = {
        (Path(file["file"]).name, file["sha256"])
        for side in made.values()
        for name in ("checkpoint", "beats")
        for file in side["inputs"].get(name, [])
    }
    noise = [side["outputs"]["index"]["sha256"] for side in made.values() if side["rule"] == "noise_index"]
    return [
        ("data", f"{config['data']['source']}"),
        ("seeds", ", ".join(map(str, config["seeds"]))),
        ("digest of the official scores", job.digest(official)),
        *((f"checkpoint {name}", digest) for name, digest in sorted(outside)),
        *(("noise (digest of its list)", digest) for digest in noise),
        ("commit when this page was made", commit or "not known (no git repository here)"),
        *(("software", text) for text in sorted(versions)),
        ("software epoch", str(config["software_epoch"])),
    ]


def _versions(side: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in side.get("versions", {}).items())


def stages(official: Path) -> list[list[Any]]:
    """Rows rule, number of artefacts, digests of the code they were made with, in the order of the stages."""
    made: dict[str, list[str]] = {}
    for side in lineage.history(official).values():
        made.setdefault(side["rule"], []).append(side["code"])
    return [[rule, len(made[rule]), ", ".join(sorted(set(made[rule])))] for rule in sorted(made, key=_stage)]


def published(files: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Rows of the tables beside the published numbers, by table; scores are numbers, NaN where there is none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in files:
        numbers = tables.VALUES if path.stem in tables.LAYOUTS else ("official_score",)
        found[path.stem] = [
            {name: metric.as_float(value) if name in numbers else value for name, value in row.items()}
            for row in data.read_csv(path)
        ]
    return found


def as_yaml(config: Mapping[str, Any]) -> str:
    """The config as YAML, in its own order."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=110)
