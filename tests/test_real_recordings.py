"""Real recordings go in at one end and official scores come out at the other: their form, at few training steps."""

from pathlib import Path

import pandas as pd
import pytest
from tinyrun import ROOT, Run

RECORDINGS = ROOT.parent / "shared/realdcase"
MACHINES = ["vacuumcleaner", "washingmachine"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    if not RECORDINGS.is_dir():
        pytest.skip(f"no real recordings at {RECORDINGS}")
    run = Run.fresh(tmp_path_factory.mktemp("real") / "run", "config/realdcase.yaml")
    run.experiment = "realdcase"
    run.configure(
        data={"folder": str(RECORDINGS)},
        strategies=["noisy-org", "enhanced-noisy"],
        frontends=["spec", "sslam"],
        frozen=["beats"],
        enhance={"max_steps": 6},
        train={"spec": {"max_steps": 4, "batch_size": 8}, "sslam": {"max_steps": 8}},
        report={"products": []},
    )
    run.snakemake()
    return run


def test_every_system_has_an_official_score_between_zero_and_one(run: Run) -> None:
    official = pd.read_csv(run.results / "metric/official.csv").query("machines == 'all'").set_index("system")
    assert {"1", "5", "10", "noisy-org.spec", "enhanced-noisy.sslam", "noisy-none.beats"} <= set(official.index)
    assert official.official_score.between(0, 1).all()


@pytest.mark.parametrize("machine", MACHINES)
def test_every_test_clip_has_one_score_and_one_decision_per_system(run: Run, machine: str) -> None:
    clips = sorted(path.name for path in (RECORDINGS / machine / "test").glob("*.wav"))
    truth = pd.read_csv(run.results / f"truth/{machine}.csv").set_index("clip")
    scores = pd.read_csv(run.results / f"ensemble/1/{machine}.csv").query("split == 'test'")
    assert sorted(truth.file[scores["clip"]].map(lambda file: Path(file).name)) == clips
    assert scores.score.between(0, 2).all()
    assert scores.score.nunique() > len(clips) // 2
    decisions = pd.read_csv(run.results / f"metric/{machine}.decisions.csv")
    assert (decisions.groupby("system").size() == len(clips)).all()


def test_unlabelled_recordings_get_pseudo_labels_and_both_kinds_of_supplement_are_used(run: Run) -> None:
    labels = pd.read_csv(run.results / "pseudo_label/noisy/vacuumcleaner.csv")
    assert len(labels) == len(list((RECORDINGS / "vacuumcleaner/train").glob("*.wav")))
    assert not (run.results / "pseudo_label/noisy/washingmachine.csv").exists()
    assert all((run.results / f"enhance/{machine}/model.safetensors").is_file() for machine in MACHINES)
