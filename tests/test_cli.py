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
from tinyrun import TINY

from firstshot import cli, metric, new_config
from firstshot import config as configs
from firstshot.detector import windows
from firstshot.schedule import of_frontend

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
    ("n", "whole", "window", "hop", "expected"),
    [
        (10, 10, 10, 10, [(0, 10)]),
        (4, 10, 10, 10, [(0, 4)]),
        (12, 12, 10, 10, [(0, 12)]),
        (15, 12, 10, 10, [(0, 10), (5, 15)]),
        (30, 12, 10, 10, [(0, 10), (10, 20), (20, 30)]),
        (22, 10, 10, 5, [(0, 10), (5, 15), (10, 20), (12, 22)]),
    ],
)
def test_windows_cover_a_recording_to_its_end(n, whole, window, hop, expected):
    assert windows(n, whole, window, hop) == expected


def test_what_happens_at_the_end_of_a_recording_is_heard(recordings, of_run, tmp_path, capsys):
    wave, rate = soundfile.read(sorted(recordings.glob("*.wav"))[0])
    longer = np.concatenate([wave, wave[: rate * 4 // 10]])
    noisy = longer.copy()
    noisy[-rate // 10 :] = np.random.default_rng(0).uniform(-0.9, 0.9, rate // 10)
    scores = {}
    for name, content in {"same": longer, "noisy": noisy}.items():
        soundfile.write(tmp_path / f"{name}.wav", content, rate)
        arguments = ("score", tmp_path / f"{name}.wav", *of_run, "--system", "noisy-org.spec", "--quiet")
        cli.main([str(part) for part in arguments])
        rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
        assert float(rows[-1]["end_s"]) == pytest.approx(1.4)
        scores[name] = max(float(row["score"]) for row in rows)
    assert scores["noisy"] != scores["same"]


def test_a_recording_shorter_than_the_training_clips_is_said_to_be_repeated(recordings, of_run, tmp_path):
    wave, rate = soundfile.read(sorted(recordings.glob("*.wav"))[0])
    soundfile.write(tmp_path / "short.wav", wave[: rate * 7 // 10], rate)
    done = run("score", tmp_path / "short.wav", *of_run, "--system", "noisy-org.spec")
    assert done.returncode in (0, 3)
    assert "short.wav: 0.70 s, shorter than the training clips; repeated" in done.stderr


def test_a_broken_recording_leaves_the_verdicts_on_the_others(recordings, of_run, tmp_path, capsys):
    shutil.copy(sorted(recordings.glob("*.wav"))[0], tmp_path / "good.wav")
    (tmp_path / "broken.wav").write_text("no sound at all")
    (tmp_path / "._good.wav").write_text("what another system left here")
    (tmp_path / "folder.wav").mkdir()
    arguments = [str(part) for part in ("score", tmp_path, *of_run, "--system", "noisy-org.spec", "--quiet", "--json")]
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    judged = json.loads(said.out)
    assert [Path(row["file"]).name for row in judged["windows"]] == ["good.wav"]
    assert [Path(name).name for name in judged["not_judged"]] == ["broken.wav"]
    assert said.err.startswith("firstshot: error: ")
    assert len(said.err.splitlines()) == 1


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
    "negative channel": (["score", "good.wav", *HAMMER, *SPEC, "--channel", "-1"], ["--channel -1"]),
    "header that lies": (["score", "lie.flac", *HAMMER, *SPEC], ["lie.flac"]),
    "sampling rate of no recorder": (["score", "slow.wav", *HAMMER, *SPEC], ["1 Hz"]),
    "sampling rate of no ratio": (["score", "odd.wav", *HAMMER, *SPEC], ["44101 Hz"]),
    "no name": (["score", "good.wav", *HAMMER[:3], "", *SPEC], ["''", "hammer, spindle"]),
    "no threads": (["score", "good.wav", *HAMMER, *SPEC, "--threads", "0"], ["--threads 0", "at least 1"]),
    "no folder of checkpoints": (
        ["score", "good.wav", *HAMMER, "--system", "noisy-org.eat", "--checkpoints", "none"], ["none: no such folder"],
    ),
    "out is a folder": (["score", "good.wav", *HAMMER, *SPEC, "--out", "empty"], ["empty: cannot be written"]),
    "out in no folder": (["explain", "good.wav", *HAMMER, *SPEC, "--out", "no/why.png"], ["no/why.png: cannot be"]),
    "no hop": (["score", "good.wav", *HAMMER, *SPEC, "--hop", "0"], ["--hop"]),
    "hop of no number": (["score", "good.wav", *HAMMER, *SPEC, "--hop", "nan"], ["--hop nan"]),
    "endless hop": (["score", "good.wav", *HAMMER, *SPEC, "--hop", "inf"], ["--hop inf"]),
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
    for name, odd in {"slow": 1, "odd": 44_101}.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, odd)
    soundfile.write(tmp_path / "lie.flac", wave, rate)
    content = bytearray((tmp_path / "lie.flac").read_bytes())
    content[21:26] = bytes([content[21] | 0x0F, *b"\xff\xff\xff\xff"])  # 2^36 samples
    (tmp_path / "lie.flac").write_bytes(content)
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


def test_what_was_not_foreseen_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    def fail(args):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(cli, "validate_submission", fail)
    assert cli.main(["validate-submission", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("firstshot: error: RuntimeError: first line")
    assert len(message.splitlines()) == 1
    with pytest.raises(RuntimeError):
        cli.main(["validate-submission", str(tmp_path), "--traceback"])


def test_a_reader_that_has_seen_enough_is_no_error():
    with subprocess.Popen([sys.executable, "-c", "pass"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from firstshot.cli import main; sys.exit(main())", "check", TINY],
            cwd=ROOT, stdout=reader.stdin, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode == 1


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
    assert "fan: 8 training clips" in said
    assert "pump2: 8 training clips" in said
    rows = metric.read_rows(Path("config/mine.csv"), ["clip", "split", "machine"])
    assert {(row["machine"], row["clip"].split("/")[0]) for row in rows} == {("fan", "fan"), ("pump2", "pump 2")}


def test_machine_types_whose_names_are_cut_alike_stay_apart(repository, capsys):
    for machine in ("насос", "вентилятор", "pump 2", "pump2"):
        record(repository / "raw", [f"{machine}/normal/{i}.wav" for i in range(3)])
    assert cli.main(["new-config", "raw", "--out", "config/mine.yaml", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {line.partition(":")[0] for line in found["found"]} >= {"machine", "machine-2", "pump2", "pump2-2"}
    assert found["system"] == "1"


def test_recordings_that_are_all_called_tests_are_told(repository, capsys):
    record(repository / "pump", [f"test {i}.wav" for i in range(6)])
    assert cli.main(["new-config", "pump", "--out", "config/mine.yaml"]) == 1
    message = capsys.readouterr().err
    assert "no recording of pump is for training" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("n_clips", [4, 40, 400])
def test_public_checkpoints_get_schedules_that_fit_the_recordings(n_clips):
    base = configs.load(ROOT / "config/config.yaml")
    for frontend in ("spec", "beats", "eat", "sslam"):
        settings = base["train"][frontend] | new_config._schedule(base["train"][frontend], n_clips)
        schedule = of_frontend(frontend, n_clips, 1, settings)
        assert schedule.steps >= 300
        assert schedule.warmup_steps <= schedule.steps / 5


@pytest.mark.parametrize("layout", ["one kind", "two kinds", "with supplement"])
def test_a_folder_with_public_checkpoints_gets_a_config_that_can_be_run(layout, repository, capsys):
    for name in ("BEATs_iter3.pt", "EAT-base_epoch10_pt.pt", "SSLAM_Pretrained/checkpoint_last.pt"):
        (repository / "checkpoints" / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / "checkpoints" / name).touch()
    names = [f"normal/{i}.wav" for i in range(10)] + (["target/1.wav", "target/2.wav"] if layout != "one kind" else [])
    record(repository / "pump", names + (["supplemental/clean/1.wav"] if layout == "with supplement" else []))
    record(repository / "noise", ["1.wav"])
    assert cli.main(["new-config", "pump", "--out", "config/mine.yaml", "--noise", "noise"]) == 0
    said = capsys.readouterr().err
    assert f"--run results/mine --system {'10' if layout == 'one kind' else '2'}" in said
    config = configs.load(Path("config/config.yaml"), Path("config/mine.yaml"))
    plan = configs.Plan(config)
    assert plan.enhanced == (["pump"] if layout == "with supplement" else [])


BAD_NAMES = {
    "no yaml": (["--out", "config/mine.csv"], "ending in .yaml"),
    "a blank": (["--out", "config/my pump.yaml"], "config/my-pump.yaml"),
    "a path as machine type": (["--out", "config/mine.yaml", "--machine", "a b/.."], "--machine 'a b/..'"),
    "no machine type": (["--out", "config/mine.yaml", "--machine", ""], "--machine ''"),
}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_a_name_that_cannot_be_used_is_told_in_one_line(case, repository, capsys):
    arguments, words = BAD_NAMES[case]
    record(repository / "pump", ["normal/1.wav", "normal/2.wav"])
    assert cli.main(["new-config", "pump", *arguments]) == 1
    message = capsys.readouterr().err
    assert words in message
    assert len(message.splitlines()) == 1


def test_a_list_of_clips_that_was_mended_is_not_overwritten(repository, capsys):
    record(repository / "pump", [f"normal/{i}.wav" for i in range(10)] + ["target/1.wav"])
    Path("config/mine.csv").write_text("mended")
    assert cli.main(["new-config", "pump", "--out", "config/mine.yaml"]) == 1
    assert "config/mine.csv exists" in capsys.readouterr().err
    assert Path("config/mine.csv").read_text() == "mended"


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


def test_check_names_the_nearest_key_a_line_per_mistake(repository, capsys):
    Path("config/mine.yaml").write_text("train: {spec: {epoch: 3}}\nsedes: [0]\n")
    assert cli.main(["check", "config/mine.yaml"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("problem: ") for line in lines)
    assert "did you mean 'epochs'" in lines[1]


@pytest.mark.parametrize("content", [b"a: [", b"- 1\n- 2", b"words", b"\xff\xfe\x00", b"a: b: c", b"a: 1\n\tb: 2"])
def test_a_config_that_is_no_yaml_is_told_in_one_line(content, repository, capsys):
    Path("config/mine.yaml").write_bytes(content)
    assert cli.main(["check", "config/mine.yaml"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("firstshot: error: config/mine.yaml: ")
    assert len(message.splitlines()) == 1


def test_check_says_what_is_converted_and_what_contradicts(repository, capsys):
    for machine in ("fan", "pump"):
        names = [f"train/section_00_source_train_normal_{i:04}_speed_{i % 2}.wav" for i in range(6)]
        record(repository / "raw" / machine, [*names, "test/section_00_source_test_normal_0000_speed_1.wav"], rate=8000)
    record(repository / "raw/fan", ["train/section_00_source_train_normal_0007_speed_1.wav"], seconds=1.5)
    table = "file_name,d1p,d1v\nsection_00_source_train_normal_0001_speed_1.wav,speed,9\n"
    Path("raw/fan/attributes_00.csv").write_text(table)
    cli.main(["new-config", "raw", "--out", "config/mine.yaml", "--quiet"])
    assert cli.main(["check", "config/mine.yaml", "--json"]) == 0
    notices = "\n".join(json.loads(capsys.readouterr().out)["notices"])
    assert "pump: clips brought to 16000 Hz; found 7 at 8000 Hz" in notices
    assert "fan: 1 of 8 clips are not 2.00 s long" in notices
    assert "attributes_00.csv contradicts the file names" in notices


def test_check_says_that_clips_are_too_short_for_a_network(repository, capsys):
    record(repository / "pump", [f"normal/{i}.wav" for i in range(10)] + [f"target/{i}.wav" for i in range(3)])
    cli.main(["new-config", "pump", "--out", "config/mine.yaml", "--quiet"])
    Path("config/short.yaml").write_text("train: {clip_seconds: 1.0}")
    assert cli.main(["check", "config/mine.yaml", "config/short.yaml"]) == 1
    assert "problem: train.clip_seconds 1: Spec" in capsys.readouterr().out


def test_check_looks_at_fetched_recordings_that_are_there(repository, capsys):
    machine = Path("data/dcase2024/raw/fan")
    record(machine, ["train/section_00_source_train_normal_0001_m-n_W.wav", "test/section_00_source_test_normal_1.wav"])
    next((machine / "train").iterdir()).write_bytes(b"RIFF")
    text = "data: {source: dcase, year: 2024, folder: data/dcase2024}\nmachines: [fan]\nfrontends: [spec]\nfrozen: []\n"
    Path("config/mine.yaml").write_text(text)
    cli.main(["check", "config/mine.yaml", "--json"])
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any("section_00_source_train_normal_0001_m-n_W.wav: not readable" in problem for problem in problems)


def test_outside_the_repository_the_remedy_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("")
    assert cli.main(["check", "mine.yaml"]) == 1
    assert "firstshot's own folder" in capsys.readouterr().err
