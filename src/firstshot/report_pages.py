"""The two kinds of report page, composed from arrays: one per machine type, and the front page.

Each section says in a sentence or two what is shown and how to read it; the reader may know machines and no statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from firstshot import page, report
from firstshot.tables import CAPTIONS, LAYOUTS, OWN, cell_text, grid

Wave = Callable[[int], np.ndarray]
HOW_TO_READ = yaml.safe_load((page.TEMPLATES / "how_to_read.yaml").read_text())


def how(section: str, **facts: object) -> str:
    """The section's words on how to read it, with facts of this run filled in."""
    return HOW_TO_READ[section].format(**facts)


@dataclass
class System:
    """One system's scores of a machine type: (N,) test scores, decision threshold, leave-one-out training scores."""

    name: str
    scores: np.ndarray
    threshold: float
    train_scores: np.ndarray


@dataclass
class Map:
    """Embeddings (one seed) behind the embedding map: which frontend, train (N, D), test (M, D), classes (N,)."""

    name: str
    train: np.ndarray
    train_domain: np.ndarray
    train_class: np.ndarray
    test: np.ndarray


@dataclass
class Machine:
    """What a machine type's page shows. Test arrays are in the order of `clip`.

    `metrics` are the rows (system's name, metrics by name) of all systems; `systems` are those that are plotted.
    """

    name: str
    clip: Sequence[str]
    anomalous: np.ndarray
    known: np.ndarray
    domain: np.ndarray
    sampling_rate: int
    wave: Wave
    metrics: Sequence[tuple[str, Mapping[str, float]]]
    systems: Sequence[System]
    pauc_p: float
    map: Map | None = None
    enhanced: Wave | None = None
    enhance_curve: tuple[np.ndarray, np.ndarray] | None = None
    bic: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    clusters: Mapping[str, tuple[np.ndarray, np.ndarray, str]] = field(default_factory=dict)

    @property
    def condition(self) -> np.ndarray:
        """Of every test clip: normal, anomalous or unknown."""
        return np.where(self.known, np.where(self.anomalous, "anomalous", "normal"), "unknown")


def machine_page(machine: Machine, n_clips: int, warning: str) -> tuple[str, dict[str, Figure]]:
    """A machine type's page as HTML, and its figures by file name.

    `n_clips` most anomalous and as many most typical test clips are shown, by the first system.
    """
    figures: dict[str, Figure] = {}

    def drawn(name: str, figure: Figure, alternative: str) -> Markup:
        figures[name] = figure
        return page.vector(report.svg(figure), alternative)

    sections = [_glance(machine)]
    roc, histograms = _score_figures(machine, drawn)
    if roc:
        sections.append(
            page.Section(
                "ROC curves",
                how("roc"),
                roc,
            )
        )
    sections.append(
        page.Section(
            "Scores of the test clips",
            how("scores"),
            histograms,
        )
    )
    sections.append(_clips(machine, n_clips))
    if machine.map is not None:
        sections.append(_embedding_map(machine, machine.map, drawn))
    if machine.enhanced is not None:
        sections.append(_enhancement(machine, machine.enhanced, drawn))
    if machine.bic:
        sections.append(_pseudo_labels(machine, drawn))
    subtitle = f"{len(machine.clip)} test clips, {int(machine.anomalous.sum())} of them known to be anomalous"
    return page.render(machine.name, subtitle, sections, warning), figures


def _glance(machine: Machine) -> page.Section:
    header = ["system", "official score", "AUC source", "AUC target", "pAUC", "threshold", "false alarms per day"]
    keys = ("official", "AUC_source", "AUC_target", "pAUC")
    rows: list[list[Any]] = []
    for name, values in machine.metrics:
        row: list[Any] = [name, *(_percent(values[key]) for key in keys)]
        row.append((values["threshold"], f"{values['threshold']:.4g}"))
        row.append((values["false_alarms_per_day"], f"{values['false_alarms_per_day']:,.0f}"))
        rows.append(row)
    best = _best([values["official"] for _, values in machine.metrics])
    return page.Section("Scores at a glance", how("glance"), [page.table(header, rows, sortable=True, best=best)])


def _score_figures(machine: Machine, drawn: Callable[[str, Figure, str], Markup]) -> tuple[list[Markup], list[Markup]]:
    roc, histograms = [], []
    known, anomalous = machine.known, machine.anomalous[machine.known]
    for i, system in enumerate(machine.systems):
        scores, domain = system.scores[known], machine.domain[known]
        if anomalous.any() and not anomalous.all():
            figure = report.roc(scores, anomalous, domain, machine.pauc_p)
            roc.append(
                page.card(system.name, "", drawn(f"roc.{i + 1}", figure, f"ROC curves of {system.name}"), third=True)
            )
        histogram = report.score_histogram(system.scores, machine.condition, machine.domain, system.threshold)
        histograms.append(
            page.card(
                system.name, "", drawn(f"scores.{i + 1}", histogram, f"score histograms of {system.name}"), third=True
            )
        )
    return roc, histograms


def _clips(machine: Machine, n_clips: int) -> page.Section:
    system = machine.systems[0]
    order = np.argsort(-system.scores, kind="stable")
    n_clips = min(n_clips, len(order) // 2 or 1)
    cards = []
    for i in (*order[:n_clips], *order[len(order) - n_clips :]):
        wave = machine.wave(int(i))
        p = (1 + np.sum(system.train_scores >= system.scores[i])) / (1 + len(system.train_scores))
        judged = "anomalous" if system.scores[i] > system.threshold else "normal"
        text = f"score {system.scores[i]:.4g}, p {p:.3g}, judged {judged}; "
        text += f"in truth {machine.condition[i]}, {machine.domain[i]} domain"
        image = page.picture(report.png(report.spectrogram(wave, machine.sampling_rate), dpi=85), "spectrogram")
        cards.append(
            page.card(
                machine.clip[i], text, image, page.player(wave, machine.sampling_rate, machine.clip[i]), third=True
            )
        )
    heading = '<h3 class="wide">{}</h3>'
    blocks = [Markup(heading).format("Most anomalous"), *cards[:n_clips]]
    blocks += [Markup(heading).format("Most typical"), *cards[n_clips:]]
    return page.Section(
        "Clips to look at and listen to",
        how("clips", count=n_clips, system=system.name),
        blocks,
    )


def _embedding_map(machine: Machine, points: Map, drawn: Callable[[str, Figure, str], Markup]) -> page.Section:
    figure = report.embedding_map(
        train=points.train, train_domain=points.train_domain, train_class=points.train_class,
        test=points.test, condition=machine.condition, test_domain=machine.domain,
    )  # fmt: skip
    return page.Section(
        "Embedding map",
        how("embedding", name=points.name),
        [drawn("embedding", figure, "embedding map")],
    )


def _enhancement(machine: Machine, enhanced: Wave, drawn: Callable[[str, Figure, str], Markup]) -> page.Section:
    score = machine.systems[0].scores
    wanted = [("most typical normal", False, np.argmin), ("most anomalous", True, np.argmax)]
    blocks = []
    for text, flag, pick in wanted:
        chosen = np.flatnonzero(machine.known & (machine.anomalous == flag))
        if not len(chosen):
            continue
        i = int(chosen[pick(score[chosen])])
        before, after = machine.wave(i), enhanced(i)
        figure = report.enhancement(before, after, machine.sampling_rate)
        name = f"enhancement.{'anomalous' if flag else 'normal'}"
        sounds = (("before", before), ("after", after), ("removed", before - after))
        players = [
            Markup("<label>{}{}</label>").format(title, page.player(wave, machine.sampling_rate, f"{title}: {text}"))
            for title, wave in sounds
        ]
        row = Markup('<div class="players">{}</div>').format(Markup("").join(players))
        figures_png = page.picture(report.png(figure, dpi=85), f"spectrograms before and after enhancement: {text}")
        drawn(name, figure, text)
        blocks.append(page.card(machine.clip[i], f"the {text} clip", figures_png, row))
    if machine.enhance_curve is not None:
        curve = report.training_curves({"enhancement model": {"": machine.enhance_curve}})
        blocks.append(page.card("Training", "loss of the enhancement model", drawn("enhance_curve", curve, "loss")))
    return page.Section(
        "Enhancement",
        how("enhancement"),
        blocks,
    )


def _pseudo_labels(machine: Machine, drawn: Callable[[str, Figure, str], Markup]) -> page.Section:
    components = next(iter(machine.bic.values()))[0]
    curve = report.bic_curve(components, {name: values for name, (_, values) in machine.bic.items()})
    blocks = [page.card("BIC", "", drawn("bic", curve, "BIC against number of clusters"))]
    for audio, (labels, groups, group_name) in machine.clusters.items():
        figure = report.cluster_composition(labels, groups, group_name)
        blocks.append(
            page.card(
                "Pseudo classes", f"from {audio} audio", drawn(f"clusters.{audio}", figure, "cluster composition")
            )
        )
    return page.Section(
        "Pseudo labels",
        how("pseudo_labels"),
        blocks,
    )


# ---------------------------------------------------------------------------------------------------- front page


def front_page(
    *,
    experiment: str,
    official: Sequence[Mapping[str, str]],
    labels: Mapping[str, str],
    data: Sequence[Sequence[Any]],
    facts: Sequence[tuple[str, Any]],
    config: str,
    stages: Sequence[Sequence[Any]],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
    cost: Mapping[str, np.ndarray | Sequence[str]],
    warning: str,
) -> tuple[str, dict[str, Figure]]:
    """The front page as HTML, and its figures by file name.

    Parameters
    ----------
    official : rows of the metric stage's official scores (cells as text, "n/a" where not defined)
    labels : system id -> name for people
    data : rows machine type, number of train, supplemental and test clips, digest of their list
    facts : named facts about the run
    config : the whole config, as text
    stages : rows rule, number of artefacts, digests of the code they were made with
    tables : rows of the tables beside the published numbers, by table; none where they were not made
    curves : training run -> seed -> (step, loss)
    cost : arrays `rule`, `seconds`, `peak_mb`, `jobs`
    """
    figures: dict[str, Figure] = {}
    sections = []
    for machines in dict.fromkeys(row["machines"] for row in official):
        rows = [row for row in official if row["machines"] == machines]
        sections.append(_official(machines, rows, labels))
    if tables:
        sections.append(_published(tables, figures))
    sections.append(
        page.Section(
            "What was run",
            how("provenance"),
            [
                page.table(
                    ["machine type", "train clips", "supplemental", "test", "digest of the list"],
                    data,
                ),
                page.table(["rule", "artefacts", "digest of the code"], stages),
                page.facts(facts),
                Markup("<details><summary>The whole config</summary><pre>{}</pre></details>").format(config),
            ],
        )
    )
    if curves:
        figures["training"] = report.training_curves(curves, columns=4)
        sections.append(
            page.Section(
                "Training",
                how("training"),
                [page.vector(report.svg(figures["training"]), "training curves")],
            )
        )
    if len(cost["rule"]):
        figures["cost"] = report.cost_bars(
            list(cost["rule"]), *(np.asarray(cost[name]) for name in ("seconds", "peak_mb", "jobs"))
        )
        sections.append(
            page.Section(
                "Cost of each stage",
                how("cost"),
                [page.vector(report.svg(figures["cost"]), "cost per rule")],
            )
        )
    subtitle = f"Experiment {experiment}: {len(labels)} systems on {len(data)} machine types"
    return page.render("Results at a glance", subtitle, sections, warning), figures


def _official(machines: str, rows: Sequence[Mapping[str, str]], labels: Mapping[str, str]) -> page.Section:
    values = [_number(row["official_score"]) for row in rows]
    cells = []
    for row, value in zip(rows, values, strict=True):
        low, high, spread = (_number(row[key]) for key in ("low", "high", "seed_std"))
        interval = None if math.isnan(low) else (low, f"{100 * low:.2f} to {100 * high:.2f}")
        seeds = None if math.isnan(spread) else (spread, f"± {100 * spread:.2f} ({row['seeds']} seeds)")
        cells.append([labels.get(row["system"], row["system"]), row["system"], _percent(value), interval, seeds])
    covered = {row["machine_types"] for row in rows}
    title = "Official scores" if machines == "all" else f"Official scores, {machines} set"
    header = ["system", "id", "official score", "interval", "seed spread"]
    return page.Section(
        title,
        how("official", machine_types="/".join(sorted(covered))),
        [page.table(header, cells, sortable=True, best=_best(values))],
    )


def _published(tables: Mapping[str, Sequence[Mapping[str, Any]]], figures: dict[str, Figure]) -> page.Section:
    """Tables 1 to 3, Fig. 2 and the conclusions, as far as this run has numbers for them."""
    blocks, without = [], []
    for name, rows in tables.items():
        if name in LAYOUTS and any(not math.isnan(row["ours"]) for row in rows):
            titles, lines = grid(rows, *LAYOUTS[name])
            block = page.table(titles, [[*key, *map(_beside, cells)] for key, cells in lines], sortable=True)
        elif name == "figure2" and any(row["source"] == OWN and not math.isnan(row["official_score"]) for row in rows):
            scored = [row for row in rows if not math.isnan(row["official_score"])]
            own = np.array([row["source"] == OWN for row in scored])
            scores = np.array([row["official_score"] for row in scored])
            figures[name] = report.published_ranking([row["name"] for row in scored], scores, own)
            block = page.vector(report.svg(figures[name]), CAPTIONS[name])
        elif name == "conclusions" and any(row["holds"] != "n/a" for row in rows):
            columns = ("conclusion", "place", "holds", "ours", "holds_published", "published")
            titles = ["conclusion", "in the paper", "holds here", "evidence here", "holds there", "evidence there"]
            block = page.table(titles, [[row[column] for column in columns] for row in rows], wrap=True)
        else:
            without.append(CAPTIONS[name].partition(":")[0].rstrip("."))
            continue
        blocks += [Markup('<h3 class="wide">{}</h3>').format(CAPTIONS[name]), block]
    if without:
        blocks.append(
            Markup("<p>This run has no numbers for: {}. They are of DCASE 2025 and the paper's systems.</p>").format(
                "; ".join(without)
            )
        )
    return page.Section("Beside the published numbers", how("tables"), blocks)


def _beside(cell: Mapping[str, Any] | None) -> tuple[float | str, str] | None:
    """Our score to sort by, and the cell's text."""
    return None if cell is None else ("" if math.isnan(cell["ours"]) else cell["ours"], cell_text(cell))


def _number(cell: str) -> float:
    return math.nan if cell in ("", "n/a") else float(cell)


def _percent(value: float) -> tuple[float, str] | None:
    return None if math.isnan(value) else (value, f"{100 * value:.2f}")


def _best(values: Sequence[float | None]) -> int | None:
    """Position of the largest value; None when there is none, or only one to compare."""
    found = [(value, -i) for i, value in enumerate(values) if value is not None and not math.isnan(value)]
    return -max(found)[1] if len(found) > 1 else None
