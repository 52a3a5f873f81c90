# data: recordings → manifest and truth per machine type → one packed file per machine type and split.
SOURCE = config["data"]["source"]
FOLDER = f"{R}/synthetic" if SOURCE == experiment.SYNTHETIC else config["data"]["folder"]
CLIPS = config["data"]["manifest"] if SOURCE == "manifest" else ""
LISTED = SOURCE in ("folder", "manifest") and not experiment.missing_recordings(config)


rule data_synthesise:
    output:
        made=f"{R}/synthetic/made.json",
        checkpoints=[f"{R}/synthetic/checkpoints/{name}.pt" for name in ("beats", "eat", "sslam")],
    log:
        f"{LOGS}/data_synthesise.log",
    benchmark:
        f"{BENCHMARKS}/data_synthesise.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        settings=canonical(config["data"]["synthetic"]),
        code=code("scripts.data_synthesise"),
        out=lambda w, output: Path(output.made).parent,
    shell:
        "program data_synthesise --out {params.out:q} --made {output.made:q}"
        " --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"


# Mistakes in the recordings come to light in this job and in data_pack, so both go first. Warnings, and progress and
# licence of a download, are shown as well.
rule data_index:
    input:
        made=before_listing(),
        clips=lambda w: recordings(w.machine, *data.SPLITS),
    output:
        manifest=f"{R}/data/{{machine}}/manifest.csv",
        side=f"{R}/data/{{machine}}/manifest.json",
        truth=f"{R}/truth/{{machine}}.csv",
    log:
        f"{LOGS}/data_index/{{machine}}.log",
    benchmark:
        f"{BENCHMARKS}/data_index/{{machine}}.tsv"
    priority: 100
    # Compute nodes may have no network.
    localrule: SOURCE == "dcase"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(1000),
        runtime=growing(240),
    params:
        settings=lambda w: canonical(
            {
                "supplement_kind": config["data"]["supplement_kind"].get(w.machine),
                "mirror": config["data"]["mirror"],
            }
        ),
        listed=lambda w: recordings_told(w.machine),
        code=code("scripts.data_index", *([YEARS] if SOURCE == "dcase" else [])),
        folder=FOLDER,
        source=given("--clips", [CLIPS] if CLIPS else [])
        + given("--fetch", [config["data"]["year"]] if SOURCE == "dcase" else []),
    shell:
        "program data_index --machine {wildcards.machine} --folder {params.folder:q} {params.source}"
        " --manifest {output.manifest:q} --truth {output.truth:q}"
        " --params {params.settings:q} --code {params.code:q} |& tee {log:q}"


# A local folder's clips are inputs themselves, split by split, and the manifest is not: a new test clip leaves the
# training clips as they are. Snakemake would not look at a job whose only planned input is ancient().
# Long jobs wait for training clips alone (an ancient() test file among their inputs would hide other changes from
# Snakemake), so it is these that are not packed where any clip of the machine type is broken.
rule data_pack:
    input:
        manifest=lambda w: [] if LISTED else f"{R}/data/{w.machine}/manifest.csv",
        clips=lambda w: recordings(w.machine, w.split),
    output:
        audio=f"{R}/data/{{machine}}/{{split}}.arrow",
        side=f"{R}/data/{{machine}}/{{split}}.json",
    log:
        f"{LOGS}/data_pack/{{machine}}/{{split}}.log",
    benchmark:
        f"{BENCHMARKS}/data_pack/{{machine}}/{{split}}.tsv"
    priority: 100
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        settings=lambda w: canonical(
            {
                "channel": config["data"]["channel"],
                "supplement_kind": config["data"]["supplement_kind"].get(w.machine),
            }
        ),
        listed=lambda w: recordings_told(w.machine, w.split),
        code=code("scripts.data_pack"),
        folder=FOLDER,
        source=lambda w, input: given("--manifest", [input.manifest] if not LISTED else [])
        + given(" --clips", [CLIPS] if LISTED and CLIPS else []),
    shell:
        "program data_pack --machine {wildcards.machine} --split {wildcards.split} --folder {params.folder:q}"
        " {params.source} --out {output.audio:q}"
        " --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"


# The folder may hold millions of files: it is listed once, by this job, and never while planning.
rule noise_index:
    input:
        made=[f"{R}/synthetic/made.json"] if config["noise"]["folder"] == experiment.SYNTHETIC else [],
    output:
        index=f"{R}/noise/index.csv",
        side=f"{R}/noise/index.json",
    log:
        f"{LOGS}/noise_index.log",
    benchmark:
        f"{BENCHMARKS}/noise_index.tsv"
    priority: 100
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(1000),
        runtime=growing(240),
    params:
        code=code("scripts.noise_index"),
        folder=NOISE,
    shell:
        "program noise_index --folder {params.folder:q} --out {output.index:q} --code {params.code:q} > {log:q} 2>&1"
