# enhance: one enhancement model per machine type, and its application to the training and test clips.
TSE = config["enhance"]


rule enhance_train:
    input:
        train=lambda w: big([packed(w.machine, "train")]),
        supplemental=lambda w: big([packed(w.machine, "supplemental")]),
        non_target=lambda w: big(non_target(w.machine)),
        noise=ancient(f"{R}/noise/index.csv"),
        beats=checkpoint_file("beats"),
        sides=lambda w: sides([packed(w.machine, "train"), packed(w.machine, "supplemental"), *non_target(w.machine)])
        + [f"{R}/noise/index.json"]
        + checkpoint_side("beats"),
    output:
        model=f"{R}/enhance/{{machine}}/model.safetensors",
        curve=f"{R}/enhance/{{machine}}/model.csv",
        side=f"{R}/enhance/{{machine}}/model.json",
    log:
        f"{LOGS}/enhance_train/{{machine}}.log",
    benchmark:
        f"{BENCHMARKS}/enhance_train/{{machine}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=growing(24000),
        runtime=growing(1440),
    params:
        settings=settings(
            TSE,
            *sorted(TSE.keys() - {"skip", "non_target", "chunk"}),
            precision=config["compute"]["precision"],
        ),
        threads=THREADS,
        code=code("scripts.enhance_train"),
        checkpoint=checkpoint_sha256("beats"),
        non_target=lambda w, input: given("--non-target", input.non_target),
    shell:
        "program enhance_train --train {input.train:q} --supplemental {input.supplemental:q} {params.non_target}"
        ' --noise {input.noise:q} --noise-folder "$NOISE" --beats {input.beats:q}'
        " --out {output.model:q} --curve {output.curve:q}"
        " --threads {params.threads} --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"


rule enhance_apply:
    input:
        model=ancient(f"{R}/enhance/{{machine}}/model.safetensors"),
        audio=ancient(f"{R}/data/{{machine}}/{{split}}.arrow"),
        sides=[f"{R}/enhance/{{machine}}/model.json", f"{R}/data/{{machine}}/{{split}}.json"],
    output:
        audio=f"{R}/enhance/{{machine}}/{{split}}.arrow",
        side=f"{R}/enhance/{{machine}}/{{split}}.json",
    log:
        f"{LOGS}/enhance_apply/{{machine}}/{{split}}.log",
    benchmark:
        f"{BENCHMARKS}/enhance_apply/{{machine}}/{{split}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=growing(16000),
        runtime=growing(120),
    params:
        settings=settings(
            TSE, "n_fft", "hop", "normalise_variance", "network", "chunk", precision=config["compute"]["precision"]
        ),
        threads=THREADS,
        code=code("scripts.enhance_apply"),
    shell:
        "program enhance_apply --model {input.model:q} --audio {input.audio:q} --out {output.audio:q}"
        " --threads {params.threads} --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"


# Asked for by name, also for machine types on the skip list: results/<experiment>/inspect/<machine type>/index.html
rule inspect_enhance_machine:
    input:
        model=ancient(f"{R}/enhance/{{machine}}/model.safetensors"),
        audio=ancient(f"{R}/data/{{machine}}/train.arrow"),
        sides=[f"{R}/enhance/{{machine}}/model.json", f"{R}/data/{{machine}}/train.json"],
    output:
        page=f"{R}/inspect/{{machine}}/index.html",
        side=f"{R}/inspect/{{machine}}/index.json",
        files=directory(f"{R}/inspect/{{machine}}/clips"),
    log:
        f"{LOGS}/inspect_enhance/{{machine}}.log",
    benchmark:
        f"{BENCHMARKS}/inspect_enhance/{{machine}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=growing(16000),
        runtime=growing(60),
    params:
        settings=settings(
            TSE,
            "n_fft",
            "hop",
            "normalise_variance",
            "network",
            "chunk",
            precision=config["compute"]["precision"],
            clips=config["report"]["clips"],
        ),
        threads=THREADS,
        code=code("scripts.inspect_enhance", *TEMPLATES),
    shell:
        "program inspect_enhance --model {input.model:q} --audio {input.audio:q} --page {output.page:q}"
        " --files {output.files:q} --threads {params.threads}"
        " --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"
