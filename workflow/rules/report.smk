# report: a page per machine type and a front page; `snakemake --report` binds them into one file.
NAMES = {system: system for system in SYSTEMS}
NAMES |= {s["id"]: f"{PLAN.labels[s['id']]} {s.get('strategy', '')}".strip() for s in PLAN.systems}


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
        untrained=UNTRAINED,
        code=code("scripts.report_machine", *TEMPLATES),
        given=page_options,
    shell:
        "program report_machine --machine {wildcards.machine} --scores {input.scores:q} --truth {input.truth:q}"
        " --metric {input.metric:q} --train {input.audio[0]:q} --test {input.audio[1]:q} --embeddings {input.embeddings:q}"
        " {params.given} --page {output.page:q} --figures {output.figures:q}"
        " --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"


rule report_summary:
    input:
        official=f"{R}/metric/official.csv",
        manifests=[f"{R}/data/{machine}/manifest.csv" for machine in PLAN.machines],
        tables=rules.tables.output.tables if "tables" in config["report"]["products"] else [],
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
        given=lambda w, input: given("--tables", input.tables),
        untrained=UNTRAINED,
        shown=canonical({key: value for key, value in config.items() if key not in ("results", "store")}),
        benchmarks=lambda w, output: Path(output.side).parents[1] / "benchmarks",
        code=code("scripts.report_summary", *TEMPLATES),
    shell:
        "program report_summary --official {input.official:q} --manifests {input.manifests:q} --curves {input.curves:q}"
        " {params.given} --benchmarks {params.benchmarks:q} --config {params.shown:q} --page {output.page:q}"
        " --figures {output.figures:q} --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"


# Asked for by name: snakemake … results/<experiment>/bundle/<machine type>.<system>.firstshot
rule bundle:
    input:
        metric=f"{R}/metric/{{machine}}.csv",
        scores=f"{R}/ensemble/{{system}}/{{machine}}.csv",
        clips=lambda w: big([packed(w.machine, "train")]),
        embeddings=lambda w: big(bundled(w, "embed", "train")),
        models=lambda w: big(bundled(w, "train"), ".safetensors"),
        enhance=lambda w: big(bundled(w, "enhance", "model"), ".safetensors"),
        sides=lambda w: sides(
            [packed(w.machine, "train")]
            + bundled(w, "embed", "train")
            + bundled(w, "train")
            + bundled(w, "enhance", "test")
        ),
    output:
        bundle=f"{R}/bundle/{{machine}}.{{system}}.firstshot",
        side=f"{R}/bundle/{{machine}}.{{system}}.json",
    log:
        f"{LOGS}/bundle/{{machine}}.{{system}}.log",
    benchmark:
        f"{BENCHMARKS}/bundle/{{machine}}.{{system}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("scripts.bundle"),
        results=lambda w, output: Path(output.bundle).parents[1],
    shell:
        "program bundle --run-folder {params.results:q} --machine {wildcards.machine} --system {wildcards.system}"
        " --metric {input.metric:q} --scores {input.scores:q} --out {output.bundle:q} --code {params.code:q}"
        " > {log:q} 2>&1"
