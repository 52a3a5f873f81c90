"""A detector as one file: everything that `firstshot score` needs beside the public checkpoints.

The file is a zip archive with three members, stored as they are, and no executable content: `manifest.json` (settings,
weights, threshold, provenance with code and config of every stage), `arrays.safetensors` (adapters, heads, banks of
normal clips, training scores) and `SHA256SUMS` of the two. The sums tell a damaged or edited file; they are no
signature, so take bundles from people you trust. What is read is checked: a bundle of any content gives a detector or
a UserError.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from firstshot.data import KINDS
from firstshot.detector import Checkpoint, Detector, Enhancement, Single
from firstshot.ensemble import STANDARDISE
from firstshot.errors import UNREADABLE_ZIP, UserError
from firstshot.score import DISTANCES

FORMAT = "firstshot bundle"
VERSION = 1
MANIFEST, ARRAYS, SUMS = "manifest.json", "arrays.safetensors", "SHA256SUMS"
EXPORT = "export it again with `firstshot bundle`"
LARGEST = {MANIFEST: 16 * 2**20, SUMS: 2**10}  # bytes; a manifest has some hundred kB
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same detector gives the same bytes

_NAME = {"type": "string", "minLength": 1}
_OBJECT = {"type": "object"}
_PARTS = ["prefix", "seeds", "frontend", "frozen", "enhanced", "settings", "n_samples", "checkpoint"]
SCHEMA = {
    "type": "object",
    "required": [*(field.name for field in fields(Detector)), "format", "version"],
    "properties": {
        "machine": _NAME,
        "system": _NAME,
        "systems": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1},
            },
        },
        "singles": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": _PARTS,
                "properties": {
                    "prefix": _NAME,
                    "seeds": {"type": "integer", "minimum": 1},
                    "frontend": _NAME,
                    "frozen": {"type": "boolean"},
                    "enhanced": {"type": "boolean"},
                    "settings": _OBJECT,
                    "n_samples": {"type": "integer", "minimum": 1, "maximum": 2**26},
                    "checkpoint": {
                        "type": ["object", "null"],
                        "required": ["file", "sha256"],
                        "additionalProperties": False,
                        "properties": {
                            "file": {"type": "string", "pattern": r"^[^/\\]*[^/\\.][^/\\]*$"},  # a name, no path
                            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                        },
                    },
                },
            },
        },
        "standardise": {"enum": list(STANDARDISE)},
        "distance": {"enum": list(DISTANCES)},
        "threshold": {"type": "number", "minimum": -1e9, "maximum": 1e9},
        "sampling_rate": {"type": "integer", "minimum": 1_000, "maximum": 192_000},
        "channel": {"oneOf": [{"type": "integer", "minimum": 0}, {"const": "mean"}]},
        "train_seconds": {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400},
        },
        "enhancement": {
            "type": ["object", "null"],
            "required": ["settings", "kind"],
            "additionalProperties": False,
            "properties": {"settings": _OBJECT, "kind": {"enum": list(KINDS)}},
        },
        "provenance": _OBJECT,
    },
}


def write(detector: Detector, path: Path) -> None:
    """Write a detector to `path`, whole or not at all. Raises UserError where the folder cannot be written."""
    arrays: dict[str, NDArray] = {}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **{name: getattr(detector, name) for name in _plain_fields()},
        "singles": {
            name: _packed_single(single, f"single/{name}", arrays) for name, single in detector.singles.items()
        },
        "enhancement": _packed_enhancement(detector.enhancement, arrays),
    }
    contents = {
        MANIFEST: json.dumps(manifest, indent=1, ensure_ascii=False).encode(),
        ARRAYS: safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()}),
    }
    contents[SUMS] = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items()
    ).encode()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name, content in contents.items():
                archive.writestr(zipfile.ZipInfo(name, EPOCH), content)
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place by --out") from None
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> Detector:
    """Read a bundle.

    Raises UserError for a file that is missing, no bundle, of another version, damaged or edited.
    """
    contents = _contents(path)
    manifest = _manifest(path, contents[MANIFEST])
    try:
        arrays = safetensors.numpy.load(contents[ARRAYS])
        plain = {name: manifest[name] for name in _plain_fields()}
        plain["train_seconds"] = tuple(plain["train_seconds"])
        singles = {name: _unpacked_single(packed, arrays) for name, packed in manifest["singles"].items()}
        _check_arrays(singles)
        return Detector(
            **plain, singles=singles, enhancement=_unpacked_enhancement(manifest["enhancement"], arrays)
        )  # fmt: skip
    except KeyError as error:
        raise UserError(f"{path}: a part of the bundle is missing ({error}); {EXPORT}") from None
    except (SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {ARRAYS} does not fit {MANIFEST} ({error}); {EXPORT}") from None


def _manifest(path: Path, content: bytes) -> dict[str, Any]:
    """The manifest, of this version, its types and ranges checked."""
    import jsonschema

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    try:
        manifest = json.loads(content, parse_constant=refuse)
        version = [manifest[name] for name in ("format", "version")]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: {MANIFEST} is not that of a bundle ({error}); {EXPORT}") from None
    if version != [FORMAT, VERSION]:
        raise UserError(f"{path}: bundle of version {version[1]}, this program reads version {VERSION}; {EXPORT}")
    for mistake in jsonschema.Draft202012Validator(SCHEMA).iter_errors(manifest):
        place = ".".join(map(str, mistake.absolute_path)) or "the whole"
        raise UserError(f"{path}: {MANIFEST}, {place}: {mistake.message[:200]}; {EXPORT}")
    known = set(manifest["singles"])
    for system, members in manifest["systems"].items():
        if unknown := sorted(set(members) - known):
            raise UserError(f"{path}: {MANIFEST}, systems.{system}: {unknown[0]!r} is no system before it; {EXPORT}")
        known.add(system)
    if manifest["system"] not in known:
        raise UserError(f"{path}: {MANIFEST}: system {manifest['system']!r} is not among its systems; {EXPORT}")
    return manifest


def _check_arrays(singles: Mapping[str, Single]) -> None:
    """Raises ValueError where the arrays of the single systems cannot be what a run made."""
    lengths = {single.train_scores.shape for single in singles.values()}
    if len(lengths) > 1 or len(next(iter(lengths))) != 1 or not next(iter(lengths))[0]:
        raise ValueError(f"training scores of the shapes {sorted(lengths)}")
    for name, single in singles.items():
        for array in (single.train_scores, *single.banks):
            if array.dtype != np.float64 or not np.isfinite(array).all():
                raise ValueError(f"{name}: training scores or banks are not finite numbers of float64")
        if any(bank.ndim != 2 or not bank.size for bank in single.banks):
            raise ValueError(f"{name}: a bank is no matrix")
        if (single.checkpoint is None) != (single.frontend == "spec"):
            raise ValueError(f"{name}: spec has no checkpoint, the other frontends have one")


def _contents(path: Path) -> dict[str, bytes]:
    """The members of the archive, their sums checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
            names = sorted(info.filename for info in found)
            if names != sorted((MANIFEST, ARRAYS, SUMS)):
                raise UserError(f"{path}: not a firstshot bundle (it holds {', '.join(names[:4])}); {EXPORT}")
            for info in found:
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > LARGEST.get(info.filename, math.inf):
                    raise UserError(f"{path}: {info.filename} is compressed or too large for a bundle; {EXPORT}")
            contents = {name: archive.read(name) for name in names}
    except FileNotFoundError:
        raise UserError(f"{path}: no such bundle; make one with `firstshot bundle`") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and your permission") from None
    except UserError:
        raise
    except (*UNREADABLE_ZIP, ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"{path}: damaged or not a bundle ({error}); {EXPORT}") from None
    lines = (line.partition("  ") for line in contents[SUMS].decode(errors="replace").splitlines())
    listed = {name: digest for digest, _, name in lines}
    for name in (MANIFEST, ARRAYS):
        if listed.get(name) != hashlib.sha256(contents[name]).hexdigest():
            raise UserError(f"{path}: {name} was changed after the bundle was made; {EXPORT}")
    return contents


def _plain_fields() -> list[str]:
    return [field.name for field in fields(Detector) if field.name not in ("singles", "enhancement")]


def _packed_single(single: Single, prefix: str, arrays: dict[str, NDArray]) -> dict[str, Any]:
    """What of a single system goes into the manifest; its arrays go into `arrays`."""
    for seed, (state, bank) in enumerate(zip(single.states, single.banks, strict=True)):
        arrays[f"{prefix}/bank/{seed}"] = bank
        arrays.update({f"{prefix}/state/{seed}/{name}": array for name, array in state.items()})
    arrays[f"{prefix}/train_scores"] = single.train_scores
    return {
        "prefix": prefix,
        "seeds": len(single.states),
        "frontend": single.frontend,
        "frozen": single.frozen,
        "enhanced": single.enhanced,
        "settings": single.settings,
        "n_samples": single.n_samples,
        # The path is of the machine the bundle was made on; elsewhere it would only mislead.
        "checkpoint": single.checkpoint and {"file": single.checkpoint.file, "sha256": single.checkpoint.sha256},
    }


def _unpacked_single(packed: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> Single:
    prefix, seeds = packed["prefix"], range(packed["seeds"])
    return Single(
        banks=[arrays[f"{prefix}/bank/{seed}"] for seed in seeds],  # first: a seed without bank ends it
        states=[_below(f"{prefix}/state/{seed}/", arrays) for seed in seeds],
        train_scores=arrays[f"{prefix}/train_scores"],
        checkpoint=Checkpoint(**packed["checkpoint"]) if packed["checkpoint"] else None,
        **{name: packed[name] for name in ("frontend", "frozen", "enhanced", "settings", "n_samples")},
    )


def _packed_enhancement(enhancement: Enhancement | None, arrays: dict[str, NDArray]) -> dict[str, Any] | None:
    if enhancement is None:
        return None
    arrays.update({f"enhancement/{name}": array for name, array in enhancement.state.items()})
    return {"settings": enhancement.settings, "kind": enhancement.kind}


def _unpacked_enhancement(packed: Mapping[str, Any] | None, arrays: Mapping[str, NDArray]) -> Enhancement | None:
    return Enhancement(**packed, state=_below("enhancement/", arrays)) if packed else None


def _below(prefix: str, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
