# score: anomaly scores of one machine type by one strategy and frontend; all seeds are columns of one file.


rule score:
    input:
        train=ancient(f"{R}/embed/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}/train.arrow"),
        test=ancient(f"{R}/embed/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}/test.arrow"),
        sides=[f"{R}/embed/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}/{split}.json" for split in ("train", "test")],
    output:
        scores=f"{R}/score/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}.csv",
        side=f"{R}/score/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}.json",
    log:
        f"{LOGS}/score/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}.log",
    benchmark:
        f"{BENCHMARKS}/score/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(1500),
        runtime=growing(20),
    params:
        settings=canonical(config["score"]),
        code=code("scripts.score"),
    shell:
        "program score --train {input.train:q} --test {input.test:q} --out {output.scores:q}"
        " --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"
