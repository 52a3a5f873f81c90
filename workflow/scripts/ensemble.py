"""Scores of all systems for one machine type: means over seeds, frontends and strategies, one csv per system."""

from functools import cache
from pathlib import Path
from typing import Any

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument(
        "--scores", type=Path, nargs="+", required=True, metavar="CSV", help="…/{strategy}/{frontend}/…"
    )
    parser.add_argument("--machine", required=True, help="machine type, the name of the csv files written")
    parser.add_argument("--out-dir", type=Path, required=True, metavar="DIR", help="gets one folder per system")
    args = job.parse(parser)
    from firstshot import ensemble

    params = args.params
    paths = {f"{path.parent.parent.name}.{path.parent.name}": path for path in args.scores}
    systems = ensemble.members(params["systems"], params["weights"], params["frozen_weights"], paths)

    @cache
    def combined() -> Any:
        return ensemble.mixed(paths, systems, params["standardise"])

    for system in (*paths, *systems):
        made_of = ensemble.definitions(system, systems)
        with job.artefact(
            {"scores": args.out_dir / system / f"{args.machine}.csv"},
            inputs={"scores": [paths[name] for name in ensemble.singles_of(system, systems)]},
            params={"members": made_of.pop(system, {}), "inside": made_of, "standardise": params["standardise"]},
            stored=False,  # read once more they cost less than their links
        ) as artefact:
            if artefact.needed:
                clips, scores, seeds = combined()
                ensemble.write_scores(artefact.path("scores"), clips, scores[system], seeds[system])


if __name__ == "__main__":
    job.main(main)
