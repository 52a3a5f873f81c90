"""The challenge package: scores and decisions of up to four systems in the official form, checked before it is kept."""

from pathlib import Path

from firstshot import job, lineage
from firstshot.errors import UserError


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument(
        "--decisions", type=Path, nargs="+", required=True, metavar="CSV", help="{machine}.decisions.csv"
    )
    parser.add_argument(
        "--development", type=Path, nargs="*", default=[], metavar="CSV", help="metrics of machine types"
    )
    parser.add_argument(
        "--truth", type=Path, nargs="+", required=True, metavar="CSV", help="{machine}.csv, for the clips' names"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="ZIP", help="beside it the same as folder task2")
    args = job.parse(parser)
    outputs = {"zip": args.out, "folder": args.out.with_name("task2")}
    inputs = {"decisions": args.decisions, "development": args.development, "truth": args.truth}
    with job.artefact(outputs, inputs=inputs, params=args.params) as artefact:
        # Decisions have the side file of their machine type's metrics.
        metrics = [path.with_name(path.name.replace(".decisions.csv", ".csv")) for path in args.decisions]
        lineage.of_one_making(dict.fromkeys([*metrics, *args.development]))
        if not artefact.needed:
            return
        from firstshot import ensemble, metric, submission
        from firstshot.config import layered

        team, folder = args.params["team"], artefact.path("folder")
        read = {
            path.name.removesuffix(".decisions.csv"): (path, metric.read_rows(path, metric.DECISION_COLUMNS))
            for path in args.decisions
        }
        development = [row for path in args.development for row in metric.read_rows(path, metric.SECTION_COLUMNS)]
        settings = args.params["ensemble"]
        ids = {system["id"] for system in settings["systems"]}
        singles = {row["system"] for _, rows in read.values() for row in rows} - ids
        mixed = ensemble.members(settings["systems"], settings["weights"], settings["frozen_weights"], singles)
        submitted, given = args.params["systems"], team.get("system", {})
        general = {name: value for name, value in given.items() if name not in submitted}
        for number, system in enumerate(submitted, start=1):
            label = f"{team['label']}_task2_{number}"
            tables = [
                table
                for machine, (path, rows) in read.items()
                for table in submission.system_decisions(rows, system, machine, path)
            ]
            results = submission.development_results(development, system)
            about = layered(
                {"name": f"{team['name']} {system}", "abbreviation": system},
                submission.about(ensemble.singles_of(system, mixed)),
                general,
                given.get(system, {}),
            )
            submission.write_system(folder, label, submission.meta(label, team, about, results), tables)
        submission.write_zip(folder, artefact.path("zip"))
        clips = {path.stem: metric.read_truth(path).file for path in args.truth}
        findings = submission.check_package(artefact.path("zip"), list(read), clips)
        for finding in findings:
            job.say(str(finding))
        if errors := [finding for finding in findings if finding.severity == "error"]:
            raise UserError(f"the package is not fit to be handed in: {len(errors)} errors, first: {errors[0]}")


if __name__ == "__main__":
    job.main(main)
