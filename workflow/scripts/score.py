"""Anomaly scores of one machine type by one system: test clips, and training clips left out one by one."""

import csv
from pathlib import Path

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--train", type=Path, required=True, metavar="ARROW", help="embeddings of the training clips")
    parser.add_argument("--test", type=Path, required=True, metavar="ARROW", help="embeddings of the test clips")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="CSV", help="clip, split, domain, one score per seed"
    )
    args = job.parse(parser)
    inputs = {"train": args.train, "test": args.test}
    with job.artefact({"scores": args.out}, inputs=inputs, params=args.params) as artefact:
        if not artefact.needed:
            return
        import numpy as np

        from firstshot.errors import UserError
        from firstshot.packed import Embeddings
        from firstshot.score import Backend

        train, test = Embeddings.open(args.train), Embeddings.open(args.test)
        is_target = np.array([domain == "target" for domain in train.domain])
        rows = [[clip, "test", ""] for clip in test.clip]
        rows += [[clip, "train", domain or ""] for clip, domain in zip(train.clip, train.domain, strict=True)]
        for seed, embeddings in train.columns.items():
            try:
                backend = Backend(**args.params).fit(embeddings, is_target)
                scores = [*backend.score_samples(test.columns[seed]), *backend.leave_one_out()]
            except UserError as error:
                raise UserError(f"{args.train.parent}, {seed}: {error}") from None
            for row, score in zip(rows, scores, strict=True):
                row.append(str(score))
        artefact.note(smote_points=backend.smote_points_, no_smote_because=backend.smote_note_)
        with artefact.path("scores").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["clip", "split", "domain", *train.columns])
            writer.writerows(rows)


if __name__ == "__main__":
    job.main(main)
