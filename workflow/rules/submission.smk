# submission: the challenge package of up to four systems, in the official form, checked before it is kept.


rule submission:
    input:
        decisions=[f"{R}/metric/{machine}.decisions.csv" for machine in submitted_machines()],
        development=[f"{R}/metric/{machine}.csv" for machine in PLAN.developed_on],
        truth=[truth(machine) for machine in submitted_machines()],
    output:
        package=f"{R}/submission/submission.zip",
        folder=directory(f"{R}/submission/task2"),
        side=f"{R}/submission/submission.json",
    log:
        f"{LOGS}/submission.log",
    benchmark:
        f"{BENCHMARKS}/submission.tsv"
    localrule: True
    conda:
        ENVIRONMENT
    params:
        settings=canonical(
            {
                "systems": PLAN.submissions,
                "team": config["report"]["team"],
                "ensemble": {"weights": config["ensemble"]["weights"]}
                | {"frozen_weights": config["ensemble"]["frozen_weights"]}
                | {"systems": [{k: v for k, v in system.items() if k != "label"} for system in PLAN.systems]},
            }
        ),
        code=code("scripts.submission"),
        development=lambda w, input: given("--development", input.development),
    shell:
        "program submission --decisions {input.decisions:q} {params.development} --truth {input.truth:q}"
        " --out {output.package:q}"
        " --params {params.settings:q} --code {params.code:q} > {log:q} 2>&1"
