"""What several test files share."""

import os
from pathlib import Path

import pytest
from tinyrun import Run

# One thread: small tensors gain nothing from two, and threads that wait for a busy core lose much.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of config/tiny.yaml with the report's pages; tests read it and change nothing."""
    run = Run.fresh(tmp_path_factory.mktemp("tiny") / "run")
    run.configure("pages.yaml", report={"products": ["pages", "tables"]})
    run.snakemake()
    return run


@pytest.fixture(scope="session")
def built_report(tiny_run: Run) -> Path:
    """The report of the tiny run, one file."""
    tiny_run.snakemake("--report", "report.html")
    return tiny_run.folder / "report.html"
