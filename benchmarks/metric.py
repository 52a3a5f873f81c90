"""How long scoring takes, and all metrics and tables of the full experiment, from stored embeddings and scores.

    .venv/bin/python benchmarks/metric.py

scores one machine type by one system (1,000 training clips, 200 test clips, 4 seeds, 768 dimensions), then computes
metrics of 15 machine types and all systems of config/config.yaml with 1,000 resamples, their official scores, paired
differences and the paper's tables. Embeddings and scores are random numbers. One process, one thread.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import yaml

from firstshot import config, ensemble, metric, score, tables

ROOT = Path(__file__).parents[1]
SEEDS, TRAIN, TEST = 4, 1000, 200


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=15, help="number of machine types (15: all)")
    parser.add_argument("--resamples", type=int, default=1000, help="of the confidence intervals (1000)")
    args = parser.parse_args(argv)
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    rng = np.random.default_rng(0)
    score_one(settings, rng)
    with tempfile.TemporaryDirectory() as name:
        all_metrics(settings, rng, Path(name), args.machines, args.resamples)


def score_one(settings: dict, rng: np.random.Generator) -> None:
    train, test = rng.normal(size=(SEEDS, TRAIN, 768)), rng.normal(size=(SEEDS, TEST, 768))
    is_target = np.arange(TRAIN) >= TRAIN - 10
    import imblearn.over_sampling  # noqa: F401  (a program pays for this once)

    start = time.perf_counter()
    for k in range(SEEDS):
        backend = score.Backend(**settings["score"]).fit(train[k], is_target)
        backend.score_samples(test[k])
        backend.leave_one_out()
    print(f"scoring one machine type and system: {time.perf_counter() - start:.2f} s")


def all_metrics(settings: dict, rng: np.random.Generator, folder: Path, count: int, resamples: int) -> None:
    plan = config.Plan(settings)
    machines = plan.machines[:count]
    systems = plan.system_ids(machines[0])
    clips = [("test", f"test-{i:04d}") for i in range(TEST)] + [("train", f"train-{i:04d}") for i in range(TRAIN)]
    truth = ["clip,file,section,domain,condition,attributes"]
    truth += [
        f"{clip},section_00_{i:04d}.wav,00,{metric.DOMAINS[i % 2]},{'anomaly' if i % 4 > 1 else 'normal'},"
        for i, (_, clip) in enumerate(clips[:TEST])
    ]
    (folder / "truth.csv").write_text("\n".join(truth) + "\n")
    for machine in machines:
        for system in systems:
            runs = list(rng.gamma(2, 0.1, (SEEDS, len(clips))))
            path = folder / system / f"{machine}.csv"
            path.parent.mkdir(exist_ok=True)
            ensemble.write_scores(path, clips, np.mean(runs, axis=0), runs)

    start = time.perf_counter()
    sections, seeds, sums = [], [], {}
    for machine in machines:
        paths = {system: folder / system / f"{machine}.csv" for system in systems}
        result = metric.evaluate_machine(
            machine, metric.read_truth(folder / "truth.csv"), paths,
            max_fpr=0.1, percentile=0.9, resamples=resamples, seed=0, clip_seconds=10.0,
        )  # fmt: skip
        sections += result.sections
        seeds += result.seeds
        sums[machine] = {name: (result.reciprocals[i], int(result.counts[i])) for i, name in enumerate(systems)}
    by_machine = time.perf_counter()
    sets = {"all": machines, **tables.published()["machines"]}
    official, _, differences = metric.summarise(sections, seeds, sums, sets, 0.95)
    summarised = time.perf_counter()
    ours = tables.own_cells(*(as_read(rows) for rows in (official, sections, seeds)), settings["data"]["year"])
    for name in ("table1", "table2", "table3", "figure2", "conclusions"):
        tables.markdown_of(name, getattr(tables, name)(ours))
    end = time.perf_counter()
    print(
        f"{len(machines)} machine types, {len(systems)} systems, {len(differences)} differences: metrics "
        f"{by_machine - start:.1f} s, official scores and differences {summarised - by_machine:.1f} s, tables "
        f"{end - summarised:.2f} s, in all {end - start:.1f} s"
    )


def as_read(rows: list[dict[str, object]]) -> list[dict[str, str]]:
    return [{name: metric.cell(value) for name, value in row.items()} for row in rows]


if __name__ == "__main__":
    main()
