"""Ensembles: weighted means of anomaly scores over seeds, frontends and systems (paper §2.2.1, §3.2, Tables 2 and 3).

A *single* system is one strategy (audio and labels) heard by one frontend, named `{strategy}.{frontend}`. Every other
system is a weighted mean of systems: of the frontends of one strategy (Table 2, ①-⑩) or of systems named by their
ids (Table 3). Scores are averaged, never ranks; one score per clip comes out.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstshot.errors import UserError
from firstshot.score_table import number, read_table, refuse_doubles

SPLITS = ("test", "train")
STANDARDISE = ("none", "zscore")
Clips = list[tuple[str, str]]  # (split, clip) of every row


def members(
    systems: Sequence[Mapping[str, Any]],
    weights: Mapping[str, float],
    frozen_weights: Mapping[str, float],
    singles: Collection[str],
) -> dict[str, dict[str, float]]:
    """The members and weights of every system that is not a single one, in an order where members come first.

    `systems` are mappings with `id` and either `strategy` (its frontends are weighted by `weights`; those of the frozen
    strategies, whose labels are `none`, by `frozen_weights`) or `mix` (weights by system id). Where a run has fewer
    frontends than the weights name, those present share the whole in proportion. Raises UserError for an unknown or
    circular member, a repeated id and weights that do not sum to 1.
    """
    parts: dict[str, dict[str, float]] = {}
    for system in systems:
        name = system["id"]
        if name in parts or name in singles:
            raise UserError(f"ensemble.systems names {name!r} twice; give every system an id of its own")
        if "mix" in system:
            parts[name] = _whole(f"ensemble.systems {name!r}", system["mix"])
        else:
            strategy = system["strategy"]
            key = "frozen_weights" if strategy.endswith("-none") else "weights"
            of_frontends = _whole(f"ensemble.{key}", frozen_weights if key == "frozen_weights" else weights)
            present = {f"{strategy}.{f}": w for f, w in of_frontends.items() if f"{strategy}.{f}" in singles and w > 0}
            if not present:
                raise UserError(
                    f"ensemble.systems {name!r}: no frontend that ensemble.{key} gives a weight has scores for strategy"
                    f" {strategy!r}; add the strategy and a frontend to the config or remove the system"
                )
            total = sum(present.values())
            parts[name] = {single: weight / total for single, weight in present.items()}
    return _members_first(parts, singles)


def _whole(what: str, weights: Mapping[str, float]) -> dict[str, float]:
    total = math.fsum(weights.values())
    if not weights or abs(total - 1) > 1e-3 or min(weights.values()) < 0:
        shown = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        raise UserError(f"{what}: the weights ({shown}) sum to {total:g}; they must be at least 0 and sum to 1")
    return {name: weight / total for name, weight in weights.items()}


def _members_first(parts: Mapping[str, dict[str, float]], singles: Collection[str]) -> dict[str, dict[str, float]]:
    ordered: dict[str, dict[str, float]] = {}

    def place(name: str, above: tuple[str, ...]) -> None:
        if name in singles or name in ordered:
            return
        if name in above:
            raise UserError(f"ensemble.systems {name!r} is a member of itself: {' > '.join((*above, name))}")
        if name not in parts:
            known = ", ".join([*parts, *sorted(singles)])
            raise UserError(f"ensemble.systems {above[-1]!r} mixes the unknown system {name!r}; known are: {known}")
        for member in parts[name]:
            place(member, (*above, name))
        ordered[name] = parts[name]

    for name in parts:
        place(name, ())
    return ordered


def definitions(system: str, systems: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """The members and weights of a system and of all systems it is made of; empty for a single one."""
    found: dict[str, Mapping[str, float]] = {}
    if system in systems:
        found[system] = systems[system]
        for member in systems[system]:
            found |= definitions(member, systems)
    return found


def singles_of(system: str, systems: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The single systems that a system is made of in the end, sorted."""
    members = {member for parts in definitions(system, systems).values() for member in parts}
    return sorted(members - systems.keys()) or [system]


def combine(
    singles: Mapping[str, NDArray[np.float64]],
    systems: Mapping[str, Mapping[str, float]],
    is_train: NDArray[np.bool_],
    standardise: str,
) -> dict[str, NDArray[np.float64]]:
    """Scores (N,) of every system, single ones included, from the scores (N,) of the single ones.

    `systems` is what `members` returns. With `zscore` every member is brought to mean 0 and standard deviation 1 of its
    own (leave-one-out) scores of the training clips before it is weighted; test scores never enter.
    """
    if standardise not in STANDARDISE:
        raise UserError(f"ensemble.standardise is {standardise!r}; choose one of {', '.join(STANDARDISE)}")
    scores = dict(singles)
    for name, parts in systems.items():
        scale = (lambda member: member) if standardise == "none" else (lambda member: zscore(member, is_train))
        scores[name] = np.sum([weight * scale(scores[member]) for member, weight in parts.items()], axis=0)
    return scores


def zscore(score: NDArray[np.float64], is_train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`score` (N,) in standard deviations of its training rows from their mean."""
    mean, deviation = score[is_train].mean(), score[is_train].std()
    if not deviation > 0:
        raise UserError("all training clips have the same score, so ensemble.standardise: zscore cannot scale it")
    return (score - mean) / deviation


def read_scores(path: Path) -> tuple[Clips, NDArray[np.float64]]:
    """Clips and their scores (N, seeds) from a csv with the columns clip, split, domain and one per seed."""
    header, rows = read_table(path, ("clip", "split", "domain"))
    if header[:3] != ["clip", "split", "domain"] or len(header) < 4 or not rows:
        raise UserError(
            f"{path}: expected the columns clip, split, domain, seed… and at least one row; run score again"
        )
    clips = [(row[1], row[0]) for row in rows]
    for split in SPLITS:
        refuse_doubles([clip for of, clip in clips if of == split], path)
    if bad := next((clip for clip in clips if clip[0] not in SPLITS), None):
        raise UserError(f"{path}: split of {bad[1]!r} is {bad[0]!r}, expected {' or '.join(SPLITS)}; run score again")
    return clips, np.array([[number(cell, path, row[0]) for cell in row[3:]] for row in rows])


def read_runs(paths: Mapping[str, Path]) -> tuple[Clips, dict[str, NDArray[np.float64]]]:
    """Clips and, by single system, their scores (N, seeds); a frozen system has one run."""
    runs: dict[str, NDArray[np.float64]] = {}
    clips: Clips = []
    for name, path in paths.items():
        found, scores = read_scores(path)
        clips = clips or found
        if found != clips:
            other = next(iter(paths.values()))
            odd = set(found) ^ set(clips)
            what = (
                f"{len(odd)} clips are in one of them only, such as {sorted(odd)[0]}" if odd else "their order differs"
            )
            raise UserError(f"{path} and {other} score different clips ({what}); run score again for both")
        runs[name] = scores
    return clips, runs


def read_singles(paths: Mapping[str, Path]) -> tuple[Clips, dict[str, NDArray[np.float64]]]:
    """Clips and, by single system, their scores (N,) averaged over the seeds (paper §3.1)."""
    clips, runs = read_runs(paths)
    return clips, {name: scores.mean(axis=1) for name, scores in runs.items()}


def single_runs(runs: Mapping[str, NDArray[np.float64]]) -> list[dict[str, NDArray[np.float64]]]:
    """Scores (N,) of every single system seed by seed; those of one run, frozen ones, take part in each with it.

    Mixed like the averages they show how far an ensemble's score depends on the seed. Raises UserError where single
    systems have different numbers of seeds.
    """
    numbers = sorted({scores.shape[1] for scores in runs.values()} - {1})
    if len(numbers) > 1:
        raise UserError(f"single systems have {' and '.join(map(str, numbers))} seeds; run score again for all")
    count = numbers[0] if numbers else 0
    return [{name: scores[:, min(k, scores.shape[1] - 1)] for name, scores in runs.items()} for k in range(count)]


def mixed(
    paths: Mapping[str, Path], systems: Mapping[str, Mapping[str, float]], standardise: str
) -> tuple[Clips, dict[str, NDArray[np.float64]], dict[str, list[NDArray[np.float64]]]]:
    """Clips, the scores (N,) of every system, and those of each seed for systems in which some member has several."""
    clips, runs = read_runs(paths)
    is_train = of_split(clips, "train")
    scores = combine({name: run.mean(axis=1) for name, run in runs.items()}, systems, is_train, standardise)
    by_seed = [combine(run, systems, is_train, standardise) for run in single_runs(runs)]
    several = [name for name in scores if any(runs[heard].shape[1] > 1 for heard in singles_of(name, systems))]
    return clips, scores, {name: [run[name] for run in by_seed] if name in several else [] for name in scores}


def of_split(clips: Clips, split: str) -> NDArray[np.bool_]:
    """Which rows (N,) belong to `split`."""
    return np.array([of == split for of, _ in clips])


def write_scores(
    path: Path, clips: Clips, score: NDArray[np.float64], runs: Sequence[NDArray[np.float64]] = ()
) -> None:
    """csv with the columns clip, split, score; numbers in the shortest form that reads back to the same value.

    `runs`: scores (N,) of single seeds, written as seed0, seed1, … for the test clips.
    """
    columns = [run.tolist() for run in runs]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["clip", "split", "score", *(f"seed{k}" for k in range(len(columns)))])
        for i, ((split, clip), value) in enumerate(zip(clips, score.tolist(), strict=True)):
            writer.writerow([clip, split, value, *(column[i] if split == "test" else "" for column in columns)])
