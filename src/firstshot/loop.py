"""What every training loop here shares: schedule, data order, resumable state, interruption, progress, curve.

A loop reads

    with Training(schedule, parts={"model": model, "optimizer": optimizer}, state=path) as training:
        for step in training:
            set_learning_rate(optimizer, peak, schedule, step)
            ...                                        # forward, backward, optimizer.step()
            training.record(loss=loss, learning_rate=...)

The order of the clips and every draw of a step depend on the seed and the step alone (`epoch_order`, `step_generator`),
so a run that continues from its state draws what the uninterrupted run would have drawn.
"""

import csv
import errno
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from firstshot.errors import UserError
from firstshot.schedule import Schedule

CURVE_ROWS = 1000  # a curve holds at most about this many points, each the mean over an equal number of steps
BATCHES_AHEAD = 4
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # a scheduler's end and its warning before it

T = TypeVar("T")


def set_learning_rate(optimizer: torch.optim.Optimizer, peak: float, schedule: Schedule, step: int) -> float:
    rate = schedule.learning_rate(step, peak)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def step_generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step: a function of seed and step, whatever ran before."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step + 1) % 2**63)


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """Order of `n` clips in an epoch, (n,) int64: a function of seed and epoch alone."""
    return torch.randperm(n, generator=step_generator(seed, -2 - epoch))


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """`precision`: 'float32' (nothing changes) or 'bfloat16' (torch's mixed precision, parameters stay float32)."""
    if precision not in ("float32", "bfloat16"):
        raise UserError(f"compute.precision: found '{precision}', expected 'float32' or 'bfloat16'")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def prefetch(make: Callable[[int], T], first: int, last: int, threads: int) -> Iterator[Iterator[T]]:
    """`make(first)` … `make(last - 1)` in this order, made by `threads` threads ahead of their use."""
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:

        def results() -> Iterator[T]:
            ahead: deque[Future[T]] = deque()
            for step in range(first, last):
                ahead.append(pool.submit(make, step))
                if len(ahead) > BATCHES_AHEAD:
                    yield ahead.popleft().result()
            yield from (future.result() for future in ahead)

        try:
            yield results()
        finally:
            pool.shutdown(cancel_futures=True)


class Stateful(Protocol):
    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> Any: ...


class Trainable:
    """The part of a module that training changes (parameters with gradient, buffers), as a state to save and load."""

    def __init__(self, module: nn.Module):
        self.module = module

    def state_dict(self) -> dict[str, Tensor]:
        frozen = {name for name, p in self.module.named_parameters() if not p.requires_grad}
        return {name: value for name, value in self.module.state_dict().items() if name not in frozen}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        missing = self.state_dict().keys() - state.keys()
        unexpected = self.module.load_state_dict(state, strict=False).unexpected_keys
        if missing or unexpected:
            raise UserError(f"saved state: missing {sorted(missing)}, unexpected {unexpected}")


def watched(model: Path) -> Path | None:
    """Folder under FIRSTSHOT_TENSORBOARD, where that is set, for the TensorBoard curve of the training of `model`."""
    folder = os.environ.get("FIRSTSHOT_TENSORBOARD")
    return Path(folder, *model.absolute().with_suffix("").parts[1:][-4:]) if folder else None


def write_state(path: Path, state: dict[str, Any]) -> None:
    """torch.save beside the final name, fsync, rename: a state is seen whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Training:
    """The steps of one training, from where its state file left off.

    After each step: saves the state every `save_every_s` seconds, and on SIGTERM or SIGUSR1 saves and leaves the
    program with a non-zero status. `parts` are the objects that make up the state besides the step, the random states
    and the curve; `tensorboard`, where given, is a folder for the curve in TensorBoard's format.
    """

    def __init__(
        self,
        schedule: Schedule,
        parts: Mapping[str, Stateful],
        *,
        state: Path | None = None,
        save_every_s: float = math.inf,
        what: str = "training",
        progress_every_s: float = 10.0,
        say: Callable[[str], None] = _say,
        tensorboard: Path | None = None,
    ):
        self.schedule, self.parts, self.state = schedule, parts, state
        self.save_every_s, self.progress_every_s = save_every_s, progress_every_s
        self.what, self.say = what, say
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self._every = math.ceil(schedule.steps / CURVE_ROWS)
        self._sums: dict[str, Tensor] = {}  # of the values recorded since the last row of the curve
        self._count = 0
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._writer = None
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(tensorboard))

    def __enter__(self) -> "Training":
        self._load()
        for number in SIGNALS:
            self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._writer is not None:
            self._writer.close()

    def __iter__(self) -> Iterator[int]:
        first, started = self.step, time.monotonic()
        saved = said = started
        while self.step < self.schedule.steps:
            yield self.step
            self.step += 1
            now = time.monotonic()
            if self._signal is not None:
                self._leave(signal.Signals(self._signal).name)
            if now - saved >= self.save_every_s:
                self.save()
                saved = time.monotonic()
            if now - said >= self.progress_every_s or self.step == self.schedule.steps:
                self.say(self._progress_line((self.step - first) / (now - started)))
                said = now

    def record(self, **values: Tensor | float) -> None:
        """Values of this step (a tensor is read from the device only when a point of the curve is due)."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + torch.as_tensor(value, dtype=torch.float64).detach()
        self._count += 1
        if (self.step + 1) % self._every == 0 or self.step + 1 == self.schedule.steps:
            row = {"step": self.step + 1, "epoch": self.step // self.schedule.steps_per_epoch + 1, **self._means()}
            self.curve.append(row)
            self._sums, self._count = {}, 0
            if self._writer is not None:
                for name, mean in row.items():
                    self._writer.add_scalar(name, mean, self.step + 1)

    def save(self) -> None:
        """Write the state, if this training has a file for it."""
        if self.state is None:
            return
        self._means()  # refuses to keep a diverged state
        write_state(
            self.state,
            {
                "step": self.step,
                "parts": {name: part.state_dict() for name, part in self.parts.items()},
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
                "curve": self.curve,
                "sums": self._sums,
                "count": self._count,
            },
        )

    def write_curve(self, path: Path) -> None:
        """The curve as csv: step, epoch and the mean of each recorded value since the row before."""
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.curve[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.curve)

    def _load(self) -> None:
        if self.state is None or not self.state.exists():
            return
        try:
            saved = torch.load(self.state, map_location="cpu", weights_only=True)
            if lacking := {"step", "parts", "random", "random_cuda", "curve", "sums", "count"} - saved.keys():
                raise ValueError(f"{', '.join(sorted(lacking))} missing")
        except Exception as error:  # torch raises many kinds
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # the disk's fault, not the file's
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.say(f"firstshot: {self.what}: the saved state {self.state} is damaged ({reason}); beginning anew")
            return
        for name, part in self.parts.items():
            part.load_state_dict(saved["parts"][name])
        torch.set_rng_state(saved["random"])
        if saved["random_cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved["random_cuda"])
        self.step, self.curve = saved["step"], saved["curve"]
        self._sums, self._count = saved["sums"], saved["count"]
        self.say(f"firstshot: {self.what} continues at step {self.step} of {self.schedule.steps}")

    def _means(self) -> dict[str, float]:
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise UserError(
                    f"{self.what}: {name} is {mean} near step {self.step + 1}: the training diverged; "
                    "lower learning_rate, or look for damaged clips"
                )
        return means

    def _progress_line(self, rate: float) -> str:
        left = (self.schedule.steps - self.step) / rate
        values = self._means() or {k: v for k, v in self.curve[-1].items() if k not in ("step", "epoch")}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        return (
            f"firstshot: {self.what} step {self.step} of {self.schedule.steps}: {shown}, {rate:.3g} steps/s, "
            f"{left // 3600:.0f} h {left % 3600 / 60:.0f} min left"
        )

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = number

    def _leave(self, name: str) -> None:
        self.save()
        kept = f"state saved at step {self.step}; run again to continue" if self.state else "no state file given"
        raise SystemExit(f"firstshot: {self.what} interrupted by {name}: {kept}")
