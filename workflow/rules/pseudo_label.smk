# pseudo_label: classes of machine types without attributes, clustered from frozen embeddings, per audio.


rule pseudo_label:
    input:
        embeddings=ancient(f"{R}/embed/frozen/{{audio}}-none/beats/{{machine}}/train.arrow"),
        side=f"{R}/embed/frozen/{{audio}}-none/beats/{{machine}}/train.json",
    output:
        labels=f"{R}/pseudo_label/{{audio}}/{{machine}}.csv",
        bic=f"{R}/pseudo_label/{{audio}}/{{machine}}.bic.csv",
        side=f"{R}/pseudo_label/{{audio}}/{{machine}}.json",
    log:
        f"{LOGS}/pseudo_label/{{audio}}/{{machine}}.log",
    benchmark:
        f"{BENCHMARKS}/pseudo_label/{{audio}}/{{machine}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        settings=settings(config["pseudo_label"], *sorted(config["pseudo_label"].keys() - {"machines"})),
        threads=THREADS,
        code=code("scripts.pseudo_label"),
    shell:
        "program pseudo_label --embeddings {input.embeddings:q} --out {output.labels:q} --bic {output.bic:q}"
        " --threads {params.threads} --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"
