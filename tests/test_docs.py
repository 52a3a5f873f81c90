"""What the documents say is so: links lead somewhere, commands exist, diffs apply, generated pages are current."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from firstshot import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
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


@pytest.mark.parametrize("number", range(3))
def test_diffs_of_the_examples_apply(number, tmp_path):
    diff = re.findall(r"```diff\n(.*?)```", TEXT["docs/extending.md"], re.DOTALL)[number]
    for file in re.findall(r"^--- a/(.*)$", diff, re.MULTILINE):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    done = subprocess.run(
        ["git", "apply", "--verbose", "-"], input=diff, text=True, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for added in re.findall(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE):
        assert (tmp_path / added).is_file()


def test_the_tutorial_leads_to_a_config_that_passes_its_check(tmp_path, monkeypatch):
    """The commands of step 2, as they stand there, on a folder as described in step 1."""
    for name in ("config/config.yaml", "workflow/schemas/config.schema.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    generator = np.random.default_rng(0)
    for clip in [f"normal/{i}.wav" for i in range(10)] + [f"target/{i}.wav" for i in range(3)] + ["abnormal/1.wav"]:
        path = tmp_path / "recordings/pump" / clip
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, generator.normal(0, 0.1, 32_000), 16_000)
    monkeypatch.chdir(tmp_path)
    step = TEXT["docs/tutorial.md"].split("## 2.")[1].split("## 3.")[0]
    lines = re.findall(r"^    firstshot (.*)$", step, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        assert cli.main(shlex.split(line)) == 0


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
