"""Where the golden numbers lie, and how close is close enough. Sizes are read from the files, never assumed."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TOLERANCE = 1e-4  # outputs of networks, absolute
STRICT = 1e-5  # SCAC, and the pooling, whose terms move it little
FBANK_TOLERANCE = 1e-3  # logarithms of bins near silence
GRADIENT_TOLERANCE = 1e-3  # relative to the largest element

NAMED = os.environ.get("FIRSTSHOT_GOLDEN")  # empty is as good as unset
FOLDER = Path(NAMED or Path(__file__).parents[3] / "shared" / "golden")


PARTS = ("schemas", "evaluator")  # subfolders that a set may do without


def golden(name: str) -> Path:
    """A file or folder of the set. Skipped where no set is named and none is there, or where the set is without that
    part; anything else that is missing fails."""
    path = FOLDER / name
    if path.exists():
        return path
    absent = f"golden numbers absent: {path}; name the folder of a set in FIRSTSHOT_GOLDEN"
    part = name.partition("/")[0]
    if (FOLDER.is_dir() and part in PARTS and not (FOLDER / part).exists()) or not (NAMED or FOLDER.is_dir()):
        pytest.skip(absent)
    pytest.fail(absent)


def arrays(name: str) -> dict[str, torch.Tensor]:
    with np.load(golden(name)) as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def deviation(found: torch.Tensor, expected: Any) -> float:
    """Largest absolute difference, of real or complex numbers; infinite where shapes differ or a value is NaN."""
    expected = torch.as_tensor(expected)
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return float("inf")
    wide = torch.complex128 if found.is_complex() or expected.is_complex() else torch.float64
    return (found.detach().to(wide) - expected.to(wide)).abs().max().item()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return deviation(found, expected) / expected.abs().max().item()


def close(found: torch.Tensor, expected: Any, tolerance: float = TOLERANCE) -> None:
    difference = deviation(found, expected)
    assert difference <= tolerance, f"deviates by {difference:.2e}, allowed {tolerance:.0e}"
