"""The rows of the staleness matrix: a change, and which jobs it must make run again.

The expected sets are written down from what the stages read, not from what Snakemake answers. Jobs are named as their
log files are, `<rule>/<wildcards>`. The finished runs are those of `config/tiny.yaml` with all products of the report:
machine types hammer (enhanced, with pseudo labels) and spindle (on the skip list, with attributes), the strategies
noisy-org and enhanced-enhanced, the frontends spec and eat, one seed.
"""

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tinyrun import ROOT, TINY, Run

Jobs = frozenset[str]
Change = Callable[[Run], None]

HAMMER, SPINDLE = "hammer", "spindle"
MACHINES = (HAMMER, SPINDLE)
RELAY = "relay"
ALL_THREE = (*MACHINES, RELAY)
ORG, PSEUDO = "noisy-org", "enhanced-enhanced"
STRATEGIES = (ORG, PSEUDO)
FRONTENDS = ("spec", "eat")
# Outputs of these stages are cheaper to make than to keep, so they are computed whenever they are planned.
NOT_STORED = ("data_index", "noise_index", "ensemble", "report_machine", "report_summary")


# ------------------------------------------------------------------------------------------------------- sets of jobs


def jobs(*names: str | Iterable[str]) -> Jobs:
    """Union of single jobs and sets of them."""
    return frozenset(job for name in names for job in ([name] if isinstance(name, str) else name))


def packed(*machines: str, splits: Iterable[str] = ("train", "test")) -> Jobs:
    return frozenset(f"data_pack/{machine}/{split}" for machine in machines for split in splits)


def enhanced(machine: str = HAMMER) -> Jobs:
    """Training and application of one machine type's enhancement."""
    return jobs(f"enhance_train/{machine}", (f"enhance_apply/{machine}/{split}" for split in ("train", "test")))


CLUSTERED = jobs("embed_frozen/enhanced/beats/hammer/train", "pseudo_label/enhanced/hammer")


def trained(
    strategies: Iterable[str] = STRATEGIES,
    frontends: Iterable[str] = FRONTENDS,
    seeds: Iterable[int] = (0,),
    pool: str = "all",
) -> Jobs:
    return frozenset(f"train/{pool}/{s}/{f}/seed{k}" for s in strategies for f in frontends for k in seeds)


def embedded(
    strategies: Iterable[str] = STRATEGIES,
    frontends: Iterable[str] = FRONTENDS,
    machines: Iterable[str] = MACHINES,
    pool: str = "all",
) -> Jobs:
    return frozenset(f"embed/{pool}/{s}/{f}/{m}" for s in strategies for f in frontends for m in machines)


def scored(
    strategies: Iterable[str] = STRATEGIES,
    frontends: Iterable[str] = FRONTENDS,
    machines: Iterable[str] = MACHINES,
    pool: str = "all",
) -> Jobs:
    return frozenset(job.replace("embed/", "score/", 1) for job in embedded(strategies, frontends, machines, pool))


OVER_ALL = jobs("metric", "tables", "report_summary")


def measured(machines: Iterable[str] = MACHINES) -> Jobs:
    """Metrics of these machine types, their pages, and what is made of all machine types together."""
    return jobs((f"{rule}/{m}" for rule in ("metric_machine", "report_machine") for m in machines), OVER_ALL)


def combined(machines: Iterable[str] = MACHINES) -> Jobs:
    """Ensembles and all below them."""
    return jobs((f"ensemble/{machine}" for machine in machines), measured(machines))


def below_training(strategies: Iterable[str] = STRATEGIES, frontends: Iterable[str] = FRONTENDS) -> Jobs:
    """Frontends are trained again, so all machine types are embedded and scored again."""
    strategies, frontends = tuple(strategies), tuple(frontends)
    return jobs(
        trained(strategies, frontends), embedded(strategies, frontends), scored(strategies, frontends), combined()
    )


BELOW_ENHANCEMENT = jobs(enhanced(), CLUSTERED, below_training([PSEUDO]))
EVERYTHING_LEARNT = jobs(enhanced(), CLUSTERED, below_training())
PACKED = jobs(packed(*MACHINES), "data_pack/hammer/supplemental")
EVERYTHING = jobs(
    "data_synthesise", "data_index/hammer", "data_index/spindle", PACKED, "noise_index", EVERYTHING_LEARNT
)
NOTHING: Jobs = frozenset()
FRONT_PAGE = jobs("report_summary")  # shows the config, so it is made again with every change of the config


def parts(planned: Iterable[str]) -> Jobs:
    """An embed job has one artefact per split."""
    splits = ("train", "test")
    return frozenset(p for job in planned for p in ([f"{job}/{s}" for s in splits] if is_embed(job) else [job]))


def is_embed(job: str) -> bool:
    return job.startswith("embed/")


def not_stored(planned: Iterable[str]) -> Jobs:
    return frozenset(job for job in planned if job.startswith(NOT_STORED))


# ------------------------------------------------------------------------------------------------------ finished runs


@dataclass(frozen=True, eq=False)
class Row:
    """A change to a finished run and the jobs it plans; where `computed` is given, the plan is also run."""

    name: str
    change: Change
    planned: Jobs
    computed: Jobs | None = None
    base: str = "tiny"  # tiny | recordings: the same clips and checkpoints as files of the user's
    either: str = ""  # pattern in the names of jobs that do the same work: whichever is second links the other's
    again: Jobs = NOTHING  # re-linked besides the planned jobs that are not computed
    follows: bool = False  # starts from the last row above that was run
    arguments: tuple[str, ...] = ()
    experiment: str = "tiny"

    @property
    def relinked(self) -> Jobs:
        return (parts(self.planned) - (self.computed or frozenset())) | self.again

    def named(self, done: Iterable[str]) -> set[str]:
        """Names under which jobs that ran are compared."""
        return {re.sub(self.either, "*", job) if self.either else job for job in done}


def tiny(folder: Path) -> Run:
    """A finished run of config/tiny.yaml with tables and pages."""
    return with_tables(Run.fresh(folder))


def with_tables(run: Run) -> Run:
    run.configure("products.yaml", report={"products": ["tables", "pages"]})
    run.run()
    return run


def recordings(finished: Run, folder: Path) -> Run:
    """The same run on a folder of recordings and on checkpoint files, finished with the help of the store."""
    run = Run(folder, *finished.configs) if folder.exists() else finished.copy(folder)
    Run.fresh(folder)
    made = run.results / "synthetic"
    for machine in MACHINES:
        shutil.copytree(made / machine, folder / "recordings" / machine, dirs_exist_ok=True)
    shutil.copytree(made / "checkpoints", folder / "checkpoints", dirs_exist_ok=True)
    shutil.copytree(made / "noise", folder / "noise", dirs_exist_ok=True)
    run.configure(
        "recordings.yaml",
        data={"source": "folder", "folder": "recordings"},
        noise={"folder": "noise"},
        checkpoints={name: {"file": f"checkpoints/{name}.pt"} for name in ("beats", "eat", "sslam")},
        enhance={"non_target": list(MACHINES)},
    )
    (run.results / "experiment.json").unlink(missing_ok=True)  # other recordings, so far as the config can tell
    run.run()
    return run


# ------------------------------------------------------------------------------------------------------------ changes


def nothing(_run: Run) -> None:
    pass


def config(**changes: Any) -> Change:
    return lambda run: run.configure("change.yaml", **changes)


def config_as_before(run: Run) -> None:
    run.configs = run.configs[:-1]


def config_there_and_back(run: Run) -> None:
    run.configure("change.yaml", **EAT)
    assert run.plan()
    config_as_before(run)


def in_other_order(value: Iterable[str]) -> list[str]:
    return list(value)[::-1]


def touched_alone(file: str) -> Change:
    return lambda run: os.utime(run.results / file)


def next_scheme(run: Run) -> None:
    found = re.search(r'^SCHEME = "(\d+)"$', (run.folder / "src/firstshot/fingerprint.py").read_text(), re.MULTILINE)
    assert found
    run.replace("src/firstshot/fingerprint.py", found[0], f'SCHEME = "{int(found[1]) + 1}"')


def data_file(file: str) -> Change:
    return lambda run: run.append(f"src/firstshot/{file}", "# more\n")


def code(file: str) -> Change:
    """More code at a module's end: another digest, the same results."""
    return lambda run: run.append(f"src/firstshot/{file}", "\n\nANOTHER = 1\n")


def touched(run: Run) -> None:
    """New times in another order than the files were made in."""
    files = sorted(path for path in run.folder.rglob("*") if path.is_file() and ".snakemake" not in path.parts)
    random.Random(0).shuffle(files)
    for path in files:
        os.utime(path)


def cloned(run: Run) -> None:
    """All code is newer than the results."""
    for path in run.folder.rglob("*"):
        if path.is_file() and path.relative_to(run.folder).parts[0] not in ("results", ".snakemake"):
            os.utime(path)


def reordered(value: Any) -> Any:
    return {key: reordered(value[key]) for key in reversed(value)} if isinstance(value, dict) else value


def config_reordered(run: Run) -> None:
    for file in ("config/config.yaml", TINY):
        path = run.folder / file
        path.write_text(yaml.safe_dump(reordered(yaml.safe_load(path.read_text())), sort_keys=False))


def modules(run: Run) -> list[Path]:
    return [path for folder in ("src", "workflow/scripts") for path in (run.folder / folder).rglob("*.py")]


def comments(run: Run) -> None:
    for path in modules(run):
        path.write_text(f"# A comment above.\n{path.read_text()}\n# A comment below.\n")


def docstrings(run: Run) -> None:
    for path in modules(run):
        path.write_text(re.sub(r'^( *)"""(?=\w)', r'\1"""In other words: ', path.read_text(), flags=re.MULTILINE))


def formatting(run: Run) -> None:
    formatter = [sys.executable, "-m", "ruff", "format", "--quiet", "--isolated", "--line-length", "60"]
    subprocess.run([*formatter, "src", "workflow/scripts"], cwd=run.folder, check=True)


def other_checkpoint(name: str) -> Change:
    def change(run: Run) -> None:
        from firstshot import untrained

        settings = yaml.safe_load((ROOT / TINY).read_text())["data"]["synthetic"]["checkpoints"]
        untrained.write_checkpoint(run.folder / f"checkpoints/{name}.pt", name, settings, 1)

    return change


def new_clip(machine: str, split: str) -> Change:
    """One more recording, the last one at half its level."""

    def change(run: Run) -> None:
        folder = run.folder / "recordings" / machine / split
        last = sorted(folder.glob("*.wav"))[-1]
        softer(last, last.with_name(re.sub(r"_(00)(\d\d)(?=[_.])", r"_09\2", last.name)), 0.5)

    return change


def softer(source: Path, target: Path, factor: float) -> None:
    import soundfile

    assert not target.exists(), target
    target.parent.mkdir(parents=True, exist_ok=True)
    wave, rate = soundfile.read(source)
    soundfile.write(target, wave * factor, rate, subtype="PCM_16")


def new_noise(run: Run) -> None:
    source = sorted((run.folder / "noise").iterdir())[0]
    shutil.copy(source, source.with_name(f"another-{source.name}"))


def machine_added(**changes: Any) -> Change:
    """Recordings of a third machine type: those of spindle, a little softer."""

    def change(run: Run) -> None:
        folder = run.folder / "recordings"
        for path in sorted((folder / SPINDLE).rglob("*.wav")):
            softer(path, folder / RELAY / path.relative_to(folder / SPINDLE), 0.75)
        run.configure("change.yaml", machines=list(ALL_THREE), **changes)

    return change


def deleted(*files: str) -> Change:
    def change(run: Run) -> None:
        for file in files:
            path = run.results / file
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def all_of(*changes: Change) -> Change:
    def change(run: Run) -> None:
        for one in changes:
            one(run)

    return change


# --------------------------------------------------------------------------------------------------------------- rows

EAT = {"train": {"eat": {"learning_rate": 0.0002}}}
EAT_AGAIN = below_training(frontends=["eat"])
ADAPTED = {"dim": 16, "lora": {"rank": 2, "alpha": 8}, "max_steps": 3, "warmup_steps": 1}
FOUR = {"frontends": ["spec", "beats", "eat", "sslam"], "train": {"beats": ADAPTED, "sslam": ADAPTED}}
BELOW_BEATS = jobs(
    enhanced(), CLUSTERED, below_training([PSEUDO], FOUR["frontends"]), below_training(frontends=["beats"])
)
SCORES_AGAIN = jobs(scored(), combined())
PAGES = jobs("report_machine/hammer", "report_machine/spindle", FRONT_PAGE)
TWO_SEEDS = jobs(trained(seeds=[1]), embedded(), SCORES_AGAIN)
SPINDLE_ENHANCED = jobs("data_pack/spindle/supplemental", enhanced(SPINDLE), below_training([PSEUDO]))
RELAY_SCORED = jobs(
    "data_index/relay", packed(RELAY), embedded(machines=[RELAY]), scored(machines=[RELAY]),
    combined([RELAY]),
)  # fmt: skip
RELAY_JOINED = jobs(
    "data_index/relay", packed(RELAY), trained(), embedded(machines=ALL_THREE),
    scored(machines=ALL_THREE), combined(ALL_THREE),
)  # fmt: skip
NEW_TEST_CLIP = jobs(
    "data_index/hammer", "data_pack/hammer/test", "enhance_apply/hammer/test",
    embedded(machines=[HAMMER]), scored(machines=[HAMMER]), combined([HAMMER]),
)  # fmt: skip
POOLS = [{"name": HAMMER, "machines": [HAMMER]}, {"name": SPINDLE, "machines": [SPINDLE]}]
PER_MACHINE = config(pools=POOLS, frontends=["spec"], ensemble={"systems": []}, report={"products": []})


def alone(machine: str, strategies: Iterable[str] = STRATEGIES) -> Jobs:
    """The pool of one machine type, Spec only."""
    its = {"frontends": ["spec"], "pool": machine}
    return jobs(
        trained(strategies, **its), embedded(strategies, machines=[machine], **its),
        scored(strategies, machines=[machine], **its), f"ensemble/{machine}", f"metric_machine/{machine}", "metric",
        FRONT_PAGE,
    )  # fmt: skip


ENSEMBLES = [
    {"id": "1", "label": "①", "strategy": ORG},
    {"id": "6", "label": "⑥", "strategy": PSEUDO},
    {"id": "mean", "label": "(①+⑥)/2", "mix": {"1": 0.5, "6": 0.5}},
]

ROWS = [
    # Changes that mean nothing
    Row("nothing at all", nothing, NOTHING),
    Row(
        "every file touched, clips, checkpoints and results too, in another order", touched, NOTHING, base="recordings"
    ),
    Row("a fresh clone with the results carried over", cloned, NOTHING),
    Row("comments in every module", comments, NOTHING),
    Row("docstrings of every module reworded", docstrings, NOTHING),
    Row("every module formatted another way", formatting, NOTHING),
    Row(
        "code that makes no results: command line, planning, this matrix's own job control",
        all_of(code("cli.py"), code("planning.py"), code("config.py"), code("job.py")),
        NOTHING,
    ),
    Row("keys of the config in another order", config_reordered, NOTHING),
    Row(
        "machine types, strategies, frontends and seeds named in another order (only the front page shows the config)",
        config(
            machines=in_other_order(MACHINES),
            strategies=in_other_order(STRATEGIES),
            frontends=in_other_order(FRONTENDS),
        ),
        FRONT_PAGE,
    ),
    Row("a learning rate changed, planned and changed back", config_there_and_back, NOTHING),
    Row(
        "seconds between saved states; device (only the front page shows the config)",
        config(compute={"save_every_s": 7, "device": "auto"}),
        FRONT_PAGE,
    ),
    Row(
        "the list of noise touched, where no file is small enough for Snakemake to compare its content",
        touched_alone("noise/index.csv"),
        NOTHING,
        arguments=("--max-checksum-file-size", "0"),
    ),
    Row("the table of DCASE years, where nothing was fetched", data_file("published/dcase.yaml"), NOTHING),
    Row("the store deleted", lambda run: shutil.rmtree(run.folder / "results/.store"), NOTHING),
    # What the scores are made into
    Row(
        "weights of the ensembles",
        config(ensemble={"weights": {"spec": 0.25, "beats": 0.25, "eat": 0.25, "sslam": 0.25}}),
        combined(),
        computed=combined(),
    ),
    Row(
        "a new ensemble",
        config(ensemble={"systems": [*ENSEMBLES, {"id": "most", "mix": {"1": 0.9, "6": 0.1}}]}),
        combined(),
    ),
    Row("an ensemble removed", config(ensemble={"systems": ENSEMBLES[:2]}), combined()),
    Row("scores standardised", config(ensemble={"standardise": "zscore"}), combined()),
    Row("p of the pAUC", config(metric={"pauc_p": 0.2}), measured()),
    Row("percentile of the decision threshold", config(metric={"threshold_percentile": 80.0}), measured()),
    Row("confidence of the intervals", config(metric={"confidence": 0.9}), OVER_ALL),
    Row("number of clips to listen to", config(report={"clips": 1}), PAGES),
    Row("SMOTE ratio", config(score={"smote_ratio": 0.6}), SCORES_AGAIN, computed=SCORES_AGAIN),
    # What is learnt
    Row("learning rate of EAT", config(**EAT), EAT_AGAIN, computed=parts(EAT_AGAIN)),
    Row("the same change undone", config_as_before, EAT_AGAIN, computed=not_stored(EAT_AGAIN), follows=True),
    Row("LoRA rank of EAT", config(train={"eat": {"lora": {"rank": 4}}}), EAT_AGAIN),
    Row("length of the training crops", config(train={"clip_seconds": 0.9}), jobs(CLUSTERED, below_training())),
    Row(
        "batch size of embedding (rounding)",
        config(embed={"batch_size": 4}),
        jobs(CLUSTERED, below_training([PSEUDO]), embedded(), scored()),
    ),
    Row("a seed added", config(seeds=[0, 1]), TWO_SEEDS, computed=parts(TWO_SEEDS)),
    Row(
        "the seed removed",
        config_as_before,
        jobs(embedded(), SCORES_AGAIN),
        computed=not_stored(SCORES_AGAIN),
        follows=True,
    ),
    Row(
        "greatest number of clusters",
        config(pseudo_label={"max_clusters": 2}),
        jobs("pseudo_label/enhanced/hammer", below_training([PSEUDO])),
    ),
    Row("learning rate of enhancement", config(enhance={"learning_rate": 0.001}), BELOW_ENHANCEMENT),
    Row(
        "a machine type taken off the skip list",
        config(enhance={"skip": []}),
        SPINDLE_ENHANCED,
        computed=parts(SPINDLE_ENHANCED),
    ),
    Row(
        "then the learning rate of enhancement: both machine types are enhanced",
        config(enhance={"skip": [], "learning_rate": 0.001}),
        jobs(enhanced(SPINDLE), BELOW_ENHANCEMENT),
        follows=True,
    ),
    Row(
        "the machine type put on the skip list",
        config_as_before,
        below_training([PSEUDO]),
        computed=not_stored(combined()),
        follows=True,
    ),
    Row(
        "threads of the programs (rounding on a CPU)",
        config(compute={"threads": 2}),
        EVERYTHING_LEARNT,
    ),
    Row("a strategy removed", config(strategies=[ORG]), combined()),
    Row(
        "frozen systems added",
        config(frozen=["eat"]),
        jobs(
            (f"embed_frozen/noisy/eat/{m}/{split}" for m in MACHINES for split in ("train", "test")),
            (f"score/frozen/noisy-none/eat/{m}" for m in MACHINES),
            combined(),
        ),
    ),
    Row(
        "channel of the recordings (they have one): same clips, so nothing is learnt again",
        config(data={"channel": "mean"}),
        jobs(PACKED, EVERYTHING_LEARNT),
        computed=jobs(PACKED, not_stored(combined())),
    ),
    Row("the software epoch", config(software_epoch=2), EVERYTHING),
    Row(
        "the same experiment under another name",
        config(experiment="renamed"),
        EVERYTHING,
        computed=not_stored(EVERYTHING),
        experiment="renamed",
    ),
    # Code
    Row(
        "code of eat",
        code("networks/eat.py"),
        EAT_AGAIN,
        computed=parts(jobs(trained(frontends=["eat"]), embedded(frontends=["eat"]), not_stored(combined()))),
    ),
    Row("code of beats", code("networks/beats.py"), BELOW_ENHANCEMENT),
    Row("code that sets up device and threads", code("compute.py"), EVERYTHING_LEARNT),
    Row("code left out of the digests, told by a higher fingerprint.SCHEME", next_scheme, EVERYTHING),
    Row("code of LoRA", code("networks/lora.py"), EAT_AGAIN),
    Row("code of attentive pooling, which no frontend of this run has", code("networks/pooling.py"), NOTHING),
    Row(
        "code of the loss: same models, so nothing below training is computed",
        code("networks/scac.py"),
        EVERYTHING_LEARNT,
        computed=jobs("enhance_train/hammer", trained(), not_stored(combined())),
    ),
    Row("code of mixup", code("networks/mixup.py"), below_training()),
    Row("code of TF-Locoformer", code("networks/tflocoformer.py"), BELOW_ENHANCEMENT),
    Row(
        "code of pseudo labels", code("pseudo_label.py"), jobs("pseudo_label/enhanced/hammer", below_training([PSEUDO]))
    ),
    Row(
        "code of the backend: same scores",
        code("score.py"),
        SCORES_AGAIN,
        computed=jobs(scored(), not_stored(combined())),
    ),
    Row("code of the ensembles", code("ensemble.py"), combined()),
    Row("code of the metrics", code("metric.py"), measured()),
    Row("code of the paper's tables", code("tables.py"), jobs("tables", PAGES)),
    Row("the published numbers of the tables", data_file("published/paper.yaml"), jobs("tables", FRONT_PAGE)),
    Row("code of a plot", code("report.py"), PAGES),
    # Data
    Row(
        "a new test clip",
        new_clip(HAMMER, "test"),
        NEW_TEST_CLIP,
        base="recordings",
        computed=parts(NEW_TEST_CLIP) - {f"{job}/train" for job in embedded(machines=[HAMMER])},
    ),
    Row(
        "a new training clip of the enhanced machine type",
        new_clip(HAMMER, "train"),
        jobs("data_index/hammer", "data_pack/hammer/train", EVERYTHING_LEARNT),
        base="recordings",
    ),
    Row(
        "a new training clip of another machine type, a non-target of the enhanced one",
        new_clip(SPINDLE, "train"),
        jobs("data_index/spindle", "data_pack/spindle/train", EVERYTHING_LEARNT),
        base="recordings",
    ),
    Row(
        "a new supplemental clip",
        new_clip(HAMMER, "supplemental"),
        jobs("data_index/hammer", "data_pack/hammer/supplemental", BELOW_ENHANCEMENT),
        base="recordings",
    ),
    Row(
        "a new supplemental clip of a skipped machine type: its manifest and truth come of one job",
        new_clip(SPINDLE, "supplemental"),
        jobs("data_index/spindle", measured([SPINDLE])),
        base="recordings",
        computed=not_stored(jobs("data_index/spindle", measured([SPINDLE]))),
    ),
    Row("a new noise clip (the folder is listed once only)", new_noise, NOTHING, base="recordings"),
    Row(
        "a new noise clip, the list forced",
        new_noise,
        jobs("noise_index", BELOW_ENHANCEMENT),
        base="recordings",
        arguments=("--forcerun", "noise_index"),
    ),
    Row("another EAT checkpoint", other_checkpoint("eat"), EAT_AGAIN, base="recordings"),
    Row("another BEATs checkpoint", other_checkpoint("beats"), BELOW_ENHANCEMENT, base="recordings"),
    Row("another SSLAM checkpoint, which is not used", other_checkpoint("sslam"), NOTHING, base="recordings"),
    Row(
        "the other two frontends added",
        config(**FOUR),
        jobs(below_training(frontends=["beats", "sslam"])),
        computed=parts(below_training(frontends=["beats", "sslam"])),
        base="recordings",
    ),
    Row(
        "then code of beats: the frontend as well",
        code("networks/beats.py"),
        BELOW_BEATS,
        base="recordings",
        follows=True,
    ),
    Row("then another BEATs checkpoint", other_checkpoint("beats"), BELOW_BEATS, base="recordings", follows=True),
    Row(
        "then code of attentive pooling, which BEATs has",
        code("networks/pooling.py"),
        below_training(frontends=["beats"]),
        base="recordings",
        follows=True,
    ),
    Row(
        "then code of eat: SSLAM as well",
        code("networks/eat.py"),
        below_training(frontends=["eat", "sslam"]),
        base="recordings",
        follows=True,
    ),
    Row(
        "then another SSLAM checkpoint",
        other_checkpoint("sslam"),
        below_training(frontends=["sslam"]),
        base="recordings",
        follows=True,
    ),
    Row(
        "a machine type added to the pool",
        machine_added(enhance={"skip": [SPINDLE, RELAY]}),
        RELAY_JOINED,
        base="recordings",
    ),
    Row(
        "a machine type added to the pool and as a non-target",
        machine_added(enhance={"skip": [SPINDLE, RELAY], "non_target": "all"}),
        jobs(RELAY_JOINED, enhanced(), CLUSTERED),
        base="recordings",
    ),
    Row(
        "a machine type added, scored by the present frontends",
        machine_added(
            enhance={"skip": [SPINDLE, RELAY]},
            pools=[{"name": "all", "machines": list(MACHINES), "also_scores": [RELAY]}],
        ),
        RELAY_SCORED,
        computed=parts(RELAY_SCORED),
        base="recordings",
    ),
    Row(
        "the scored machine type removed",
        config_as_before,
        OVER_ALL,
        computed=FRONT_PAGE,
        base="recordings",
        follows=True,
    ),
    Row(
        "no machine type is a non-target any more",
        config(enhance={"non_target": [HAMMER]}),
        BELOW_ENHANCEMENT,
        computed=parts(BELOW_ENHANCEMENT),
        base="recordings",
    ),
    Row(
        "then a new training clip of another machine type",
        new_clip(SPINDLE, "train"),
        jobs("data_index/spindle", "data_pack/spindle/train", below_training()),
        base="recordings",
        follows=True,
    ),
    Row(
        "a pool per machine type",
        PER_MACHINE,
        jobs(alone(HAMMER), alone(SPINDLE)),
        # Both strategies of spindle hear the same clips, so that their models are the same.
        computed=parts(jobs(alone(HAMMER), alone(SPINDLE))),
        either="(?<=/spindle/)(noisy-org|enhanced-enhanced)",
        again=parts(jobs("score/spindle/*/spec/spindle", "embed/spindle/*/spec/spindle")),
        arguments=("--cores", "1"),  # one after the other, so that the second finds what the first has made
        base="recordings",
    ),
    Row(
        "then a new training clip: its pool only",
        new_clip(HAMMER, "train"),
        jobs("data_index/hammer", "data_pack/hammer/train", enhanced(), CLUSTERED, alone(HAMMER)),
        base="recordings",
        follows=True,
    ),
    Row(
        "then a new training clip of a non-target: its pool, and what hears it enhanced",
        new_clip(SPINDLE, "train"),
        jobs(
            "data_index/spindle",
            "data_pack/spindle/train",
            enhanced(),
            CLUSTERED,
            alone(SPINDLE),
            alone(HAMMER, [PSEUDO]),
        ),
        base="recordings",
        follows=True,
    ),
    # Results
    Row(
        "intermediate results deleted",
        deleted("embed/all/noisy-org/eat/hammer/train.arrow", "score", "enhance/hammer/train.arrow"),
        NOTHING,
    ),
    Row(
        "an intermediate result deleted that a change needs",
        all_of(deleted("data/hammer/train.arrow"), config(**EAT)),
        jobs("data_pack/hammer/train", EVERYTHING_LEARNT),
        computed=parts(EAT_AGAIN),
    ),
    Row(
        "the table of official scores deleted",
        deleted("metric/official.csv"),
        jobs("metric", "tables", "report_summary"),
        computed=FRONT_PAGE,
    ),
    Row("a page deleted", deleted("report/hammer"), jobs("report_machine/hammer")),
]
