"""A bundle scores as the run it came from, and tells when it was changed."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_cli import run as command

from firstshot import bundle, cli, finished, packed
from firstshot.errors import UserError

SYSTEM = "mean"  # enhanced and noisy clips, spec and eat


@pytest.fixture(scope="module")
def made(tiny_run, tmp_path_factory):
    """A bundle made by the command."""
    path = tmp_path_factory.mktemp("bundle") / "hammer.firstshot"
    arguments = [
        "bundle",
        "--run",
        tiny_run.results,
        "--machine",
        "hammer",
        "--system",
        SYSTEM,
        "--out",
        path,
        "--quiet",
    ]
    assert cli.main([str(part) for part in arguments]) == 0
    return path


@pytest.fixture(scope="module")
def checkpoints(tiny_run):
    return tiny_run.results / "synthetic" / "checkpoints"


@pytest.fixture(scope="module")
def waves(tiny_run):
    clips = packed.PackedAudio.open(tiny_run.results / "data" / "hammer" / "test.arrow")
    return [clips.wave(i) for i in range(3)]


def test_a_bundle_scores_as_its_run(made, checkpoints, waves, tiny_run):
    of_bundle, of_run = bundle.read(made), finished.detector(tiny_run.results, "hammer", SYSTEM)
    of_bundle.find_checkpoints(checkpoints)
    of_run.find_checkpoints(None)
    for ours, theirs in zip(of_bundle.judge(waves), of_run.judge(waves), strict=True):
        assert ours == theirs
    assert of_bundle.threshold == of_run.threshold


def test_the_same_system_gives_the_same_bytes(made, tiny_run, tmp_path):
    bundle.write(finished.detector(tiny_run.results, "hammer", SYSTEM), tmp_path / "again.firstshot")
    assert (tmp_path / "again.firstshot").read_bytes() == made.read_bytes()


def test_a_rule_makes_the_same_bundle(made, tiny_run, tmp_path):
    run, target = tiny_run.copy(tmp_path / "run"), f"results/tiny/bundle/hammer.{SYSTEM}.firstshot"
    run.snakemake(target)
    assert (run.folder / target).read_bytes() == made.read_bytes()


def test_a_bundle_holds_no_path_of_the_computer_it_was_made_on(made, tiny_run):
    assert str(tiny_run.folder).encode() not in made.read_bytes()


def test_a_bundle_without_its_checkpoint_says_which(made):
    done = command("score", __file__, "--bundle", made)
    assert done.returncode == 1
    assert "eat.pt" in done.stderr
    assert "--checkpoints" in done.stderr


def changed(made, path, name, change):
    """A copy of a bundle with one member changed."""
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            target.writestr(info.filename, change(content) if info.filename == name else content)
    return path


@pytest.mark.parametrize("name", [bundle.MANIFEST, bundle.ARRAYS, bundle.SUMS])
def test_a_changed_bundle_is_refused(name, made, tmp_path):
    path = changed(made, tmp_path / "x", name, lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(UserError, match="changed after the bundle was made"):
        bundle.read(path)


def test_a_bundle_of_another_version_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "VERSION", 2)
    with pytest.raises(UserError, match="version 1, this program reads version 2"):
        bundle.read(made)


def test_a_cut_off_bundle_is_refused(made, tmp_path):
    (tmp_path / "cut").write_bytes(made.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged or not a bundle"):
        bundle.read(tmp_path / "cut")


def test_a_bundle_that_asks_for_a_password_is_refused(made, tmp_path):
    content = bytearray(made.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + flags] |= 1
    (tmp_path / "locked").write_bytes(content)
    with pytest.raises(UserError, match="damaged or not a bundle"):
        bundle.read(tmp_path / "locked")


def test_another_zip_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("../escape", "x")
    with pytest.raises(UserError, match="not a firstshot bundle"):
        bundle.read(tmp_path / "other.zip")


def test_a_missing_bundle_is_named():
    with pytest.raises(UserError, match=r"none\.firstshot: no such bundle"):
        bundle.read(Path("none.firstshot"))


def test_a_bundle_is_for_its_own_machine_type(made, capsys):
    assert cli.main(["score", __file__, "--bundle", str(made), "--machine", "fan"]) == 1
    assert "'hammer', not 'fan'" in capsys.readouterr().err


def test_the_weights_of_an_ensemble_reach_its_single_systems(made):
    detector = bundle.read(made)
    weights = [detector.weight(name) for name in detector.singles]
    assert np.isclose(sum(weights), 1.0)
    assert min(weights) > 0
