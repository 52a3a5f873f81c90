"""A detector as one file: everything that `firstshot score` needs beside the public checkpoints.

The file is a zip archive with three members and no executable content: `manifest.json` (settings, weights, threshold,
config, provenance), `arrays.safetensors` (adapters, heads, banks of normal clips, training scores) and `SHA256SUMS` of
the two. The sums tell a damaged or edited file; they are no signature, so take bundles from people you trust.
"""

from __future__ import annotations

import hashlib
import json
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

from firstshot.detector import Checkpoint, Detector, Enhancement, Single
from firstshot.errors import UNREADABLE_ZIP, UserError

FORMAT = "firstshot bundle"
VERSION = 1
MANIFEST, ARRAYS, SUMS = "manifest.json", "arrays.safetensors", "SHA256SUMS"
LARGEST_MANIFEST = 16 * 2**20  # bytes; a manifest is some tens of kB
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same detector gives the same bytes


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
        MANIFEST: json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode(),
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
    manifest = json.loads(contents[MANIFEST])
    try:
        arrays = safetensors.numpy.load(contents[ARRAYS])
        plain = {name: manifest[name] for name in _plain_fields()}
        plain["train_seconds"] = tuple(plain["train_seconds"])
        return Detector(
            **plain,
            singles={name: _unpacked_single(packed, arrays) for name, packed in manifest["singles"].items()},
            enhancement=_unpacked_enhancement(manifest["enhancement"], arrays),
        )
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{path}: a part of the bundle is missing ({error}); export it again") from None


def _contents(path: Path) -> dict[str, bytes]:
    """The members of the archive, their sums checked."""
    export = "export it again with `firstshot bundle`"
    try:
        with zipfile.ZipFile(path) as archive:
            found = {info.filename: info.file_size for info in archive.infolist()}
            if sorted(found) != sorted((MANIFEST, ARRAYS, SUMS)) or found[MANIFEST] > LARGEST_MANIFEST:
                raise UserError(f"{path}: not a firstshot bundle (it holds {', '.join(sorted(found)[:4])}); {export}")
            contents = {name: archive.read(name) for name in found}
    except FileNotFoundError:
        raise UserError(f"{path}: no such bundle; make one with `firstshot bundle`") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UNREADABLE_ZIP as error:
        raise UserError(f"{path}: damaged or not a bundle ({error}); {export}") from None
    lines = (line.partition("  ") for line in contents[SUMS].decode(errors="replace").splitlines())
    listed = {name: digest for digest, _, name in lines}
    for name in (MANIFEST, ARRAYS):
        if listed.get(name) != hashlib.sha256(contents[name]).hexdigest():
            raise UserError(f"{path}: {name} was changed after the bundle was made; {export}")
    manifest = json.loads(contents[MANIFEST])
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise UserError(
            f"{path}: bundle of version {manifest.get('version')}, this program reads version {VERSION}; {export}"
        )
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
        states=[_below(f"{prefix}/state/{seed}/", arrays) for seed in seeds],
        banks=[arrays[f"{prefix}/bank/{seed}"] for seed in seeds],
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
