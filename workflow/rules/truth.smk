# truth: what the test clips are. Read by metric, report and tables; no rule of training, embedding or scoring has it.


rule truth_fetch:
    input:
        truth=f"{R}/truth/{{machine}}.csv",
    output:
        truth=f"{R}/truth/revealed/{{machine}}.csv",
        side=f"{R}/truth/revealed/{{machine}}.json",
    log:
        f"{LOGS}/truth_fetch/{{machine}}.log",
    benchmark:
        f"{BENCHMARKS}/truth_fetch/{{machine}}.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=canonical({"mirror": config["data"]["mirror"]}),
        code=code("scripts.truth_fetch", YEARS),
        year=config["data"]["year"],
        folder=FOLDER,
    shell:
        "program truth_fetch --truth {input.truth:q} --year {params.year} --folder {params.folder:q}"
        " --out {output.truth:q} --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"
