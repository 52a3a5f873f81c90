"""Pseudo labels of one machine type from frozen embeddings of its training clips, with the BIC curve."""

import csv
from collections.abc import Iterable
from pathlib import Path

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--embeddings", type=Path, required=True, metavar="ARROW", help="frozen embeddings, training")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="clip, label")
    parser.add_argument("--bic", type=Path, required=True, metavar="CSV", help="clusters, BIC (lowest is chosen)")
    args = job.parse(parser)
    outputs = {"labels": args.out, "bic": args.bic}
    with job.artefact(outputs, inputs={"embeddings": args.embeddings}, params=args.params) as artefact:
        if not artefact.needed:
            return
        import numpy as np

        from firstshot.errors import UserError
        from firstshot.packed import Embeddings
        from firstshot.pseudo_label import cluster

        options = {name: value for name, value in args.params.items() if name != "machines"}
        train = Embeddings.open(args.embeddings)
        (embeddings,) = train.columns.values()
        is_target = np.array([domain == "target" for domain in train.domain])
        try:
            clustering = cluster(embeddings, is_target, **options)
        except UserError as error:
            raise UserError(f"{args.embeddings}: {error}") from None
        artefact.note(clusters=clustering.n_clusters, clips=len(train.clip))
        write_csv(artefact.path("labels"), ["clip", "label"], zip(train.clip, clustering.labels, strict=True))
        write_csv(artefact.path("bic"), ["clusters", "bic"], enumerate(clustering.bic, start=1))


def write_csv(path: Path, header: list[str], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    job.main(main)
