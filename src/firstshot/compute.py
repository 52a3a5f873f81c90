"""Where and how networks are run: device, threads and deterministic algorithms, before the first tensor is made."""

import argparse
import os

import torch

from firstshot.errors import UserError


def torch_setup(args: argparse.Namespace) -> torch.device:
    """Device asked for by --device; sets torch's threads (--threads) and deterministic algorithms.

    Raises UserError where --device cuda finds no GPU.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(args.threads)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import the compiler, 1.5 s
    # Deterministic mode would fill all new memory, which only helps to find bugs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "compute.device is cuda, but torch finds no GPU here; use a GPU node or set compute.device: auto"
        )
    use_cuda = args.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")
