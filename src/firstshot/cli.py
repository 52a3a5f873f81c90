"""Command line for what is no part of the workflow: judge a recording, explain it, write and check a config.

Exit status: 0 done, and every recording judged normal; 1 something is wrong (one line on standard error says what and
what to do); 2 wrong use; 3 done, and at least one recording judged anomalous; 130 interrupted.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from firstshot import __version__
from firstshot.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from firstshot.detector import Detector, Verdict

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
        sub.add_argument("--quiet", action="store_true", help="no progress and no notes on standard error")
        return sub

    sub = command(
        "score", score, "say how anomalous recordings are, by a finished run or a bundle",
        "  firstshot score new/ --run results/demo --machine compressor --system 1\n"
        "  firstshot score clip.wav --bundle compressor.firstshot --json",
    )  # fmt: skip
    _recordings(sub, several=True)
    _source(sub, bundle=True)
    _reading(sub)
    sub.add_argument("--json", action="store_true", help="JSON instead of csv")
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
    sub.add_argument("--json", action="store_true", help="JSON instead of text")

    sub = command(
        "validate-submission", validate_submission, "check a challenge submission before sending it",
        "  firstshot validate-submission results/dcase2025/submission/submission.zip",
    )  # fmt: skip
    sub.add_argument("package", type=Path, metavar="PACKAGE", help="the package: a zip file or a folder")
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
    sub.add_argument("--checkpoints", type=Path, metavar="DIR", help="folder of the public checkpoints, if they moved")


def _reading(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--channel", metavar="N", help="channel of recordings with several: a number or `mean` (the run's)"
    )
    sub.add_argument("--hop", type=float, metavar="SECONDS", help="step between windows of long recordings (a window)")
    sub.add_argument("--allow-short", action="store_true", help="repeat recordings far shorter than the training clips")
    sub.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="(%(default)s)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = parser().parse_args(argv)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(getattr(args, "threads", 1)))  # before numpy and torch are imported
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"firstshot: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"firstshot: error: {where}{error.strerror}; check the path and your permission there", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


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
    detector = _detector(args)
    judged: list[tuple[Window, Verdict]] = []
    for file in _progress(files, args):
        cut = _windows(file, detector, args)
        judged += zip(cut, detector.judge([window.wave for window in cut]), strict=True)
    text = _as_json(detector, judged) if args.json else _as_csv(detector, judged)
    if args.out:
        _write(args.out, text)
    else:
        sys.stdout.write(text)
    anomalous = {window.file for window, verdict in judged if verdict.anomalous}
    _note(args, f"{len(anomalous)} of {len(files)} recordings judged anomalous (score above {detector.threshold:.6g})")
    return ANOMALOUS if anomalous else 0


def _audio_files(named: Sequence[Path]) -> list[Path]:
    """The audio files among `named` and, sorted, in the folders among them."""
    from firstshot.data import READABLE

    files: list[Path] = []
    for path in named:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in READABLE)
        if not found:
            raise UserError(f"{path}: no recordings in this folder; expected {', '.join(READABLE)} files")
        files += found
    return files


def _windows(file: Path, detector: Detector, args: argparse.Namespace) -> list[Window]:
    """A recording at the working rate, whole or in windows as long as the longest training clip."""
    from firstshot import audio
    from firstshot.detector import windows

    channel = detector.channel if args.channel is None else args.channel
    recording = audio.decode(file, channel=int(channel) if str(channel).isdecimal() else channel)
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
    window = round(longest * rate)
    hop = window if args.hop is None else round(args.hop * rate)
    if hop <= 0:
        raise UserError(f"--hop {args.hop}: expected a positive number of seconds")
    return [Window(file, s / rate, e / rate, wave[s:e]) for s, e in windows(len(wave), window, hop)]


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
    machine = args.machine or found[0]
    systems = finished.systems(args.folder_of_run, machine)
    if args.system is None and len(systems) != 1:
        listed = ", ".join(systems) or f"none for {machine!r}; its machine types are {', '.join(found)}"
        raise UserError(f"choose a system of {args.folder_of_run} by --system: {listed}")
    return machine, args.system or systems[0]


def _progress(files: Sequence[Path], args: argparse.Namespace) -> Iterator[Path]:
    from tqdm import tqdm

    return iter(tqdm(files, unit="recording", disable=args.quiet or len(files) < 2 or None, leave=False))


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


def _as_json(detector: Detector, judged: Sequence[tuple[Window, Verdict]]) -> str:
    rows = [{**_row(window, verdict), "shares": verdict.shares} for window, verdict in judged]
    facts = {name: getattr(detector, name) for name in ("machine", "system", "threshold", "provenance")}
    return json.dumps({**facts, "windows": rows}, indent=1, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


# ----------------------------------------------------------------------------------------------------------- explain


def explain(args: argparse.Namespace) -> int:
    """Draw the explanation of a recording's most anomalous window."""
    from firstshot import finished, report

    detector = _detector(args)
    (file,) = args.recordings
    if not file.is_file():
        raise UserError(f"{file}: no such file; explain takes one recording")
    cut = _windows(file, detector, args)
    verdicts = detector.judge([window.wave for window in cut])
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
    if args.out.exists():
        raise UserError(f"{args.out} exists; choose another name by --out, or delete it")
    if args.noise and not args.noise.is_dir():
        raise UserError(f"--noise {args.noise}: no such folder")
    found = looking.look(args.folder, args.machine)
    manifest = args.out.with_suffix(".csv")
    layer = looking.compose(found, args.out.stem, base, args.noise, manifest)
    config = configs.layered(base, layer)
    configs.check(config, _schema())
    facts = {machine: data.facts(clips, machine) for machine, clips in found.clips.items()}
    plan = configs.Plan(config, facts)
    args.out.parent.mkdir(parents=True, exist_ok=True)
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
    for line in (*looking.describe(found), *notices):
        _note(args, line)
    _note(
        args, f"wrote {args.out}; next: firstshot check {args.out}, then snakemake --cores all --configfile {args.out}"
    )
    return 0


def check(args: argparse.Namespace) -> int:
    """Check a config and what it names."""
    from tqdm import tqdm

    from firstshot import checking
    from firstshot import config as configs

    for path in args.config:
        if not path.is_file():
            raise UserError(f"{path}: no such config file")
    config = configs.load(_repository() / "config" / "config.yaml", *args.config)
    problems, notices = checking.problems(
        config, _schema(), lambda clips: tqdm(clips, unit="clip", disable=args.quiet or None, leave=False)
    )
    if args.json:
        print(json.dumps({"problems": problems, "notices": notices}, indent=1, ensure_ascii=False))
    else:
        for notice in () if args.quiet else notices:
            print(f"note: {notice}")
        for problem in problems:
            print(f"problem: {problem}")
        if not problems:
            print("ok: config, recordings and checkpoints are fit to run")
    return 1 if problems else 0


def validate_submission(args: argparse.Namespace) -> int:
    """Check a challenge package."""
    from firstshot import submission

    if not args.package.exists():
        raise UserError(f"{args.package}: no such file or folder; `snakemake` writes packages to results/…/submission")
    findings = submission.check_package(args.package)
    errors = [finding for finding in findings if finding.severity == "error"]
    for finding in errors if args.quiet else findings:
        print(finding)
    print(f"{len(errors)} errors" + ("" if errors else ": the package can be handed in"))
    return 1 if errors else 0
