"""Make the demo's synthetic machine types, noise pool and UNTRAINED checkpoints."""

from pathlib import Path

from firstshot import job

CHECKPOINTS = ("beats", "eat", "sslam")


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of machine types, noise/ and checkpoints/")
    parser.add_argument("--made", type=Path, required=True, help="side file that lists what was made")
    args = job.parse(parser)
    machines = list(args.params["machines"])
    outputs = {machine: args.out / machine for machine in [*machines, "noise"]}
    outputs |= {name: args.out / "checkpoints" / f"{name}.pt" for name in CHECKPOINTS}
    with job.artefact(outputs, params=args.params, seed=args.params["seed"], side=args.made) as artefact:
        if artefact.needed:
            from firstshot import synthetic, untrained

            job.say("synthetic sounds and UNTRAINED networks: scores on them say nothing about DCASE")
            for machine in machines:
                clips = synthetic.write_machine(artefact.path(machine), machine, args.params)
                job.say(f"{machine}: {clips} clips")
            synthetic.write_noise(artefact.path("noise"), args.params)
            for name in CHECKPOINTS:
                untrained.write_checkpoint(artefact.path(name), name, args.params["checkpoints"], args.params["seed"])
            artefact.note(weights=synthetic.UNTRAINED, sounds="synthetic")


if __name__ == "__main__":
    job.main(main)
