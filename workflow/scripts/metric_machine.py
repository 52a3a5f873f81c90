"""Metrics, decisions, single-seed scores and bootstrap sums of all systems for one machine type."""

from pathlib import Path

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument(
        "--ensemble", type=Path, nargs="+", required=True, metavar="CSV", help="…/{system}/{machine}.csv"
    )
    parser.add_argument(
        "--truth", type=Path, required=True, metavar="CSV", help="what the test clips are: {machine}.csv"
    )
    parser.add_argument("--train", type=Path, required=True, metavar="ARROW", help="training clips, for their length")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="beside it: .seeds.csv, .bootstrap.npz")
    parser.add_argument("--decisions", type=Path, required=True, metavar="CSV", help="score and decision by test clip")
    args = job.parse(parser)
    machine = args.truth.stem
    outputs = {
        "metrics": args.out,
        "decisions": args.decisions,
        "seeds": args.out.with_suffix(".seeds.csv"),
        "bootstrap": args.out.with_suffix(".bootstrap.npz"),
    }
    inputs = {"ensemble": args.ensemble, "truth": args.truth, "train": args.train}
    with job.artefact(outputs, inputs=inputs, params=args.params) as artefact:
        if not artefact.needed:
            return
        from firstshot import metric
        from firstshot.packed import PackedAudio

        train = PackedAudio.open(args.train)
        samples = sum(train.n_samples(i) for i in range(len(train)))
        systems = {path.parent.name: path for path in args.ensemble}
        result = metric.evaluate_machine(
            machine,
            metric.read_truth(args.truth),
            systems,
            max_fpr=args.params["pauc_p"],
            percentile=args.params["threshold_percentile"] / 100,
            resamples=args.params["bootstrap"],
            seed=args.params["random_state"],
            clip_seconds=samples / len(train) / train.sampling_rate,
        )
        metric.write_rows(artefact.path("metrics"), result.sections, metric.SECTION_COLUMNS)
        metric.write_rows(artefact.path("decisions"), result.decisions, metric.DECISION_COLUMNS)
        metric.write_rows(artefact.path("seeds"), result.seeds, metric.SEED_COLUMNS)
        metric.write_resamples(artefact.path("bootstrap"), list(systems), result)


if __name__ == "__main__":
    job.main(main)
