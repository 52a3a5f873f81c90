"""What the documents say is so: links lead somewhere, commands exist, diffs apply, generated pages are current."""

import re
import shlex
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import soundfile
import yaml
from tinyrun import ROOT, Run

from firstshot import cli

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "config/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}


def commands(program):
    """(page, command) of every command line of a program in an indented block."""
    found = []
    for page, text in TEXT.items():
        for line in re.findall(rf"^    ({program} .*)$", text, re.MULTILINE):
            found.append(pytest.param(line.split("  #")[0].strip(), id=f"{page}: {line[:60]}"))
    return found


@pytest.mark.parametrize("page", TEXT)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT[page]):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", TEXT)
def test_named_files_exist(page):
    """Paths in backquotes that begin with a folder of the repository."""
    for name in re.findall(r"`((?:config|docs|src|workflow|slurm|envs|tests)/[\w./-]+)`", TEXT[page]):
        if "mine" not in name and "pump" not in name and "logmel" not in name:
            assert (ROOT / name).exists(), f"{page} names {name}"


def test_modules_in_the_map_exist():
    for name in re.findall(r"`([a-z_/]+\.py)`", TEXT["docs/paper-to-code.md"]):
        assert (ROOT / "src" / "firstshot" / name).exists(), name


@pytest.mark.parametrize("line", commands("firstshot"))
def test_firstshot_commands_are_accepted(line):
    cli.parser().parse_args(shlex.split(line)[1:])


@pytest.mark.parametrize("line", commands("make"))
def test_make_targets_exist(line):
    target = shlex.split(line)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", commands("snakemake"))
def test_snakemake_options_are_accepted(line):
    """Options are parsed by Snakemake itself; config files that the reader writes are left out."""
    from snakemake.cli import parse_args

    words = shlex.split(line)[1:]
    if "--profile" in words:
        assert (ROOT / words[words.index("--profile") + 1] / "config.yaml").is_file()
    plain = [word for word in words if not word.endswith((".yaml", ".html"))]
    plain = [word for word in plain if word not in ("--configfile", "--report", "--profile", "slurm")]
    parse_args(plain)


def test_the_configuration_reference_is_current():
    program = [sys.executable, ROOT / "docs/configuration.py", "--check"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


TRY = (  # what each example of docs/extending.md shall do in a copy of the repository that has its diff
    """
    config = load("config/demo.yaml", "config/logmel.yaml")
    plan = configs.Plan(config)
    assert "noisy-org.logmel" in plan.singles("hammer"), plan.singles("hammer")
    import torch
    from firstshot.networks import frontend
    settings = config["train"]["logmel"]
    model = frontend.build("logmel", settings, n_samples=16_000)
    state = frontend.trainable_state(model)
    wave = torch.randn(2, 16_000)
    torch.testing.assert_close(frontend.merged("logmel", settings, None, state, n_samples=16_000)(wave), model(wave))
    """,
    """
    Path("angle.yaml").write_text("score: {distance: angle}")
    configs.Plan(load("config/demo.yaml", "angle.yaml"))
    import numpy as np
    from firstshot.score import Backend
    backend = Backend("angle", 0.2, 2, 0).fit(np.array([[1.0, 0], [1, 0]]), np.array([False, False]))
    np.testing.assert_allclose(backend.score_samples(np.array([[0, 1.0], [-1, 0]])), [0.5, 1.0])
    """,
    """
    plan = configs.Plan(load("config/dcase2024.yaml"))
    assert plan.machines == ["ToyCar", "ToyTrain", "bearing", "fan", "gearbox", "slider", "valve"], plan.machines
    assert not plan.enhanced
    """,
)
LOAD = """
from pathlib import Path
from firstshot import config as configs
def load(*names):
    config = configs.load(Path("config/config.yaml"), *map(Path, names))
    configs.check(config, Path("workflow/schemas/config.schema.yaml"))
    return config
"""


@pytest.mark.parametrize("number", range(3))
def test_examples_of_extensions_apply_and_work(number, tmp_path):
    diff = re.findall(r"```diff\n(.*?)```", TEXT["docs/extending.md"], re.DOTALL)[number]
    assert not [line for line in diff.splitlines() if line.startswith("+") and len(line) > 121]
    run = Run.fresh(tmp_path / "run")
    for program in (["git", "apply", "--verbose", "-"], [sys.executable, "-c", LOAD + textwrap.dedent(TRY[number])]):
        done = subprocess.run(
            program, input=diff, text=True, cwd=run.folder, env=run.environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_tutorial_leads_from_recordings_to_a_decision(tmp_path):
    """Its commands in their order, as they stand there, on a folder as described in step 1."""
    run = Run.fresh(tmp_path / "run")
    generator = np.random.default_rng(0)
    known = [f"normal/{i}" for i in range(10)] + [f"target/{i}" for i in range(3)] + ["abnormal/1"]
    for clip in [*known, "../../new/clip"]:
        path = run.folder / f"recordings/pump/{clip}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, generator.normal(0, 0.1, 16_000), 16_000)
    lines = re.findall(r"^    ((?:firstshot|snakemake) .*)$", TEXT["docs/tutorial.md"], re.MULTILINE)
    assert [line.split()[1] for line in lines if line.startswith("firstshot")] == [
        "new-config", "check", "score", "explain", "bundle", "score",
    ]  # fmt: skip
    verdicts = []
    for line in lines:
        done = subprocess.run(
            shlex.split(line), cwd=run.folder, env=run.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in ((0, 3) if line.startswith(("firstshot score", "firstshot explain")) else (0,)), (
            f"{line}\n{done.stdout}{done.stderr}"
        )
        if line.startswith("firstshot new-config"):
            assert "--run results/pump --system 1" in done.stderr
            few = {"seeds": [0], "train": {"clip_seconds": 5.0, "spec": {"max_steps": 3}}}  # to be done in seconds
            config = run.folder / "config/pump.yaml"
            config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | few))
        if line.startswith("firstshot score"):
            verdicts.append(done.stdout)
    assert verdicts[0] == verdicts[1]
    assert "new/clip.wav" in verdicts[0]
    for made in ("results/pump/report.html", "why.png", "pump.firstshot"):
        assert (run.folder / made).stat().st_size > 10_000


def test_the_output_tree_of_the_readme_is_that_of_a_run(tiny_run):
    tree = TEXT["README.md"].split("## What comes out")[1].split("Tables are csv")[0]
    named = set(re.findall(r"^ {6}([a-z_]+)/", tree, re.MULTILINE))
    present = {path.name for path in tiny_run.results.iterdir()}
    assert named - {"submission", "tables", "bundle"} <= present


def test_citation_and_catalogue_files_are_yaml():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "MIT"
    assert yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]


def test_documents_stay_within_the_line_length():
    for page, text in TEXT.items():
        if page not in ("docs/configuration.md", "docs/extending.md"):
            long = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
            assert not long, f"{page}: {long[0]}"
