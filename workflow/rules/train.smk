# train: one frontend, one strategy, one seed, on all machine types of a pool.
HEARD = {"noisy": ("noisy",), "enhanced": ("enhanced",), "both": ("noisy", "enhanced")}  # in training
TESTED = {"noisy": "noisy", "enhanced": "enhanced", "both": "noisy"}
SCHEDULE = {"epochs", "epochs_both", "batch_size", "learning_rate", "weight_decay", "warmup_steps", "max_steps"}
# Modules that firstshot.networks.frontend imports by name: of a network as published, and of one that is trained here.
NETWORK = {
    "spec": ["firstshot.networks.spec"],
    "beats": ["firstshot.networks.beats"],
    "eat": ["firstshot.networks.eat"],
    "sslam": ["firstshot.networks.eat"],
}
LEARNT = {
    "spec": [],
    "beats": ["firstshot.networks.lora", "firstshot.networks.pooling"],
    "eat": ["firstshot.networks.lora"],
    "sslam": ["firstshot.networks.lora"],
}


rule train:
    input:
        noisy=lambda w: big(heard(w, "noisy")),
        enhanced=lambda w: big(heard(w, "enhanced")),
        labels=lambda w: [f"{stem}.csv" for stem in label_files(w.pool, labels_of(w.strategy))],
        checkpoint=lambda w: checkpoint_file(w.frontend),
        sides=lambda w: sides(dict.fromkeys([*heard(w, "noisy"), *heard(w, "enhanced")])) + checkpoint_side(w.frontend),
    output:
        model=f"{R}/train/{{pool}}/{{strategy}}/{{frontend}}/seed{{seed}}.safetensors",
        curve=f"{R}/train/{{pool}}/{{strategy}}/{{frontend}}/seed{{seed}}.csv",
        side=f"{R}/train/{{pool}}/{{strategy}}/{{frontend}}/seed{{seed}}.json",
    log:
        f"{LOGS}/train/{{pool}}/{{strategy}}/{{frontend}}/seed{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{pool}}/{{strategy}}/{{frontend}}/seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=growing(16000),
        runtime=growing(720),
    params:
        settings=lambda w: settings(
            config["train"],
            "clip_seconds",
            "sub_centers",
            "mixup_probability",
            frontend=config["train"][w.frontend],
            precision=config["compute"]["precision"],
        ),
        threads=THREADS,
        code=lambda w: code("scripts.train", *NETWORK[w.frontend], *LEARNT[w.frontend]),
        checkpoint=lambda w: checkpoint_sha256(w.frontend),
        given=lambda w, input: " ".join(
            given(f"--{name}", input[name]) for name in ("noisy", "enhanced", "labels", "checkpoint")
        ),
    shell:
        "program train {params.given} --frontend {wildcards.frontend} --seed {wildcards.seed}"
        " --out {output.model:q} --curve {output.curve:q}"
        " --threads {params.threads} --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"
