"""What Snakemake would run: job counts, the commands of the documentation, form and lint of the rules."""

import os
import re
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PLANNED = {
    "data_index": 15, "data_pack": 15 * 2 + 11, "noise_index": 1, "truth_fetch": 8,
    "enhance_train": 11, "enhance_apply": 11 * 2, "embed_frozen": 3 * 15 * 2 + 7, "pseudo_label": 7 * 2,
    "train": 9 * 4 * 4, "embed": 9 * 4 * 15, "score": 9 * 4 * 15 + 3 * 15, "ensemble": 15, "metric_machine": 15,
    "metric": 1, "tables": 1, "submission": 1, "report_machine": 15, "report_summary": 1, "all": 1,
}  # fmt: skip


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def snakemake(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [tool("snakemake"), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def counts(run: subprocess.CompletedProcess[str]) -> dict[str, int]:
    assert run.returncode == 0, run.stdout + run.stderr
    table = (run.stdout + run.stderr).partition("Job stats:")[2].partition("total")[0]
    return {name: int(number) for name, number in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository's own files in another folder, without data, checkpoints and results."""
    for name in ("Snakefile", "workflow", "config", "profiles", "slurm", "envs", "src"):
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(source, tmp_path / name, ignore=ignore) if source.is_dir() else shutil.copy(source, tmp_path)
    return tmp_path


def place_data(folder: Path) -> None:
    """Placeholders of everything the full experiment reads from outside."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    for machine in config["machines"]:
        for split, name in (
            ("train", "section_00_source_train_normal_0000_noAttribute"),
            ("test", "section_00_0000"),
            ("supplemental", "section_00_noise_0000_"),
        ):
            path = folder / "data/dcase2025" / machine / split / f"{name}.wav"
            path.parent.mkdir(parents=True)
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, 16000, 0, "NONE", ""))
                file.writeframes(bytes(2000))
    (folder / config["noise"]["folder"]).mkdir(parents=True)
    for checkpoint in config["checkpoints"].values():
        (folder / checkpoint["file"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / checkpoint["file"]).write_bytes(b"placeholder")


def test_the_full_experiment_plans_the_same_jobs_with_and_without_data(clone: Path) -> None:
    command = ("--cores", "8", "--profile", "slurm", "-n")
    assert counts(snakemake(*command, folder=clone)) == PLANNED
    place_data(clone)
    assert counts(snakemake(*command, folder=clone)) == PLANNED


def test_one_machine_type_is_planned_alone(clone: Path) -> None:
    planned = counts(
        snakemake("--cores", "1", "-n", "results/dcase2025/score/all/noisy-org/spec/fan.csv", folder=clone)
    )
    assert planned == {"data_index": 15, "data_pack": 16, "train": 4, "embed": 1, "score": 1}


def test_enhancement_can_be_inspected_for_every_machine_type(clone: Path) -> None:
    planned = counts(snakemake("--cores", "1", "-n", "inspect_enhance", folder=clone))
    assert planned["inspect_enhance_machine"] == planned["enhance_train"] == 15


def test_an_inspection_that_lacks_noise_or_beats_says_so_though_nothing_else_needs_them(clone: Path) -> None:
    (clone / "mine.yaml").write_text("{strategies: [noisy-org], frontends: [spec], frozen: []}\n")
    run = snakemake("--cores", "1", "inspect_enhance", "--configfile", "mine.yaml", folder=clone)
    assert run.returncode != 0
    assert "noise.folder" in run.stdout + run.stderr and "checkpoints.beats.file" in run.stdout + run.stderr


@pytest.mark.parametrize(("name", "most"), [("demo", 160), ("tiny", 40)])
def test_the_small_configs_keep_to_their_number_of_processes(clone: Path, name: str, most: int) -> None:
    planned = counts(snakemake("--cores", "2", "-n", "--configfile", f"config/{name}.yaml", folder=clone))
    assert sum(planned.values()) - planned["all"] <= most
    assert {"enhance_train", "pseudo_label", "train", "embed", "score", "ensemble", "metric"} <= set(planned)


def test_a_run_that_lacks_something_says_so_at_once_and_starts_nothing(clone: Path) -> None:
    run = snakemake("--cores", "1", folder=clone)
    assert run.returncode != 0
    for part in ("noise.folder", "checkpoints.beats.file", "checkpoints.eat.file", "checkpoints.sslam.file"):
        assert part in run.stdout + run.stderr
    assert not list(clone.glob("results/*/logs/**/*.log"))


def test_a_checkpoint_of_another_digest_is_refused(clone: Path) -> None:
    place_data(clone)
    (clone / "mine.yaml").write_text(f"checkpoints: {{eat: {{sha256: {'a' * 64}}}}}\n")
    run = snakemake("--cores", "1", "--configfile", "mine.yaml", folder=clone)
    assert run.returncode != 0 and "checkpoints.eat.sha256 expects aaa" in run.stdout + run.stderr


def test_a_wrong_key_is_told_with_the_nearest_right_one(clone: Path) -> None:
    (clone / "mine.yaml").write_text("train: {spec: {learning_rat: 0.1}}\n")
    run = snakemake("--cores", "1", "-n", "--configfile", "mine.yaml", folder=clone)
    assert run.returncode != 0
    assert "train.spec.learning_rat: unknown key; did you mean 'learning_rate'?" in run.stdout + run.stderr


def test_the_workflow_is_lint_free() -> None:
    run = snakemake("--lint")
    assert run.returncode == 0 and "Congratulations" in run.stdout + run.stderr


def test_the_rules_are_in_the_form_of_snakefmt() -> None:
    run = subprocess.run(
        [tool("snakefmt"), "--check", "Snakefile", "workflow/rules"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_rule_names_log_environment_and_code() -> None:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    rules = re.split(r"^rule ", text, flags=re.MULTILINE)[1:]
    assert len(rules) > 15
    for rule in rules:
        for directive in ("log:", "conda:", "code=", "shell:"):
            assert directive in rule, rule.partition(":")[0]
        assert "retries:" not in rule and "script:" not in rule and "run:" not in rule


def test_the_default_profile_leaves_resources_to_other_profiles() -> None:
    profile = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())
    assert not {"default-resources", "set-resources", "executor"} & set(profile)
    assert yaml.safe_load((ROOT / "slurm/config.yaml").read_text())["slurm-status-command"] == "squeue"


def test_what_a_site_may_uncomment_in_the_slurm_profile_is_accepted(clone: Path) -> None:
    profile = clone / "slurm/config.yaml"
    text, uncommented = re.subn(r"^( *)# (?=[\w-]+: )", r"\1", profile.read_text(), flags=re.MULTILINE)
    assert uncommented
    profile.write_text(text)
    assert yaml.safe_load(text)["default-resources"]["slurm_account"] == "project"
    command = ("--cores", "8", "--profile", "slurm", "-n", "--configfile", "config/tiny.yaml")
    assert counts(snakemake(*command, folder=clone))
