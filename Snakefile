# firstshot: anomalous sound detection from normal sound alone, from recordings to the official score.
#
#     snakemake --cores 2 --configfile config/demo.yaml      the demo
#     snakemake --cores 8 --profile slurm                    the paper's experiment on a cluster
#
# This file is a table of contents: every stage has its rules in workflow/rules, its programs in workflow/scripts and
# its algorithms in src/firstshot, under the same name.
from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/truth.smk"
include: "workflow/rules/enhance.smk"
include: "workflow/rules/pseudo_label.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/embed.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/ensemble.smk"
include: "workflow/rules/metric.smk"
include: "workflow/rules/submission.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        products(),
    localrule: True


# On request: what enhancement does to clips of every machine type with supplemental clips, those it skips included.
rule inspect_enhance:
    input:
        [f"{R}/inspect/{machine}/index.html" for machine in PLAN.machines if PLAN.facts[machine].has_supplemental],
    localrule: True
