"""The paper's tables beside our numbers, and its conclusions tested on both.

Published and own numbers have one form: `Cells`, official scores in percent by (system, column), where a column is a
machine type, "development" or "evaluation". Every table is a join of the two, and every conclusion is a statement
about cells, so it can be asked of the published numbers and of ours alike. System ids are explained in
`published/paper.yaml`, with the reading of Table 3's numbering.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from firstshot.metric import OFFICIAL, as_float, harmonic_mean

Cells = Mapping[tuple[str, str], float]

PUBLISHED = Path(__file__).with_name("published") / "paper.yaml"
DEVELOPMENT, EVALUATION = "development", "evaluation"
FRONTENDS = {"spec": "Spec", "beats": "BEATs", "eat": "EAT", "sslam": "SSLAM"}
TRAIN_TEST = {"noisy": ("Ny", "Ny"), "enhanced": ("Enh", "Enh"), "both": ("Ny, Enh", "Ny")}
LABELS = {"org": "Org", "noisy": "Ny", "enhanced": "Enh", "none": "No"}
AUDIO = ("noisy", "enhanced", "both")
SIMILAR = 0.5  # points of official score below which two systems count as similar, above as different


# --- published numbers ------------------------------------------------------------------------------------


@cache
def published() -> dict[str, Any]:
    """Published tables as they stand in `published/paper.yaml`."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def published_cells() -> dict[tuple[str, str], float]:
    """All published official scores of the paper's systems."""
    book = published()
    cells: dict[tuple[str, str], float | None] = {}
    for strategy, scores in book["table1"]["rows"].items():
        for frontend, score in zip(book["table1"]["frontends"], scores, strict=True):
            cells[f"{strategy}.{frontend}", DEVELOPMENT] = score
    for system, scores in book["table2"]["rows"].items():
        for column, score in zip([*book["table2"]["machines"], DEVELOPMENT], scores, strict=True):
            cells[system, column] = score
    for system, row in book["table3"]["rows"].items():
        cells[system, DEVELOPMENT], cells[system, EVALUATION] = row[DEVELOPMENT], row[EVALUATION]
    return {key: score for key, score in cells.items() if score is not None}


def machine_mean(cells: Cells, system: str, machines: Iterable[str]) -> float:
    """Official score over machine types from those of the single ones: their harmonic mean (paper, Tables 1 and 2)."""
    return harmonic_mean([cells.get((system, machine), math.nan) for machine in machines])


# --- our numbers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ours:
    """Our official scores in percent, and their standard deviation over seeds where a system has several runs.

    `year` of the challenge whose recordings were scored; None: others.
    """

    scores: dict[tuple[str, str], float]
    spread: dict[tuple[str, str], float]
    year: int | None = None

    def of_the_paper(self) -> bool:
        """Whether our recordings are those of the published numbers."""
        return self.year == published()["year"]

    def comparable(self, system: str, column: str) -> bool:
        """Whether our score and the published one are over the same machine types of the same year."""
        members = published()["machines"].get(column, [column])
        return self.of_the_paper() and all((system, machine) in self.scores for machine in members)


def own_cells(
    official: Sequence[Mapping[str, str]],
    sections: Sequence[Mapping[str, str]],
    seeds: Sequence[Mapping[str, str]],
    year: int | None,
) -> Ours:
    """Our numbers from the metric stage's rows: official scores over sets, metrics of sections, metrics of seeds.

    `year` of the challenge whose recordings they are about; None: others.
    """
    scores: dict[tuple[str, str], float] = {}
    spread: dict[tuple[str, str], float] = {}
    for row in official:
        key = (row["system"], row["machines"])
        scores[key] = 100 * as_float(row["official_score"])
        spread[key] = 100 * as_float(row["seed_std"])
    by_machine: dict[tuple[str, str], list[float]] = {}
    for row in sections:
        by_machine.setdefault((row["system"], row["machine"]), []).extend(as_float(row[name]) for name in OFFICIAL)
    scores |= {key: 100 * harmonic_mean(values) for key, values in by_machine.items()}
    by_seed: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in seeds:
        runs = by_seed.setdefault((row["system"], row["machine"]), {})
        runs.setdefault(row["seed"], []).extend(as_float(row[name]) for name in OFFICIAL)
    for key, runs in by_seed.items():
        spread[key] = 100 * deviation([harmonic_mean(values) for values in runs.values()])
    scores, spread = ({key: value for key, value in each.items() if not math.isnan(value)} for each in (scores, spread))
    return Ours(scores, spread, year)


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


# --- tables -----------------------------------------------------------------------------------------------

VALUES = ("ours", "seed_spread", "published", "difference")
OWN = "this run"  # source of a row of Fig. 2


def compared(ours: Ours, theirs: Cells, system: str, column: str) -> dict[str, float]:
    """One cell: our score, its spread over seeds, the published score, and ours minus published.

    For recordings of another year there is no published score, and for a set that is not complete no difference.
    """
    own = ours.scores.get((system, column), math.nan)
    other = theirs.get((system, column), math.nan) if ours.of_the_paper() else math.nan
    return {
        "ours": round(own, 6),
        "seed_spread": round(ours.spread.get((system, column), math.nan), 6),
        "published": other,
        "difference": round(own - other, 6) if ours.comparable(system, column) else math.nan,
    }


def described(strategy: str) -> dict[str, str]:
    """Train, test and label column of a strategy, in the paper's words."""
    audio, _, labels = strategy.partition("-")
    train, test = ("No", "Ny") if labels == "none" else TRAIN_TEST[audio]
    return {"train": train, "test": test, "label": LABELS[labels]}


def table1(ours: Ours) -> list[dict[str, Any]]:
    """Table 1, one row per cell: development set by strategy and frontend."""
    book, theirs = published()["table1"], published_cells()
    return [
        {**described(strategy), "frontend": FRONTENDS[frontend], "system": system}
        | compared(ours, theirs, system, DEVELOPMENT)
        for strategy in book["rows"]
        for frontend in book["frontends"]
        if (system := f"{strategy}.{frontend}", DEVELOPMENT) in theirs or system in {key[0] for key in ours.scores}
    ]


def table2(ours: Ours) -> list[dict[str, Any]]:
    """Table 2, one row per cell: single frontends and systems ① to ⑩ by machine type, and their mean."""
    book, theirs = published()["table2"], published_cells()
    return [
        {"id": shown(system)}
        | described(book["strategies"].get(system, "noisy-org"))
        | {"system": system, "machine": column}
        | compared(ours, theirs, system, column)
        for system in book["rows"]
        for column in [*book["machines"], DEVELOPMENT]
    ]


def table3(ours: Ours) -> list[dict[str, Any]]:
    """Table 3, one row per cell: mixtures of strategies on both sets."""
    theirs = published_cells()
    return [
        {"id": system, "made_of": row["made_of"], "submission": row["submission"] or "", "set": column}
        | compared(ours, theirs, system, column)
        for system, row in published()["table3"]["rows"].items()
        for column in (DEVELOPMENT, EVALUATION)
    ]


def figure2(ours: Ours) -> list[dict[str, Any]]:
    """Fig. 2 as rows, best first: published evaluation scores, and ours of every submitted system where comparable."""
    rows: list[dict[str, Any]] = [
        {
            "name": entry["name"],
            "official_score": math.nan if entry["score"] is None else entry["score"],
            "rank": "" if entry["rank"] is None else entry["rank"],
            "second_hand": "yes" if entry["second_hand"] else "no",
            "source": entry["source"],
        }
        for entry in published()["figure2"]["entries"]
    ]
    for system, row in published()["table3"]["rows"].items():
        if row["submission"]:
            score = round(ours.scores[system, EVALUATION], 6) if ours.comparable(system, EVALUATION) else math.nan
            ours_row = {"name": f"ours, {system} ({row['submission']})", "official_score": score}
            rows.append(ours_row | {"rank": "", "second_hand": "no", "source": OWN})
    return sorted(rows, key=lambda row: -math.inf if math.isnan(row["official_score"]) else row["official_score"])[::-1]


def shown(system: str) -> str:
    """A system's name in the paper: ① to ⑩, or the frontend's."""
    if system.isdigit() and 1 <= int(system) <= 20:
        return chr(ord("①") + int(system) - 1)
    return FRONTENDS.get(system.rpartition(".")[2], system)


# --- conclusions ------------------------------------------------------------------------------------------


class Missing(KeyError):  # noqa: N818  (a signal between functions here, never seen by users)
    """A cell that a conclusion needs is not there."""


@dataclass(frozen=True)
class Conclusion:
    """A statement of the paper and a test of it on cells: `test(cell)` gives (holds, evidence).

    `beside` names the set whose published scores of others it compares with, so that it can be asked of that set only.
    """

    statement: str
    place: str
    test: Callable[[Callable[[str, str], float]], tuple[bool, str]]
    beside: str | None = None


def ask(conclusion: Conclusion, cells: Cells) -> tuple[str, str]:
    """('yes' | 'no' | 'n/a', evidence) of a conclusion in some numbers."""

    def cell(system: str, column: str = DEVELOPMENT) -> float:
        try:
            return cells[system, column]
        except KeyError:
            raise Missing(f"{system} on {column}") from None

    try:
        holds, evidence = conclusion.test(cell)
    except Missing as missing:
        return "n/a", f"no score of {missing.args[0]}"
    return ("yes" if holds else "no"), evidence


Cell = Callable[..., float]


def _gain(frontend: str, strategy: str, helps: bool) -> Callable[[Cell], tuple[bool, str]]:
    def test(cell: Cell) -> tuple[bool, str]:
        gain = cell(f"{strategy}.{frontend}") - cell(f"noisy-org.{frontend}")
        return (gain > SIMILAR if helps else abs(gain) <= SIMILAR), f"{gain:+.2f}"

    return test


def _pseudo_labels_help(cell: Cell) -> tuple[bool, str]:
    gains = [
        max(cell(f"{audio}-noisy.{frontend}"), cell(f"{audio}-enhanced.{frontend}")) - cell(f"{audio}-org.{frontend}")
        for audio in AUDIO
        for frontend in FRONTENDS
    ]
    return min(gains) > 0, f"{sum(gain > 0 for gain in gains)} of {len(gains)}, {min(gains):+.2f} to {max(gains):+.2f}"


def _best_strategy(frontend: str) -> Callable[[Cell], tuple[bool, str]]:
    def test(cell: Cell) -> tuple[bool, str]:
        scores = {
            f"{audio}-{labels}": cell(f"{audio}-{labels}.{frontend}") for audio in AUDIO for labels in list(LABELS)[:3]
        }
        best = max(scores, key=lambda name: scores[name])
        return best in ("enhanced-noisy", "enhanced-enhanced"), f"best is {best} with {scores[best]:.2f}"

    return test


def _no_trend_between_labels(cell: Cell) -> tuple[bool, str]:
    wins = [cell(f"{a}-enhanced.{f}") > cell(f"{a}-noisy.{f}") for a in AUDIO for f in FRONTENDS]
    return 0 < sum(wins) < len(wins), f"enhanced labels are better in {sum(wins)} of {len(wins)}"


def _ssl_above_spec(cell: Cell) -> tuple[bool, str]:
    gaps = [
        cell(f"{audio}-{labels}.{frontend}") - cell(f"{audio}-{labels}.spec")
        for audio in AUDIO
        for labels in ("org", "noisy", "enhanced")
        for frontend in ("beats", "eat", "sslam")
    ]
    return min(gaps) > 0, f"{sum(gap > 0 for gap in gaps)} of {len(gaps)}, smallest {min(gaps):+.2f}"


def _frozen_not_above_spec(cell: Cell) -> tuple[bool, str]:
    scores = {frontend: cell(f"noisy-none.{frontend}") for frontend in ("beats", "eat", "sslam")}
    best, spec = max(scores.values()), cell("noisy-org.spec")
    return min(scores.values()) < spec, f"frozen {min(scores.values()):.2f} to {best:.2f}, Spec {spec:.2f}"


def _enhanced_ensembles_best(cell: Cell) -> tuple[bool, str]:
    scores = {str(number): cell(str(number)) for number in range(1, 11)}
    order = sorted(scores, key=lambda name: -scores[name])
    return set(order[:2]) == {"5", "6"}, "best: " + ", ".join(f"{shown(name)} {scores[name]:.2f}" for name in order[:3])


def _improves_most_on(machines: tuple[str, ...]) -> Callable[[Cell], tuple[bool, str]]:
    def test(cell: Cell) -> tuple[bool, str]:
        gains = {
            machine: (cell("5", machine) + cell("6", machine)) / 2 - cell("1", machine)
            for machine in published()["table2"]["machines"]
        }
        order = sorted(gains, key=lambda name: -gains[name])
        return set(order[: len(machines)]) == set(machines), ", ".join(f"{m} {gains[m]:+.2f}" for m in order[:3])

    return test


def _frozen_competitive(cell: Cell) -> tuple[bool, str]:
    gaps = {machine: cell("10", machine) - cell("1", machine) for machine in ("ToyCar", "ToyTrain")}
    return min(gaps.values()) > 0, ", ".join(f"{machine} {gap:+.2f} against ①" for machine, gap in gaps.items())


def _ensemble_above_members(system: str, margin: float) -> Callable[[Cell], tuple[bool, str]]:
    def test(cell: Cell) -> tuple[bool, str]:
        strategy = published()["table2"]["strategies"][system]
        frontends = [name for name in FRONTENDS if name != "spec" or not strategy.endswith("-none")]
        members = {frontend: cell(f"{strategy}.{frontend}") for frontend in frontends}
        best = max(members, key=lambda name: members[name])
        score = cell(system)
        evidence = f"{shown(system)} {score:.2f}, best member {FRONTENDS[best]} {members[best]:.2f}"
        return score > members[best] - margin, evidence

    return test


def _ranking(column: str) -> Callable[[Cell], tuple[bool, str]]:
    def test(cell: Cell) -> tuple[bool, str]:
        scores = [cell(system, column) for system in ("T3-1", "T3-6", "T3-5", "T3-4")]
        return scores == sorted(scores, reverse=True), " > ".join(f"{score:.2f}" for score in scores)

    return test


def _above_baseline(column: str) -> Callable[[Cell], tuple[bool, str]]:
    def test(cell: Cell) -> tuple[bool, str]:
        baseline = max(mode["score"] for mode in published()["baselines"][column].values())
        return cell("T3-1", column) > baseline, f"{cell('T3-1', column):.2f}, better baseline {baseline:.2f}"

    return test


CONCLUSIONS = (
    Conclusion("TSE helps BEATs (original labels)", "§3.2, Table 1", _gain("beats", "enhanced-org", True)),
    Conclusion("TSE helps SSLAM (original labels)", "§3.2, Table 1", _gain("sslam", "enhanced-org", True)),
    Conclusion("TSE changes Spec little (original labels)", "§3.2, Table 1", _gain("spec", "enhanced-org", False)),
    Conclusion("TSE changes EAT little (original labels)", "§3.2, Table 1", _gain("eat", "enhanced-org", False)),
    Conclusion("Joint training helps Spec (original labels)", "§3.2, Table 1", _gain("spec", "both-org", True)),
    Conclusion("Pseudo labels help every strategy and frontend", "§3.2, Table 1", _pseudo_labels_help),
    *(
        Conclusion(f"{FRONTENDS[name]} is best with TSE and pseudo labels", "§3.2, Table 1", _best_strategy(name))
        for name in ("spec", "beats", "sslam")
    ),
    Conclusion("No trend between labels from noisy and enhanced audio", "§3.2, Table 1", _no_trend_between_labels),
    Conclusion("Fine-tuned SSL frontends are above Spec", "§3.2, Table 1", _ssl_above_spec),
    Conclusion("Not all frozen SSL frontends are above Spec", "Table 1 (not said in the text)", _frozen_not_above_spec),
    Conclusion("⑤ and ⑥ are the best of ① to ⑩", "§3.2, Table 2", _enhanced_ensembles_best),
    Conclusion(
        "⑤ and ⑥ gain most over ① on bearing and valve", "§3.2, Table 2", _improves_most_on(("bearing", "valve"))
    ),
    Conclusion("⑩ is competitive on ToyCar and ToyTrain", "§3.2, Table 2", _frozen_competitive),
    Conclusion(
        f"The ensemble ① is above or similar to its best member (at most {SIMILAR} below)",
        "§3.2, Table 2",
        _ensemble_above_members("1", SIMILAR),
    ),
    *(
        Conclusion(
            f"The ensemble {shown(str(number))} is above its best member",
            "§4 (of ensembles in general)",
            _ensemble_above_members(str(number), 0.0),
        )
        for number in range(2, 11)
    ),
    Conclusion("Ranking T3-1, T3-6, T3-5, T3-4 (development)", "§3.2, Table 3", _ranking(DEVELOPMENT)),
    Conclusion("Ranking T3-1, T3-6, T3-5, T3-4 (evaluation)", "§3.2, Table 3", _ranking(EVALUATION)),
    Conclusion("T3-1 is above the official baselines (development)", "§1", _above_baseline(DEVELOPMENT), DEVELOPMENT),
    Conclusion("T3-1 is above the official baselines (evaluation)", "§1", _above_baseline(EVALUATION), EVALUATION),
)


def conclusions(ours: Ours) -> list[dict[str, str]]:
    """The paper's conclusions, each with its evidence in the published numbers and in ours."""
    theirs = published_cells()
    rows = []
    for conclusion in CONCLUSIONS:
        stated, stated_evidence = ask(conclusion, theirs)
        if conclusion.beside is None or ours.comparable("T3-1", conclusion.beside):
            holds, evidence = ask(conclusion, ours.scores)
        else:
            holds, evidence = "n/a", f"not all machine types of the {conclusion.beside} set of {published()['year']}"
        rows.append(
            {
                "conclusion": conclusion.statement,
                "place": conclusion.place,
                "holds": holds,
                "ours": evidence,
                "holds_published": stated,
                "published": stated_evidence,
            }
        )
    return rows


# --- pseudo labels against the attributes revealed later --------------------------------------------------


def label_agreement(labels: Mapping[str, str], attributes: Mapping[str, str]) -> dict[str, float]:
    """Agreement of pseudo labels with true attributes, both by training clip: adjusted Rand index and normalised
    mutual information (scikit-learn), over the clips that both name; also the numbers of clusters and of attributes.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    shared = sorted(set(labels) & set(attributes))
    if not shared:
        return {"clips": 0, "clusters": 0, "attributes": 0, "ARI": math.nan, "NMI": math.nan}
    found, true = [labels[clip] for clip in shared], [attributes[clip] for clip in shared]
    return {
        "clips": len(shared),
        "clusters": len(set(found)),
        "attributes": len(set(true)),
        "ARI": float(adjusted_rand_score(true, found)),
        "NMI": float(normalized_mutual_info_score(true, found)),
    }


# --- Markdown ---------------------------------------------------------------------------------------------


def cell_text(cell: Mapping[str, Any]) -> str:
    """'ours ± spread (published, difference)'; a dash for what is not there."""

    def number(value: float, form: str) -> str:
        return "–" if math.isnan(value) else format(value, form)

    spread = "" if math.isnan(cell["seed_spread"]) else f" ± {cell['seed_spread']:.2f}"
    beside = f"{number(cell['published'], '.2f')}, {number(cell['difference'], '+.2f')}"
    return f"{number(cell['ours'], '.2f')}{spread} ({beside})"


Line = tuple[tuple[str, ...], list[Mapping[str, Any] | None]]


def grid(rows: Sequence[Mapping[str, Any]], head: Sequence[str], column: str) -> tuple[list[str], list[Line]]:
    """Rows of one cell each, laid out as in the paper: titles, and by line what identifies it and its cells."""
    across = list(dict.fromkeys(row[column] for row in rows))
    grouped: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(tuple(str(row[name]) for name in head), {})[row[column]] = row
    return [*head, *across], [(key, [cells.get(name) for name in across]) for key, cells in grouped.items()]


# What identifies a line of a table, and what its columns are.
LAYOUTS = {
    "table1": (("train", "test", "label"), "frontend"),
    "table2": (("id", "train", "test", "label"), "machine"),
    "table3": (("id", "made_of", "submission"), "set"),
}


def markdown(rows: Sequence[Mapping[str, Any]], head: Sequence[str], column: str | None = None, text: str = "") -> str:
    """A Markdown table. `head` names the columns that identify a line; with `column`, cells of rows that agree in
    `head` are spread over columns named by that field. `text` stands above the table.
    """
    if column is None:
        titles, lines = list(head), [[str(row[name]) for name in head] for row in rows]
    else:
        titles, cells = grid(rows, head, column)
        lines = [[*key, *("–" if cell is None else cell_text(cell) for cell in line)] for key, line in cells]
    body = "\n".join(f"| {' | '.join(line)} |" for line in [titles, ["---"] * len(titles), *lines])
    return f"{text}\n\n{body}\n" if text else f"{body}\n"


CAPTIONS = {
    "table1": "Table 1: official score in %, development set; ours ± spread over seeds (published, difference).",
    "table2": "Table 2: official score in % by machine type; ours ± spread over seeds (published, difference).",
    "table3": "Table 3: mixtures of strategies, official score in %; ours ± spread over seeds (published, difference). "
    "Circled numbers are Table 2's.",
    "figure2": "Fig. 2: official score in %, evaluation set of DCASE 2025. Second-hand scores were read in another "
    "text than their authors'.",
    "conclusions": "The paper's conclusions in our numbers and in its own.",
}


def markdown_of(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown form of one of the tables above, laid out as in the paper."""
    if name in LAYOUTS:
        return markdown(rows, *LAYOUTS[name], CAPTIONS[name])
    if name == "figure2":
        rows = [
            row | {"official_score": "–" if math.isnan(row["official_score"]) else f"{row['official_score']:.2f}"}
            for row in map(dict, rows)
        ]
    return markdown(rows, list(rows[0]), None, CAPTIONS[name])
