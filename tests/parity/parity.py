"""Where the golden numbers lie, and how close is close enough. Sizes are read from the files, never assumed."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

TOLERANCE = 1e-4  # outputs of networks, absolute
FBANK_TOLERANCE = 1e-3  # logarithms of bins near silence
GRADIENT_TOLERANCE = 1e-3  # relative to the largest element

FOLDER = Path(os.environ.get("FIRSTSHOT_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))


def golden(name: str) -> Path:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"golden numbers absent: {path}; name their folder in FIRSTSHOT_GOLDEN")
    return path


def arrays(name: str) -> dict[str, torch.Tensor]:
    with np.load(golden(name)) as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def deviation(found: torch.Tensor, expected: Any) -> float:
    """Largest absolute difference; infinite where shapes differ or a value is NaN."""
    expected = torch.as_tensor(expected)
    if found.shape != expected.shape or not torch.isfinite(found).all():
        return float("inf")
    return (found.detach().double() - expected.double()).abs().max().item()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return deviation(found, expected) / expected.abs().max().item()


def close(found: torch.Tensor, expected: Any, tolerance: float = TOLERANCE) -> None:
    difference = deviation(found, expected)
    assert difference <= tolerance, f"deviates by {difference:.2e}, allowed {tolerance:.0e}"
