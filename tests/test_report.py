"""The report's plots show the numbers they claim, and its pages are self-contained and safe to open."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from firstshot import metric, page, report, report_pages, report_tables, tables
from firstshot.packed import PackedAudio, write_audio, write_embeddings

RATE = 16_000
SCRIPTS = Path(__file__).parents[1] / "workflow" / "scripts"


@pytest.fixture
def clips():
    """40 test clips, anomalous ones a little higher, target domain shifted up."""
    generator = np.random.default_rng(0)
    anomalous = np.arange(40) % 2 == 1
    domain = np.where(np.arange(40) % 4 < 2, "source", "target")
    scores = generator.normal(0.2, 0.05, 40) + 0.05 * anomalous + 0.03 * (domain == "target")
    return scores, anomalous, domain


def condition(anomalous):
    return np.where(anomalous, "anomalous", "normal")


def line_labels(figure):
    return [line.get_label() for axes in figure.axes for line in axes.get_lines()]


def test_roc_labels_carry_the_official_metrics(clips):
    scores, anomalous, domain = clips
    expected = metric.section_metrics(scores, anomalous, domain, None, 0.1)
    labels = line_labels(report.roc(scores, anomalous, domain, 0.1))
    assert f"all clips, pAUC {expected['pAUC']:.3f}" in labels
    assert f"source normals, AUC {expected['AUC_source']:.3f}" in labels
    assert f"target normals, AUC {expected['AUC_target']:.3f}" in labels


def test_histogram_has_a_panel_per_domain_and_the_threshold_in_each(clips):
    scores, anomalous, domain = clips
    figure = report.score_histogram(scores, condition(anomalous), domain, 0.25)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["source", "target"]
    for axes in figure.axes:
        assert [line.get_xdata()[0] for line in axes.get_lines()] == [0.25]
        assert {text.get_text() for text in axes.get_legend().get_texts()} >= {"10 normal", "10 anomalous"}


def test_histogram_of_equal_scores_without_threshold_is_drawn():
    figure = report.score_histogram(np.ones(3), np.array(["unknown"] * 3), np.array(["", "", ""]), None)
    assert figure.axes[0].get_title(loc="left") == "unknown domain"


def test_spectrogram_of_a_full_scale_sine_is_zero_db_at_its_frequency():
    image = report.spectrogram_db(np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE), RATE)
    assert image.shape[0] == 513
    assert abs(image[64].max()) < 0.1  # bin 64 of 1024 at 16 kHz is 1 kHz
    assert image[200, 5:-5].max() < -60


def test_spectrogram_of_a_clip_shorter_than_a_window_is_drawn():
    assert np.isfinite(report.spectrogram_db(np.ones(10), RATE)).all()


def test_enhancement_shows_what_was_removed():
    before = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    figure = report.enhancement(before, before * 0, RATE)
    titles = [axes.get_title(loc="left") for axes in figure.axes[:3]]
    assert titles == ["before (-3 dB)", "after (-120 dB)", "removed (-3 dB)"]


def test_embedding_map_is_fitted_on_training_clips_alone(clips):
    _, anomalous, domain = clips
    train = np.random.default_rng(1).normal(size=(30, 8))
    arguments = {
        "train": train, "train_domain": np.array(["source"] * 27 + ["target"] * 3),
        "train_class": np.array(["a"] * 15 + ["b"] * 15), "condition": condition(anomalous), "test_domain": domain,
    }  # fmt: skip
    near, far = (report.embedding_map(test=np.full((40, 8), value), **arguments) for value in (0.1, 100.0))
    for figure, other in ((near, far), (far, near)):
        assert figure.axes[0].get_xlabel() == other.axes[0].get_xlabel()
        np.testing.assert_array_equal(
            figure.axes[0].collections[0].get_offsets(), other.axes[0].collections[0].get_offsets()
        )


def test_embedding_map_of_a_single_training_clip_is_drawn(clips):
    _, anomalous, domain = clips
    figure = report.embedding_map(
        train=np.ones((1, 8)), train_domain=np.array(["source"]), train_class=np.array(["a"]),
        test=np.random.default_rng(0).normal(size=(40, 8)), condition=condition(anomalous), test_domain=domain,
    )  # fmt: skip
    assert report.svg(figure)


def test_names_with_dollar_signs_and_underscores_are_shown_as_they_are():
    name, wave = r"a$\foo$.wav", np.random.default_rng(0).normal(0, 0.1, RATE)
    figure = report.explanation(
        wave, RATE, neighbours=[(name, wave), ("_b", wave)], shares={"one": 0.1}, title=name, caption=name
    )
    assert name in report.svg(figure)
    clusters = report.cluster_composition(np.array(["a", "b"]), np.array(["_x", "_y"]), "attributes")
    assert [text.get_text().strip() for text in clusters.axes[0].get_legend().get_texts()] == ["_x", "_y"]


def test_training_curves_are_named_by_their_seeds():
    steps = np.arange(3.0)
    figure = report.training_curves(
        {"one": {"seed3": (steps, steps)}, "two": {"seed3": (steps, steps), "seed7": (steps, steps)}}
    )
    assert line_labels(figure) == ["seed3", "seed3", "seed7"]
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["seed3", "seed7"]


def test_bic_curve_marks_the_lowest_point():
    figure = report.bic_curve(np.arange(1, 5), {"noisy": np.array([4.0, 2.0, 3.0, 5.0])})
    marked = [line.get_xdata()[0] for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 1]
    assert marked == [2]


def test_the_same_figure_gives_the_same_bytes(clips):
    assert report.svg(report.roc(*clips, 0.1)) == report.svg(report.roc(*clips, 0.1))


def test_names_from_outside_are_shown_and_not_run():
    evil = "<script>alert(1)</script>"
    html = page.render(evil, evil, [page.Section(evil, evil, [page.table([evil], [[evil]]), page.card(evil, evil)])])
    assert evil not in html
    assert html.count("&lt;script&gt;alert(1)") >= 7


def test_a_player_holds_an_mp3_at_nearly_full_scale():
    import base64
    import io

    import soundfile

    quiet = 0.001 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    encoded = re.search(r"base64,([^\"]+)", page.player(quiet, RATE, "x"))[1]
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(encoded)))
    assert rate == RATE
    assert 0.8 < np.abs(wave).max() < 1.0
    assert abs(len(wave) / rate - 2) < 0.2


@pytest.mark.parametrize(
    ("values", "best"), [([0.5, 0.7, 0.6], 1), ([float("nan"), 0.5, 0.7], 2), ([0.5], None), ([0.6, 0.6], 0)]
)
def test_the_best_row_is_marked(values, best):
    assert report_pages._best(values) == best


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0 s"), (3.26, "3.3 s"), (75, "75 s"), (600, "10 min 0 s"), (9000, "2.5 h")]
)
def test_durations_are_short(seconds, text):
    assert report.duration(seconds) == text


def test_cost_stands_in_the_order_of_the_stages(tmp_path):
    for rule in ("report_machine", "train", "embed", "embed_frozen", "data_pack"):
        (tmp_path / f"{rule}.tsv").write_text("s\th:m:s\tmax_rss\n1\t0:00:01\t5\n")
    order = ["data_pack", "embed_frozen", "train", "embed", "report_machine"]
    assert report_tables.cost(tmp_path)["rule"] == order


def test_cost_is_summed_per_rule_and_memory_is_the_largest(tmp_path):
    for name, seconds, memory in (("a", 1.5, "100"), ("b", 2.5, "300"), ("c", 1, "-")):
        file = tmp_path / "train" / f"{name}.tsv"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t{memory}\n")
    assert report_tables.cost(tmp_path) == {"rule": ["train"], "jobs": [3], "seconds": [5.0], "peak_mb": [300.0]}


# ------------------------------------------------------------------------------------- the two programs, on made files


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


@pytest.fixture
def run(tmp_path, clips):
    """Files of a finished run of one machine type, `fan`, and the command line for its page."""
    scores, anomalous, domain = clips
    generator = np.random.default_rng(0)
    waves = [generator.normal(0, 0.1, RATE // 2).astype(np.float32) for _ in range(40)]
    names = [f"test-{i:04d}" for i in range(40)]
    shuffled = generator.permutation(40)
    train = [f"train-{i}" for i in range(12)]
    train_domain = ["source"] * 9 + ["target"] * 3
    rows = [[names[i], "test", scores[i]] for i in shuffled] + [[clip, "train", 0.2] for clip in train]
    truth = [
        [names[i], f"real_{i}.wav", "00", domain[i], "anomaly" if anomalous[i] else "normal", ""] for i in range(40)
    ]
    metrics = metric.section_metrics(scores, anomalous, domain, None, 0.1)
    columns = ["system", "section", "threshold", "official", "false_alarms_per_day", *metric.OFFICIAL]
    values = ["one", "00", 0.25, 0.6, 12.0, *(metrics[name] for name in metric.OFFICIAL)]
    write_audio(
        tmp_path / "test.arrow", ({"clip": names[i], "section": "00", "samples": waves[i]} for i in range(40)),
        machine="fan", split="test", sampling_rate=RATE, dtype=np.float32,
    )  # fmt: skip
    write_audio(
        tmp_path / "enhanced.arrow", ({"clip": names[i], "section": "00", "samples": waves[i] / 2} for i in range(40)),
        machine="fan", split="test", sampling_rate=RATE, dtype=np.float32,
    )  # fmt: skip
    write_audio(
        tmp_path / "train.arrow",
        ({"clip": clip, "section": "00", "domain": of, "samples": waves[0]}
         for clip, of in zip(train, train_domain, strict=True)),
        machine="fan", split="train", sampling_rate=RATE, dtype=np.float32,
    )  # fmt: skip
    for split in ("train", "test"):
        clips = PackedAudio.open(tmp_path / f"{split}.arrow")
        vectors = generator.normal(size=(len(clips), 8)).astype(np.float32)
        write_embeddings(tmp_path / f"embedding.{split}.arrow", clips, {"seed0": vectors})
    files = {
        "--scores": write_csv(tmp_path / "one" / "fan.csv", ["clip", "split", "score"], rows),
        "--truth": write_csv(
            tmp_path / "truth.csv", ["clip", "file", "section", "domain", "condition", "attributes"], truth
        ),
        "--metric": write_csv(tmp_path / "metric.csv", columns, [values]),
        "--train": tmp_path / "train.arrow",
        "--test": tmp_path / "test.arrow",
        "--enhanced": tmp_path / "enhanced.arrow",
        "--enhance-curve": write_csv(tmp_path / "model.csv", ["step", "loss"], [[1, 3], [2, 1]]),
        "--labels": write_csv(tmp_path / "noisy" / "fan.csv", ["clip", "label"], [[clip, "a"] for clip in train]),
        "--bic": write_csv(tmp_path / "noisy" / "fan.bic.csv", ["clusters", "bic"], [[1, 5.0], [2, 4.0]]),
        "--page": tmp_path / "out" / "page.html",
        "--figures": tmp_path / "out" / "figures",
    }
    params = {"names": {"one": "The one"}, "pauc_p": 0.1, "clips": 3, "embedding": "one", "untrained": True}
    command = [sys.executable, SCRIPTS / "report_machine.py", "--machine", "fan", "--params", json.dumps(params)]
    command += [str(part) for pair in files.items() for part in pair]
    command += ["--embeddings", tmp_path / "embedding.train.arrow", tmp_path / "embedding.test.arrow"]
    return command, files


def test_a_machine_page_shows_everything_and_asks_nothing_of_the_network(run):
    command, files = run
    subprocess.run(command, check=True, capture_output=True)
    html = files["--page"].read_text()
    for title in ("ROC curves", "Scores of the test clips", "Embedding map", "Enhancement", "Pseudo labels"):
        assert f"<h2>{title}</h2>" in html
    assert page.UNTRAINED in html
    assert html.count("<audio") == 6 + 6  # three anomalous, three typical; before, after and removed of two
    assert not re.search(r"""(?:src|href)=(?!"data:)""", html)
    drawn = {path.name for path in files["--figures"].iterdir()}
    assert drawn >= {"roc.1.svg", "scores.1.svg", "embedding.svg", "bic.svg", "clusters.noisy.svg"}


def test_the_most_anomalous_clip_comes_first_under_its_real_name(run, clips):
    command, files = run
    subprocess.run(command, check=True, capture_output=True)
    shown = re.findall(r"<figcaption><b>(real_\d+\.wav)</b> score", files["--page"].read_text())
    order = np.argsort(-clips[0])
    assert shown == [f"real_{i}.wav" for i in (*order[:3], *order[-3:])]


def test_a_machine_type_without_known_conditions_has_scores_and_no_roc(run):
    command, files = run
    files["--truth"].write_text(re.sub(r",(source|target),(normal|anomaly),", ",,,", files["--truth"].read_text()))
    subprocess.run(command, check=True, capture_output=True)
    html = files["--page"].read_text()
    assert "<h2>ROC curves</h2>" not in html
    assert "in truth unknown" in html


# ------------------------------------------------------------------------------------------------------- front page


@pytest.fixture
def summary(tmp_path):
    """The command line of the front page and the file it makes, on made files of two pools."""
    header = ["system", "machines", "machine_types", "official_score", "low", "high", "seed_std", "seeds"]
    files = {
        "--official": write_csv(tmp_path / "official.csv", header, [["1", "all", 2, 0.6, 0.5, 0.7, 0.01, 2]]),
        "--manifests": write_csv(tmp_path / "fan" / "manifest.csv", ["clip", "split"], [["a", "train"]]),
        "--benchmarks": tmp_path / "benchmarks",
        "--page": tmp_path / "out" / "index.html",
        "--figures": tmp_path / "out" / "figures",
    }
    noise = {"rule": "noise_index", "code": "c0de.1", "inputs": {}, "outputs": {"index": {"sha256": "f00d"}}}
    (tmp_path / "noise.json").write_text(json.dumps(noise))
    made = {
        "rule": "metric", "code": "abc.1", "versions": {"firstshot": "0.1.0"}, "outputs": {},
        "inputs": {"noise": [{"file": "noise.csv", "sha256": ""}], "beats": [{"file": "x/beats.pt", "sha256": "beef"}]},
    }  # fmt: skip
    (tmp_path / "official.json").write_text(json.dumps(made))
    curves = [
        write_csv(tmp_path / f"{pool}/noisy-org/spec/seed{seed}.csv", ["step", "loss"], [[1, 3], [2, 1]])
        for pool in ("big", "small")
        for seed in (3, 7)
    ]
    shown = {"experiment": "x", "data": {"source": "folder"}, "seeds": [3, 7], "software_epoch": 1}
    params = {"names": {"1": "The one"}, "untrained": False}
    command = [
        sys.executable,
        SCRIPTS / "report_summary.py",
        "--config",
        json.dumps(shown),
        "--params",
        json.dumps(params),
    ]
    command += [*(str(part) for pair in files.items() for part in pair), "--curves", *curves]
    return command, files["--page"]


def test_the_front_page_keeps_pools_apart_and_names_seeds(summary):
    command, path = summary
    subprocess.run(command, check=True, capture_output=True)
    drawn = (path.parent / "figures/training.svg").read_text()
    for words in ("noisy-org.spec (big)", "noisy-org.spec (small)", "seed3", "seed7"):
        assert words in drawn


def test_the_front_page_says_with_which_code_and_checkpoints_the_run_was_made(summary):
    command, path = summary
    subprocess.run(command, check=True, capture_output=True)
    html = path.read_text()
    for words in ("abc.1", "c0de.1", "checkpoint beats.pt", "beef", "f00d", "firstshot 0.1.0", "commit"):
        assert words in html


def test_the_front_page_shows_the_tables_beside_the_published_numbers(summary, tmp_path):
    command, path = summary
    theirs = tables.published_cells()
    scores = {cell: score + 0.25 for cell, score in theirs.items()}
    systems, machines = {system for system, _ in theirs}, tables.published()["machines"].values()
    scores = {(system, machine): 60.0 for system in systems for listed in machines for machine in listed} | scores
    ours = tables.Ours(scores, {}, tables.published()["year"])
    files = []
    for name in ("table1", "table2", "table3", "figure2", "conclusions"):
        rows = getattr(tables, name)(ours)
        metric.write_rows(tmp_path / f"{name}.csv", rows, list(rows[0]))
        files.append(tmp_path / f"{name}.csv")
    subprocess.run([*command, "--tables", *files], check=True, capture_output=True)
    html = path.read_text()
    for caption in tables.CAPTIONS.values():
        assert str(page.escape(caption)) in html
    spec = theirs["noisy-org.spec", tables.DEVELOPMENT]
    assert f"{spec + 0.25:.2f} ({spec:.2f}, +0.25)" in html
    assert (path.parent / "figures/figure2.svg").is_file()


def test_tables_without_a_number_of_this_run_are_only_named(summary, tmp_path):
    command, path = summary
    files = []
    for name in ("table1", "figure2", "conclusions"):
        rows = getattr(tables, name)(tables.Ours({}, {}))
        metric.write_rows(tmp_path / f"{name}.csv", rows, list(rows[0]))
        files.append(tmp_path / f"{name}.csv")
    subprocess.run([*command, "--tables", *files], check=True, capture_output=True)
    assert "This run has no numbers for: Table 1; Fig. 2; The paper" in path.read_text()
