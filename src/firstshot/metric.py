"""Metrics of DCASE Challenge Task 2, as its official evaluator computes them, and the decision threshold.

Arrays and conventions:

- `scores` (N,): one anomaly score per test clip, larger = more anomalous.
- `anomaly` (N,) bool: True for anomalous clips; `domain` (N,): "source" or "target".
- All metrics are fractions in [0, 1]; NaN means "not defined" (no anomalies, no clip of that domain) and is
  written as "n/a".

Definitions (public repositories nttcslab/dcase2023_task2_evaluator and its successors): the AUC of a domain
compares the normal clips of that domain with the anomalies of BOTH domains; pAUC takes all clips up to a
false-positive rate of 0.1 with McClish's correction; precision, recall and F1 count the clips of one domain;
the official score is the harmonic mean of AUC source, AUC target and pAUC over machine types and sections
(paper §3.1). Unlike the evaluator, clips are joined by name and never by position.
"""

from __future__ import annotations

import csv
import logging
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from firstshot.errors import UNREADABLE_ZIP, UserError
from firstshot.score_table import number, read_rows, read_table, refuse_doubles

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EPSILON = float(np.finfo(np.float64).eps)  # the evaluator's floor for denominators and harmonic means
DOMAINS = ("source", "target")
OFFICIAL = ("AUC_source", "AUC_target", "pAUC")  # the values that make up the official score
SECTION_METRICS = (
    "AUC_all", "AUC_source", "AUC_target", "pAUC",
    "precision_source", "precision_target", "recall_source", "recall_target", "F1_source", "F1_target",
)  # fmt: skip
MEANS = ("AUC", "pAUC", "precision", "recall", "F1")
NOT_AVAILABLE = "n/a"

log = logging.getLogger(__name__)


# --- single metrics ---------------------------------------------------------------------------------------


def roc_area(scores: Floats, anomaly: Bools, max_fpr: float = 1.0, weights: Floats | None = None) -> Floats:
    """Area under the ROC curve up to the false-positive rate `max_fpr`, for one or many weightings of the clips.

    scores (N,), anomaly (N,) bool, weights (B, N): how often each clip counts in each of B resamples; None = once.
    Returns (B,). Ties count one half. Below `max_fpr` = 1 the area ends by linear interpolation and is rescaled
    after McClish (chance 0.5, perfect 1), equal to `sklearn.metrics.roc_auc_score(..., max_fpr=max_fpr)`.
    NaN where a resample has no normal or no anomalous clip.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    normal = np.flatnonzero(~anomaly)
    if len(normal) == 0 or not anomaly.any():
        return np.full(len(weights), np.nan)
    normal = normal[np.argsort(-scores[normal], kind="stable")]
    level_starts = np.flatnonzero(np.diff(scores[normal], prepend=np.inf))  # normal clips of equal score are one step
    levels = scores[normal][level_starts]
    negatives = np.add.reduceat(weights[:, normal], level_starts, axis=1)  # (B, levels), from the highest score down
    before = np.cumsum(negatives, axis=1) - negatives
    n_negative = negatives.sum(axis=1)
    limit = max_fpr * n_negative
    reached = int((before < limit[:, None]).any(axis=0).sum())
    negatives, levels = negatives[:, :reached], levels[:reached]
    counted = np.clip(limit[:, None] - before[:, :reached], 0, negatives)
    positives = weights[:, anomaly]
    hits = positives @ (scores[anomaly, None] > levels).astype(float)
    equal = scores[anomaly, None] == levels
    if equal.any():
        hits += 0.5 * (positives @ equal.astype(float)) * counted / np.maximum(negatives, EPSILON)
    with np.errstate(invalid="ignore", divide="ignore"):
        area = (counted * hits).sum(axis=1) / (n_negative * positives.sum(axis=1))
    if max_fpr < 1:
        chance = max_fpr**2 / 2
        area = 0.5 * (1 + (area - chance) / (max_fpr - chance))
    return np.asarray(area)


def precision_recall_f1(anomaly: Bools, decision: Bools) -> tuple[float, float, float]:
    """Precision, recall and F1 of boolean decisions (N,); a zero denominator gives 0, as in the evaluator."""
    if len(anomaly) == 0 or not anomaly.any():
        return math.nan, math.nan, math.nan
    true_positives = float((anomaly & decision).sum())
    precision = true_positives / max(float(decision.sum()), EPSILON)
    recall = true_positives / max(float(anomaly.sum()), EPSILON)
    return precision, recall, 2 * precision * recall / max(precision + recall, EPSILON)


def harmonic_mean(values: ArrayLike) -> float:
    """Harmonic mean of the defined values, each raised to the machine epsilon first; NaN when none is defined."""
    array = np.asarray(values, dtype=float).ravel()
    array = array[~np.isnan(array)]
    return float(len(array) / (1 / np.maximum(array, EPSILON)).sum()) if len(array) else math.nan


def section_metrics(
    scores: Floats, anomaly: Bools, domain: NDArray, decision: Bools | None, max_fpr: float
) -> dict[str, float]:
    """All metrics of one section, keyed by `SECTION_METRICS`; arrays (N,), `decision` None leaves its metrics NaN."""
    metrics = dict.fromkeys(SECTION_METRICS, math.nan)
    metrics["AUC_all"] = float(roc_area(scores, anomaly)[0])
    metrics["pAUC"] = float(roc_area(scores, anomaly, max_fpr)[0])
    for name in DOMAINS:
        chosen = (domain == name) | anomaly
        metrics[f"AUC_{name}"] = float(roc_area(scores[chosen], anomaly[chosen])[0])
        if decision is not None:
            own = domain == name
            for key, value in zip(
                ("precision", "recall", "F1"), precision_recall_f1(anomaly[own], decision[own]), strict=True
            ):
                metrics[f"{key}_{name}"] = value
    return metrics


def official_score(sections: Iterable[Mapping[str, float]]) -> float:
    """Official score: harmonic mean of AUC source, AUC target and pAUC over sections (and machine types)."""
    return harmonic_mean([[section[name] for name in OFFICIAL] for section in sections])


def mean_rows(sections: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The evaluator's four mean rows over sections (and machine types), each with the columns `MEANS`.

    In the two rows over both domains every section enters once per domain, its pAUC twice with the same value.
    """

    def column(metric: str, domains: Sequence[str]) -> Floats:
        names = [metric if metric == "pAUC" else f"{metric}_{name}" for name in domains]
        return np.array([section[name] for section in sections for name in names], dtype=float)

    def arithmetic_mean(values: Floats) -> float:
        defined = values[~np.isnan(values)]
        return float(defined.mean()) if len(defined) else math.nan

    return {
        "arithmetic mean": {metric: arithmetic_mean(column(metric, DOMAINS)) for metric in MEANS},
        "harmonic mean": {metric: harmonic_mean(column(metric, DOMAINS)) for metric in MEANS},
        "source harmonic mean": {metric: harmonic_mean(column(metric, DOMAINS[:1])) for metric in MEANS},
        "target harmonic mean": {metric: harmonic_mean(column(metric, DOMAINS[1:])) for metric in MEANS},
    }


# --- decision threshold -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Threshold:
    """Decision threshold: a clip is judged anomalous when its score is greater. `method`: gamma or quantile."""

    value: float
    method: str


def decision_threshold(train_scores: Floats, percentile: float) -> Threshold:
    """Threshold at `percentile` (e.g. 0.9) of a gamma distribution fitted to normal training scores (N,).

    Free shape, location and scale (`scipy.stats.gamma.fit`), the rule of the official baseline; that one fits
    batch losses, here the scores are leave-one-out scores of the training clips. Where the fit fails or leaves the
    range of the scores, the empirical quantile is used, with a warning.
    """
    from scipy.stats import gamma

    if len(train_scores) == 0:
        raise UserError("no training scores to set a decision threshold from: score the training clips leave-one-out")
    low, high = float(train_scores.min()), float(train_scores.max())
    if high > low:
        try:
            with np.errstate(all="ignore"):
                value = float(gamma.ppf(percentile, *gamma.fit(train_scores)))
        except (ValueError, RuntimeError, FloatingPointError, OverflowError) as error:  # scipy's FitError is one
            log.debug("gamma fit failed: %s", error)
            value = math.nan
        if low <= value <= high:
            return Threshold(value, "gamma")
    value = float(np.quantile(train_scores, percentile))
    log.warning(
        "no usable gamma fit of %d training scores in [%g, %g]: the decision threshold is their empirical quantile %g",
        len(train_scores), low, high, value,
    )  # fmt: skip
    return Threshold(value, "quantile")


def false_alarms_per_day(train_scores: Floats, threshold: float, clip_seconds: float) -> float:
    """False alarms to expect per day of continuous listening in clips of `clip_seconds`, from normal training scores.

    The share of the leave-one-out training scores above the threshold, times the clips of a day.
    """
    return float((train_scores > threshold).mean() * 86_400 / clip_seconds)


# --- bootstrap --------------------------------------------------------------------------------------------


def resample_weights(strata: Sequence[object], resamples: int, seed: int, name: str = "") -> Floats:
    """Bootstrap weights (B, N): how often each of N clips is drawn, with replacement within its stratum.

    `seed` and `name` (the machine type) fix the draw, so that systems share it and differences are paired.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    labels = np.array([repr(stratum) for stratum in strata])
    weights = np.zeros((resamples, len(labels)))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        weights[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return weights


def resampled_reciprocals(
    scores: Floats, anomaly: Bools, domain: NDArray, section: NDArray, *, weights: Floats, max_fpr: float
) -> tuple[Floats, int]:
    """Sum of the reciprocals of all official values of one machine type in each resample (B,), and their number.

    Kept instead of the values because sums over machine types give the official score: n / sum(1 / value).
    """
    total, count = np.zeros(len(weights)), 0
    for ss in np.unique(section):
        here = section == ss
        for chosen, limit in (
            *((here & ((domain == name) | anomaly), 1.0) for name in DOMAINS),
            (here, max_fpr),
        ):
            values = roc_area(scores[chosen], anomaly[chosen], limit, weights[:, chosen])
            if not np.isnan(values).any():
                total += 1 / np.maximum(values, EPSILON)
                count += 1
    return total, count


def interval(values: Floats, confidence: float) -> tuple[float, float]:
    """Percentile interval of bootstrap values (B,) at the given confidence, e.g. 0.95."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# --- score and truth files --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """Ground truth of a machine type's test clips: anonymous ids, official file names, sections, domains, conditions.

    `known` (N,) is False where the condition is not stated; such clips get decisions but enter no metric.
    """

    clip: list[str]
    file: list[str]
    section: NDArray
    domain: NDArray
    anomaly: Bools
    known: Bools


@dataclass(frozen=True)
class Scores:
    """Scores of one system and machine type: by test clip id, and leave-one-out for the training clips.

    `test` (N, 1 + seeds): the system's score (averaged over seeds), then the scores of each seed, named in `seeds`.
    """

    clip: list[str]
    test: Floats
    train: Floats
    seeds: list[str]


def read_truth(path: Path) -> Truth:
    """Read a truth csv: clip, file, section, domain, condition (normal | anomaly | empty = not known).

    A clip without a domain counts as source, which is what recordings of one's own without a stated shift are.
    """
    rows = read_rows(path, ("clip", "file", "section", "domain", "condition"))
    if not rows:
        raise UserError(f"{path} lists no test clip")
    for row in rows:
        if row["condition"] not in ("normal", "anomaly", ""):
            raise UserError(f"{path}: condition of {row['clip']!r} is {row['condition']!r}, not normal or anomaly")
        if row["domain"] not in (*DOMAINS, ""):
            raise UserError(f"{path}: domain of {row['clip']!r} is {row['domain']!r}, not source or target")
    clips = [row["clip"] for row in rows]
    refuse_doubles(clips, path)
    return Truth(
        clip=clips,
        file=[row["file"] for row in rows],
        section=np.array([row["section"] for row in rows]),
        domain=np.array([row["domain"] or "source" for row in rows]),
        anomaly=np.array([row["condition"] == "anomaly" for row in rows]),
        known=np.array([row["condition"] != "" for row in rows]),
    )


def read_scores(path: Path) -> Scores:
    """Read a system's score csv: clip, split (test | train), score and, where present, one column per seed."""
    header, rows = read_table(path, ("clip", "split", "score"))
    clip, split = header.index("clip"), header.index("split")
    columns = ["score", *(name for name in header if name.startswith("seed"))]
    cells = [header.index(name) for name in columns]
    by_split: dict[str, list[list[str]]] = {"test": [], "train": []}
    for row in rows:
        if row[split] not in by_split:
            raise UserError(f"{path}: split of {row[clip]!r} is {row[split]!r}, not test or train")
        by_split[row[split]].append(row)
    clips = [row[clip] for row in by_split["test"]]
    for listed in by_split.values():
        refuse_doubles([row[clip] for row in listed], path)
    return Scores(
        clip=clips,
        test=np.array([[number(row[i], path, row[clip]) for i in cells] for row in by_split["test"]]).reshape(
            len(clips), len(cells)
        ),
        train=np.array([number(row[cells[0]], path, row[clip]) for row in by_split["train"]]),
        seeds=columns[1:],
    )


def join_order(expected: Sequence[str], found: Sequence[str], path: Path) -> NDArray[np.intp]:
    """Positions in `found` of the `expected` names; missing and foreign names are errors."""
    position = {name: index for index, name in enumerate(found)}
    if missing := [name for name in expected if name not in position]:
        raise UserError(f"{path}: no row for {len(missing)} of {len(expected)} test clips, e.g. {missing[0]!r}")
    known = set(expected)
    if foreign := [name for name in found if name not in known]:
        raise UserError(f"{path}: {len(foreign)} rows name no test clip, e.g. {foreign[0]!r}")
    return np.array([position[name] for name in expected], dtype=np.intp)


# --- one machine type, all systems ------------------------------------------------------------------------


@dataclass(frozen=True)
class MachineResult:
    """Everything the metric stage states about one machine type; rows are ready to be written as csv.

    `reciprocals` (systems, B) and `counts` (systems,): see `resampled_reciprocals`.
    """

    sections: list[dict[str, object]]
    seeds: list[dict[str, object]]
    decisions: list[dict[str, object]]
    reciprocals: Floats
    counts: NDArray[np.int64]


def evaluate_machine(
    machine: str,
    truth: Truth,
    systems: Mapping[str, Path],
    *,
    max_fpr: float,
    percentile: float,
    resamples: int,
    seed: int,
    clip_seconds: float,
) -> MachineResult:
    """Metrics, decisions and bootstrap sums of all systems (id → score csv) for one machine type."""
    known = truth.known
    if not known.all():
        log.warning("%s: %d of %d test clips have no known condition", machine, (~known).sum(), len(known))
    anomaly, domain, section = truth.anomaly[known], truth.domain[known], truth.section[known]
    if known.any() and not anomaly.any():
        log.warning("%s: no anomalous test clip, so AUC, pAUC, precision, recall and F1 are n/a", machine)
    elif known.any() and not set(DOMAINS) <= set(domain[~anomaly]):
        log.warning("%s: normal test clips of one domain only, so the official score leaves out the other", machine)
    weights = resample_weights(list(zip(section, domain, anomaly, strict=True)), resamples, seed, machine)
    result = MachineResult([], [], [], np.zeros((len(systems), resamples)), np.zeros(len(systems), dtype=np.int64))
    for index, (system, path) in enumerate(systems.items()):
        read = read_scores(path)
        scores = read.test[join_order(truth.clip, read.clip, path)]
        threshold = decision_threshold(read.train, percentile)
        decision = scores[:, 0] > threshold.value
        for file, ss, score, judged in sorted(zip(truth.file, truth.section, scores[:, 0], decision, strict=True)):
            result.decisions.append(
                {"system": system, "section": ss, "file": file, "score": float(score), "decision": int(judged)}
            )
        seconds = {
            "threshold": threshold.value,
            "threshold_method": threshold.method,
            "false_alarms_per_day": false_alarms_per_day(read.train, threshold.value, clip_seconds),
        }
        for ss in sorted(set(truth.section)):
            here = section == ss
            metrics = section_metrics(
                scores[known, 0][here], anomaly[here], domain[here], decision[known][here], max_fpr
            )
            named = {"system": system, "machine": machine, "section": ss}
            result.sections.append({**named, "official": official_score([metrics]), **metrics, **seconds})
            for column, seed_name in enumerate(read.seeds, start=1):
                values = section_metrics(scores[known, column][here], anomaly[here], domain[here], None, max_fpr)
                result.seeds.append(
                    {**named, "seed": seed_name, "official": official_score([values])}
                    | {name: values[name] for name in OFFICIAL}
                )
        if known.any():
            result.reciprocals[index], result.counts[index] = resampled_reciprocals(
                scores[known, 0], anomaly, domain, section, weights=weights, max_fpr=max_fpr
            )
    return result


# --- all machine types ------------------------------------------------------------------------------------


def summarise(
    sections: Sequence[Mapping[str, object]],
    seeds: Sequence[Mapping[str, object]],
    reciprocals: Mapping[str, Mapping[str, tuple[Floats, int]]],
    sets: Mapping[str, Sequence[str]],
    confidence: float,
) -> tuple[list[dict[str, object]], list[dict[str, object]], list[dict[str, object]]]:
    """Official scores, mean rows and paired differences of all systems over sets of machine types.

    sections, seeds: rows of `MachineResult` of all machine types, numbers as float. reciprocals: machine type →
    system → bootstrap sums. sets: name → machine types, e.g. all, development, evaluation.
    Returns rows of (official scores with bootstrap interval and seed spread, mean rows, differences); mean rows are
    for every set and every single machine type, as the evaluator's.
    """
    systems = list(dict.fromkeys(str(row["system"]) for row in sections))
    official: list[dict[str, object]] = []
    means: list[dict[str, object]] = []
    differences: list[dict[str, object]] = []
    for name in dict.fromkeys(str(row["machine"]) for row in sections):
        for system in systems:
            of_machine = [row for row in sections if row["system"] == system and row["machine"] == name]
            means += _mean_rows(system, name, of_machine)
    for set_name, machines in sets.items():
        resampled: dict[str, Floats] = {}
        scores: dict[str, float] = {}
        for system in systems:
            rows = [row for row in sections if row["system"] == system and row["machine"] in machines]
            values = [{name: as_float(row[name]) for name in SECTION_METRICS} for row in rows]
            scores[system] = official_score(values)
            parts = [reciprocals[machine][system] for machine in machines if machine in reciprocals]
            count = sum(part[1] for part in parts)
            if count and len(parts[0][0]):
                resampled[system] = count / np.sum([part[0] for part in parts], axis=0)
            low, high = interval(resampled[system], confidence) if system in resampled else (math.nan, math.nan)
            per_seed = seed_scores(seeds, system, machines)
            official.append(
                {
                    "system": system,
                    "machines": set_name,
                    "official_score": scores[system],
                    "low": low,
                    "high": high,
                    "seed_mean": float(np.mean(per_seed)) if per_seed else math.nan,
                    "seed_std": float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else math.nan,
                    "seeds": len(per_seed),
                    "machine_types": sum(1 for part in parts if part[1]),
                }
            )
            means += _mean_rows(system, set_name, rows)
        for index, system in enumerate(systems):
            for other in systems[index + 1 :]:
                if system not in resampled or other not in resampled:
                    continue
                gap = resampled[system] - resampled[other]
                low, high = interval(gap, confidence)
                differences.append(
                    {
                        "system": system,
                        "other": other,
                        "machines": set_name,
                        "difference": scores[system] - scores[other],
                        "low": low,
                        "high": high,
                    }
                )
    return official, means, differences


def _mean_rows(system: str, name: str, rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    values = [{metric: as_float(row[metric]) for metric in SECTION_METRICS} for row in rows]
    return [{"system": system, "machines": name, "mean": mean, **of} for mean, of in mean_rows(values).items()]


def seed_scores(seeds: Sequence[Mapping[str, object]], system: str, machines: Sequence[str]) -> list[float]:
    """Official score of each single seed of a system over the machine types; empty for a system of one run."""
    by_seed: dict[object, list[float]] = {}
    for row in seeds:
        if row["system"] == system and row["machine"] in machines:
            by_seed.setdefault(row["seed"], []).extend(as_float(row[name]) for name in OFFICIAL)
    return [score for score in map(harmonic_mean, by_seed.values()) if not math.isnan(score)]


def as_float(cell: object) -> float:
    """A number from a metric csv's cell; "n/a" is NaN."""
    return math.nan if cell == NOT_AVAILABLE else float(str(cell))


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Write rows as csv with full precision; NaN becomes "n/a"."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([cell(row[name]) for name in columns])


def cell(value: object) -> str:
    """A csv cell: the shortest text that reads back as the same number."""
    if isinstance(value, float):
        return NOT_AVAILABLE if math.isnan(value) else repr(float(value))
    return str(value)


# --- files of the metric stage ----------------------------------------------------------------------------

SECTION_COLUMNS = (
    "system", "machine", "section", "official", *SECTION_METRICS,
    "threshold", "threshold_method", "false_alarms_per_day",
)  # fmt: skip
SEED_COLUMNS = ("system", "machine", "section", "seed", "official", *OFFICIAL)
DECISION_COLUMNS = ("system", "section", "file", "score", "decision")
OFFICIAL_COLUMNS = (
    "system", "machines", "official_score", "low", "high", "seed_mean", "seed_std", "seeds", "machine_types",
)  # fmt: skip
MEAN_COLUMNS = ("system", "machines", "mean", *MEANS)
DIFFERENCE_COLUMNS = ("system", "other", "machines", "difference", "low", "high")


def write_resamples(path: Path, systems: Sequence[str], result: MachineResult) -> None:
    """Keep the bootstrap sums of one machine type (npz, no pickled objects)."""
    np.savez(path, systems=np.array(systems), reciprocals=result.reciprocals, counts=result.counts)


def read_resamples(path: Path) -> dict[str, tuple[Floats, int]]:
    """Bootstrap sums by system."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {
                str(system): (reciprocals, int(count))
                for system, reciprocals, count in zip(kept["systems"], kept["reciprocals"], kept["counts"], strict=True)
            }
    except (*UNREADABLE_ZIP, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} holds no bootstrap sums ({error}); remove it and run the metric stage again"
        ) from error
