"""Command line for what is no part of the workflow: judge a recording, explain it, write and check a config.

Exit status: 0 done, and every recording judged normal; 1 something is wrong (a line on standard error says what and
what to do; recordings that could be judged are still reported); 2 wrong use; 3 done, and at least one recording judged
anomalous; 130 interrupted.
"""

from __future__ import annotations

import argparse
import csv
import errno
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from firstshot import __version__
from firstshot.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from firstshot.detector import Detector, Verdict

T = TypeVar("T")

ANOMALOUS = 3
SHORTEST_SHARE = 0.5  # of the shortest training clip; below it a recording is refused


# ------------------------------------------------------------------------------------------------------ command lines


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    root = argparse.ArgumentParser(prog="firstshot", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    root.add_argument("--version", action="version", version=f"firstshot {__version__}")
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}.",
            epilog=f"example:\n{example}", formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="JSON on standard output")
        sub.add_argument("--quiet", action="store_true", help="no progress and no notes on standard error")
        sub.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
        return sub

    sub = command(
        "score", score, "say how anomalous recordings are, by a finished run or a bundle",
        "  firstshot score new/ --run results/demo --machine compressor --system 1\n"
        "  firstshot score clip.wav --bundle compressor.firstshot --json",
    )  # fmt: skip
    _recordings(sub, several=True)
    _source(sub, bundle=True)
    _reading(sub)
    sub.add_argument("--out", type=Path, metavar="FILE", help="write there instead of to standard output")

    sub = command(
        "explain", explain, "draw why a recording got its score: spectrograms of it and of its nearest normal clips",
        "  firstshot explain clip.wav --run results/demo --machine compressor --system 1 --out why.png",
    )  # fmt: skip
    _recordings(sub, several=False)
    _source(sub, bundle=False)
    _reading(sub)
    sub.add_argument("--out", type=Path, default=Path("explanation.png"), metavar="PNG", help="(%(default)s)")

    sub = command(
        "bundle", bundle, "export one machine type's finished system as one file",
        "  firstshot bundle --run results/demo --machine compressor --system 1 --out compressor.firstshot",
    )  # fmt: skip
    _source(sub, bundle=False)
    sub.add_argument("--out", type=Path, metavar="FILE", help="(MACHINE.SYSTEM.firstshot)")

    sub = command(
        "new-config", new_config, "write a config for a folder of recordings, after looking at them",
        "  firstshot new-config recordings/ --out config/mine.yaml",
    )  # fmt: skip
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="DCASE layout, or any folder of recordings")
    sub.add_argument(
        "--out", type=Path, required=True, metavar="YAML", help="the config; its stem names the experiment"
    )
    sub.add_argument("--machine", metavar="NAME", help="name of the machine type of a loose folder (the folder's name)")
    sub.add_argument("--noise", type=Path, metavar="DIR", help="folder of noise recordings, to train enhancement with")

    sub = command(
        "check", check, "check a config, its recordings and its checkpoints before a long run",
        "  firstshot check config/mine.yaml",
    )  # fmt: skip
    sub.add_argument("config", type=Path, nargs="+", metavar="YAML", help="config files, later ones over earlier ones")

    sub = command(
        "validate-submission", validate_submission, "check a challenge submission before sending it",
        "  firstshot validate-submission results/dcase2025/submission/submission.zip",
    )  # fmt: skip
    sub.add_argument("package", type=Path, metavar="PACKAGE", help="the package: a zip file or a folder")
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--year", type=int, default=2025, help="whose evaluation set it must be about (2025)")
    which.add_argument("--other-set", action="store_true", help="about other machine types, any number of clips")
    return root


def _recordings(sub: argparse.ArgumentParser, several: bool) -> None:
    sub.add_argument(
        "recordings", type=Path, nargs="+" if several else 1, metavar="RECORDING",
        help="wav, flac, ogg or mp3 files" + (", or folders of them" if several else ""),
    )  # fmt: skip


def _source(sub: argparse.ArgumentParser, bundle: bool) -> None:
    where = sub.add_mutually_exclusive_group(required=True) if bundle else sub
    where.add_argument("--run", type=Path, dest="folder_of_run", required=not bundle, metavar="DIR",
                       help="results of a finished run, such as results/demo")  # fmt: skip
    if bundle:
        where.add_argument("--bundle", type=Path, metavar="FILE", help="a file made by `firstshot bundle`")
    sub.add_argument("--machine", metavar="NAME", help="machine type (needed where the run has several)")
    sub.add_argument("--system", metavar="ID", help="system; an unknown one lists those there are")


def _reading(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--checkpoints", type=Path, metavar="DIR", help="folder of the public checkpoints, if they moved")
    sub.add_argument(
        "--channel", metavar="N", help="channel of recordings with several: a number or `mean` (the run's)"
    )
    sub.add_argument("--hop", type=float, metavar="SECONDS", help="step between windows of long recordings (a window)")
    sub.add_argument("--allow-short", action="store_true", help="repeat recordings far shorter than the training clips")
    sub.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="(%(default)s)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = parser().parse_args(argv)
    try:
        threads = getattr(args, "threads", 1)
        if threads < 1:
            raise UserError(f"--threads {threads}: expected a number of at least 1")
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(variable, str(threads))  # before numpy and torch are imported
        status = args.run(args) or 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.traceback:
            raise
        _error(_told(error))
        return 1


def _told(error: Exception) -> str:
    """An error in one line: what a user can mend in its own words."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; check the path and your permission there"
    if isinstance(error, MemoryError):
        return "there is not enough memory for this; close other programs, or give fewer or shorter recordings"
    return f"{type(error).__name__}: {error}; not foreseen, please report it with what --traceback shows"


def _error(text: str) -> None:
    first, *more = (line.strip() for line in text.splitlines())
    print(f"firstshot: error: {first} {'; '.join(more)}".rstrip(), file=sys.stderr)


def _note(args: argparse.Namespace, text: str) -> None:
    if not args.quiet:
        print(f"firstshot: {text}", file=sys.stderr)


# ------------------------------------------------------------------------------------------------------------- score


class Window(NamedTuple):
    """A stretch of a recording, from `start` to `end` seconds; `wave` (n_samples,) float32 at the working rate."""

    file: Path
    start: float
    end: float
    wave: NDArray[np.float32]


def score(args: argparse.Namespace) -> int:
    """Judge recordings, window by window."""
    files = _audio_files(args.recordings)
    _check_writable(args.out)
    detector = _detector(args)
    judged: list[tuple[Window, Verdict]] = []
    broken: dict[Path, str] = {}
    for file in _progress(files, "recording", args):
        try:
            cut = _windows(file, detector, args)
        except UserError as error:
            broken[file] = str(error)
            continue
        # One bar: over the recordings, or over the windows of the only one.
        verdicts = _progress(detector.verdicts([w.wave for w in cut]), "window", args, len(cut) * (len(files) == 1))
        judged += zip(cut, verdicts, strict=True)
    if judged:
        text = _as_json(detector, judged, broken) if args.json else _as_csv(detector, judged)
        if args.out:
            _write(args.out, text)
        else:
            sys.stdout.write(text)
        anomalous = {window.file for window, verdict in judged if verdict.anomalous}
        done = len(files) - len(broken)
        _note(args, f"{len(anomalous)} of {done} recordings judged anomalous (score above {detector.threshold:.6g})")
    for problem in broken.values():
        _error(problem)
    if broken:
        return 1
    return ANOMALOUS if anomalous else 0


def _audio_files(named: Sequence[Path]) -> list[Path]:
    """The audio files among `named` and, sorted, in the folders among them."""
    from firstshot import data

    files: list[Path] = []
    for path in named:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; give recordings, or folders of them")
        files += data.recordings_below(path) if path.is_dir() else [path]
    return files


def _check_writable(path: Path | None) -> None:
    """Raise UserError where `path` cannot be written, before any work is done for it."""
    if path is None:
        return
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place by --out") from None


def _windows(file: Path, detector: Detector, args: argparse.Namespace) -> list[Window]:
    """A recording at the working rate, whole or in windows as long as the longest training clip.

    No window is longer than what the networks hear of a clip.
    """
    from firstshot import audio
    from firstshot.detector import windows

    channel = detector.channel if args.channel is None else args.channel
    if channel != "mean" and not str(channel).isdecimal():
        raise UserError(f"--channel {channel}: expected a number from 0 on, or mean")
    recording = audio.decode(file, channel=channel if channel == "mean" else int(channel))
    if recording.channels > 1 and args.channel is None:
        _note(
            args, f"{file}: {recording.channels} channels, {_channel_name(channel)} is used as in the run (--channel)"
        )
    if recording.sampling_rate != detector.sampling_rate:
        _note(args, f"{file}: {recording.sampling_rate} Hz, brought to {detector.sampling_rate} Hz")
    wave = audio.as_float(audio.resample(recording.wave, recording.sampling_rate, detector.sampling_rate))
    rate, (shortest, longest) = detector.sampling_rate, detector.train_seconds
    if len(wave) < SHORTEST_SHARE * shortest * rate and not args.allow_short:
        raise UserError(
            f"{file}: {len(wave) / rate:.2f} s, the training clips have {shortest:.2f} s or more; "
            "record longer, or let it be repeated by --allow-short"
        )
    if len(wave) < round(shortest * rate):
        _note(args, f"{file}: {len(wave) / rate:.2f} s, shorter than the training clips; repeated to be heard as one")
    training, heard = round(longest * rate), detector.heard
    if heard < len(wave) <= training:
        _note(args, f"{file}: only its first {heard / rate:.2f} s are heard, as of the training clips")
    window = min(training, heard)
    hop = window if args.hop is None else round(args.hop * rate) if math.isfinite(args.hop) else 0
    if hop <= 0:
        raise UserError(f"--hop {args.hop}: expected a positive number of seconds")
    cut = windows(len(wave), max(training, heard), window, hop)
    return [Window(file, start / rate, end / rate, wave[start:end]) for start, end in cut]


def _channel_name(channel: int | str) -> str:
    return "their mean" if channel == "mean" else f"channel {channel}"


def _detector(args: argparse.Namespace) -> Detector:
    """The detector that the options name, its checkpoints found."""
    if getattr(args, "bundle", None):
        from firstshot import bundle

        detector = bundle.read(args.bundle)
        for name, given in (("machine", args.machine), ("system", args.system)):
            if given not in (None, getattr(detector, name)):
                raise UserError(
                    f"{args.bundle} is of {name} {getattr(detector, name)!r}, not {given!r}; leave --{name} off"
                )
    else:
        from firstshot import finished

        machine, system = _chosen(args)
        detector = finished.detector(args.folder_of_run, machine, system)
    detector.find_checkpoints(args.checkpoints)
    return detector


def _chosen(args: argparse.Namespace) -> tuple[str, str]:
    """Machine type and system of a run; where the run has one only it need not be named."""
    from firstshot import finished

    found = finished.machines(args.folder_of_run)
    if args.machine is None and len(found) > 1:
        raise UserError(f"{args.folder_of_run} has several machine types; choose one by --machine: {', '.join(found)}")
    machine = found[0] if args.machine is None else args.machine
    systems = finished.systems(args.folder_of_run, machine)
    if args.system is None and len(systems) != 1:
        listed = ", ".join(systems) or f"none for {machine!r}; its machine types are {', '.join(found)}"
        raise UserError(f"choose a system of {args.folder_of_run} by --system: {listed}")
    return machine, args.system or systems[0]


def _progress(work: Iterable[T], unit: str, args: argparse.Namespace, total: int | None = None) -> Iterator[T]:
    """The items of `work`, with a bar on a terminal where there are several."""
    from tqdm import tqdm

    total = len(work) if total is None and isinstance(work, Sized) else total
    few = total is not None and total < 2
    return iter(tqdm(work, unit=unit, total=total, disable=args.quiet or few or None, leave=False))


def _row(window: Window, verdict: Verdict) -> dict[str, Any]:
    return {
        "file": str(window.file),
        "start_s": round(window.start, 3),
        "end_s": round(window.end, 3),
        "score": verdict.score,
        "p_value": verdict.p_value,
        "decision": "anomalous" if verdict.anomalous else "normal",
    }


def _as_csv(detector: Detector, judged: Sequence[tuple[Window, Verdict]]) -> str:
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*(_row(*judged[0])), *(f"share {name}" for name in detector.members)])
    for window, verdict in judged:
        writer.writerow([*_row(window, verdict).values(), *verdict.shares.values()])
    return out.getvalue()


def _as_json(detector: Detector, judged: Sequence[tuple[Window, Verdict]], broken: Mapping[Path, str]) -> str:
    rows = [{**_row(window, verdict), "shares": verdict.shares} for window, verdict in judged]
    facts = {name: getattr(detector, name) for name in ("machine", "system", "threshold")}
    facts["provenance"] = {name: value for name, value in detector.provenance.items() if name != "stages"}
    return _json({**facts, "windows": rows, "not_judged": {str(file): text for file, text in broken.items()}})


def _json(facts: Any) -> str:
    return json.dumps(facts, indent=1, ensure_ascii=False, default=str) + "\n"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


# ----------------------------------------------------------------------------------------------------------- explain


def explain(args: argparse.Namespace) -> int:
    """Draw the explanation of a recording's most anomalous window."""
    from firstshot import finished, report

    (file,) = args.recordings
    if not file.is_file():
        raise UserError(f"{file}: no such file; explain takes one recording")
    _check_writable(args.out)
    detector = _detector(args)
    cut = _windows(file, detector, args)
    verdicts = list(_progress(detector.verdicts([window.wave for window in cut]), "window", args, len(cut)))
    worst = max(range(len(cut)), key=lambda i: verdicts[i].score)
    window, verdict = cut[worst], verdicts[worst]
    single = max(detector.singles, key=detector.weight)
    neighbours = finished.nearest(args.folder_of_run, detector, single, window.wave, 2)
    figure = report.explanation(
        window.wave,
        detector.sampling_rate,
        neighbours=[(f"{name}\ndistance {distance:.4f}", wave) for name, distance, wave in neighbours],
        shares=verdict.shares,
        title=f"{file.name}, {window.start:.1f} to {window.end:.1f} s: judged {_row(window, verdict)['decision']}",
        caption=f"Score {verdict.score:.4g}, threshold {detector.threshold:.4g}, p {verdict.p_value:.3g}. Machine type "
        f"{detector.machine}, system {detector.system}; nearest normal training clips as {single} hears them.",
    )
    part = args.out.with_name(f".{args.out.name}.part")
    part.write_bytes(report.png(figure, dpi=110))
    part.replace(args.out)
    if args.json:
        row = {**_row(window, verdict), "shares": verdict.shares}
        near = [{"clip": name, "distance": distance} for name, distance, _ in neighbours]
        sys.stdout.write(_json({"picture": args.out, **row, "nearest": near}))
    _note(args, f"wrote {args.out}")
    return ANOMALOUS if verdict.anomalous else 0


# ------------------------------------------------------------------------------------------------------------ bundle


def bundle(args: argparse.Namespace) -> int:
    """Export a detector."""
    from firstshot import bundle as bundles
    from firstshot import finished

    machine, system = _chosen(args)
    detector = finished.detector(args.folder_of_run, machine, system)
    path = args.out or Path(f"{machine}.{system}.firstshot")
    bundles.write(detector, path)
    needed = sorted({single.checkpoint.file for single in detector.singles.values() if single.checkpoint})
    if args.json:
        sys.stdout.write(_json({"bundle": path, "machine": machine, "system": system, "needs": needed}))
    _note(args, f"wrote {path}; it needs beside it: {', '.join(needed) or 'nothing'}")
    return 0


# -------------------------------------------------------------------------------------------------- config and checks


def _repository() -> Path:
    """The folder that holds config/config.yaml: where the command is run."""
    here = Path.cwd()
    if not (here / "config" / "config.yaml").is_file():
        raise UserError(f"{here}: no config/config.yaml here; run this command in firstshot's own folder")
    return here


def _schema() -> Path:
    return _repository() / "workflow" / "schemas" / "config.schema.yaml"


def new_config(args: argparse.Namespace) -> int:
    """Look at a folder and write a config for it."""
    import yaml

    from firstshot import config as configs
    from firstshot import data
    from firstshot import new_config as looking

    base = configs.load(_repository() / "config" / "config.yaml")
    manifest = args.out.with_suffix(".csv")
    looking.check_names(args.out, args.machine)
    for file in (args.out, manifest):
        if file.exists():
            raise UserError(f"{file} exists; choose another name by --out, or delete it")
    if args.noise and not args.noise.is_dir():
        raise UserError(f"--noise {args.noise}: no such folder")
    found = looking.look(args.folder, args.machine, lambda clips: _progress(clips, "clip", args))
    layer = looking.compose(found, args.out.stem, base, args.noise, manifest)
    config = configs.layered(base, layer)
    configs.check(config, _schema())
    facts = {machine: data.facts(clips, machine) for machine, clips in found.clips.items()}
    plan = configs.Plan(config, facts)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    _check_writable(args.out)
    if not found.dcase_layout:
        data.write_csv(manifest, looking.MANIFEST_COLUMNS, looking.rows(found))
        _note(args, f"wrote {manifest}: look through it and mend what was guessed wrong")
    listing = yaml.safe_dump(layer, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)
    looked = "".join(f"# {line}\n" for line in looking.describe(found))
    _write(
        args.out, f"# Written by `firstshot new-config {args.folder}`; laid over config/config.yaml.\n{looked}{listing}"
    )
    # Systems of the paper that a small run does not have are no news here.
    notices = [notice for notice in plan.notices if not notice.startswith("systems left out")]
    system = plan.system_ids(plan.machines[0])[0]
    if args.json:
        written = [args.out, *([] if found.dcase_layout else [manifest])]
        facts_found = {"wrote": written, "found": looking.describe(found), "notices": notices, "system": system}
        sys.stdout.write(_json(facts_found))
    for line in (*looking.describe(found), *notices):
        _note(args, line)
    _note(
        args, f"wrote {args.out}; next: firstshot check {args.out}, then snakemake --cores all --configfile {args.out}"
    )
    _note(args, f"judge recordings after that by: firstshot score … --run {config['results']}/{config['experiment']}"
          f" --system {system}")  # fmt: skip
    return 0


def check(args: argparse.Namespace) -> int:
    """Check a config and what it names."""
    from firstshot import checking
    from firstshot import config as configs

    for path in args.config:
        if not path.is_file():
            raise UserError(f"{path}: no such config file")
    config = configs.load(_repository() / "config" / "config.yaml", *args.config)
    problems, notices = checking.problems(config, _schema(), lambda work, unit: _progress(work, unit, args))
    if args.json:
        sys.stdout.write(_json({"problems": problems, "notices": notices}))
    else:
        for notice in () if args.quiet else notices:
            print(f"note: {notice}")
        for problem in problems:
            print(f"problem: {problem}")
        if not problems:
            fetched = any(notice.startswith("recordings to fetch") for notice in notices)
            print("ok: config and checkpoints are fit to run; recordings are to be fetched" if fetched else
                  "ok: config, recordings and checkpoints are fit to run")  # fmt: skip
    return 1 if problems else 0


def validate_submission(args: argparse.Namespace) -> int:
    """Check a challenge package."""
    from firstshot import dcase, submission

    if not args.package.exists():
        raise UserError(f"{args.package}: no such file or folder; `snakemake` writes packages to results/…/submission")
    counts = None if args.other_set else dcase.evaluation_counts(args.year)
    findings = submission.check_package(args.package, counts=counts)
    errors = [finding for finding in findings if finding.severity == "error"]
    if args.json:
        sys.stdout.write(_json({"findings": [vars(finding) for finding in findings], "errors": len(errors)}))
        return 1 if errors else 0
    for finding in errors if args.quiet else findings:
        print(finding)
    print(f"{len(errors)} errors" + ("" if errors else ": the package can be handed in"))
    return 1 if errors else 0
