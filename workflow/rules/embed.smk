# embed: vectors of all clips of a machine type, by the trained frontends of all seeds or by a network as published.


rule embed:
    input:
        train=lambda w: big([tested(w, "train")]),
        test=lambda w: big([tested(w, "test")]),
        models=lambda w: big(awaited_models(w), ".safetensors"),
        checkpoint=lambda w: checkpoint_file(w.frontend),
        sides=lambda w: sides([tested(w, "train"), tested(w, "test"), *awaited_models(w)]) + checkpoint_side(w.frontend),
    output:
        train=f"{R}/embed/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}/train.arrow",
        test=f"{R}/embed/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}/test.arrow",
        sides=[f"{R}/embed/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}/{split}.json" for split in ("train", "test")],
    log:
        f"{LOGS}/embed/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}.log",
    benchmark:
        f"{BENCHMARKS}/embed/{{pool}}/{{strategy}}/{{frontend}}/{{machine}}.tsv"
    wildcard_constraints:
        strategy="[a-z]+-(?!none)[a-z]+",
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        settings=lambda w: settings(
            config["train"],
            "clip_seconds",
            frontend={k: v for k, v in config["train"][w.frontend].items() if k not in SCHEDULE},
            batch_size=config["embed"]["batch_size"],
            **({"frontends_kept": True} if w.machine in config["frontends_kept"] else {}),
        ),
        models=lambda w: [f"{stem}.safetensors" for stem in models(w)],
        threads=THREADS,
        code=lambda w: code("scripts.embed", *NETWORK[w.frontend], *LEARNT[w.frontend]),
        checkpoint=lambda w: checkpoint_sha256(w.frontend),
        given=lambda w, input: given("--checkpoint", input.checkpoint),
    shell:
        "program embed --train {input.train:q} --test {input.test:q} --models {params.models:q} {params.given}"
        " --frontend {wildcards.frontend} --out-train {output.train:q} --out-test {output.test:q}"
        " --threads {params.threads} --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"


rule embed_frozen:
    input:
        audio=lambda w: big([packed(w.machine, w.split, w.audio)]),
        checkpoint=lambda w: checkpoint_file(w.frontend),
        sides=lambda w: sides([packed(w.machine, w.split, w.audio)]) + checkpoint_side(w.frontend),
    output:
        embeddings=f"{R}/embed/frozen/{{audio}}-none/{{frontend}}/{{machine}}/{{split}}.arrow",
        side=f"{R}/embed/frozen/{{audio}}-none/{{frontend}}/{{machine}}/{{split}}.json",
    log:
        f"{LOGS}/embed_frozen/{{audio}}/{{frontend}}/{{machine}}/{{split}}.log",
    benchmark:
        f"{BENCHMARKS}/embed_frozen/{{audio}}/{{frontend}}/{{machine}}/{{split}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        settings=settings(
            config["train"],
            "clip_seconds",
            batch_size=config["embed"]["batch_size"],
        ),
        threads=THREADS,
        code=lambda w: code("scripts.embed_frozen", *NETWORK[w.frontend]),
        checkpoint=lambda w: checkpoint_sha256(w.frontend),
        given=lambda w, input: given("--checkpoint", input.checkpoint),
    shell:
        "program embed_frozen --audio {input.audio:q} {params.given} --frontend {wildcards.frontend}"
        " --out {output.embeddings:q} --threads {params.threads}"
        " --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"
