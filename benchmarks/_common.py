"""Shared by the benchmarks: options, interleaved timing, peak memory, operation counts, one table.

Both forms run in one process, in turns, under the same allocator and thread count; they are compared before they are
timed. Times are the best and the median of the repeats, ratios are plain / ours of each. Memory is the peak above what
the process held before the call. GFLOP/s counts the plain form's operations for both.
"""

import argparse
import ctypes
import gc
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from firstshot.planning import ALLOCATOR


def parser(doc: str | None, *, batch: int | None = None, seconds: float | None = 12.0) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="of OURS; plain is float32"
    )
    options.add_argument("--batch", type=int, nargs="+", default=None if batch is None else [batch])
    options.add_argument("--seconds", type=float, default=seconds, help="length of a clip")
    options.add_argument("--steps", type=int, default=5, help="timed repeats of each form")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--cpu-time", action="store_true", help="processor seconds, not wall: for a busy machine")
    options.add_argument("--no-plain", action="store_true", help="run ours alone, to see the memory of the process")
    options.add_argument("--only", choices=("inference", "train"), help="default: both")
    add_allocator(options)
    return options


def add_allocator(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--allocator", default="default", choices=("default", "tuned"), help="of glibc, for both forms"
    )


def choose_allocator(args: argparse.Namespace) -> None:
    """Restart under the allocator setting asked for; it is read when a process begins."""
    if args.allocator == "tuned" and any(os.environ.get(key) != value for key, value in ALLOCATOR.items()):
        os.environ.update(ALLOCATOR)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def allocator() -> str:
    tuned = {key: os.environ[key] for key in ALLOCATOR if key in os.environ} or "default"
    return f"glibc allocator: {tuned}, preload: {os.environ.get('LD_PRELOAD') or 'none'}"


def start(options: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse, restart under the chosen allocator, set threads and seed, print the setting."""
    args = options.parse_args(argv)
    choose_allocator(args)
    if args.device == "cuda" and not torch.cuda.is_available():
        options.error("--device cuda: PyTorch sees no CUDA device here")
    torch.set_num_threads(args.threads)
    global _clock  # noqa: PLW0603
    _clock = time.process_time if args.cpu_time else time.perf_counter
    torch.manual_seed(0)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{processor()}, {args.threads} threads"
    print(
        f"{where}; torch {torch.__version__}; {allocator()}; random weights"
        + ("; times are processor seconds" if args.cpu_time else "")
    )
    return args


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


def autocast(args: argparse.Namespace) -> Any:
    """Context of OUR form: bfloat16 autocast where asked for."""
    return torch.autocast(args.device, torch.bfloat16) if args.dtype == "bfloat16" else nullcontext()


def wave(batch: int, seconds: float, device: str = "cpu", noise: float = 0.02) -> torch.Tensor:
    """(batch, 16000 * seconds) of tones in noise, in [-1, 1)."""
    at = torch.arange(int(16_000 * seconds)) / 16_000
    pitch = 100.0 + 900.0 * torch.rand(batch, 1)
    return (0.1 * torch.sin(6.2832 * pitch * at) + noise * torch.randn(batch, len(at))).to(device)


COSINE, SNR_DB = 0.9999, 40.0  # of outputs in lower precision, at least
GRADIENT_COSINE = 0.99  # of gradients in lower precision; an optimiser follows their direction


def outputs_agree(
    ours: torch.Tensor,
    plain: torch.Tensor,
    *,
    exact: bool,
    atol: float = 1e-4,
    cosine: float = COSINE,
    snr_db: float | None = None,
) -> str:
    """Check outputs (B, …) of both forms: to `atol` where exact, in direction and, if given, in their ratio to the
    difference always. Exits where they do not agree."""
    ours, plain = ours.detach().double(), plain.detach().double()
    largest = (ours - plain).abs().max().item()
    similarity = torch.nn.functional.cosine_similarity(ours.flatten(1), plain.flatten(1)).min().item()
    found = f"outputs: largest difference {largest:.1e}, smallest cosine {similarity:.6f}"
    agree = similarity >= cosine and (largest <= atol or not exact)
    if snr_db is not None:
        ratio = 10 * ((plain.square().sum() / (ours - plain).square().sum()).log10()).item()
        found += f", SNR {ratio:.0f} dB"
        agree = agree and ratio >= snr_db
    if not agree:
        sys.exit(f"the two forms disagree: {found}")
    return found


def gradients_agree(
    ours: Iterable[torch.Tensor],
    plain: Iterable[torch.Tensor],
    *,
    exact: bool,
    largest: float = 1e-3,
    cosine: float = GRADIENT_COSINE,
) -> str:
    """Check gradients of both forms: where exact to a part of the largest, and to COSINE; else to `cosine`. Exits where
    they do not agree."""
    a, b = (torch.cat([gradient.detach().flatten() for gradient in form]).double() for form in (ours, plain))
    difference = ((a - b).abs().max() / b.abs().max()).item()
    similarity = torch.nn.functional.cosine_similarity(a, b, 0).item()
    found = f"gradients: largest difference {difference:.1e} of the largest, cosine {similarity:.6f}"
    if not (similarity >= COSINE and difference <= largest if exact else similarity >= cosine):
        sys.exit(f"the two forms disagree: {found}")
    return found


_clock = time.perf_counter


@dataclass
class Measured:
    best: float
    median: float
    memory: float  # GB


def side_by_side(
    ours: Callable[[], Any], plain: Callable[[], Any] | None, steps: int, device: str = "cpu"
) -> list[Measured]:
    """Time both in turns, after one warm-up each that also measures the peak memory."""
    forms = [ours] if plain is None else [ours, plain]
    memory = [_peak_memory(form, device) for form in forms]
    times: list[list[float]] = [[] for _ in forms]
    for _ in range(steps):
        for taken, form in zip(times, forms, strict=True):
            wait(device)
            begin = _clock()
            form()
            wait(device)
            taken.append(_clock() - begin)
    return [Measured(min(taken), statistics.median(taken), peak) for taken, peak in zip(times, memory, strict=True)]


def counted(form: Callable[[], Any]) -> tuple[int, Any]:
    """Operations of matrix products and convolutions in one call, and what the call returns."""
    with FlopCounterMode(display=False) as counter:
        result = form()
    return counter.get_total_flops(), result


def count_flop(form: Callable[[], Any]) -> int:
    return counted(form)[0]


def report(what: str, measured: Sequence[Measured], *, items: int, unit: str, flop: int, note: str = "") -> None:
    """Print ours, plain and their ratio. items : clips or steps of one call, for the rate."""
    print(f"\n{what}" + (f" ({note})" if note else ""))
    print(f"  {'':6} {unit + '/s':>10} {'best s':>9} {'median s':>9} {'GFLOP/s':>9} {'peak GB':>9}")
    for name, form in zip(("ours", "plain"), measured, strict=False):
        rate, speed = items / form.best, f"{flop / form.best / 1e9:.0f}" if flop else "-"
        print(f"  {name:6} {rate:10.2f} {form.best:9.4f} {form.median:9.4f} {speed:>9} {form.memory:9.2f}")
    if len(measured) > 1:
        ours, plain = measured
        times = f"best {plain.best / ours.best:.2f}, median {plain.median / ours.median:.2f}"
        print(f"  ratio plain / ours: {times}, memory {plain.memory / ours.memory:.2f}")
    print(f"  largest resident memory of the process so far {peak_rss():.1f} GB", flush=True)


def peak_rss() -> float:
    """Largest resident memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak_memory(form: Callable[[], Any], device: str) -> float:
    """GB that one call needs above what is held before it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        form()
        wait(device)
        return (torch.cuda.max_memory_allocated() - before) / 1e9
    if not Path("/proc/self/clear_refs").exists():
        form()
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    form()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(field))
