"""Reads a finished run of the workflow into a `Detector`, by the side files of its artefacts.

Side files say what every artefact was made from, so nothing is asked of the config: settings, weights and models are
those that really made the scores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstshot import ensemble, lineage, metric
from firstshot.detector import Arrays, Checkpoint, Detector, Enhancement, Single
from firstshot.errors import UserError
from firstshot.packed import Embeddings, PackedAudio
from firstshot.score import Backend, unit_vectors


def machines(run: Path) -> list[str]:
    """Machine types that a run has scored."""
    if not run.is_dir():
        raise UserError(f"{run}: no such folder; give the results of a finished run, such as results/demo")
    found = sorted(path.stem for path in (run / "truth").glob("*.csv"))
    if not found:
        raise UserError(f"{run}: holds no finished run (no truth/*.csv); run the workflow first")
    return found


def systems(run: Path, machine: str) -> list[str]:
    """Ids of the systems that a run has scored for a machine type."""
    return sorted(path.parent.name for path in (run / "ensemble").glob(f"*/{machine}.csv"))


def detector(run: Path, machine: str, system: str) -> Detector:
    """The detector of one machine type and system of a finished run.

    Raises UserError for an unknown machine type or system and for a run whose files are incomplete.
    """
    _known("machine type", machine, machines(run), run)
    _known("system", system, systems(run, machine), run)
    mixes, standardise = _mixes(run, machine, system)
    names = ensemble.singles_of(system, mixes)
    backends = {name: _score_folder(run, machine, name) for name in names}
    settings = {name: _side(folder / f"{machine}.csv")["params"] for name, folder in backends.items()}
    train = PackedAudio.open(run / "data" / machine / "train.arrow")
    lengths = [train.n_samples(i) / train.sampling_rate for i in range(len(train))]
    singles = {name: _single(run, machine, folder, Backend(**settings[name])) for name, folder in backends.items()}
    rows = metric.read_rows(run / "metric" / f"{machine}.csv", ["system", "threshold"])
    threshold = next(float(row["threshold"]) for row in rows if row["system"] == system)
    return Detector(
        machine=machine,
        system=system,
        systems=mixes,
        singles=singles,
        standardise=standardise,
        distance=next(iter(settings.values()))["distance"],
        threshold=threshold,
        sampling_rate=train.sampling_rate,
        channel=_side(run / "data" / machine / "train.arrow")["params"].get("channel", 0),
        train_seconds=(min(lengths), max(lengths)),
        enhancement=_enhancement(run, machine) if any(single.enhanced for single in singles.values()) else None,
        provenance=_provenance(run, machine, system, backends),
    )


def _known(what: str, name: str, found: list[str], run: Path) -> None:
    if name not in found:
        raise UserError(f"{run} has no {what} {name!r}; it has: {', '.join(found) or 'none'}")


def _side(path: Path) -> dict[str, Any]:
    """The side file of an artefact."""
    try:
        return json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path.with_suffix('.json')}: cannot be read ({error}); run the workflow again") from None


def _mixes(run: Path, machine: str, system: str) -> tuple[dict[str, dict[str, float]], str]:
    """Members and weights of a system and of the systems inside it, members first."""
    side = _side(run / "ensemble" / system / f"{machine}.csv")["params"]
    mixes: dict[str, dict[str, float]] = {}
    for member in side["members"]:
        mixes |= _mixes(run, machine, member)[0]
    if side["members"]:
        mixes[system] = dict(side["members"])
    return mixes, side["standardise"]


def _score_folder(run: Path, machine: str, single: str) -> Path:
    """`score/{pool}/{strategy}/{frontend}` of a single system `{strategy}.{frontend}`."""
    strategy, _, frontend = single.partition(".")
    found = sorted((run / "score").glob(f"*/{strategy}/{frontend}/{machine}.csv"))
    if len(found) != 1:
        raise UserError(f"{run}/score holds {len(found)} results of {single} for {machine}; run the workflow again")
    return found[0].parent


def _embedded(run: Path, machine: str, folder: Path) -> dict[str, Any]:
    return _side(_embeddings(run, machine, folder))


def _embeddings(run: Path, machine: str, folder: Path) -> Path:
    return run / "embed" / folder.relative_to(run / "score") / machine / "train.arrow"


def _single(run: Path, machine: str, folder: Path, backend: Backend) -> Single:
    pool, strategy, frontend = folder.relative_to(run / "score").parts
    path = _embeddings(run, machine, folder)
    side, embeddings = _side(path), Embeddings.open(path)
    is_target = np.array([domain == "target" for domain in embeddings.domain])
    clips, scores = ensemble.read_scores(folder / f"{machine}.csv")
    params = side["params"]
    rate = PackedAudio.open(run / "data" / machine / "train.arrow").sampling_rate
    frozen = pool == "frozen"
    return Single(
        frontend=frontend,
        frozen=frozen,
        enhanced=strategy.startswith("enhanced-"),
        settings=params.get("frontend", {}),  # none for a network as published
        n_samples=round(params["clip_seconds"] * rate),
        checkpoint=_checkpoint(path, side),
        states=[{}] if frozen else [_state(path.parent / entry["file"]) for entry in side["inputs"]["models"]],
        banks=[backend.fit(vectors, is_target).bank_ for vectors in embeddings.columns.values()],
        train_scores=scores[ensemble.of_split(clips, "train")].mean(axis=1),
    )


def _checkpoint(path: Path, side: Mapping[str, Any]) -> Checkpoint | None:
    listed = side["inputs"].get("checkpoint")
    if not listed:
        return None
    where = (path.parent / listed[0]["file"]).resolve()
    return Checkpoint(where.name, listed[0]["sha256"], str(where))


def _state(path: Path) -> Arrays:
    """Trained tensors of one seed, without the centres of the loss."""
    from firstshot.embed import read_model

    return {name: tensor.numpy() for name, tensor in read_model(path).items()}


def _enhancement(run: Path, machine: str) -> Enhancement | None:
    """The enhancement model; None where the run skipped the machine type."""
    model = run / "enhance" / machine / "model.safetensors"
    if not model.is_file():
        return None
    import safetensors.numpy

    applied = _side(run / "enhance" / machine / "test.arrow")
    return Enhancement(applied["params"], applied["notes"]["kind"], safetensors.numpy.load_file(model))


def _provenance(run: Path, machine: str, system: str, folders: Mapping[str, Path]) -> dict[str, Any]:
    """For people: where a detector came from. `stages`: code, config and digests of the inputs of all that made it."""
    scores = run / "ensemble" / system / f"{machine}.csv"
    made = lineage.history(scores) | lineage.history(run / "metric" / f"{machine}.csv")
    return {
        "experiment": run.resolve().name,
        "scores_sha256": _side(scores)["outputs"]["scores"]["sha256"],
        "versions": _embedded(run, machine, next(iter(folders.values())))["versions"],
        "stages": {
            os.path.relpath(path.with_suffix(""), run): {
                "rule": side["rule"],
                "code": side["code"],
                "config": side["params"],
                "inputs": {name: [file["sha256"] for file in files] for name, files in side["inputs"].items()},
            }
            for path, side in sorted(made.items())
        },
    }


def nearest(
    run: Path, detector: Detector, single: str, wave: NDArray[np.float32], n: int
) -> list[tuple[str, float, NDArray[np.float32]]]:
    """The `n` training clips nearest to a clip as a single system hears them: name, cosine distance, waveform.

    SMOTE points are no recordings, so they are passed over.
    """
    folder = _score_folder(run, detector.machine, single)
    embeddings = Embeddings.open(_embeddings(run, detector.machine, folder))
    vectors = unit_vectors(next(iter(embeddings.columns.values())), "training")
    (query,) = unit_vectors(detector.embeddings([wave])[single][0], "test")
    distance = 1.0 - vectors @ query
    train = PackedAudio.open(run / "data" / detector.machine / "train.arrow")
    row = {clip: i for i, clip in enumerate(train.clip)}
    chosen = [int(i) for i in np.argsort(distance, kind="stable")[:n]]
    return [(embeddings.clip[i], float(distance[i]), train.wave(row[embeddings.clip[i]])) for i in chosen]
