"""How many steps a training takes, and its learning rate at each of them.

Only the standard library is imported: a plan asks for the same schedules as the trainings, so that one that cannot
train is refused before any job.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firstshot.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Number of steps in all, per epoch, and of linear warm-up (the learning rate is constant after it)."""

    steps: int
    steps_per_epoch: int
    warmup_steps: int

    @classmethod
    def of(
        cls,
        what: str,
        n_clips: int,
        *,
        batch_size: int,
        epochs: float,
        warmup_steps: int = 0,
        max_steps: int | None = None,
        drop_last: bool = False,
    ) -> "Schedule":
        """Steps of `epochs` passes over `n_clips` clips; `max_steps`, where given, replaces their number."""
        steps_per_epoch = n_clips // batch_size if drop_last else math.ceil(n_clips / batch_size)
        if steps_per_epoch == 0:
            raise UserError(
                f"{what}: {n_clips} clips do not fill one batch of {batch_size}; lower batch_size or add clips"
            )
        steps = max_steps if max_steps is not None else round(epochs * steps_per_epoch)
        if steps < 1:
            raise UserError(f"{what}: the schedule has {steps} steps; raise epochs or max_steps to at least one step")
        if warmup_steps and steps <= warmup_steps:
            raise UserError(
                f"{what}: the schedule of {steps} steps ends inside its warm-up of {warmup_steps}; "
                "lower warmup_steps or raise epochs or max_steps"
            )
        return cls(steps, steps_per_epoch, warmup_steps)

    def learning_rate(self, step: int, peak: float) -> float:
        """Learning rate of `step` (from 0): rises in equal parts to `peak` at the last warm-up step, then stays."""
        return peak * min(1.0, (step + 1) / max(1, self.warmup_steps))


def of_frontend(what: str, n_original: int, n_copies: int, options: Mapping[str, Any]) -> Schedule:
    """Schedule of a frontend: `epochs` over the original clips (paper §3.1: Spec 16, SSL 25).

    With two copies of each, noisy and enhanced, the steps stay the same in number, unless `epochs_both` gives the
    epochs over all copies (paper §3.1: Spec 8). `max_steps`, where given, replaces both.
    """
    n_clips, epochs = n_original, options["epochs"]
    if n_copies > 1 and options.get("epochs_both") is not None:
        n_clips, epochs = n_original * n_copies, options["epochs_both"]
    return Schedule.of(
        what,
        n_clips,
        batch_size=options["batch_size"],
        epochs=epochs,
        warmup_steps=options.get("warmup_steps") or 0,
        max_steps=options.get("max_steps"),
    )


def of_enhancement(what: str, n_supplemental: int, options: Mapping[str, Any]) -> Schedule:
    """Schedule of a TSE: `epochs` over the supplemental clips, the last partial batch dropped (paper §3.1).

    Raises UserError as well where `accumulate` does not divide a batch.
    """
    if options["batch_size"] % options["accumulate"]:
        raise UserError(
            f"{what}: a batch of {options['batch_size']} cannot be split into {options['accumulate']} equal parts; "
            "choose enhance.accumulate among the divisors of enhance.batch_size"
        )
    return Schedule.of(
        what,
        n_supplemental,
        batch_size=options["batch_size"],
        epochs=options["epochs"],
        warmup_steps=options["warmup_steps"],
        max_steps=options["max_steps"],
        drop_last=True,
    )
