"""One run of one stage program: command line, code check, and outputs that are whole or absent.

A program reads

    args = job.parse(parser)
    with job.artefact({"model": args.out}, inputs={"audio": args.audio}, params=args.params) as artefact:
        if artefact.needed:
            ...write to artefact.path("model")...

and gets: outputs under their final names only when complete, a small side file (JSON, same bytes for same work) that
says what they were made from, a lock against a second process at the same artefact, and a store of earlier outputs
that are hard-linked instead of computed again when rule, inputs, parameters, code and seed are the same.

Standard library only: a program that finds its work done ends before it imports anything heavy.
"""

import argparse
import contextlib
import dataclasses
import errno
import fcntl
import gc
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from firstshot import fingerprint
from firstshot.errors import UserError

# Stored outputs up to this size are hashed before they are linked; larger ones are checked by size.
VERIFY_BYTES = 256 * 2**20
PROGRESS_SECONDS = 10.0
LIBRARIES = (
    "firstshot", "imbalanced-learn", "matplotlib", "numpy", "pandas", "peft", "pyarrow", "safetensors", "scikit-learn",
    "scipy", "soundfile", "torch", "torchaudio", "transformers",
)  # fmt: skip

# What tells test clips apart: truth tables, the organisers' lists, and the manifest with the clips' own names.
REVEALING = re.compile(r"(?:^|/)(?:truth(?:/revealed)?/[^/]+|organisers/datasets/.+|data/[^/]+/(manifest))\.csv$")
JUDGES = ("truth", "metric", "tables", "submission", "report")  # stages that may know; the data stage lists the clips

Paths = Path | str | Iterable[Path | str] | None


@dataclass
class _Run:
    """What `parse` learned about this process."""

    rule: str = ""
    code: str = ""
    store: Path | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    examine: "Callable[[Artefact], None] | None" = None


_run = _Run()


# ---------------------------------------------------------------------------------------------------- command line


def parser(description: str | None) -> argparse.ArgumentParser:
    """Argument parser with the options that all stage programs share."""
    shared = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = shared.add_argument_group("shared options")
    group.add_argument("--params", type=json.loads, default={}, metavar="JSON", help="the stage's part of the config")
    group.add_argument("--code", default="", metavar="MODULES:DIGEST", help="planned code; other code refuses to run")
    group.add_argument("--store", type=_folder, default=None, metavar="DIR", help="store of earlier outputs")
    group.add_argument("--threads", type=int, default=1, metavar="N", help="threads of numerical libraries (1)")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where networks run (auto)")
    group.add_argument("--save-every-s", type=float, default=300.0, metavar="S", help="between resumable states (300)")
    return shared


def _folder(text: str) -> Path | None:
    return Path(text) if text else None


# Threads are not among them: by their number a sum is rounded otherwise, so it is part of the key.
SHARED_OPTIONS = frozenset({"params", "code", "store", "device", "save_every_s"})


def parse(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line, set the thread count for numerical libraries and check the code.

    Call before importing numpy or torch. Raises UserError when --code names other code than is on disk.
    """
    args = parser.parse_args(argv)
    gc.set_threshold(100_000, 10, 10)  # importing makes objects by the million that all stay: peft 5.0 s, so 4.4 s
    logging.basicConfig(format="firstshot: %(message)s", stream=sys.stderr)
    logging.getLogger("firstshot").setLevel(logging.INFO)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[variable] = str(args.threads)
    program = Path(sys.argv[0])
    _run.rule = program.stem
    _run.code = _checked_code(args.code, program.resolve().parent)
    # Without a code digest an old result could be taken for the work of new code.
    _run.store = args.store if _run.code else None
    _run.arguments = {
        name: value for name, value in sorted(vars(args).items()) if name not in SHARED_OPTIONS and not _is_path(value)
    }
    return args


def _is_path(value: object) -> bool:
    return isinstance(value, Path) or (isinstance(value, list) and all(isinstance(item, Path) for item in value))


def _checked_code(planned: str, scripts: Path) -> str:
    if not planned:
        return ""
    modules, separator, digest = planned.rpartition(":")
    if not separator:
        raise UserError(f"--code {planned!r} is not of the form module+module:digest")
    present = fingerprint.for_scripts(scripts).digest(*modules.split("+"))
    planned_code, _, _epoch = digest.partition(".")
    if present != planned_code:
        raise UserError(
            f"the code of {modules.replace('+', ', ')} changed after this run was planned "
            f"(planned {planned_code}, now {present}); start snakemake again to plan with the present code"
        )
    return digest


@contextlib.contextmanager
def examining(examine: "Callable[[Artefact], None]") -> Iterator[None]:
    """Programs called inside hand their artefacts to `examine` and do no work (`artefact.needed` is False)."""
    before = dataclasses.replace(_run)
    _run.examine = examine
    try:
        yield
    finally:
        for name, value in vars(before).items():
            setattr(_run, name, value)


def examined() -> bool:
    """This program is only asked what it would do: it fetches and writes nothing."""
    return _run.examine is not None


def main(function: Callable[[], object]) -> NoReturn:
    """Run a program: what the user can mend is told in one line on standard error, with exit status 1."""
    try:
        function()
    except UserError as error:
        say(f"error: {error}")
        sys.exit(1)
    gc.freeze()  # the end need not look for cycles among a million objects: 0.6 s after torch
    sys.exit(0)


def say(message: str) -> None:
    """One line on standard error, which the workflow keeps as the job's log."""
    print(f"firstshot: {message}", file=sys.stderr, flush=True)


_progress = {"start": 0.0, "first": 0.0, "last": 0.0}


def progress(step: int, total: int, **values: float | str) -> None:
    """Log `step` of `total` with values such as loss, the speed and the time left, at most every ten seconds.

    The last step is always logged. Steps count from 1; a resumed run starts where it likes.
    """
    now = time.monotonic()
    if not _progress["start"]:
        _progress.update(start=now, first=step, last=now)
    if step < total and now - _progress["last"] < PROGRESS_SECONDS:
        return
    done, seconds = step - _progress["first"], now - _progress["start"]
    shown = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
    if done and seconds:
        left = (total - step) * seconds / done
        shown += [
            f"{done / seconds:.2f} steps/s",
            f"{int(left // 3600)}:{int(left % 3600 // 60):02}:{left % 60:02.0f} left",
        ]
    say(f"step {step} of {total}: {', '.join(shown)}")
    if step >= total:
        _progress.update(start=0.0)
    else:
        _progress["last"] = now


# -------------------------------------------------------------------------------------------------------- artefacts


def canonical(value: object) -> str:
    """JSON with sorted keys and no free choice of spacing: equal values, equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def side_file(output: Path) -> Path:
    """Path of the side file of an artefact whose first output is `output`."""
    return output.with_suffix(".json")


def digest(path: Path) -> str:
    """sha256 of an input: from its side file where that lists the file at its present size, else from the content.

    Raises UserError where the file is missing or cannot be read.
    """
    try:
        present = path.stat().st_size
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            for entry in json.loads(side_file(path).read_text())["outputs"].values():
                if entry["file"] == path.name and entry["bytes"] == present and path != side_file(path):
                    return str(entry["sha256"])
        return content_sha256(path)
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; it is an input of {_run.rule or 'this program'}"
        ) from error


def _digest_if_there(path: Path) -> str | None:
    return digest(path) if path.exists() else None


def content_sha256(path: Path) -> str:
    """sha256 of a file, or of a folder's file names and their digests; Snakemake's time stamp in a folder is none."""
    if not path.is_dir():
        return fingerprint.file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != ".snakemake_timestamp")
    listing = [[file.relative_to(path).as_posix(), fingerprint.file_sha256(file)] for file in files]
    return hashlib.sha256(canonical(listing).encode()).hexdigest()


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size


def _refuse_revealing(inputs: Iterable[Path]) -> None:
    """Raise UserError where a program that trains, embeds or scores is given what says which test clip is what."""
    for path in inputs:
        found, stage = REVEALING.search(path.as_posix()), _run.rule.partition("_")[0]
        if found and _run.rule and stage not in (*JUDGES, *(("data",) if found[1] else ())):
            raise UserError(
                f"{_run.rule} is given {path}, which tells test clips apart; only the stages {', '.join(JUDGES)} may "
                "read it. Take it out of the rule's inputs"
            )


class Artefact:
    """Outputs of one program run; see the module's text. Made by `artefact`."""

    def __init__(
        self,
        outputs: Mapping[str, Path | None],
        inputs: Mapping[str, Paths],
        params: Mapping[str, Any],
        *,
        seed: int | None,
        side: Path | None,
        stored: bool,
    ) -> None:
        self.outputs = {name: Path(path) for name, path in outputs.items() if path is not None}
        self._first = next(iter(self.outputs.values()))
        self.side = side or side_file(self._first)
        self.params, self.seed = dict(params), seed
        self.inputs = {name: _paths(paths) for name, paths in inputs.items()}
        _refuse_revealing(path for paths in self.inputs.values() for path in paths)
        self.needed = True
        self.notes: dict[str, Any] = {}
        self._store = _run.store if stored else None
        self._token = uuid.uuid4().hex[:12]
        self._locks = contextlib.ExitStack()
        # An examined artefact may outlive an input that was deleted to save space.
        of = _digest_if_there if _run.examine else digest
        self.input_digests = {name: [of(path) for path in paths] for name, paths in self.inputs.items()}
        self.key = _sha256_of(
            {
                "rule": _run.rule, "code": _run.code, "arguments": _run.arguments,
                "params": self.params, "seed": seed, "inputs": self.input_digests,
                "outputs": sorted(f"{name}{path.suffix}" for name, path in self.outputs.items()),
            }
        )  # fmt: skip

    def expected(self) -> dict[str, Any]:
        """What the side file would say of how this artefact is made."""
        record = self._record({}, {}, {})
        return {name: record[name] for name in ("rule", "key", "code", "arguments", "seed", "params", "inputs")}

    def path(self, name: str) -> Path:
        """Where to write output `name`: a temporary file beside the final one, with the same suffix."""
        final = self.outputs[name]
        return final.with_name(f".{final.stem}.{self._token}.part{final.suffix}")

    def note(self, **values: Any) -> None:
        """Add facts about the work to the side file; they must be the same for the same work (no times, no paths)."""
        self.notes.update(values)

    @property
    def state(self) -> Path:
        """File for a resumable state: the same path for the same work, removed when the outputs are complete."""
        return self._first.with_name(f".{self._first.stem}.{self.key[:16]}.state")

    def __enter__(self) -> Self:
        if _run.examine:
            self.needed = False
            _run.examine(self)
            return self
        try:
            with _told(self.side):
                for folder in {path.parent for path in (*self.outputs.values(), self.side)}:
                    folder.mkdir(parents=True, exist_ok=True)
                self._locks.enter_context(_lock(self.side))
                self._remove_temporary()
                self.needed = not self._link_from_store()
        except BaseException:
            self._remove_temporary(own=True)  # makes room for the message where the disk is full
            self._locks.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if _run.examine:
            return
        try:
            if error is not None:
                _tell(error, self.side)
                return
            with _told(self.side):
                if self.needed:
                    self._commit()
            say(f"{'computed' if self.needed else 're-linked'} {self.side}")
        finally:
            self._remove_temporary(own=True)
            self._locks.close()

    def _commit(self) -> None:
        absent = [name for name in self.outputs if not self.path(name).exists()]
        if absent:
            raise RuntimeError(f"the program ended without writing {', '.join(absent)}")
        for name in self.outputs:
            _sync_all(self.path(name))
        entries = {
            name: {"file": final.name, "sha256": content_sha256(self.path(name)), "bytes": size(self.path(name))}
            for name, final in self.outputs.items()
        }
        record = self._record(entries, self.notes, _versions())
        self._publish({name: self.path(name) for name in self.outputs}, record)
        self._keep(record)
        self._remove_states()

    def _record(self, outputs: Mapping[str, Any], notes: object, versions: object) -> dict[str, Any]:
        inputs = {
            name: [
                {"file": _shown(path, self.side.parent), "sha256": sha}
                for path, sha in zip(paths, self.input_digests[name], strict=True)
            ]
            for name, paths in self.inputs.items()
        }
        return {
            "rule": _run.rule, "key": self.key, "outputs": dict(outputs), "inputs": inputs, "params": self.params,
            "arguments": _run.arguments, "seed": self.seed, "code": _run.code, "versions": versions,
            "notes": notes,
        }  # fmt: skip

    def _publish(self, temporary: Mapping[str, Path], record: Mapping[str, Any]) -> None:
        """Bring all outputs under their final names, the side file last."""
        part = self.side.with_name(f".{self.side.stem}.{self._token}.part.json")
        try:
            part.write_text(json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
            _sync(part)
            self.side.unlink(missing_ok=True)
            for name, final in self.outputs.items():
                if final.is_dir() and not final.is_symlink():
                    shutil.rmtree(final)
                temporary[name].rename(final)
            part.rename(self.side)
        finally:
            part.unlink(missing_ok=True)
        for folder in {path.parent for path in (*self.outputs.values(), self.side)}:
            _sync(folder)

    def _stored(self, name: str, folder: Path) -> Path:
        return folder / f"{name.replace('/', '_')}{self.outputs[name].suffix}"

    def _entry(self) -> Path | None:
        return self._store / self.key[:2] / self.key if self._store else None

    def _link_from_store(self) -> bool:
        entry = self._entry()
        if entry is None or not entry.is_dir():
            return False
        try:
            record = json.loads((entry / "record.json").read_text())
            for name, listed in record["outputs"].items():
                _verify(self._stored(name, entry), listed)
            for name in self.outputs:
                _link(self._stored(name, entry), self.path(name))
                _touch(self.path(name))
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, OSError) and error.errno in _REMEDIES:
                raise
            say(f"store entry {entry} is damaged ({error}); removing it and computing again")
            shutil.rmtree(entry, ignore_errors=True)
            self._remove_temporary(own=True)
            return False
        for name, final in self.outputs.items():
            record["outputs"][name]["file"] = final.name
        self._publish(
            {name: self.path(name) for name in self.outputs},
            self._record(record["outputs"], record["notes"], record["versions"]),
        )
        self._remove_states()
        return True

    def _keep(self, record: Mapping[str, Any]) -> None:
        """Put the outputs into the store; a failure there costs nothing but the later link."""
        entry = self._entry()
        if entry is None or entry.exists():
            return
        try:
            with _new_entry(entry) as folder:
                for name, final in self.outputs.items():
                    _link(final, self._stored(name, folder))
                (folder / "record.json").write_text(canonical(record))
                _sync(folder / "record.json")
        except OSError as error:
            say(f"not kept in the store {self._store}: {error.strerror}")

    def _remove_temporary(self, own: bool = False) -> None:
        """Remove what this process (or, under the lock, any killed one) left half-written."""
        token = self._token if own else "[0-9a-f]" * len(self._token)
        for final in (*self.outputs.values(), self.side):
            for left in final.parent.glob(f".{_literal(final.stem)}.{token}.part{final.suffix}"):
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        if not own:
            self._remove_states(".*.part")

    def _remove_states(self, half_written: str = "*") -> None:
        """Remove resumable states of these outputs: all, or those that a killed process was writing."""
        for left in self.state.parent.glob(f".{_literal(self._first.stem)}.{'[0-9a-f]' * 16}.state{half_written}"):
            left.unlink(missing_ok=True)


def artefact(
    outputs: Mapping[str, Path | None],
    *,
    inputs: Mapping[str, Paths] | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int | None = None,
    side: Path | None = None,
    stored: bool = True,
) -> Artefact:
    """Outputs of this run, used as a context manager.

    Parameters
    ----------
    outputs : final path by name; None values are left out. A program may write a folder under a path.
    inputs : files read, by name; a path, a list of paths or None. Their content enters the key, their path does not.
    params : everything else that decides the result. Options of the command line that are no paths enter by themselves.
    seed : random seed of the run, where there is one.
    side : path of the side file; default the first output's path with the suffix `.json`.
    stored : False for outputs that are cheaper to make than to keep.
    """
    return Artefact(outputs, inputs or {}, params or {}, seed=seed, side=side, stored=stored)


def piece(key_parts: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """Intermediate result (one seed's embeddings), made by `make(path)` once and kept in the store under its own key.

    `key_parts` names all that decides the content; paths in it count by their content. Rule, code and options of the
    command line that are no paths are added.
    Without a store the file lives until the program ends.
    """
    made_by = {"rule": _run.rule, "code": _run.code, "arguments": _run.arguments}
    key = _sha256_of({**made_by, "piece": _by_content(key_parts)})
    if _run.store is None:
        folder = Path(tempfile.mkdtemp(prefix="firstshot-"))
        import atexit

        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        make(folder / "piece")
        return folder / "piece"
    entry = _run.store / key[:2] / key
    with _told(entry):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with _lock(entry):
            if not (entry / "piece").is_file():
                with _new_entry(entry) as folder:
                    make(folder / "piece")
                    _sync(folder / "piece")
            _touch(entry / "piece")
    return entry / "piece"


def prune(store: Path, unused_days: float = 0.0, dry_run: bool = False) -> tuple[int, int, int]:
    """Remove store entries that no result links to and that nothing used for `unused_days`.

    Returns the number of entries removed, their bytes, and the number of entries kept. Raises UserError where `store`
    is no folder.
    """
    if not store.is_dir():
        raise UserError(f"{store} is no folder; name the one that `store` in the config names")
    removed = freed = kept = 0
    now = time.time()
    for entry in sorted(store.glob("??/*")):
        # Hidden ones are locks and entries in the making; after a day they were left by killed programs.
        before = now - max(unused_days, float(entry.name.startswith("."))) * 86400
        try:
            if _in_use(entry, before):
                kept += 1
                continue
            bytes_there = size(entry)
            if not dry_run:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            removed, freed = removed + 1, freed + bytes_there
        except FileNotFoundError:  # a program at work has just finished with it
            kept += 1
    return removed, freed, kept


def _in_use(entry: Path, before: float) -> bool:
    """A result links to the store entry, or something in it is newer than `before`."""
    files = [file for file in (entry, *entry.rglob("*")) if file.is_file() and file.name != "record.json"]
    return entry.stat().st_mtime > before or any(
        file.stat().st_nlink > 1 or file.stat().st_mtime > before for file in files
    )


# ----------------------------------------------------------------------------------------------------------- helpers


def _paths(paths: Paths) -> list[Path]:
    if paths is None:
        return []
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]


def _sha256_of(value: object) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _by_content(value: Any) -> Any:
    if isinstance(value, Path):
        return digest(value)
    if isinstance(value, Mapping):
        return {name: _by_content(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_by_content(item) for item in value]
    return value


def _shown(path: Path, folder: Path) -> str:
    """Path relative to the side file's folder; a bare name where the two share no folder."""
    here, there = folder.resolve(), path.absolute()
    shared = os.path.commonpath([here, there])
    return Path(os.path.relpath(there, here)).as_posix() if shared != here.anchor else path.name


def _literal(stem: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in stem)


def _versions() -> dict[str, str]:
    """Versions of the installed libraries; all of them, since a run that continues another may import fewer."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return versions


def _sync_all(path: Path) -> None:
    """Bring an output to disk, a folder with all it holds."""
    for file in path.rglob("*") if path.is_dir() else ():
        _sync(file)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    """Hard link, or a copy where the file system has none or the two lie on different ones; folders recursively."""

    def one(origin: str, copy: str) -> None:
        try:
            os.link(origin, copy)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
                raise
            shutil.copyfile(origin, copy)

    if source.is_dir():
        shutil.copytree(source, target, copy_function=one)
    else:
        one(str(source), str(target))


def _touch(path: Path) -> None:
    with contextlib.suppress(PermissionError):
        os.utime(path)


def _verify(path: Path, listed: Mapping[str, Any]) -> None:
    found = size(path)
    if found != listed["bytes"]:
        raise ValueError(f"{path.name} has {found} bytes, recorded are {listed['bytes']}")
    if found <= VERIFY_BYTES and content_sha256(path) != listed["sha256"]:
        raise ValueError(f"{path.name} differs from its recorded sha256")


@contextlib.contextmanager
def _new_entry(entry: Path) -> Iterator[Path]:
    """Folder that becomes `entry` when the block ends well; another process may have been first."""
    folder = entry.with_name(f".{entry.name}.{uuid.uuid4().hex[:12]}")
    folder.mkdir(parents=True)
    try:
        yield folder
        _sync(folder)
        try:
            folder.rename(entry)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of one artefact; waits while another process, perhaps of a killed run, is at the same one."""
    file = path.with_name(f".{path.name}.lock")
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting: another process is at work on {path}")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The holder before us removed the file it had locked: then ours is no longer the one others see.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == file.stat().st_ino:
                    break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)


_NO_LOCKS = (
    "the file system there has no locks (flock); set `results` and `store` in the config to folders on another one, or "
    "have it mounted with locks (Lustre: -o flock; NFS: with its lock service)"
)
_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space (old results: `make prune-store`) and start again",
    errno.EDQUOT: "the disk quota is used up; free some space (old results: `make prune-store`) and start again",
    errno.EROFS: "the file system is read-only; set `results` in the config to a folder that can be written",
    errno.EACCES: "no permission to write there; set `results` in the config to a folder that can be written",
    errno.EPERM: "no permission to write there; set `results` in the config to a folder that can be written",
    errno.ENOLCK: _NO_LOCKS,
    errno.ENOSYS: _NO_LOCKS,
    errno.ENOTSUP: _NO_LOCKS,
}


# What makes do with less memory, wherever a program ran out of it.
LESS_MEMORY = (
    "lower batch_size of that stage or frontend; for enhancement raise enhance.accumulate or set "
    "enhance.checkpointing: true"
)


def _tell(error: BaseException, target: Path) -> None:
    """Raise UserError with the remedy for a full disk, a read-only folder or too little memory.

    Libraries word these in their own ways.
    """
    said = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "allocate memory" in said or isinstance(error, MemoryError):
        found = said.partition("\n")[0].partition(". ")[0] or "memory ran out"
        raise UserError(f"cannot make {target}: {found}; {LESS_MEMORY}") from error
    number = error.errno if isinstance(error, OSError) else None
    if number not in _REMEDIES and "No space left on device" in said:
        number = errno.ENOSPC
    if number in _REMEDIES and not isinstance(error, UserError):
        raise UserError(f"cannot write {target}: {_REMEDIES[number]}; nothing half-written was left") from error


@contextlib.contextmanager
def _told(target: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        _tell(error, target)
        raise
