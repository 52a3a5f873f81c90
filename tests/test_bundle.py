"""A bundle scores as the run it came from, and tells when it was changed."""

import hashlib
import json
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


def edited(made, path, change=lambda manifest: None, content=None, compression=zipfile.ZIP_STORED):
    """A copy whose manifest was changed by someone who knows how to make the sums right."""
    with zipfile.ZipFile(made) as source:
        members = {name: source.read(name) for name in (bundle.MANIFEST, bundle.ARRAYS)}
    manifest = json.loads(members[bundle.MANIFEST])
    change(manifest)
    members[bundle.MANIFEST] = json.dumps(manifest).encode() if content is None else content
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in members.items())
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, member in (*members.items(), (bundle.SUMS, sums)):
            target.writestr(name, member)
    return path


@pytest.mark.parametrize("content", [b"[]", b"{", b"null", b'"text"', b"\xff", b"[" * 100_000, b'{"format": NaN}'])
def test_a_bundle_with_another_manifest_is_refused(content, made, tmp_path):
    with pytest.raises(UserError, match=r"manifest\.json is not that of a bundle"):
        bundle.read(edited(made, tmp_path / "x", content=content))


def of_single(**changes):
    """A change of the first single system that has a checkpoint."""

    def change(manifest):
        single = next(single for single in manifest["singles"].values() if single["checkpoint"])
        single.update(changes)

    return change


EDITS = {
    "singles are a list": lambda manifest: manifest.update(singles=[]),
    "no single system": lambda manifest: manifest.update(singles={}),
    "a single system is text": lambda manifest: manifest["singles"].update(x="y"),
    "rate of 0 Hz": lambda manifest: manifest.update(sampling_rate=0),
    "threshold as text": lambda manifest: manifest.update(threshold="0.5"),
    "endless threshold": lambda manifest: manifest.update(threshold=1e300),
    "one length": lambda manifest: manifest.update(train_seconds=[1.0]),
    "negative lengths": lambda manifest: manifest.update(train_seconds=[-1.0, 1.0]),
    "no channel": lambda manifest: manifest.update(channel="left"),
    "unknown distance": lambda manifest: manifest.update(distance="far"),
    "unknown scale": lambda manifest: manifest.update(standardise="twice"),
    "unknown system": lambda manifest: manifest.update(system="99"),
    "unknown member": lambda manifest: manifest["systems"].update({manifest["system"]: {"99": 1.0}}),
    "nothing missing but a key": lambda manifest: manifest.pop("provenance"),
    "checkpoint with a path": of_single(checkpoint={"file": "/etc/passwd", "sha256": "0" * 64}),
    "checkpoint above": of_single(checkpoint={"file": "..", "sha256": "0" * 64}),
    "checkpoint without digest": of_single(checkpoint={"file": "eat.pt", "sha256": ""}),
    "no checkpoint": of_single(checkpoint=None),
    "many seeds": of_single(seeds=10**12),
    "no seed": of_single(seeds=0),
    "arrays of nothing": of_single(prefix="none"),
    "no samples": of_single(n_samples=0),
    "enhancement as text": lambda manifest: manifest.update(enhancement="yes"),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edited_bundle_is_refused_though_its_sums_are_right(case, made, tmp_path):
    with pytest.raises(UserError, match="export it again") as refused:
        bundle.read(edited(made, tmp_path / "x", EDITS[case]))
    assert len(str(refused.value).splitlines()) == 1


def test_settings_that_make_no_network_are_told(made, checkpoints, waves, tmp_path):
    def change(manifest):
        for single in manifest["singles"].values():
            single["settings"] = {"dim": "many"}

    detector = bundle.read(edited(made, tmp_path / "x", change))
    detector.find_checkpoints(checkpoints)
    with pytest.raises(UserError, match="make no network"):
        detector.judge(waves)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_compressed_bundle_is_refused_before_anything_is_unpacked(compression, made, tmp_path):
    with pytest.raises(UserError, match="is compressed or too large"):
        bundle.read(edited(made, tmp_path / "x", compression=compression))


def test_a_bundle_says_with_which_code_and_config_each_stage_was_run(made, tiny_run):
    stages = bundle.read(made).provenance["stages"]
    trained = stages["train/all/noisy-org/spec/seed0"]
    side = json.loads((tiny_run.results / "train/all/noisy-org/spec/seed0.json").read_text())
    assert trained["config"] == side["params"]
    assert trained["code"] == side["code"]
    assert {"enhance/hammer/model", "data/hammer/train", "metric/hammer"} <= set(stages)


def test_members_stand_before_systems_that_mix_them_whatever_their_names(made, tmp_path):
    detector = bundle.read(made)
    detector.systems = {"z": detector.systems["1"], "a": {"z": 1.0}}
    detector.system = "a"
    bundle.write(detector, tmp_path / "x")
    assert list(bundle.read(tmp_path / "x").systems) == ["z", "a"]


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
