"""Same inputs, config and seed: the same bytes, however many cores run the jobs."""

from pathlib import Path

from tinyrun import Run, differences


def test_one_core_makes_the_same_bytes_as_two(tiny_run: Run, tmp_path: Path) -> None:
    alone = Run.fresh(tmp_path / "alone")
    alone.configure("pages.yaml", report={"products": ["pages", "tables"]})
    alone.snakemake("--cores", "1")
    made = alone.contents()
    assert {name.split("/")[0] for name in made} >= {"data", "enhance", "train", "embed", "score", "ensemble", "metric"}
    assert differences(made, tiny_run.contents()) == []
