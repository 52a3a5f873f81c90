"""Clips of a machine type: names, folders, manifest csv, and the facts that are known before anything is decoded.

Only the standard library is imported, because the workflow asks these questions while it is planned.

Folder layout (DCASE Task 2, 2023-2026)::

    <folder>/<machine>/{train,test,supplemental}/*.wav, <folder>/<machine>/attributes_00.csv

where `<machine>` may also lie one or two levels lower (`dev_data/raw/<machine>`). Any other folder is described by a
manifest csv: columns `clip` (path below the folder) and `split`, and where known `machine`, `section`, `domain`,
`condition`, `attributes`, `kind`.
"""

import csv
import difflib
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from firstshot.errors import UserError

log = logging.getLogger(__name__)

SPLITS = ("train", "supplemental", "test")
DOMAINS = ("source", "target")
CONDITIONS = ("normal", "anomaly")
KINDS = ("clean", "noise")
MIXED, UNKNOWN = "mixed", "unknown"  # of the supplemental clips of a machine type: both kinds, or not told yet
READABLE = (".wav", ".flac", ".ogg", ".mp3")
NOISE_SUFFIXES = (*READABLE, ".opus", ".aif", ".aiff")  # of the noise pool
UNREADABLE = (".aac", ".aif", ".aiff", ".m4a", ".mp4", ".opus", ".webm", ".wma")

LABELLED = re.compile(r"section_(\d{2})_(source|target)_(?:(train|test)_)?(normal|anomaly)_(\d+)(?:_(.*))?")
ANONYMOUS = re.compile(r"section_(\d{2})_(?:test_)?(\d+)")
SUPPLEMENTAL = re.compile(r"section_(\d{2})_(?:(.*?)_)?(\d{4,})(?:_(.*))?")


class Clip(NamedTuple):
    """One recording as its name or its manifest row describes it; None where unknown."""

    machine: str
    split: str  # train | supplemental | test
    clip: str  # name, unique within machine type and split
    path: str  # relative to the data folder, with forward slashes
    section: str = "00"
    domain: str | None = None  # source | target
    condition: str | None = None  # normal | anomaly
    attributes: str | None = None  # the whole attribute string; None: not given
    kind: str | None = None  # clean | noise, supplemental clips only


class Facts(NamedTuple):
    """What the plan needs to know about a machine type."""

    machine: str
    train: int  # number of clips
    supplemental: int
    test: int
    target: int  # training clips of the target domain
    labelled: bool  # some training clip has attributes
    classes: int  # distinct (section, attributes, domain) of the training clips
    supplement: str | None  # clean | noise | mixed | unknown; None: no supplemental clips
    lone: int = 0  # classes with a single training clip

    @property
    def has_supplemental(self) -> bool:
        return self.supplemental > 0


# -- names -------------------------------------------------------------------------------------------------------------


def attribute_string(text: str | None) -> str | None:
    """None for an attribute part that says nothing ('', '_', 'noAttribute'), else the part as it stands."""
    return None if text is None or text.strip("_ ") in ("", "noAttribute") else text


def parse_name(machine: str, split: str, path: str, kind: str | None = None) -> Clip:
    """Read a clip's section, domain, condition and attributes from its file name.

    `kind` ('clean' | 'noise') answers for supplemental names that do not say it. Raises UserError for a name that
    does not parse or that contradicts its folder.
    """
    name = path.rpartition("/")[2].rpartition(".")[0]
    if split == "supplemental":
        return _parse_supplemental(machine, name, path, kind)
    if match := LABELLED.fullmatch(name):
        section, domain, named_split, condition, _, attributes = match.groups()
        if named_split and named_split != split:
            raise UserError(f"{path}: the name says '{named_split}' but the file lies in {split}/. Move or rename it.")
        if split == "train" and condition != "normal":
            raise UserError(f"{path}: an anomalous clip in train/. Training uses normal clips only: move it to test/.")
        return Clip(machine, split, name, path, section, domain, condition, attribute_string(attributes))
    if split == "test" and (match := ANONYMOUS.fullmatch(name)):
        return Clip(machine, split, name, path, match[1])
    labelled = f"section_00_{{source|target}}_{split}_{{normal|anomaly}}_0000[_<attributes>]"
    expected = labelled if split == "train" else f"{labelled} or section_00_0000"
    raise UserError(
        f"{path}: the name does not parse; expected {expected} plus .wav, .flac, .ogg or .mp3. "
        "Rename the file, or describe the folder by a manifest csv (data.source: manifest), where names are free."
    )


def _parse_supplemental(machine: str, name: str, path: str, kind: str | None) -> Clip:
    """Four published forms, told apart by the words before the index: 'noise' wins over 'machine'."""
    match = SUPPLEMENTAL.fullmatch(name)
    words = (match[2] or "").split("_") if match else []
    kind = kind or ("noise" if "noise" in words else "clean" if "machine" in words else None)
    if kind is None:
        raise UserError(
            f"{path}: the name does not say whether the supplemental clip is the machine alone ('machine' before "
            "the index) or noise alone ('noise'). Say it in the config: "
            f"data.supplement_kind: {{{machine}: clean}} (or noise)."
        )
    named_domain = next((word for word in words if word in DOMAINS), None)
    domain = named_domain or ("source" if kind == "clean" else None)
    condition = "normal" if kind == "clean" else None
    section, attributes = (match[1], match[4]) if match else ("00", None)
    return Clip(machine, "supplemental", name, path, section, domain, condition, attribute_string(attributes), kind)


# -- folder in DCASE layout --------------------------------------------------------------------------------------------


def machine_folders(folder: Path) -> dict[str, list[Path]]:
    """Machine types below `folder` and where each lies: folders with a train, test or supplemental folder inside."""
    found: dict[str, list[Path]] = {}
    level = [folder]
    for _ in range(3):
        level = sorted(inner for outer in level for inner in _folders(outer))
        for inner in level.copy():
            if any((inner / split).is_dir() for split in SPLITS):
                found.setdefault(inner.name, []).append(inner)
                level.remove(inner)
    return found


def _folders(folder: Path) -> list[Path]:
    return [inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith(".")]


def _nearest(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, sorted(known), 1)
    return f" Did you mean '{match[0]}'?" if match else ""


def _machine_folder(folder: Path, machine: str) -> Path:
    direct = folder / machine
    if direct.is_dir():
        return direct
    if not folder.is_dir():
        raise UserError(f"data.folder: {folder} is not a folder. Give the folder that holds {machine}/train/*.wav.")
    found = machine_folders(folder)
    if machine not in found:
        listed = ", ".join(sorted(found)) or "none"
        raise UserError(
            f"machine type '{machine}': no folder {direct}; machine types found below {folder}: {listed}."
            f"{_nearest(machine, found)} Expected {machine}/train, {machine}/test and, where there is one, "
            f"{machine}/supplemental."
        )
    if len(found[machine]) > 1:
        raise UserError(
            f"machine type '{machine}' lies in several folders: {', '.join(map(str, found[machine]))}. "
            "Put its train, test and supplemental folders into one, or give a deeper data.folder."
        )
    return found[machine][0]


def _audio_files(folder: Path) -> list[str]:
    """Names of the audio files directly in `folder`, sorted; hidden and other files are left out."""
    if not folder.is_dir():
        return []
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = "." + entry.name.rpartition(".")[2].lower()
            if entry.name.startswith("."):
                continue
            if suffix in READABLE:
                names.append(entry.name)
            elif suffix in UNREADABLE:
                raise UserError(f"{entry.path}: {suffix} files are not read. Convert the clip to wav or flac.")
    return sorted(names)


def recordings_below(folder: Path) -> list[Path]:
    """Audio files in a folder and in the folders below, sorted; hidden ones are left out.

    Raises UserError where there are none.
    """
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in READABLE
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise UserError(f"{folder}: no recordings in this folder; expected {', '.join(READABLE)} files")
    return found


def folder_clips(folder: Path, machine: str, kind: str | None = None) -> list[Clip]:
    """All clips of a machine type in a DCASE-layout folder, sorted by split and name; only names are read."""
    inside = _machine_folder(folder, machine)
    prefix = inside.relative_to(folder).as_posix()
    return [
        parse_name(machine, split, f"{prefix}/{split}/{name}", kind)
        for split in SPLITS
        for name in _audio_files(inside / split)
    ]


# -- manifest csv ------------------------------------------------------------------------------------------------------

COLUMNS = ("clip", "split", "machine", "section", "domain", "condition", "attributes", "kind")


def manifest_clips(manifest: Path, machine: str, kind: str | None = None) -> list[Clip]:
    """All clips of a machine type that a manifest csv lists; rows without a machine belong to every asker.

    A clip's name is its path without suffix, so that `day1/001.wav` and `day2/001.wav` differ.
    """
    try:
        status = manifest.stat()
    except OSError as error:
        raise UserError(f"data.manifest: {manifest} cannot be read ({error.strerror}).") from None
    rows = _read_manifest(manifest, status.st_mtime_ns, status.st_size)
    clips = [_row_clip(manifest, line, row, machine, kind) for line, row in rows if row.get("machine") in ("", machine)]
    if not clips:
        named = {row["machine"] for _, row in rows}
        raise UserError(
            f"{manifest}: no clip of machine type '{machine}'; the csv names: {', '.join(sorted(named)) or 'none'}."
            f"{_nearest(machine, named)}"
        )
    return sorted(clips, key=lambda clip: (SPLITS.index(clip.split), clip.clip))


@lru_cache(maxsize=8)
def _read_manifest(manifest: Path, modified: int, size: int) -> list[tuple[int, dict[str, str]]]:
    """Rows with their line numbers; cached, as one csv serves all machine types of a plan."""
    with manifest.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="")
        header = [name.strip() for name in reader.fieldnames or []]
        for missing in {"clip", "split"} - set(header):
            raise UserError(
                f"{manifest}: no column '{missing}'; found {', '.join(header) or 'an empty file'}. "
                f"Expected clip,split and where known {','.join(COLUMNS[2:])} (separated by commas)."
            )
        for name in set(header) - set(COLUMNS):
            if near := difflib.get_close_matches(name, COLUMNS, 1):
                raise UserError(f"{manifest}: unknown column '{name}'. Did you mean '{near[0]}'?")
        reader.fieldnames = header
        rows = []
        for row in reader:
            rows.append((reader.line_num, {name: (row.get(name) or "").strip() for name in COLUMNS}))
    return rows


def _row_clip(manifest: Path, line: int, row: Mapping[str, str], machine: str, kind: str | None) -> Clip:
    def choice(column: str, allowed: Sequence[str], default: str | None) -> str | None:
        value = row[column] or default
        if value is not None and value not in allowed:
            raise UserError(
                f"{manifest}, line {line}: {column} is '{value}', expected {', '.join(allowed)}"
                f"{' or nothing' if default is None else ''}."
            )
        return value

    path = PurePosixPath(row["clip"].replace("\\", "/")).as_posix()
    stem, _, suffix = path.rpartition(".")
    if f".{suffix.lower()}" not in READABLE:
        raise UserError(f"{manifest}, line {line}: clip '{path}' is not a {', '.join(READABLE)} file.")
    split = choice("split", SPLITS, "")
    section, attributes = row["section"] or "00", attribute_string(row["attributes"])
    if split == "train":
        if choice("condition", CONDITIONS, "normal") != "normal":
            raise UserError(f"{manifest}, line {line}: an anomalous clip in split 'train'. Training uses normal clips.")
        return Clip(machine, split, stem, path, section, choice("domain", DOMAINS, "source"), "normal", attributes)
    domain, condition = choice("domain", DOMAINS, None), choice("condition", CONDITIONS, None)
    if split == "test":
        return Clip(machine, split, stem, path, section, domain, condition, attributes)
    kind = kind or choice("kind", KINDS, None)
    if kind is None:
        raise UserError(
            f"{manifest}, line {line}: a supplemental clip needs kind 'clean' (the machine alone) or "
            f"'noise' (noise alone), in the csv or in the config as data.supplement_kind: {{{machine}: …}}."
        )
    domain = domain or ("source" if kind == "clean" else None)
    return Clip(machine, "supplemental", stem, path, section, domain, condition, attributes, kind)


def clips(folder: Path, machine: str, *, manifest: Path | None = None, kind: str | None = None) -> list[Clip]:
    """All clips of a machine type, from the manifest csv where one is given, else from the folder's file names."""
    return manifest_clips(manifest, machine, kind) if manifest else folder_clips(folder, machine, kind)


# -- facts known when the workflow is planned --------------------------------------------------------------------------


def facts(listed: Sequence[Clip], machine: str) -> Facts:
    """Counts, labels and supplement kind of a machine type from its list of clips."""
    train = [clip for clip in listed if clip.split == "train"]
    classes = _classes(train)
    kinds = {clip.kind for clip in listed if clip.split == "supplemental"}
    return Facts(
        machine=machine,
        train=len(train),
        supplemental=sum(clip.split == "supplemental" for clip in listed),
        test=sum(clip.split == "test" for clip in listed),
        target=sum(clip.domain == "target" for clip in train),
        labelled=any(clip.attributes for clip in train),
        classes=len(classes),
        supplement=None if not kinds else kinds.pop() if len(kinds) == 1 else MIXED,
        lone=sum(count == 1 for count in classes.values()),
    )


def _classes(train: Iterable[Clip]) -> Counter[tuple[str, str | None, str | None]]:
    """Number of training clips by class: section, attributes and domain."""
    return Counter((clip.section, clip.attributes, clip.domain) for clip in train)


def warn_of_lone_classes(machine: str, listed: Sequence[Clip]) -> None:
    """Warn of classes with a single training clip, by name."""
    classes = _classes(clip for clip in listed if clip.split == "train")
    lone = sorted(
        f"{section} {attributes or 'noAttribute'} {domain}"
        for (section, attributes, domain), count in classes.items()
        if count == 1
    )
    if lone:
        log.warning(
            "machine type '%s': %d of %d classes have one training clip each (%s): nothing within them to compare. Add "
            "clips, or give attributes that more clips share.",
            *(machine, len(lone), len(classes), ", ".join(lone)),
        )


def synthetic_facts(machine: str, synthetic: Mapping) -> Facts:
    """Facts of a demo machine type from the settings `synthetic.py` makes it by, before it is made."""
    made = synthetic["machines"][machine]
    source, target = synthetic["train_source"], synthetic["train_target"]
    points = synthetic["operating_points"] if made["attributes"] else {"source": 1, "target": 1}
    return Facts(
        machine=machine,
        train=source + target,
        supplemental=synthetic["supplemental"] if made["supplement"] != "none" else 0,
        test=4 * synthetic["test_per_cell"],
        target=target,
        labelled=made["attributes"],
        classes=min(points["source"], source) + min(points["target"], target),
        supplement=made["supplement"] if made["supplement"] != "none" and synthetic["supplemental"] else None,
        lone=sum(max(0, min(n, 2 * points[domain] - n)) for domain, n in (("source", source), ("target", target))),
    )


# -- attributes csv: a check of the names ------------------------------------------------------------------------------


def read_attributes(path: Path) -> dict[str, str | None]:
    """Attribute string per clip stem from an `attributes_00.csv` in any of its three styles.

    Columns `file_name,d1p,d1v[,d2p,d2v…]`; `file_name` with path and suffix, or the bare stem, or alone (attributes
    hidden). Missing columns and empty values mean that no attribute is given.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if not header or header[0].strip() != "file_name":
            raise UserError(f"{path}: the first column is '{header[0] if header else ''}', expected 'file_name'.")
        table = {}
        for row in reader:
            if row:
                stem = re.sub(r"\.(wav|flac|ogg|mp3)$", "", row[0].strip().replace("\\", "/").rsplit("/", 1)[-1])
                table[stem] = attribute_string("_".join(value.strip() for value in row[1:] if value.strip()))
    return table


def attribute_contradictions(listed: Sequence[Clip], table: Mapping[str, str | None]) -> list[str]:
    """Where the attributes csv says otherwise than the names; names win, so these are warnings for the user."""
    problems = []
    by_stem = {Path(clip.path).stem: clip for clip in listed}
    for stem, attributes in table.items():
        if stem not in by_stem:
            problems.append(f"{stem}: in the csv, but there is no such clip")
        elif (attributes or "").strip("_") != (by_stem[stem].attributes or "").strip("_") and attributes:
            named = by_stem[stem].attributes
            problems.append(f"{stem}: the csv says '{attributes}', the name {repr(named) if named else 'none'}")
    return problems


def attributes_csv(folder: Path, machine: str) -> Path | None:
    """The machine type's attributes csv, where there is one."""
    path = _machine_folder(folder, machine) / "attributes_00.csv"
    return path if path.is_file() else None


def check_attributes(folder: Path, machine: str, listed: Sequence[Clip]) -> None:
    """Warn of each way in which the machine type's attributes csv contradicts the file names."""
    path = attributes_csv(folder, machine)
    if path and (problems := attribute_contradictions(listed, read_attributes(path))):
        shown = "; ".join(problems[:3]) + ("; …" if len(problems) > 3 else "")
        log.warning("%s contradicts the file names for %d clips (%s). The names are used.", path, len(problems), shown)


# -- index: content digests and anonymous test clips -------------------------------------------------------------------

INDEX_COLUMNS = ("clip", "split", "path", "section", "domain", "attributes", "kind", "sha256")
TRUTH_COLUMNS = ("clip", "file", "section", "domain", "condition", "attributes")


def index(folder: Path, listed: Sequence[Clip]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows of a machine type's index and of its truth table.

    The index holds the sha256 of every file. Test clips are renamed `test-0000` … in the order of their digests and
    lose domain, condition and attributes, which stand in the truth table alone. Raises UserError for a machine type
    without training or test clips, for missing and empty files, doubled names and copies of clips.
    """
    machine = listed[0].machine if listed else "?"
    counts = Counter(clip.split for clip in listed)
    for split in ("train", "test"):
        if not counts[split]:
            raise UserError(
                f"machine type '{machine}': no {split} clips below {folder}. Add {machine}/{split}/*.wav, or "
                f"rows of split '{split}' to the manifest csv, or take '{machine}' off `machines`."
            )
    if {clip.kind for clip in listed if clip.kind} == set(KINDS):
        log.warning("machine type '%s' has both clean and noise supplemental clips; both are kept.", machine)
    names = Counter((clip.split, clip.clip) for clip in listed)
    if doubled := [f"{split}/{name}" for (split, name), count in names.items() if count > 1]:
        raise UserError(
            f"machine type '{machine}': several files have the clip name {', '.join(doubled[:3])}. Rename one."
        )

    digests = {clip: _digest(folder, clip) for clip in listed}
    _refuse_copies(machine, digests)
    return _anonymous(digests)


def index_split(folder: Path, listed: Sequence[Clip], split: str) -> list[dict[str, str]]:
    """The rows that `index` has for one split; the other splits are not looked at."""
    return _anonymous({clip: _digest(folder, clip) for clip in listed if clip.split == split})[0]


def _anonymous(digests: Mapping[Clip, str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    test = sorted((clip for clip in digests if clip.split == "test"), key=digests.__getitem__)
    rows, truth = [], []
    for clip in [clip for clip in digests if clip.split != "test"]:
        row = clip._asdict() | {"sha256": digests[clip]}
        rows.append({column: row[column] or "" for column in INDEX_COLUMNS})
    for number, clip in enumerate(test):
        row = clip._asdict() | {"clip": f"test-{number:04d}", "file": f"{clip.clip}.{clip.path.rpartition('.')[2]}"}
        truth.append({column: row[column] or "" for column in TRUTH_COLUMNS})
        hidden = row | {"domain": "", "attributes": "", "kind": "", "sha256": digests[clip]}
        rows.append({column: hidden[column] for column in INDEX_COLUMNS})
    return rows, truth


def told(listed: Iterable[Clip], split: str | None = None) -> str:
    """sha256 of what names or manifest rows say of the clips that is packed: for test clips no more than the section.

    Without a split: of everything they say about all clips, which is what goes into the index and the truth table.
    """
    chosen = [clip for clip in listed if split in (None, clip.split)]
    if split == "test":
        chosen = [clip._replace(domain=None, condition=None, attributes=None) for clip in chosen]
    return hashlib.sha256(repr([tuple(clip) for clip in chosen]).encode()).hexdigest()


def _refuse_copies(machine: str, digests: Mapping[Clip, str]) -> None:
    """Supplemental clips may repeat one another (warning); any other pair of equal clips is an error."""
    first: dict[str, Clip] = {}
    pairs = [(clip, first[digest]) for clip, digest in digests.items() if first.setdefault(digest, clip) is not clip]
    harmless = [pair for pair in pairs if pair[0].split == pair[1].split == "supplemental"]
    for found, refused in ((harmless, False), ([pair for pair in pairs if pair not in harmless], True)):
        named = "; ".join(f"{clip.path} = {earlier.path}" for clip, earlier in found[:3])
        message = f"machine type '{machine}': {len(found)} clips have the content of another: {named}."
        if found and refused:
            raise UserError(f"{message} Delete the copies: they would be scored against themselves.")
        if found:
            log.warning("%s They are kept, being supplemental clips.", message)


def _digest(folder: Path, clip: Clip) -> str:
    path = folder / clip.path
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty. Copy it again, or delete it.")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Every listed clip must exist.") from None


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as csv with a header, in the given order, with Unix line ends."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a csv with a header."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
