# What depends on what: paths and input functions of all stages, in their order. Rules stand in the files named by stage.
import os
from functools import cache


def packed(machine, split, audio="noisy"):
    """Stem of the packed audio of a machine type; unenhanced machine types are heard as recorded in every strategy."""
    folder = "enhance" if audio == "enhanced" and machine in PLAN.enhanced else "data"
    return f"{R}/{folder}/{machine}/{split}"


def sides(stems):
    """Side files: small, made new only with new content, they carry the DAG."""
    return [f"{stem}.json" for stem in stems]


def big(stems, suffix=".arrow"):
    """Large files: their side files say whether they changed, their times do not count."""
    return [ancient(f"{stem}{suffix}") for stem in stems]


def checkpoint_file(name):
    """Input: a published checkpoint where there is one (a missing one is told before the first job starts)."""
    if name not in config["checkpoints"]:
        return []
    file = config["checkpoints"][name]["file"]
    if file == experiment.SYNTHETIC:
        return [ancient(f"{R}/synthetic/checkpoints/{name}.pt")]
    return [ancient(file)] if Path(file).is_file() else []


def checkpoint_side(name):
    """Input: the side file of a checkpoint that the workflow makes itself."""
    made = name in config["checkpoints"] and config["checkpoints"][name]["file"] == experiment.SYNTHETIC
    return [f"{R}/synthetic/made.json"] if made else []


def checkpoint_sha256(name):
    """Parameter: digest of a published checkpoint, so that a replaced file is noticed. Moving one plans its jobs again
    (another input), which then find their work in the store."""
    file = config["checkpoints"].get(name, {}).get("file", experiment.SYNTHETIC)
    return "" if file == experiment.SYNTHETIC else DIGESTS.sha256(Path(file))


def products():
    """What `snakemake` makes when asked for nothing in particular."""
    wanted = config["report"]["products"]
    if config["frontends_kept"]:  # of no use beside exact scores
        return [f"{R}/report/{machine}/index.html" for machine in config["frontends_kept"]]
    files = [f"{R}/metric/official.csv", f"{R}/report/index.html"]
    if "pages" in wanted:
        files += [f"{R}/report/{machine}/index.html" for machine in PLAN.machines]
    if "tables" in wanted:
        files += [f"{R}/tables/table1.csv"]
    if "submission" in wanted and PLAN.submissions:
        files += [f"{R}/submission/submission.json"]
    return files


@cache
def listing(machine):
    """Clips of a machine type where they lie in a local folder."""
    if not LISTED:
        return []
    kind = config["data"]["supplement_kind"].get(machine)
    return data.clips(Path(FOLDER), machine, manifest=Path(CLIPS) if CLIPS else None, kind=kind)


def recordings(machine, *splits):
    """Input: the raw clips of a machine type where they lie in a local folder."""
    return [os.path.join(FOLDER, clip.path) for clip in listing(machine) if clip.split in splits]


def recordings_told(machine, split=None):
    """Parameter: digest of what names or manifest rows say of the clips, of one split as far as it is packed; of all
    splits with the attributes csv, which is compared with the names."""
    if not LISTED:
        return ""
    table = data.attributes_csv(Path(FOLDER), machine) if SOURCE == "folder" and split is None else None
    return data.told(listing(machine), split) + (f".{fingerprint.file_sha256(table)}" if table else "")


def before_listing():
    """Input: the recordings that the workflow makes itself."""
    return [f"{R}/synthetic/made.json"] if SOURCE == experiment.SYNTHETIC else []


def truth(machine):
    """Truth table of a machine type: from the clips' names, or, for an evaluation set, from the organisers' list."""
    anonymous = SOURCE == "dcase" and dcase.set_of(config["data"]["year"], machine) == "evaluation"
    return f"{R}/truth/revealed/{machine}.csv" if anonymous else f"{R}/truth/{machine}.csv"


def non_target(machine):
    return [packed(other, "train") for other in PLAN.non_target(machine)]


def label_files(pool, labels):
    """Stems of the pseudo labels that a pool trains with: none for the original labels."""
    if labels == "org":
        return []
    return [
        f"{R}/pseudo_label/{'enhanced' if labels == 'enhanced' and machine in PLAN.enhanced else 'noisy'}/{machine}"
        for machine in trained_on(pool)
        if machine in PLAN.pseudo_labelled
    ]


def trained_on(pool):
    return next(listed.machines for listed in PLAN.pools if listed.name == pool)


def audio_of(strategy):
    return strategy.split("-")[0]


def labels_of(strategy):
    return strategy.split("-")[1]


def heard(wildcards, audio):
    """Stems of the training clips of a pool, noisy or enhanced, as far as the strategy hears them."""
    if audio not in HEARD[audio_of(wildcards.strategy)]:
        return []
    return [packed(machine, "train", audio) for machine in trained_on(wildcards.pool)]


def models(wildcards):
    folder = f"{R}/train/{wildcards.pool}/{wildcards.strategy}/{wildcards.frontend}"
    return [f"{folder}/seed{seed}" for seed in PLAN.seeds]


def awaited_models(wildcards):
    """Stems of the models that must be current before they are used: none where the frontends are kept as they are."""
    return [] if wildcards.machine in config["frontends_kept"] else models(wildcards)


def tested(wildcards, split):
    """Stem of the clips that are embedded: those of the strategy's test audio, for the training split as well."""
    return packed(wildcards.machine, split, TESTED[audio_of(wildcards.strategy)])


def single_scores(machine):
    """Stems of the scores of every strategy and frontend of a machine type, frozen networks included."""
    return [f"{R}/score/{pool}/{strategy}/{front}/{machine}" for pool, strategy, front in PLAN.frontends(machine)]


def sets():
    """Machine types by set of the DCASE year, as the paper's tables split them."""
    if SOURCE != "dcase":
        return {}
    return dcase.machine_sets(config["data"]["year"], PLAN.machines)


def submitted_machines():
    """Machine types of the package: the evaluation set where there is one."""
    return sets().get("evaluation", PLAN.machines)


def mapped(machine):
    """Stems of the embeddings that the page maps."""
    pool, strategy, frontend = PLAN.mapped(machine)
    return [f"{R}/embed/{pool}/{strategy}/{frontend}/{machine}/{split}" for split in ("train", "test")]


def pseudo_labels(machine):
    """Stems of the pseudo labels of a machine type that some training of this run uses."""
    if machine in config["frontends_kept"]:
        return []
    used = {stem for pool in PLAN.pools for s in PLAN.strategies for stem in label_files(pool.name, labels_of(s))}
    return sorted(stem for stem in used if Path(stem).name == machine)


def singles_of(system, machine):
    """Single systems that a system of a machine type is made of in the end; every frontend of its strategies counts."""
    listed = next((listed for listed in PLAN.systems if listed["id"] == system), None)
    if listed is None:
        return {system}
    if "mix" in listed:
        return set().union(*(singles_of(member, machine) for member in listed["mix"]))
    return {single for single in PLAN.singles(machine) if single.partition(".")[0] == listed["strategy"]}


def bundled(wildcards, stage, name=None):
    """Stems of what a stage made of a bundle's parts: file `name` of a machine type, or the models of all seeds."""
    machine, singles = wildcards.machine, singles_of(wildcards.system, wildcards.machine)
    parts = [part for part in PLAN.frontends(machine) if f"{part[1]}.{part[2]}" in singles]
    if stage == "enhance":
        heard = machine in PLAN.enhanced and any(audio_of(strategy) == "enhanced" for _, strategy, _ in parts)
        return [f"{R}/enhance/{machine}/{name}"] if heard else []
    if stage == "embed":
        return [f"{R}/embed/{pool}/{strategy}/{frontend}/{machine}/{name}" for pool, strategy, frontend in parts]
    return [
        f"{R}/train/{pool}/{strategy}/{frontend}/seed{seed}"
        for pool, strategy, frontend in parts
        if pool != "frozen"
        for seed in PLAN.seeds
    ]


def page_options(wildcards, input):
    options = {
        "--enhanced": input.enhanced,
        "--enhance-curve": input.enhance_curve,
        "--labels": input.labels,
        "--bic": input.bic,
    }
    return " ".join(given(option, files) for option, files in options.items() if files)


def curves():
    """Training curves of all runs."""
    trained = [
        f"{R}/train/{pool.name}/{strategy}/{frontend}/seed{seed}.csv"
        for pool in PLAN.pools
        for strategy in PLAN.strategies
        for frontend in PLAN.frontends_run
        for seed in PLAN.seeds
    ]
    return [
        *trained,
        *(f"{R}/enhance/{machine}/model.csv" for machine in PLAN.enhanced),
    ]
