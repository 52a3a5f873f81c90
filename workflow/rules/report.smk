# report: a page per machine type and a front page; `snakemake --report` binds them into one file.
NAMES = {system: system for system in SYSTEMS}
NAMES |= {s["id"]: f"{PLAN.labels[s['id']]} {s.get('strategy', '')}".strip() for s in PLAN.systems}
UNTRAINED = any(config["checkpoints"][name]["file"] == experiment.SYNTHETIC for name in PLAN.checkpoints)


rule report_machine:
    input:
        scores=[f"{R}/ensemble/{system}/{{machine}}.csv" for system in PLAN.labels or SYSTEMS],
        truth=lambda w: truth(w.machine),
        metric=f"{R}/metric/{{machine}}.csv",
        audio=lambda w: big([packed(w.machine, "train"), packed(w.machine, "test")]),
        enhanced=lambda w: big([packed(w.machine, "test", "enhanced")] if w.machine in PLAN.enhanced else []),
        enhance_curve=lambda w: ([f"{R}/enhance/{w.machine}/model.csv"] if w.machine in PLAN.enhanced else []),
        embeddings=lambda w: big(mapped(w.machine)),
        labels=lambda w: [f"{stem}.csv" for stem in pseudo_labels(w.machine)],
        bic=lambda w: [f"{stem}.bic.csv" for stem in pseudo_labels(w.machine)],
        sides=lambda w: sides([packed(w.machine, "train"), packed(w.machine, "test"), *mapped(w.machine)])
        + sides([packed(w.machine, "test", "enhanced")] if w.machine in PLAN.enhanced else []),
    output:
        page=report(
            f"{R}/report/{{machine}}/index.html",
            caption="../report/machine.rst",
            category="Machine types",
            labels={"machine type": "{machine}"},
        ),
        side=f"{R}/report/{{machine}}/index.json",
        figures=directory(f"{R}/report/{{machine}}/figures"),
    log:
        f"{LOGS}/report_machine/{{machine}}.log",
    benchmark:
        f"{BENCHMARKS}/report_machine/{{machine}}.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        settings=lambda w: canonical(
            {
                "names": NAMES,
                "pauc_p": METRIC["pauc_p"],
                "embedding": ".".join(PLAN.mapped(w.machine)[1:]),
                "clips": config["report"]["clips"],
                "untrained": UNTRAINED,
            }
        ),
        code=code("scripts.report_machine", *TEMPLATES),
        given=page_options,
    shell:
        "program report_machine --machine {wildcards.machine} --scores {input.scores} --truth {input.truth}"
        " --metric {input.metric} --train {input.audio[0]} --test {input.audio[1]} --embeddings {input.embeddings}"
        " {params.given} --page {output.page} --figures {output.figures}"
        " --params {params.settings:q} --code {params.code:q} > {log} 2>&1"


rule report_summary:
    input:
        official=f"{R}/metric/official.csv",
        manifests=[f"{R}/data/{machine}/manifest.csv" for machine in PLAN.machines],
        curves=curves(),
    output:
        page=report(
            f"{R}/report/index.html",
            caption="../report/front_page.rst",
            category="Front page",
            labels={"page": "official scores, what was run, cost"},
        ),
        side=f"{R}/report/index.json",
        figures=directory(f"{R}/report/figures"),
    log:
        f"{LOGS}/report_summary.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=canonical({"names": NAMES, "untrained": UNTRAINED}),
        shown=canonical({key: value for key, value in config.items() if key not in ("results", "store")}),
        benchmarks=lambda w, output: Path(output.side).parents[1] / "benchmarks",
        code=code("scripts.report_summary", *TEMPLATES),
    shell:
        "program report_summary --official {input.official} --manifests {input.manifests} --curves {input.curves}"
        " --benchmarks {params.benchmarks} --config {params.shown:q} --page {output.page} --figures {output.figures}"
        " --params {params.settings:q} --code {params.code:q} > {log} 2>&1"


# Asked for by name: snakemake … results/<experiment>/bundle/<machine type>.<system>.firstshot
rule bundle:
    input:
        metric=f"{R}/metric/{{machine}}.csv",
        scores=f"{R}/ensemble/{{system}}/{{machine}}.csv",
    output:
        bundle=f"{R}/bundle/{{machine}}.{{system}}.firstshot",
        side=f"{R}/bundle/{{machine}}.{{system}}.json",
    log:
        f"{LOGS}/bundle/{{machine}}.{{system}}.log",
    benchmark:
        f"{BENCHMARKS}/bundle/{{machine}}.{{system}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("scripts.bundle"),
        run=lambda w, output: Path(output.bundle).parents[1],
    shell:
        "program bundle --run-folder {params.run} --machine {wildcards.machine} --system {wildcards.system}"
        " --metric {input.metric} --scores {input.scores} --out {output.bundle} --code {params.code:q}"
        " > {log} 2>&1"
