"""Memory-mapped Arrow files: packed audio and embeddings.

Packed audio holds one row per clip: `clip`, `section`, `domain`, `attributes` (null where not given; always null in the
test split), `kind` (supplemental split only: clean | noise) and `samples` (int16 recordings or float32 enhanced audio).
Embeddings hold one row per clip: `clip`, `section`, `domain` and one float32 vector column per seed or per variant.
Both are uncompressed Arrow IPC files, so that opening one costs no reading and samples are used where they lie.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from firstshot.errors import UserError

CLIPS_PER_BATCH = 64
TEXT_COLUMNS = ("clip", "section", "domain")


def write_audio(
    path: Path,
    clips: Iterable[Mapping[str, Any]],
    *,
    machine: str,
    split: str,
    sampling_rate: int,
    dtype: type[np.generic] = np.int16,
) -> int:
    """Write clips one batch at a time and return their number.

    Each clip is a mapping with `clip`, `section`, `samples` (1-D, int16 or float32 as `dtype` says) and, except in the
    test split, `domain`, `attributes` and `kind`. Raises UserError where a test clip brings any of these three.
    """
    columns = ["clip", "section", "domain", "attributes"] + (["kind"] if split == "supplemental" else [])
    schema = pa.schema(
        [(column, pa.string()) for column in columns] + [("samples", pa.large_list(pa.from_numpy_dtype(dtype)))],
        metadata={"machine": machine, "split": split, "sampling_rate": str(sampling_rate)},
    )
    count, rows = 0, iter(clips)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        while batch := list(islice(rows, CLIPS_PER_BATCH)):
            if split == "test" and any(clip.get(key) for clip in batch for key in ("domain", "attributes", "kind")):
                raise UserError(
                    f"{path}: a test clip with domain, attributes or kind; these belong to the truth table."
                )
            waves = [np.asarray(clip["samples"]) for clip in batch]
            wrong = next((wave for wave in waves if wave.dtype != dtype or wave.ndim != 1), None)
            if wrong is not None:
                raise ValueError(f"samples are {wrong.dtype} of shape {wrong.shape}, expected 1-D {np.dtype(dtype)}")
            offsets = np.concatenate([[0], np.cumsum([len(wave) for wave in waves])]).astype(np.int64)
            samples = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(waves)))
            text = [pa.array([clip.get(column) or None for clip in batch], pa.string()) for column in columns]
            writer.write_batch(pa.record_batch([*text, samples], schema=schema))
            count += len(batch)
    return count


def _open(path: Path, required: Sequence[str]) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not a complete Arrow file ({error}). Delete it and run the workflow again.") from None
    if missing := set(required) - set(table.column_names):
        raise UserError(f"{path}: no column {', '.join(sorted(missing))}; found {', '.join(table.column_names)}.")
    return table


def _metadata(table: pa.Table) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}


class PackedAudio:
    """The clips of one machine type and split; samples in the mapped file, text columns as lists (`text`: as Arrow)."""

    def __init__(self, table: pa.Table):
        metadata = _metadata(table)
        self.machine: str = metadata["machine"]
        self.split: str = metadata["split"]
        self.sampling_rate = int(metadata["sampling_rate"])
        self.text: pa.Table = table.select(TEXT_COLUMNS).combine_chunks()
        self.clip: list[str] = table["clip"].to_pylist()
        self.section: list[str] = table["section"].to_pylist()
        self.domain: list[str | None] = table["domain"].to_pylist()
        self.attributes: list[str | None] = table["attributes"].to_pylist()
        has_kind = "kind" in table.column_names
        self.kind: list[str | None] = table["kind"].to_pylist() if has_kind else [None] * len(self.clip)
        self._samples: list[np.ndarray] = []
        for chunk in table["samples"].chunks:
            # Not by to_numpy, which imports pandas (0.4 s).
            values, offsets = np.from_dlpack(chunk.values), np.from_dlpack(chunk.offsets)
            self._samples += [values[start:end] for start, end in zip(offsets[:-1], offsets[1:], strict=True)]

    @classmethod
    def open(cls, path: Path) -> "PackedAudio":
        """Map a packed audio file; raises UserError where it is missing, incomplete or of another form."""
        return cls(_open(path, ["clip", "section", "domain", "attributes", "samples"]))

    def __len__(self) -> int:
        return len(self.clip)

    def n_samples(self, i: int) -> int:
        return len(self._samples[i])

    def samples(self, i: int) -> np.ndarray:
        """Samples of clip i as stored, (n_samples,), read-only and not copied."""
        return self._samples[i]

    def wave(self, i: int) -> np.ndarray:
        """Waveform of clip i, (n_samples,) float32 in [-1, 1): int16 / 32768, or float32 audio as it is."""
        samples = self._samples[i]
        return samples if samples.dtype == np.float32 else np.multiply(samples, np.float32(2**-15), dtype=np.float32)


def write_embeddings(path: Path, clips: PackedAudio, columns: Mapping[str, np.ndarray]) -> None:
    """Write one vector per clip and column; each array is (n_clips, dim) float32, dims may differ."""
    table = clips.text
    for name, vectors in columns.items():
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(clips):
            raise ValueError(f"column {name}: {vectors.dtype} {vectors.shape}, expected float32 ({len(clips)}, dim)")
        # Not by pa.array, which imports pandas (0.3 s).
        flat = pa.Array.from_buffers(pa.float32(), vectors.size, [None, pa.py_buffer(np.ascontiguousarray(vectors))])
        table = table.append_column(name, pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
    table = table.replace_schema_metadata({"machine": clips.machine, "split": clips.split})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


class Embeddings:
    """Embeddings of one machine type and split: `columns` maps a name to an array (n_clips, dim) float32."""

    def __init__(self, table: pa.Table):
        metadata = _metadata(table)
        self.machine: str = metadata["machine"]
        self.split: str = metadata["split"]
        self.clip: list[str] = table["clip"].to_pylist()
        self.section: list[str] = table["section"].to_pylist()
        self.domain: list[str | None] = table["domain"].to_pylist()
        self.columns: dict[str, np.ndarray] = {}
        for field in table.schema:
            if field.name not in TEXT_COLUMNS:
                vectors = [np.from_dlpack(chunk.flatten()) for chunk in table[field.name].chunks]
                dim = field.type.list_size
                self.columns[field.name] = np.concatenate(vectors or [np.empty(0, np.float32)]).reshape(-1, dim)

    @classmethod
    def open(cls, path: Path) -> "Embeddings":
        """Read an embeddings file; raises UserError where it is missing, incomplete or of another form."""
        return cls(_open(path, TEXT_COLUMNS))

    def __len__(self) -> int:
        return len(self.clip)
