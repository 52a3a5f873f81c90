"""DCASE Challenge Task 2 data by year: what there is, fetching it, and the truth about the evaluation clips.

The first part answers the plan's questions from `published/dcase.yaml` and imports the standard library and PyYAML
only. The second part downloads archives from Zenodo and lists from the organisers' repository. Everything that
comes from outside is checked before it is used: sizes and checksums against the record, records against a lock file
written on first use, archive members against their folder, and lists against the names they must hold.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import fcntl
import hashlib
import io
import json
import logging
import re
import shutil
import stat
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from firstshot import data
from firstshot.errors import UNREADABLE_ZIP, UserError

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

TABLE = Path(__file__).with_name("published") / "dcase.yaml"
SETS = ("development", "evaluation")


# --- the table of years (plan time) -----------------------------------------------------------------------


@cache
def table() -> dict[str, Any]:
    """The table of years as it stands in `published/dcase.yaml`."""
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def years() -> list[int]:
    """Years that the table knows."""
    return sorted(table()["years"])


def year_row(year: int) -> dict[str, Any]:
    """The table's entry of one year."""
    try:
        return table()["years"][year]
    except KeyError:
        raise UserError(f"data.year: {year!r} is not in the table of DCASE years; known are {years()}") from None


def machines(year: int) -> list[str]:
    """All machine types of a year, development set first."""
    return [machine for name in SETS for machine in year_row(year)[name]["machines"]]


def set_of(year: int, machine: str) -> str:
    """'development' or 'evaluation': the set that a machine type belongs to."""
    for name in SETS:
        if machine in year_row(year)[name]["machines"]:
            return name
    raise UserError(f"machine type {machine!r} is not in DCASE {year}; it has {', '.join(machines(year))}")


def machine_sets(year: int, chosen: list[str]) -> dict[str, list[str]]:
    """The chosen machine types by set, as the paper's tables split them; empty sets are left out."""
    by_set = {name: [machine for machine in chosen if set_of(year, machine) == name] for name in SETS}
    return {name: members for name, members in by_set.items() if members}


def facts(year: int, machine: str, folder: Path | None = None) -> data.Facts:
    """What the plan needs to know about a machine type before any file is there.

    `classes` is the smallest number that is certain (source and target); `supplement` says only whether there is one,
    because no public text tells which machine types have clean recordings and which have noise. A copy in `folder`
    whose supplemental clips were left out has none.
    """
    set_of(year, machine)
    row, whole = year_row(year), table()
    supplemental = 0 if folder and _lacks_supplement(year, machine, folder) else row["supplemental"]
    return data.Facts(
        machine=machine,
        train=whole["train_source"] + whole["train_target"],
        supplemental=supplemental,
        test=whole["test"],
        target=whole["train_target"],
        labelled=machine not in row["hidden_attributes"],
        classes=2,
        supplement=data.UNKNOWN if supplemental else None,
    )


def evaluation_counts(year: int) -> dict[str, int]:
    """Number of test clips by machine type of a year's evaluation set."""
    return dict.fromkeys(year_row(year)["evaluation"]["machines"], table()["test"])


@dataclass(frozen=True)
class Archive:
    """One zip of a Zenodo record. `holds`: the splits in it; `md5`: known beforehand, else None."""

    record: int
    name: str
    holds: tuple[str, ...]
    md5: str | None


def archives(year: int, machine: str) -> list[Archive]:
    """The archives that make up a machine type's folder."""
    return [
        Archive(
            entry["record"],
            entry.get("names", {}).get(machine) or entry["name"].format(machine=machine),
            tuple(entry["holds"]),
            entry.get("md5", {}).get(machine),
        )
        for entry in year_row(year)[set_of(year, machine)]["archives"]
    ]


# --- local copies -----------------------------------------------------------------------------------------


def local_folder(folder: Path, machine: str) -> Path:
    """Where a machine type lies or will lie below `folder`: a copy in the official tree is found where it is."""
    if (folder / machine).is_dir() or not folder.is_dir():
        return folder / machine
    found = data.machine_folders(folder).get(machine, [])
    return found[0] if len(found) == 1 else folder / machine


def missing_archives(year: int, machine: str, folder: Path) -> list[Archive]:
    """Archives whose training or test clips are not in the machine type's local folder.

    A copy without supplemental clips is used as it is: whoever put it there may have left them out on purpose.
    """
    place = local_folder(folder, machine)
    return [
        archive
        for archive in archives(year, machine)
        if not all(_present(place / split) for split in archive.holds if split != "supplemental")
    ]


def _present(split: Path) -> bool:
    return split.is_dir() and any(entry.suffix.lower() in data.READABLE for entry in split.iterdir())


def _lacks_supplement(year: int, machine: str, folder: Path) -> bool:
    """Whether the archive with the supplemental clips counts as present, and they are not there."""
    missing = missing_archives(year, machine, folder)
    awaited = any("supplemental" in archive.holds for archive in missing)
    return not awaited and not _present(local_folder(folder, machine) / "supplemental")


def to_fetch(year: int, chosen: Sequence[str], folder: Path) -> list[str]:
    """What a run would fetch for the chosen machine types, one line for each record."""
    named: dict[int, list[str]] = {}
    for machine in chosen:
        for archive in missing_archives(year, machine, folder):
            named.setdefault(archive.record, []).append(archive.name)
    return [
        f"recordings to fetch into {folder}: {', '.join(names)} of {table()['archives']}/records/{record}"
        for record, names in named.items()
    ]


def refuse_another_year(year: int, machine: str, folder: Path) -> None:
    """Raise UserError where a lock file in `folder` says that the machine type was fetched there for another year."""
    for other in years():
        if other == year or machine not in machines(other):
            continue
        pinned = Lock(lock_file(other, folder)).read()
        if any(_key(archive) in pinned for archive in archives(other, machine)):
            raise UserError(
                f"data.folder {folder} holds {machine} of DCASE {other} ({lock_file(other, folder).name} names it), "
                f"but data.year is {year}; give every year a folder of its own, such as data/dcase{{year}}, or remove "
                "the machine type's folder and that lock file"
            )


def differences(year: int, machine: str, listed: Sequence[data.Clip], folder: Path) -> list[str]:
    """Where a machine type's clips differ from what the table says of the year; the clips count, so these are hints.

    Channels and lengths are read from the header of each split's first clip.
    """
    import soundfile

    expected, row, found = facts(year, machine), year_row(year), data.facts(listed, machine)
    counted = {name: (getattr(found, name), getattr(expected, name)) for name in ("train", "target", "test")}
    if found.supplemental:  # a copy may leave them out
        counted["supplemental"] = (found.supplemental, expected.supplemental)
    told = [f"{count} {what} clips, expected {wanted}" for what, (count, wanted) in counted.items() if count != wanted]
    if found.labelled != expected.labelled:
        told.append(f"attributes are {'given' if found.labelled else 'hidden'}, expected otherwise")
    first = {clip.split: clip for clip in reversed(listed)}
    for split, clip in first.items():
        try:
            header = soundfile.info(folder / clip.path)
        except (soundfile.SoundFileError, OSError):
            continue  # told with its reason where the clips are decoded
        if header.channels != row["channels"]:
            told.append(f"{split} clips have {header.channels} channels, expected {row['channels']}")
        seconds = row["seconds"].get(machine)
        if seconds and abs(header.duration - seconds) > 0.5:
            told.append(f"{split} clips of {header.duration:.1f} s, expected {seconds} s")
    return told


# --- lock file --------------------------------------------------------------------------------------------


def lock_file(year: int, folder: Path) -> Path:
    """Where the lock file of a year lies."""
    return folder / f"dcase{year}.lock.json"


@contextlib.contextmanager
def _alone(mutex: Path) -> Iterator[None]:
    """Other processes that ask for the same mutex wait until this one is done."""
    mutex.parent.mkdir(parents=True, exist_ok=True)
    with mutex.open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


class Lock:
    """Sizes and checksums of everything fetched, written on first use; what differs later is an error.

    One JSON file beside the data; safe against several processes. Keys are addresses without the host, so that a
    mirror must serve the same content.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def pin(self, key: str, facts: Mapping[str, Any], remedy: str) -> None:
        """Record `facts` under `key`, or raise UserError where other facts are recorded."""
        with _alone(self.path.with_name(f".{self.path.name}.mutex")):
            pinned = self.read()
            if key not in pinned:
                pinned[key] = dict(facts)
                part = self.path.with_name(f".{self.path.name}.part")
                part.write_text(json.dumps(pinned, indent=1, sort_keys=True) + "\n", encoding="utf-8")
                part.replace(self.path)
            elif pinned[key] != dict(facts):
                changed = [name for name in facts if pinned[key].get(name) != facts[name]] or list(pinned[key])
                raise UserError(
                    f"{key} changed since it was first used: {changed[0]} is now {facts.get(changed[0])!r}, "
                    f"{self.path} records {pinned[key].get(changed[0])!r}. {remedy}"
                )

    def read(self) -> dict[str, Any]:
        """Everything recorded so far, by key."""
        if not self.path.exists():
            return {}
        try:
            pinned = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{self.path} is not JSON ({error}); restore it, or remove it to pin anew") from error
        if not isinstance(pinned, dict):
            raise UserError(f"{self.path} is not a lock file; restore it, or remove it to pin anew")
        return pinned


def _key(archive: Archive) -> str:
    return f"records/{archive.record}/files/{archive.name}"


REMEDY = "If the change is meant (a corrected release), remove this entry from the lock file and fetch again."


# --- fetching ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where to fetch from: base addresses of the archives and of the organisers' repository, and how patiently."""

    archives: str
    organisers: str
    retries: int = 5
    backoff: float = 1.0
    timeout: float = 60.0

    @classmethod
    def of(cls, archives: str | None = None, organisers: str | None = None, **patience: Any) -> Source:
        """The public addresses, or mirrors given instead."""
        return cls(archives or table()["archives"], organisers or table()["organisers"], **patience)


def session(source: Source) -> requests.Session:
    """A session that retries refused connections and passing server errors, and follows at most five redirects."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    made = requests.Session()
    made.max_redirects = 5
    made.headers["Accept-Encoding"] = "identity"  # sizes and checksums are of the bytes as they lie there
    retry = Retry(
        total=source.retries,
        backoff_factor=source.backoff,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("GET",),
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        made.mount(scheme, HTTPAdapter(max_retries=retry))
    return made


class ConnectionLostError(UserError):
    """The connection failed or broke off; what arrived is kept, and asking again continues."""


@contextlib.contextmanager
def _response(
    web: requests.Session, address: str, source: Source, start: int = 0, **options: Any
) -> Iterator[requests.Response]:
    """GET an address, from byte `start` on; an answer that does not fit becomes a UserError that says what to do.

    Where a range is asked for, 206 and 416 (no such range) fit as well as 200 (the whole).
    """
    import requests

    if start:
        options["headers"] = {"Range": f"bytes={start}-"}
    try:
        with web.get(address, timeout=source.timeout, stream=True, **options) as response:
            if address.startswith("https://") and not response.url.startswith("https://"):
                raise UserError(f"{address} redirects to the unprotected {response.url}; not followed")
            if response.status_code not in ((200, 206, 416) if start else (200,)):
                raise UserError(
                    f"{address} answers {response.status_code} {response.reason}. "
                    + (
                        "The address may have moved: see the table of DCASE years, or give a mirror by data.mirror."
                        if response.status_code in (401, 403, 404, 410)
                        else "Try again later; what was downloaded so far is kept."
                    )
                )
            yield response
    except requests.TooManyRedirects as error:
        raise UserError(f"{address} redirects without end ({error})") from error
    except requests.RequestException as error:
        raise ConnectionLostError(
            f"{address} cannot be reached or broke off ({type(error).__name__}: {error}). Check the network or proxy, "
            "or put a copy into data.folder; a started download continues where it ended."
        ) from error


BLOCK = 2**16  # bytes read at a time
MAX_ANSWER = 32 * 2**20  # bytes of a record's description or of a list; the largest list known has 1.5 MB


def _small(web: requests.Session, address: str, source: Source) -> bytes:
    """The body of a small answer."""
    with _response(web, address, source) as response:
        body = bytearray()
        for block in response.iter_content(BLOCK):
            body += block
            if len(body) > MAX_ANSWER:
                raise UserError(
                    f"{address} answers with more than {MAX_ANSWER >> 20} MB; this is not the expected file"
                )
        return bytes(body)


@dataclass(frozen=True)
class Entry:
    """One file of a record, as its API answer describes it."""

    name: str
    size: int
    md5: str
    address: str
    licence: str


def record_entry(web: requests.Session, archive: Archive, source: Source, lock: Lock) -> Entry:
    """Look an archive up in its record and pin size, checksum and licence."""
    address = f"{source.archives}/api/records/{archive.record}"
    try:
        answer = json.loads(_small(web, address, source))
        files = {file["key"]: file for file in answer["files"]}
        licence = answer["metadata"].get("license")
        licence = str((licence.get("id") if isinstance(licence, dict) else licence) or "not stated")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{address} does not answer with a record that lists its files ({error!r})") from error
    if archive.name not in files:
        raise UserError(
            f"record {archive.record} holds no {archive.name}; it has {', '.join(sorted(files)) or 'no file'}. "
            "Correct the table of DCASE years."
        )
    try:
        size = int(files[archive.name]["size"])
        kind, _, md5 = str(files[archive.name]["checksum"]).partition(":")
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{address} gives no size or checksum of {archive.name} ({error!r})") from error
    if kind != "md5" or size <= 0:
        raise UserError(f"{address} gives checksum {kind!r} and size {size} of {archive.name}; expected md5 and bytes")
    if archive.md5 and archive.md5 != md5:
        raise UserError(f"{archive.name}: record {archive.record} gives md5 {md5}, the table of years {archive.md5}")
    lock.pin(_key(archive), {"size": size, "md5": md5, "licence": licence}, REMEDY)
    return Entry(archive.name, size, md5, f"{source.archives}/{_key(archive)}?download=1", licence)


def download(
    web: requests.Session,
    entry: Entry,
    target: Path,
    source: Source,
    *,
    show_progress: bool = True,
    stop: threading.Event | None = None,
) -> None:
    """Download an archive to `target`, continuing an earlier part; it gets its name only when whole and correct.

    Once `stop` is set it ends with an error, and the part stays.
    """
    from tqdm import tqdm

    stop = stop or threading.Event()
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(
        total=entry.size, unit="B", unit_scale=True, desc=entry.name, mininterval=5, disable=not show_progress
    ) as bar:
        for attempt in range(source.retries + 1):
            try:
                _append(web, entry, part, source, bar=bar, stop=stop)
            except ConnectionLostError as error:
                if attempt == source.retries or stop.is_set():
                    raise
                log.warning("%s; continuing at %d bytes", error, _size(part))
                stop.wait(source.backoff * 2**attempt)
            else:
                if _size(part) == entry.size:
                    break
        else:
            raise UserError(f"{entry.address} ends after {_size(part)} of {entry.size} bytes; start again to continue")
    with part.open("rb") as stream:
        md5 = hashlib.file_digest(stream, "md5").hexdigest()
    if md5 != entry.md5:
        part.unlink()
        raise UserError(
            f"{entry.name} has md5 {md5}, its record says {entry.md5}; the download was removed. Fetch again, and "
            "where it happens again, tell the record's authors."
        )
    part.rename(target)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(
    web: requests.Session, entry: Entry, part: Path, source: Source, *, bar: Any, stop: threading.Event
) -> None:
    """One request for what is still missing of `part`; a part that the server cannot continue is removed."""
    if _size(part) > entry.size:
        part.unlink()
    start = bar.n = _size(part)
    if start == entry.size:
        return
    with _response(web, entry.address, source, start) as response:
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if response.status_code == 416 or (response.status_code == 206 and not continued):
            part.unlink()
            return
        if response.status_code == 200:
            start = bar.n = 0
        with part.open("ab" if start else "wb") as stream:
            for block in response.iter_content(BLOCK):
                if stop.is_set():
                    raise UserError(f"{entry.name}: stopped at {start} of {entry.size} bytes; start again to continue")
                start += len(block)
                if start > entry.size:
                    stream.close()
                    part.unlink()
                    raise UserError(f"{entry.address} sends more than the {entry.size} bytes of its record; refused")
                stream.write(block)
                bar.update(len(block))


# --- unpacking --------------------------------------------------------------------------------------------

MAX_MEMBERS = 20_000  # the largest machine type has 1,300 clips
MAX_EXPANSION = 50  # PCM audio shrinks to about a half; only silence or a bomb to less than a fiftieth
MAX_UNPACKED = 16 * 2**30  # bytes; the largest machine type has about 0.5 GB


def unpack(archive: Path, machine: str, target: Path) -> int:
    """Unpack a machine type's clips and attribute lists from a zip into `target`; returns the bytes written.

    Accepts `<machine>/train/x.wav` and `train/x.wav`; anything else in the zip (notes, system files) is left. Refused
    before anything is written: paths out of the folder, links, encrypted or special members, another machine type,
    too many members, and members that expand without measure. `target` is either complete or as it was before.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _checked_members(opened, archive, machine)
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{machine}-", dir=target.parent) as folder:
                written = sum(_write_member(opened, info, Path(folder) / path) for info, path in members)
                _move_into(Path(folder), target)
    except UNREADABLE_ZIP as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); remove it and fetch again") from error
    except OSError as error:  # a full disk, or a damaged position in the zip
        raise UserError(
            f"{archive} cannot be unpacked into {target} ({error.strerror or error}); make room there, and where there "
            "is room, remove the archive and fetch again"
        ) from error
    return written


def _checked_members(
    opened: zipfile.ZipFile, archive: Path, machine: str
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    infos = opened.infolist()
    if len(infos) > MAX_MEMBERS:
        raise UserError(f"{archive} has {len(infos)} members, more than the {MAX_MEMBERS} that a machine type can have")
    total = sum(info.file_size for info in infos)
    if total > min(MAX_UNPACKED, MAX_EXPANSION * max(archive.stat().st_size, 2**20)):
        raise UserError(f"{archive} would expand from {archive.stat().st_size} to {total} bytes; refused")
    chosen: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in infos:
        path = PurePosixPath(info.filename)
        mode = info.external_attr >> 16
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename:
            raise UserError(f"{archive}: member {info.filename!r} leads out of the folder; nothing was unpacked")
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            raise UserError(f"{archive}: member {info.filename!r} is a link or special file; nothing was unpacked")
        if info.flag_bits & 1:
            raise UserError(f"{archive}: member {info.filename!r} is encrypted; nothing was unpacked")
        inner = _inner_path(path, info.is_dir())
        if inner is None:
            continue
        above = path.parts[: len(path.parts) - len(inner.parts)]
        if above and above[-1] != machine:
            raise UserError(f"{archive}: {info.filename!r} belongs to {above[-1]!r}, expected machine type {machine!r}")
        if inner in chosen:
            raise UserError(f"{archive}: {inner} is in it more than once; nothing was unpacked")
        chosen[inner] = info
    if not any(path.parts[0] in data.SPLITS for path in chosen):
        raise UserError(f"{archive} holds no train, test or supplemental clip of machine type {machine!r}")
    return [(info, path) for path, info in chosen.items()]


def _inner_path(path: PurePosixPath, is_folder: bool) -> PurePosixPath | None:
    """`train/x.wav` or `attributes_00.csv` of a member's path; None for members that are not needed."""
    if is_folder or "__MACOSX" in path.parts or path.name.startswith("."):
        return None
    if len(path.parts) > 1 and path.parts[-2] in data.SPLITS and path.suffix.lower() in data.READABLE:
        return PurePosixPath(*path.parts[-2:])
    if path.name.startswith("attributes_") and path.suffix == ".csv":
        return PurePosixPath(path.name)
    return None


def _write_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(info) as source, path.open("xb") as sink:
        shutil.copyfileobj(source, sink, 2**20)  # never more than info.file_size, which was checked; CRC as well
        return sink.tell()


def _move_into(folder: Path, target: Path) -> None:
    """Rename each split folder and list into place; clips of a split that is there already are left as they are."""
    target.mkdir(exist_ok=True)
    for made in sorted(folder.iterdir()):
        place = target / made.name
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
        if place.exists():
            log.info("%s exists and is kept", place)
        else:
            made.rename(place)


def fetch_machine(
    year: int, machine: str, folder: Path, source: Source | None = None, show_progress: bool = True
) -> dict[str, Any]:
    """Bring a machine type's clips to `folder/<machine>`, unless they lie there (or in the official tree below it).

    Archives are downloaded side by side, checked, unpacked and removed. Returns what was fetched: archive names with
    size, md5 and licence; an empty list where the local copy was complete.
    """
    source = source or Source.of()
    refuse_another_year(year, machine, folder)
    if missing_archives(year, machine, folder):
        with _alone(folder / f".{machine}.mutex"):
            # Another process may have fetched it meanwhile.
            if wanted := missing_archives(year, machine, folder):
                return {"archives": _fetch(year, machine, wanted, folder, source=source, show_progress=show_progress)}
    log.info("%s: local copy %s is used as it is", machine, local_folder(folder, machine))
    return {"archives": []}


def _fetch(
    year: int, machine: str, wanted: Sequence[Archive], folder: Path, *, source: Source, show_progress: bool
) -> list[dict[str, Any]]:
    """Download and unpack archives of a machine type; what of them was there before is kept."""
    place, lock, web = local_folder(folder, machine), Lock(lock_file(year, folder)), session(source)
    entries = [record_entry(web, archive, source, lock) for archive in wanted]
    for licence in sorted({entry.licence for entry in entries}):
        log.info("%s: licence of the recordings as stated by the record: %s", machine, licence)
    arrived = folder / f".archives-{machine}"
    files = [arrived / entry.name for entry in entries]
    stop = threading.Event()

    def fetch(entry: Entry, file: Path) -> None:
        if not file.exists():
            download(web, entry, file, source, show_progress=show_progress, stop=stop)

    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        started = [pool.submit(fetch, entry, file) for entry, file in zip(entries, files, strict=True)]
        try:
            for done in concurrent.futures.as_completed(started):
                done.result()
        except BaseException:  # Ctrl-C as well: the others end at their next block instead of at their last
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for file in files:
        start = time.perf_counter()
        written = unpack(file, machine, place)
        log.info("%s: unpacked %.0f MB/s", file.name, written / 1e6 / max(time.perf_counter() - start, 1e-9))
        file.unlink()
    shutil.rmtree(arrived)  # with what is left of archives that are no longer asked for
    return [{"name": entry.name, "size": entry.size, "md5": entry.md5, "licence": entry.licence} for entry in entries]


# --- truth about evaluation clips, from the organisers' repository ----------------------------------------


def list_file(relative: str, folder: Path) -> Path:
    """Where `fetch_list` keeps a list from the organisers' repository."""
    return folder / "organisers" / relative


def fetch_list(year: int, relative: str, folder: Path, source: Source | None = None) -> Path:
    """A list from the organisers' repository, kept in `folder/organisers` and pinned in the lock file."""
    source = source or Source.of()
    target = list_file(relative, folder)
    if not target.exists():
        body = _small(session(source), f"{source.organisers}/{relative}", source)
        with _alone(target.with_name(f".{target.name}.mutex")):
            part = target.with_name(f".{target.name}.part")
            part.write_bytes(body)
            part.replace(target)
    sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
    Lock(lock_file(year, folder)).pin(relative, {"sha256": sha256}, REMEDY)
    return target


def read_truth_list(path: Path, machine: str) -> dict[str, str]:
    """True names by anonymous name of one machine type, from an organisers' evaluation list.

    The list has no header: a line with a machine type opens its block, then lines `anonymous.wav,true.wav[,…]`.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a list of evaluation clips ({error}); remove it and fetch again") from error
    names: dict[str, str] = {}
    block, blocks = "", []
    for row in rows:
        cells = [cell.strip() for cell in row if cell.strip()]
        if len(cells) == 1:
            block = cells[0]
            blocks.append(block)
        elif len(cells) > 1 and block == machine:
            if cells[0] in names:
                raise UserError(f"{path}: {cells[0]} of {machine} is listed more than once")
            names[cells[0]] = cells[1]
    if double := next((true for true, count in Counter(names.values()).items() if count > 1), None):
        raise UserError(f"{path}: two clips of {machine} have the true name {double}; correct the list")
    if not names:
        raise UserError(
            f"{path} says nothing about machine type {machine!r} (it lists {', '.join(blocks) or 'nothing'}), so its "
            "official score cannot be computed; leave the machine type out of `machines`, or complete the list"
        )
    return names


def revealed_truth(
    rows: list[dict[str, str]], names: Mapping[str, str], machine: str, path: Path
) -> list[dict[str, str]]:
    """Truth rows of a machine type with domain, condition and attributes filled in from the true names.

    `rows` have the columns clip, file, section and so on; `names` comes from `read_truth_list`, found in `path`.
    """
    by_stem = {_stem(anonymous): true for anonymous, true in names.items()}
    filled = []
    for row in rows:
        file = row["file"]
        true = by_stem.get(_stem(file)) or by_stem.get(_stem(file).replace("_test_", "_"))
        if true is None:
            raise UserError(
                f"{path} has no true name of {machine} {file}; the list and the recordings do not belong together"
            )
        try:
            clip = data.parse_name(machine, "test", f"{_stem(true)}.wav")
        except UserError as error:
            raise UserError(f"{path}: the true name of {machine} {file} cannot be read: {error}") from error
        if clip.section != row["section"] or not clip.domain or not clip.condition:
            raise UserError(f"{path}: {true!r} states no domain and condition of {machine} {file}")
        filled.append(row | {"domain": clip.domain, "condition": clip.condition, "attributes": clip.attributes or ""})
    if len(names) != len(rows):
        log.warning("%s lists %d clips of %s, %d are present", path, len(names), machine, len(rows))
    return filled


def _stem(name: str) -> str:
    """A clip's name without folder and suffix; dots inside it stay."""
    return re.sub(r"\.(wav|flac|ogg|mp3)$", "", name.strip().replace("\\", "/").rpartition("/")[2])


def revealed_attributes(year: int, machine: str, folder: Path, source: Source | None = None) -> dict[str, str]:
    """Attributes revealed after the challenge, by training clip name; a diagnostic of pseudo labels, never an input.

    The list has a column of names as they were given out, ending in noAttribute, and one of names with attributes,
    in either order. Raises UserError for a machine type whose attributes were never hidden.
    """
    row = year_row(year)
    if machine not in row["hidden_attributes"] or not row["revealed"]:
        raise UserError(f"DCASE {year} {machine}: no attributes were hidden, so none were revealed")
    short = {"development": "dev", "evaluation": "eval"}[set_of(year, machine)]
    path = fetch_list(year, row["revealed"].format(set=short, machine=machine), folder, source)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            _, *rows = [[_stem(cell) for cell in row[:2]] for row in csv.reader(stream) if row] or [[]]
        pairs = [(own, other) if own.endswith("noAttribute") else (other, own) for own, other in rows]
        parsed = {hidden: data.parse_name(machine, "train", f"{true}.wav").attributes for hidden, true in pairs}
    except (UserError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a list of revealed attributes ({error}); remove it and fetch again") from error
    if not any(parsed.values()):
        raise UserError(f"{path} reveals no attributes of {machine}; expected names with and without attributes")
    return {hidden: attributes or "" for hidden, attributes in parsed.items()}
