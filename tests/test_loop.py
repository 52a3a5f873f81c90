"""The parts that all training loops share."""

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from firstshot.errors import UserError
from firstshot.loop import (
    Schedule,
    Trainable,
    Training,
    autocast,
    epoch_order,
    set_learning_rate,
    step_generator,
    watched,
    write_state,
)


def test_the_paper_s_step_counts_follow_from_its_epochs():
    assert Schedule.of("tse", 100, batch_size=8, epochs=2400, warmup_steps=1250, drop_last=True).steps == 28_800
    assert Schedule.of("ssl", 15_000, batch_size=8, epochs=25, warmup_steps=5000).steps == 46_875
    assert Schedule.of("spec", 15_000, batch_size=64, epochs=16).steps == 16 * 235


def test_the_rate_rises_linearly_and_then_stays():
    schedule = Schedule(steps=10, steps_per_epoch=5, warmup_steps=4)
    assert [schedule.learning_rate(s, 0.4) for s in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"epochs": 1, "warmup_steps": 13}, "ends inside its warm-up"),
        ({"epochs": 1, "max_steps": 3, "warmup_steps": 3}, "ends inside its warm-up"),
        ({"epochs": 0}, "at least one step"),
        ({"epochs": 1, "batch_size": 101, "drop_last": True}, "do not fill one batch"),
    ],
)
def test_a_schedule_that_cannot_train_is_refused(arguments, said):
    with pytest.raises(UserError, match=said):
        Schedule.of("tse", 100, **{"batch_size": 8, **arguments})


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="bfloat16"):
        autocast(torch.device("cpu"), "fp8")


def test_draws_depend_on_seed_and_step_alone():
    assert torch.equal(torch.rand(3, generator=step_generator(1, 7)), torch.rand(3, generator=step_generator(1, 7)))
    assert not torch.equal(torch.rand(3, generator=step_generator(1, 7)), torch.rand(3, generator=step_generator(2, 7)))
    assert sorted(epoch_order(0, 3, 50).tolist()) == list(range(50))
    assert not torch.equal(epoch_order(0, 3, 50), epoch_order(0, 4, 50))


def train(state: Path | None, interrupt_at: int | None = None) -> tuple[dict, list]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    schedule = Schedule(steps=1500, steps_per_epoch=7, warmup_steps=5)  # more steps than rows of the curve
    with Training(schedule, {"model": Trainable(model), "optimizer": optimizer}, state=state) as training:
        for step in training:
            rate = set_learning_rate(optimizer, 0.1, schedule, step)
            x = torch.randn(2, 4, generator=step_generator(0, step))
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            training.record(loss=loss, learning_rate=rate)
            if step == interrupt_at:
                os.kill(os.getpid(), signal.SIGUSR1)
    return model.state_dict(), training.curve


def test_an_interrupted_training_ends_with_the_same_bytes(tmp_path):
    whole, curve = train(None)
    before = signal.getsignal(signal.SIGUSR1)
    for at in (6, 702):
        with pytest.raises(SystemExit, match=f"SIGUSR1: state saved at step {at + 1}"):
            train(tmp_path / "state", interrupt_at=at)
    continued, continued_curve = train(tmp_path / "state")
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
    assert curve == continued_curve
    assert curve[-1]["step"] == 1500
    assert len(curve) == 750
    assert signal.getsignal(signal.SIGUSR1) is before
    assert "0.weight" not in torch.load(tmp_path / "state", weights_only=True)["parts"]["model"]


def test_a_diverged_training_says_so_and_keeps_no_state(tmp_path):
    with (
        pytest.raises(UserError, match="diverged"),
        Training(Schedule(5, 1, 0), {}, state=tmp_path / "state") as training,
    ):
        for _ in training:
            training.record(loss=math.nan)
    assert not (tmp_path / "state").exists()


def test_the_curve_is_written_as_csv_and_for_tensorboard(tmp_path):
    with Training(Schedule(3, 2, 0), {}, tensorboard=tmp_path / "board") as training:
        for step in training:
            training.record(loss=float(step))
    training.write_curve(tmp_path / "curve.csv")
    assert (tmp_path / "curve.csv").read_text() == "step,epoch,loss\n1,1,0.0\n2,1,1.0\n3,2,2.0\n"
    assert list((tmp_path / "board").iterdir())


def test_the_progress_line_tells_loss_speed_and_time_left():
    said: list[str] = []
    with Training(Schedule(2, 2, 0), {}, what="TSE of fan", progress_every_s=0, say=said.append) as training:
        for _ in training:
            training.record(loss=0.5)
    assert "TSE of fan step 1 of 2: loss 0.5" in said[0]
    assert "steps/s, 0 h 0 min left" in said[0]


def test_a_training_can_be_watched_in_tensorboard(tmp_path, monkeypatch):
    model = Path("results/demo/train/all/noisy-org/spec/seed0.safetensors")
    monkeypatch.delenv("FIRSTSHOT_TENSORBOARD", raising=False)
    assert watched(model) is None
    monkeypatch.setenv("FIRSTSHOT_TENSORBOARD", str(tmp_path))
    assert watched(model) == tmp_path / "all" / "noisy-org" / "spec" / "seed0"
    assert watched(Path("/a.safetensors")) == tmp_path / "a"


@pytest.mark.parametrize("content", [b"", b"PK no zip", "cut"], ids=["empty", "garbage", "cut"])
def test_a_damaged_state_is_told_and_the_training_begins_anew(tmp_path, capsys, content):
    whole, _ = train(None)
    state = tmp_path / "state"
    with pytest.raises(SystemExit):
        train(state, interrupt_at=6)
    state.write_bytes(state.read_bytes()[:-100] if content == "cut" else content)
    again, _ = train(state)
    assert "state is damaged" in capsys.readouterr().err
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_state_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_state(tmp_path / "state", {"step": 1, "part": (n for n in range(3))})
    assert list(tmp_path.iterdir()) == []
