"""The audit says of every artefact whether it belongs to the present code, config and inputs, and why not."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rows import recordings
from tinyrun import ROOT, Run

from firstshot import audit, dcase, job


@pytest.fixture
def run(tiny_run: Run, tmp_path: Path) -> Run:
    return tiny_run.copy(tmp_path / "run")


def audited(run: Run, *options: str) -> tuple[int, str]:
    """Exit status and printed text of an audit; Snakemake's records are lost."""
    shutil.rmtree(run.folder / ".snakemake", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "workflow/scripts/audit.py", "--configfile", *run.configs, *options],
        cwd=run.folder, env=run.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def stale(text: str) -> dict[str, list[str]]:
    """Reasons by artefact."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("stale "):
            name = line.split(maxsplit=1)[1].removeprefix("results/tiny/").removesuffix(".json")
            found[name] = []
        elif line.startswith("          ") and found:
            found[next(reversed(found))].append(line.strip())
    return found


def test_a_finished_run_is_fresh_also_without_snakemakes_records(run: Run) -> None:
    status, text = audited(run, "--deep")
    assert status == 0 and " stale: 0 " in text and "not there: 0" in text and "left over: 0" in text


def test_changes_of_config_code_and_seeds_are_named(run: Run) -> None:
    run.append("src/firstshot/score.py", "\nANOTHER = 1\n")
    run.configure(train={"eat": {"learning_rate": 0.0002}}, seeds=[1])
    status, text = audited(run)
    reasons = stale(text)
    assert status == 1
    assert "left over results/tiny/train/all/noisy-org/eat/seed0.json" in text
    assert "not there results/tiny/train/all/noisy-org/eat/seed1.json" in text
    assert [reason.split(":")[0] for reason in reasons["score/all/noisy-org/spec/hammer"]] == ["code"]
    assert not any(name.startswith(("data/", "enhance/", "pseudo_label/")) for name in reasons)


def test_what_is_made_from_something_stale_is_stale(run: Run) -> None:
    run.configure(train={"eat": {"learning_rate": 0.0002}})
    _, text = audited(run)
    reasons = stale(text)
    assert reasons["train/all/noisy-org/eat/seed0"] == ["params frontend.learning_rate: 0.0001, now 0.0002"]
    assert reasons["embed/all/noisy-org/eat/hammer/test"] == [
        "made from results/tiny/train/all/noisy-org/eat/seed0.json, which is stale"
    ]
    assert "train/all/noisy-org/spec/seed0" not in reasons and "metric/official" in reasons


def test_an_artefact_from_elsewhere_is_noticed(run: Run) -> None:
    """Scores of another run, side file and all, in the place of ours."""
    for suffix in (".csv", ".json"):
        shutil.copy(run.results / f"score/all/noisy-org/eat/hammer{suffix}", run.results / "score/all/noisy-org/spec/")
    _, text = audited(run)
    assert any("input train" in reason for reason in stale(text)["score/all/noisy-org/spec/hammer"])


def test_changed_contents_are_noticed_by_size_or_deep(run: Run) -> None:
    model, label = run.results / "train/all/noisy-org/eat/seed0.safetensors", "train/all/noisy-org/eat/seed0"
    content = model.read_bytes()
    model.unlink()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert label not in stale(audited(run)[1])
    assert stale(audited(run, "--deep")[1])[label] == ["seed0.safetensors has another content than recorded"]
    model.write_bytes(content[:-1])
    assert "bytes, recorded are" in stale(audited(run)[1])[label][0]


def test_a_deleted_intermediate_makes_nothing_stale(run: Run) -> None:
    shutil.rmtree(run.results / "embed")
    (run.results / "enhance/hammer/train.arrow").unlink()
    status, text = audited(run)
    assert status == 0 and "not there results/tiny/enhance/hammer/train.json" in text


def test_a_changed_recording_is_noticed(tiny_run: Run, tmp_path: Path) -> None:
    run = recordings(tiny_run, tmp_path / "run")
    clip = next((run.folder / "recordings/hammer/test").glob("*0000*"))
    clip.write_bytes(clip.read_bytes()[:-2] + b"\1\2")
    _, text = audited(run)
    assert stale(text)["data/hammer/test"][0].startswith("params clips")
    assert "data/hammer/train" not in stale(text)


def test_auditing_what_is_made_on_request_makes_nothing(run: Run) -> None:
    asked = "results/tiny/bundle/hammer.1.firstshot", "results/tiny/inspect/hammer/index.html"
    _, text = audited(run, "--", *asked)
    assert "not there results/tiny/bundle/hammer.1.json" in text
    assert "not there results/tiny/inspect/hammer/index.json" in text and "stale: 0" in text
    assert not (run.results / "bundle").exists() and not (run.results / "inspect").exists()


def test_auditing_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr(dcase, "fetch_list", refused)
    arguments = ["--truth", f"{tmp_path}/truth.csv", "--year", "2025", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["truth_fetch.py", *arguments, "--out", f"{tmp_path}/revealed.csv"])
    found = audit.Audit()
    with job.examining(found.compare):
        runpy.run_path(str(ROOT / "workflow/scripts/truth_fetch.py"))["main"]()
    assert found.absent == [tmp_path / "revealed.json"] and list(tmp_path.iterdir()) == []


def test_an_impossible_config_is_told_in_one_line(run: Run) -> None:
    run.configure(seeds=["x"])
    status, text = audited(run)
    assert status == 1 and "seeds" in text


def test_a_damaged_side_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    found = audit.Audit()
    found.compare(job.artefact({"model": tmp_path / "model.bin"}))
    assert found.stale == {tmp_path / "model.json": ["the side file is damaged"]}
    of_another_shape = {"key": "", "rule": "train", "outputs": {}, "inputs": [], "params": 1}
    (tmp_path / "model.json").write_text(json.dumps(of_another_shape))
    found.compare(job.artefact({"model": tmp_path / "model.bin"}, inputs={"audio": None}, params={"rate": 1}))
    assert found.stale == {tmp_path / "model.json": ["the side file is damaged"]}
    (tmp_path / "other.json").write_text(json.dumps({"key": "", "rule": "train", "outputs": {}}))
    assert found.left_over() == [tmp_path / "other.json"]
