"""Submission package of DCASE Challenge Task 2, and a check of anyone's package.

The package is a folder (and the same as a zip)::

    task2/<label>/<label>.meta.yaml
    task2/<label>/anomaly_score_<machine>_section_<ss>_test.csv       <clip>.wav,<score>
    task2/<label>/decision_result_<machine>_section_<ss>_test.csv     <clip>.wav,<0 or 1>

with labels `<LastName>_<Institute>_task2_<1…4>`, csv files without header, rows sorted by clip name. The csv forms are
those of the official evaluators (nttcslab/dcase20{23,24,25}_task2_evaluator); the tree and the yaml follow the
challenge's general rules and public packages of 2025.
"""

from __future__ import annotations

import csv
import io
import math
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from firstshot.errors import UNREADABLE_ZIP, UserError
from firstshot.metric import as_float, harmonic_mean
from firstshot.tables import FRONTENDS

LABEL = re.compile(r"[A-Za-z][A-Za-z-]*_[A-Za-z0-9-]+_task2_[1-4]")
CSV_NAME = re.compile(r"(anomaly_score|decision_result)_(.+)_section_(\d{2})_test\.csv")
OFFICIAL_CLIP = re.compile(r"section_\d{2}_(?:test_)?\d{4}\.wav")
MAX_SYSTEMS = 4
MAX_ABBREVIATION = 10
MAX_BYTES = 256 * 2**20  # of a package; the paper's four systems have 0.5 MB


# --- writing ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decisions:
    """Scores and decisions of one system, machine type and section, in order of the clips' file names."""

    machine: str
    section: str
    files: list[str]
    scores: list[float]
    decisions: list[int]


def system_decisions(rows: Sequence[Mapping[str, str]], system: str, machine: str, path: Path) -> list[Decisions]:
    """A system's decisions by section, from the metric stage's rows system, section, file, score, decision."""
    own = sorted((row for row in rows if row["system"] == system), key=lambda row: row["file"])
    if not own:
        known = ", ".join(dict.fromkeys(row["system"] for row in rows))
        raise UserError(f"{path} holds no system {system!r}; it has {known or 'none'}")
    return [
        Decisions(
            machine,
            section,
            [row["file"] for row in chosen],
            [float(row["score"]) for row in chosen],
            [int(row["decision"]) for row in chosen],
        )
        for section in sorted({row["section"] for row in own})
        if (chosen := [row for row in own if row["section"] == section])
    ]


def development_results(sections: Sequence[Mapping[str, str]], system: str) -> dict[str, dict[str, float | None]]:
    """AUC source, AUC target and pAUC in percent by machine type, as the yaml's results want them; None where n/a."""
    results: dict[str, dict[str, float | None]] = {}
    for machine in dict.fromkeys(row["machine"] for row in sections):
        rows = [row for row in sections if row["system"] == system and row["machine"] == machine]
        means = {
            key: harmonic_mean([as_float(row[column]) for row in rows])
            for key, column in (("auc_source", "AUC_source"), ("auc_target", "AUC_target"), ("pauc", "pAUC"))
        }
        results[machine] = {key: None if math.isnan(mean) else round(100 * mean, 2) for key, mean in means.items()}
    return results


def meta(label: str, team: Mapping[str, Any], system: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """Content of `<label>.meta.yaml`: what the package is called, who made it, how, and its development scores.

    team: name, abbreviation, authors. system: `name`, `abbreviation`, `description`, `complexity`,
    `external_datasets` and `source_code`, as far as known; see `about`.
    """
    return {
        "submission": {
            "label": label,
            "name": system.get("name", label),
            "abbreviation": system.get("abbreviation", label.rpartition("_")[2]),
            "authors": list(team["authors"]),
        },
        "system": {
            "description": dict(system.get("description", {})),
            "complexity": {"total_parameters": None, "MACS": None, **system.get("complexity", {})},
            "external_datasets": system.get("external_datasets", []),
            "source_code": system.get("source_code"),
        },
        "results": {"development_dataset": dict(results)},
    }


PAGES = {
    "BEATs": "https://github.com/microsoft/unilm/tree/master/beats",
    "EAT": "https://github.com/cwx-worst-one/EAT",
    "SSLAM": "https://github.com/ta012/SSLAM",
    "AudioSet": "https://research.google.com/audioset/",
}


def about(singles: Sequence[str]) -> dict[str, Any]:
    """What the yaml says of a system made of these single ones (`{audio}-{labels}.{frontend}`): `description` and
    `external_datasets`.
    """
    parts = [re.split(r"[-.]", single) for single in singles]
    networks = [FRONTENDS[name] for name in FRONTENDS if name != "spec" and any(part[2] == name for part in parts)]
    spec, trained = any(part[2] == "spec" for part in parts), any(part[1] != "none" for part in parts)
    enhanced = any(part[0] != "noisy" for part in parts)
    # BEATs also guides enhancement and finds the pseudo labels.
    guides = enhanced or any(part[1] in ("noisy", "enhanced") for part in parts)
    used = [name for name in PAGES if name in networks or (name == "BEATs" and guides)]
    used += ["AudioSet"] if used else []  # what they were trained on
    return {
        "description": {
            "input_sampling_rate": "16kHz",
            "data_augmentation": "mixup" if trained else None,
            "front_end": "target signal enhancement" if enhanced else "raw waveform",
            "acoustic_features": [
                *(["spectrogram", "amplitude spectrum"] if spec else []),
                *(["log-mel spectrogram"] if networks else []),
            ],
            "embeddings": networks,
            "machine_learning_method": [*(["CNN"] if spec else []), *(["transformer"] if networks else [])],
            "aggregation_method": "weighted average" if len(singles) > 1 else None,
            "domain_adaptation_method": None,
            "domain_generalization_method": "SMOTE",
            "ensemble_method_subsystem_count": len(singles),
            "decision_making": "percentile of a gamma distribution",
            "attribute_usage": "class labels" if trained else None,
            "external_data_usage": [*(["pre-trained models"] if used else []), *(["noise"] if enhanced else [])],
            "development_data_usage": "training" if trained else None,
        },
        "external_datasets": [{"name": name, "url": PAGES[name]} for name in used],
    }


def write_system(folder: Path, label: str, content: Mapping[str, Any], tables: Sequence[Decisions]) -> None:
    """Write one system's folder `<label>` below `folder`, which is the package's `task2`."""
    place = folder / label
    place.mkdir(parents=True)
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    (place / f"{label}.meta.yaml").write_text(text, encoding="utf-8")
    for table in tables:
        name = f"{table.machine}_section_{table.section}_test.csv"
        columns: dict[str, Sequence[float | int]] = {"anomaly_score": table.scores, "decision_result": table.decisions}
        for form, values in columns.items():
            with (place / f"{form}_{name}").open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerows((file, repr(value)) for file, value in zip(table.files, values, strict=True))


def write_zip(folder: Path, target: Path) -> None:
    """Zip a folder as the package's `task2`; same content, same bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(f"task2/{path.relative_to(folder).as_posix()}")
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            made.writestr(info, path.read_bytes())


# --- checking ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One thing the check found. severity: error (the package would be refused or misread) or note."""

    severity: str
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.place}: {self.message}"


def check_package(
    package: Path,
    machines: Sequence[str] | None = None,
    clips: Mapping[str, Sequence[str]] | None = None,
    counts: Mapping[str, int] | None = None,
) -> list[Finding]:
    """Check a package, folder or zip, and return all findings; no error among them means it can be handed in.

    machines: machine types that must be there (and no others); None: those of `counts`, or of the first system.
    clips: file names of the test clips by machine type, where known; otherwise the systems are compared with one
    another. counts: number of test clips by machine type of an official evaluation set, whose clips have official
    names.
    """
    found: list[Finding] = []
    files = _contents(package, found)
    systems: dict[str, dict[str, bytes]] = {}
    for path, content in files.items():
        parts = PurePosixPath(path).parts
        if "task2" in parts and len(parts) - parts.index("task2") == 3:
            systems.setdefault(parts[-2], {})[parts[-1]] = content
        elif not path.endswith((".pdf", ".zip")):
            found.append(Finding("note", path, "is not part of task2/<label>/ and will be ignored"))
    if not systems:
        return [*found, Finding("error", package.name, "holds no folder task2/<label>/ with a system")]
    if len(systems) > MAX_SYSTEMS:
        found.append(Finding("error", package.name, f"holds {len(systems)} systems; at most {MAX_SYSTEMS} are allowed"))
    if not any(path.endswith(".pdf") for path in files):
        found.append(Finding("note", package.name, "holds no technical report (pdf), which the challenge asks for"))
    expected = list(machines) if machines is not None else list(counts) if counts is not None else None
    names: dict[tuple[str, str], set[str]] = {}
    for label, members in sorted(systems.items()):
        present = _check_system(label, members, clips or {}, names, found)
        _check_official(label, members, counts or {}, found)
        expected = sorted(present) if expected is None else expected
        for machine in sorted(set(expected) - present):
            found.append(Finding("error", label, f"has no scores of machine type {machine}"))
        for machine in sorted(present - set(expected)):
            found.append(Finding("error", label, f"has scores of {machine}, which is not asked for"))
    return found


def _contents(package: Path, found: list[Finding]) -> dict[str, bytes]:
    """All files of a folder or zip by relative path; nothing is written anywhere."""
    if package.is_dir():
        paths = sorted(path for path in package.rglob("*") if path.is_file() or path.is_symlink())
        for path in paths:
            if path.is_symlink():
                found.append(Finding("error", path.relative_to(package).as_posix(), "is a link"))
        regular = [path for path in paths if not path.is_symlink()]
        if sum(path.stat().st_size for path in regular) > MAX_BYTES:
            raise UserError(f"{package} holds more than {MAX_BYTES >> 20} MB; this is no submission package")
        return {path.relative_to(package).as_posix(): path.read_bytes() for path in regular}
    try:
        with zipfile.ZipFile(package) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
            for name, count in Counter(info.filename for info in infos).items():
                if count > 1:
                    found.append(Finding("error", name, f"is in the zip {count} times"))
            if sum(info.file_size for info in infos) > MAX_BYTES:
                raise UserError(f"{package} holds more than {MAX_BYTES >> 20} MB; this is no submission package")
            for info in infos:
                if ".." in PurePosixPath(info.filename).parts or info.filename.startswith("/"):
                    found.append(Finding("error", info.filename, "leads out of the package"))
            return {info.filename: opened.read(info) for info in infos}
    except FileNotFoundError:
        raise UserError(f"{package} does not exist; give a package's folder or zip") from None
    except (*UNREADABLE_ZIP, OSError) as error:
        raise UserError(f"{package} is neither a folder nor a readable zip ({error})") from error


def _check_system(
    label: str,
    content: Mapping[str, bytes],
    clips: Mapping[str, Sequence[str]],
    names: dict[tuple[str, str], set[str]],
    found: list[Finding],
) -> set[str]:
    """Check one system's folder; returns its machine types. `names` collects clip names over systems."""

    def error(place: str, message: str) -> None:
        found.append(Finding("error", place, message))

    if not LABEL.fullmatch(label):
        error(label, "is not of the form <LastName>_<Institute>_task2_<1…4>")
    _check_meta(label, content.get(f"{label}.meta.yaml"), found)
    tables: dict[tuple[str, str], dict[str, tuple[str, list[str]]]] = {}
    for name, body in content.items():
        place = f"{label}/{name}"
        match = CSV_NAME.fullmatch(name)
        if match:
            form, machine, section = match.groups()
            rows = _check_rows(place, body, form, found)
            tables.setdefault((machine, section), {})[form] = (place, rows)
        elif name != f"{label}.meta.yaml":
            found.append(Finding("note", place, "is not a file of the package's form and will be ignored"))
    for (machine, section), forms in tables.items():
        for form, other in (("decision_result", "anomaly_score"), ("anomaly_score", "decision_result")):
            if other not in forms:
                error(forms[form][0], f"stands without its {other}_{machine}_section_{section}_test.csv")
        if len(forms) == 2 and forms["anomaly_score"][1] != forms["decision_result"][1]:
            same = sorted(forms["anomaly_score"][1]) == sorted(forms["decision_result"][1])
            error(
                forms["decision_result"][0], "lists " + ("another order of" if same else "other") + " clips than scores"
            )
        for place, listed in forms.values():
            known = {file for file in clips.get(machine, ()) if _section(file, section) == section}
            reference = known or names.setdefault((machine, section), set(listed))
            whose = "the test set" if known else "the first system"
            if missing := sorted(reference - set(listed)):
                error(place, f"lacks {len(missing)} clips of {whose}, e.g. {missing[0]}")
            if foreign := sorted(set(listed) - reference):
                error(place, f"names {len(foreign)} clips that are not in {whose}, e.g. {foreign[0]}")
    if not tables:
        error(label, "holds no anomaly_score_<machine>_section_<ss>_test.csv")
    return {machine for machine, _ in tables}


def _check_official(label: str, content: Mapping[str, bytes], counts: Mapping[str, int], found: list[Finding]) -> None:
    """Check the number and names of clips of an official evaluation set, which has one section."""
    for name, body in content.items():
        match = CSV_NAME.fullmatch(name)
        if not match or match[2] not in counts:
            continue
        place, expected = f"{label}/{name}", counts[match[2]]
        clips = [line.partition(",")[0] for line in body.decode("utf-8", errors="replace").splitlines() if line]
        if match[3] != "00":
            found.append(Finding("error", place, f"is of section {match[3]}; the evaluation set has section 00 only"))
        if len(clips) != expected:
            found.append(Finding("error", place, f"has {len(clips)} rows; the evaluation set has {expected} clips"))
        if foreign := [clip for clip in clips if not OFFICIAL_CLIP.fullmatch(clip)]:
            found.append(
                Finding("error", place, f"names {foreign[0]!r}; expected names such as section_{match[3]}_0000.wav")
            )


def _section(file: str, otherwise: str) -> str:
    match = re.match(r"section_(\d{2})_", file)
    return match[1] if match else otherwise


def _check_rows(place: str, body: bytes, form: str, found: list[Finding]) -> list[str]:
    """Check the rows of one csv; returns its clip names."""

    def error(message: str) -> None:
        found.append(Finding("error", place, message))

    try:
        rows = [row for row in csv.reader(io.StringIO(body.decode("utf-8"), newline="")) if row]
    except (UnicodeDecodeError, csv.Error) as problem:
        error(f"is not a csv file in UTF-8 ({problem})")
        return []
    if not rows:
        error("is empty")
    names = []
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            error(f"line {number} has {len(row)} cells; expected clip name and value")
            continue
        name, value = row[0], row[1].strip()
        names.append(name)
        if not name.endswith(".wav"):
            error(f"line {number}: {name!r} is not a clip name ending in .wav (a header is not allowed)")
        elif form == "decision_result" and value not in ("0", "1"):
            error(f"line {number}: decision {value!r} of {name}; expected 0 or 1")
        elif form == "anomaly_score" and not _finite(value):
            error(f"line {number}: score {value!r} of {name}; expected a finite number")
    if double := sorted(name for name, count in Counter(names).items() if count > 1):
        error(f"names {double[0]} more than once")
    if names != sorted(names):
        found.append(Finding("note", place, "is not sorted by clip name; the evaluator sorts it"))
    return names


def _finite(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _check_meta(label: str, body: bytes | None, found: list[Finding]) -> None:
    place = f"{label}/{label}.meta.yaml"
    if body is None:
        found.append(Finding("error", place, "is missing"))
        return
    try:
        # Packages write empty entries as `!!null`; safe loading knows that tag and no other than plain data.
        content = yaml.safe_load(body.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        found.append(Finding("error", place, f"is not readable YAML ({' '.join(str(problem).split())})"))
        return
    for path in REQUIRED_META:
        value: Any = content
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value in (None, "", [], {}):
            found.append(Finding("error", place, f"says nothing under {path}"))
    submission = content.get("submission", {}) if isinstance(content, dict) else {}
    if isinstance(submission, dict) and submission.get("label") not in (None, label):
        found.append(Finding("error", place, f"has the label {submission['label']!r}, its folder is {label!r}"))
    abbreviation = submission.get("abbreviation") if isinstance(submission, dict) else None
    if isinstance(abbreviation, str) and len(abbreviation) > MAX_ABBREVIATION:
        found.append(
            Finding("error", place, f"abbreviation {abbreviation!r} has more than {MAX_ABBREVIATION} characters")
        )


REQUIRED_META = (
    "submission.label", "submission.name", "submission.abbreviation", "submission.authors",
    "system.description", "results.development_dataset",
)  # fmt: skip
