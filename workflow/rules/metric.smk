# metric: AUC, pAUC, official score, thresholds and decisions, per machine type and over all. First to see the truth.
METRIC = config["metric"]


rule metric_machine:
    input:
        ensemble=[f"{R}/ensemble/{system}/{{machine}}.csv" for system in SYSTEMS],
        truth=lambda w: truth(w.machine),
        train=ancient(f"{R}/data/{{machine}}/train.arrow"),
        side=f"{R}/data/{{machine}}/train.json",
    output:
        metrics=f"{R}/metric/{{machine}}.csv",
        side=f"{R}/metric/{{machine}}.json",
        decisions=f"{R}/metric/{{machine}}.decisions.csv",
        seeds=f"{R}/metric/{{machine}}.seeds.csv",
        bootstrap=f"{R}/metric/{{machine}}.bootstrap.npz",
    log:
        f"{LOGS}/metric_machine/{{machine}}.log",
    benchmark:
        f"{BENCHMARKS}/metric_machine/{{machine}}.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    params:
        settings=settings(METRIC, "pauc_p", "threshold_percentile", "bootstrap", "random_state"),
        code=code("scripts.metric_machine"),
    shell:
        "program metric_machine --ensemble {input.ensemble:q} --truth {input.truth:q} --train {input.train:q}"
        " --out {output.metrics:q} --decisions {output.decisions:q}"
        " --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"


rule metric:
    input:
        machines=[f"{R}/metric/{machine}.csv" for machine in PLAN.machines],
        seeds=[f"{R}/metric/{machine}.seeds.csv" for machine in PLAN.machines],
        bootstrap=[f"{R}/metric/{machine}.bootstrap.npz" for machine in PLAN.machines],
        sides=[f"{R}/metric/{machine}.json" for machine in PLAN.machines],
    output:
        official=report(
            f"{R}/metric/official.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "official scores"},
        ),
        intervals=report(
            f"{R}/metric/intervals.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "differences of systems, with intervals"},
        ),
        means=f"{R}/metric/means.csv",
        side=f"{R}/metric/official.json",
    log:
        f"{LOGS}/metric.log",
    benchmark:
        f"{BENCHMARKS}/metric.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=settings(METRIC, "confidence", sets=sets()),
        code=code("scripts.metric"),
    shell:
        "program metric --machines {input.machines:q} --out {output.official:q}"
        " --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"


TABLES = ("table1", "table2", "table3", "figure2", "conclusions")


rule tables:
    input:
        official=f"{R}/metric/official.csv",
        machines=[f"{R}/metric/{machine}.csv" for machine in PLAN.machines],
        seeds=[f"{R}/metric/{machine}.seeds.csv" for machine in PLAN.machines],
    output:
        tables=[
            report(
                f"{R}/tables/{table}.csv",
                caption="../report/table.rst",
                category="Tables",
                labels={"table": f"beside the published: {table}"},
            )
            for table in TABLES
        ],
        markdown=[f"{R}/tables/{table}.md" for table in TABLES],
        side=f"{R}/tables/table1.json",
    log:
        f"{LOGS}/tables.log",
    benchmark:
        f"{BENCHMARKS}/tables.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=canonical({"year": config["data"]["year"] if SOURCE == "dcase" else None}),
        code=code("scripts.tables", PAPER),
        folder=lambda w, output: Path(output.side).parent,
    shell:
        "program tables --official {input.official:q} --machines {input.machines:q} --out-dir {params.folder:q}"
        " --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"


# On request: how far pseudo labels agree with the attributes that were revealed after the challenge.
rule tables_pseudo_labels:
    input:
        labels=lambda w: [
            f"{R}/pseudo_label/{audio}/{machine}.csv"
            for machine in PLAN.pseudo_labelled
            for audio in ("noisy", "enhanced")
            if audio == "noisy" or machine in PLAN.enhanced
        ],
    output:
        agreement=f"{R}/tables/pseudo_labels.csv",
        side=f"{R}/tables/pseudo_labels.json",
    log:
        f"{LOGS}/tables_pseudo_labels.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=canonical({"mirror": config["data"]["mirror"]}),
        code=code("scripts.tables_pseudo_labels", YEARS),
        year=config["data"]["year"],
        folder=FOLDER,
    shell:
        "program tables_pseudo_labels --labels {input.labels:q} --year {params.year} --folder {params.folder:q}"
        " --out {output.agreement:q} --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"
