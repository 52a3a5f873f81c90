# ensemble: weighted means of scores; one job per machine type makes all systems.


# Systems that every machine type has; a machine type's own program may write more.
SYSTEMS = [s for s in PLAN.system_ids(PLAN.machines[0]) if all(s in PLAN.system_ids(m) for m in PLAN.machines)]


rule ensemble:
    input:
        scores=lambda w: [f"{stem}.csv" for stem in single_scores(w.machine)],
    output:
        scores=[f"{R}/ensemble/{system}/{{machine}}.csv" for system in SYSTEMS],
        sides=[f"{R}/ensemble/{system}/{{machine}}.json" for system in SYSTEMS],
    log:
        f"{LOGS}/ensemble/{{machine}}.log",
    benchmark:
        f"{BENCHMARKS}/ensemble/{{machine}}.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    params:
        settings=settings(
            config["ensemble"],
            "weights",
            "frozen_weights",
            "standardise",
            systems=[{k: v for k, v in system.items() if k != "label"} for system in PLAN.systems],
        ),
        code=code("scripts.ensemble"),
        folder=lambda w, output: Path(output.scores[0]).parents[1],
    shell:
        "program ensemble --scores {input.scores:q} --machine {wildcards.machine} --out-dir {params.folder:q}"
        " --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"
