"""The command line judges recordings as the workflow does, and tells mistakes in one line."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from firstshot import cli, metric
from firstshot.detector import windows

ROOT = Path(__file__).parents[1]
SYSTEMS = ["noisy-org.spec", "noisy-org.eat", "enhanced-enhanced.spec", "mean"]


def run(*arguments, cwd=None, **options):
    """The command as a user starts it."""
    command = [
        sys.executable,
        "-c",
        "import sys; from firstshot.cli import main; sys.exit(main())",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, **options)


def scores_of(run_folder, system, machine="hammer"):
    """File name -> score of the test clips, as the workflow computed them."""
    truth = metric.read_rows(run_folder / "truth" / f"{machine}.csv", ["clip", "file"])
    rows = metric.read_rows(run_folder / "ensemble" / system / f"{machine}.csv", ["clip", "split", "score"])
    score = {row["clip"]: float(row["score"]) for row in rows if row["split"] == "test"}
    return {row["file"]: score[row["clip"]] for row in truth}


@pytest.fixture(scope="module")
def recordings(tiny_run):
    return tiny_run.results / "synthetic" / "hammer" / "test"


@pytest.fixture(scope="module")
def of_run(tiny_run):
    return ["--run", tiny_run.results, "--machine", "hammer"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_scores_equal_those_of_the_workflow(system, recordings, of_run, tiny_run, capsys):
    status = cli.main([str(part) for part in ("score", recordings, *of_run, "--system", system, "--quiet")])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    expected = scores_of(tiny_run.results, system)
    assert {Path(row["file"]).name for row in rows} == set(expected)
    for row in rows:
        assert float(row["score"]) == pytest.approx(expected[Path(row["file"]).name], abs=1e-6)
        shares = [float(value) for name, value in row.items() if name.startswith("share ")]
        assert sum(shares) == pytest.approx(float(row["score"]), abs=1e-9)
    assert status == (3 if any(row["decision"] == "anomalous" for row in rows) else 0)


def test_decisions_equal_those_of_the_workflow(recordings, of_run, tiny_run, capsys):
    cli.main([str(part) for part in ("score", recordings, *of_run, "--system", "mean", "--json", "--quiet")])
    judged = {Path(row["file"]).name: row["decision"] for row in json.loads(capsys.readouterr().out)["windows"]}
    rows = metric.read_rows(tiny_run.results / "metric" / "hammer.decisions.csv", ["system", "file", "decision"])
    expected = {row["file"]: ["normal", "anomalous"][int(row["decision"])] for row in rows if row["system"] == "mean"}
    assert judged == expected


def test_p_values_count_the_training_clips_with_at_least_this_score(recordings, of_run, tiny_run, capsys):
    cli.main([str(part) for part in ("score", recordings, *of_run, "--system", "noisy-org.spec", "--quiet")])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    path = tiny_run.results / "ensemble" / "noisy-org.spec" / "hammer.csv"
    train = np.array([float(row["score"]) for row in metric.read_rows(path, ["score"]) if row["split"] == "train"])
    for row in rows:
        expected = (1 + np.sum(train >= float(row["score"]))) / (1 + len(train))
        assert float(row["p_value"]) == pytest.approx(expected)


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_a_lossless_copy_gets_the_same_score(suffix, recordings, of_run, tmp_path, capsys):
    original = sorted(recordings.glob("*.wav"))[0]
    wave, rate = soundfile.read(original, dtype="int16")
    copy = tmp_path / f"copy.{suffix}"
    soundfile.write(copy, wave, rate)
    cli.main([str(part) for part in ("score", original, copy, *of_run, "--system", "noisy-org.spec", "--quiet")])
    first, second = csv.DictReader(capsys.readouterr().out.splitlines())
    assert float(first["score"]) == pytest.approx(float(second["score"]), abs=1e-9)


def test_stereo_and_another_rate_are_converted_and_said(recordings, of_run, tmp_path):
    wave, rate = soundfile.read(sorted(recordings.glob("*.wav"))[0])
    soundfile.write(tmp_path / "stereo.wav", np.stack([np.repeat(wave, 2)] * 2, axis=1), 2 * rate)
    done = run("score", tmp_path / "stereo.wav", *of_run, "--system", "noisy-org.spec")
    assert done.returncode in (0, 3)
    assert "2 channels" in done.stderr
    assert "32000 Hz" in done.stderr


def test_a_long_recording_is_judged_in_windows(recordings, of_run, tmp_path, capsys):
    waves = [soundfile.read(path)[0] for path in sorted(recordings.glob("*.wav"))[:3]]
    soundfile.write(tmp_path / "long.wav", np.concatenate(waves), 16_000, subtype="PCM_16")
    cli.main([str(part) for part in ("score", tmp_path / "long.wav", *of_run, "--system", "noisy-org.spec", "--quiet")])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(float(row["start_s"]), float(row["end_s"])) for row in rows] == [(0, 1), (1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("n", "window", "hop", "expected"),
    [
        (10, 10, 10, [(0, 10)]),
        (4, 10, 10, [(0, 4)]),
        (15, 10, 10, [(0, 15)]),
        (16, 10, 10, [(0, 10), (6, 16)]),
        (30, 10, 10, [(0, 10), (10, 20), (20, 30)]),
        (22, 10, 5, [(0, 10), (5, 15), (10, 20), (12, 22)]),
    ],
)
def test_windows_cover_a_recording_to_its_end(n, window, hop, expected):
    assert windows(n, window, hop) == expected


def test_an_explanation_is_a_picture(recordings, of_run, tmp_path):
    clip = sorted(recordings.glob("*.wav"))[0]
    done = run("explain", clip, *of_run, "--system", "mean", "--out", tmp_path / "why.png")
    assert done.returncode in (0, 3), done.stderr
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")


SPEC = ["--system", "noisy-org.spec"]
HAMMER = ["--run", "{run}", "--machine", "hammer"]
BAD_INPUT = {
    "no such file": (["score", "none.wav", *HAMMER, *SPEC], ["none.wav", "no such file"]),
    "empty folder": (["score", "empty", *HAMMER, *SPEC], ["empty", "no recordings"]),
    "too short": (["score", "short.wav", *HAMMER, *SPEC], ["0.20 s", "--allow-short"]),
    "silent": (["score", "silent.wav", *HAMMER, *SPEC], ["silent"]),
    "no audio": (["score", "text.wav", *HAMMER, *SPEC], ["text.wav", "not readable"]),
    "no such channel": (["score", "good.wav", *HAMMER, *SPEC, "--channel", "3"], ["1 channel"]),
    "no run": (["score", "good.wav", "--run", "none", *SPEC], ["none", "finished run"]),
    "no finished run": (["score", "good.wav", "--run", "empty", *SPEC], ["no finished run"]),
    "several machines": (["score", "good.wav", "--run", "{run}", *SPEC], ["--machine", "hammer, spindle"]),
    "unknown machine": (["score", "good.wav", *HAMMER[:3], "fan", *SPEC], ["'fan'", "hammer, spindle"]),
    "no system": (["score", "good.wav", *HAMMER], ["--system", "noisy-org.spec"]),
    "unknown system": (["score", "good.wav", *HAMMER, "--system", "99"], ["'99'", "noisy-org.spec"]),
    "no hop": (["score", "good.wav", *HAMMER, *SPEC, "--hop", "0"], ["--hop"]),
    "folder explained": (["explain", "empty", *HAMMER, *SPEC], ["one recording"]),
    "no checkpoint": (
        ["score", "good.wav", *HAMMER, "--system", "noisy-org.eat", "--checkpoints", "empty"],
        ["eat.pt", "--checkpoints"],
    ),
    "no package": (["validate-submission", "none.zip"], ["none.zip"]),
    "no config": (["check", "none.yaml"], ["none.yaml"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_told_in_one_line(case, recordings, tmp_path, monkeypatch, capsys):
    arguments, words = BAD_INPUT[case]
    wave, rate = soundfile.read(sorted(recordings.glob("*.wav"))[0])
    for name, content in {"good": wave, "short": wave[: rate // 5], "silent": wave * 0}.items():
        soundfile.write(tmp_path / f"{name}.wav", content, rate)
    (tmp_path / "text.wav").write_text("no sound at all")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main([argument.format(run=recordings.parents[2]) for argument in arguments]) == 1
    message = capsys.readouterr().err
    assert message.startswith("firstshot: error: ")
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


def test_a_folder_without_write_permission_is_told_in_one_line(recordings, of_run, capsys):
    clip = sorted(recordings.glob("*.wav"))[0]
    out = Path("/proc/scores.csv")  # refuses even the superuser
    assert (
        cli.main([str(p) for p in ("score", clip, *of_run, "--system", "noisy-org.spec", "--out", out, "--quiet")]) == 1
    )
    message = capsys.readouterr().err
    assert message.startswith("firstshot: error: /proc/")
    assert len(message.splitlines()) == 1


def test_a_mistake_shows_no_traceback():
    done = run("score", "none.wav", "--run", "nowhere")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_wrong_use_has_a_status_of_its_own():
    assert run("score").returncode == 2


@pytest.mark.parametrize("name", ["score", "explain", "bundle", "new-config", "check", "validate-submission"])
def test_every_command_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert f"firstshot {name} " in capsys.readouterr().out.split("example:")[1]


# ------------------------------------------------------------------------------------------------ new-config and check


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder with firstshot's config and schema, as current folder."""
    for name in ("config/config.yaml", "workflow/schemas/config.schema.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(folder, names, seconds=2.0, rate=16_000):
    generator = np.random.default_rng(len(names))
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, generator.normal(0, 0.1, round(seconds * rate)), rate)


def test_a_loose_folder_gets_a_config_that_passes_its_check(repository, capsys):
    normal = [f"normal/{i}.wav" for i in range(10)] + [f"target/{i}.wav" for i in range(3)]
    record(repository / "pump", [*normal, "abnormal/1.wav", "abnormal/2.wav"])
    assert cli.main(["new-config", "pump", "--out", "config/mine.yaml"]) == 0
    assert "11 training clips (3 of the target domain)" in capsys.readouterr().err
    rows = metric.read_rows(Path("config/mine.csv"), ["clip", "split", "condition"])
    by_clip = {row["clip"]: (row["split"], row["condition"]) for row in rows}
    assert by_clip["abnormal/1.wav"] == ("test", "anomaly")
    assert sorted(by_clip.values()).count(("test", "normal")) == 2
    assert cli.main(["check", "config/mine.yaml"]) == 0
    assert "ok:" in capsys.readouterr().out


def test_folders_with_folders_of_normal_clips_are_machine_types(repository, capsys):
    for machine in ("fan", "pump 2"):
        record(repository / "raw", [f"{machine}/normal/{i}.wav" for i in range(10)] + [f"{machine}/faulty/1.wav"])
    assert cli.main(["new-config", "raw", "--out", "config/mine.yaml"]) == 0
    said = capsys.readouterr().err
    assert "fan: 8 training clips" in said and "pump2: 8 training clips" in said
    rows = metric.read_rows(Path("config/mine.csv"), ["clip", "split", "machine"])
    assert {(row["machine"], row["clip"].split("/")[0]) for row in rows} == {("fan", "fan"), ("pump2", "pump 2")}


def test_a_folder_in_dcase_layout_is_used_as_it_is(repository):
    for machine in ("fan", "pump"):
        names = [f"train/section_00_source_train_normal_{i:04}_speed_{i % 2}.wav" for i in range(6)]
        record(repository / "raw" / machine, [*names, "test/section_00_source_test_anomaly_0000_speed_1.wav"])
    assert cli.main(["new-config", "raw", "--out", "config/mine.yaml", "--quiet"]) == 0
    assert not Path("config/mine.csv").exists()
    assert "source: folder" in Path("config/mine.yaml").read_text()


def test_one_kind_of_sound_without_checkpoints_says_what_would_help(repository, capsys):
    record(repository / "pump", [f"{i}.wav" for i in range(6)])
    assert cli.main(["new-config", "pump", "--out", "config/mine.yaml"]) == 1
    message = capsys.readouterr().err
    assert "BEATs_iter3.pt" in message
    assert not Path("config/mine.yaml").exists()


def test_an_existing_config_is_not_overwritten(repository, capsys):
    assert cli.main(["new-config", ".", "--out", "config/config.yaml"]) == 1
    assert "exists" in capsys.readouterr().err


def test_check_lists_all_problems_at_once(repository, capsys):
    record(repository / "pump", [f"normal/{i}.wav" for i in range(10)] + [f"target/{i}.wav" for i in range(3)])
    cli.main(["new-config", "pump", "--out", "config/mine.yaml", "--quiet"])
    Path("pump/normal/0.wav").write_bytes(b"RIFF")
    Path("pump/normal/1.wav").write_bytes(Path("pump/normal/1.wav").read_bytes()[:1000])
    assert cli.main(["check", "config/mine.yaml", "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert len(problems) == 2
    assert "0.wav" in problems[0]
    assert "truncated" in problems[1]


def test_check_names_the_nearest_key(repository, capsys):
    Path("config/mine.yaml").write_text("train: {spec: {epoch: 3}}\n")
    assert cli.main(["check", "config/mine.yaml"]) == 1
    assert "did you mean 'epochs'" in capsys.readouterr().out


def test_outside_the_repository_the_remedy_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("")
    assert cli.main(["check", "mine.yaml"]) == 1
    assert "firstshot's own folder" in capsys.readouterr().err
