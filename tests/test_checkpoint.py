"""Reading published checkpoints: nothing in a file runs, and every bad file has a clear message."""

import argparse
import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from firstshot.errors import UserError
from firstshot.networks import checkpoint
from firstshot.networks.beats import load_beats
from firstshot.networks.eat import load_eat
from firstshot.untrained import write_checkpoint


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class WithState:
    """An object of a class that the reader cannot import."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["marker"]).touch()


class Appended(list):  # type: ignore[type-arg]
    def append(self, item: Any) -> None:
        Path(item).touch()

    def extend(self, items: Any) -> None:
        for item in items:
            Path(item).touch()


def _with_state(marker: Path) -> WithState:
    made = WithState()
    made.__dict__["marker"] = str(marker)
    return made


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def eat(tmp_path: Path) -> Path:
    return untrained("eat", tmp_path)


@pytest.fixture
def beats(tmp_path: Path) -> Path:
    return untrained("beats", tmp_path)


def untrained(name: str, folder: Path) -> Path:
    sizes = {"width": 32, "heads": 4, "layers": 2, "embed_dim": 16, "position_rows": 24}
    write_checkpoint(folder / f"{name}.pt", name, sizes, seed=0)
    return folder / f"{name}.pt"


def edited(path: Path, **changes: Any) -> Path:
    content = torch.load(path, weights_only=True)
    torch.save(content | changes, path)
    return path


@pytest.mark.parametrize(
    "call",
    [
        lambda marker: Calls(os.system, f"touch {marker}"),
        lambda marker: Calls(eval, f"open({str(marker)!r}, 'w')"),
        lambda marker: Calls(exec, f"open({str(marker)!r}, 'w')"),
        lambda marker: Calls(Path.touch, marker),
        lambda marker: Calls(shutil.copyfile, "/etc/hostname", str(marker)),
        lambda marker: Calls(__import__, "subprocess"),
        lambda marker: Calls(torch.load, str(marker)),
        lambda marker: Calls(nn.Linear, 1, 1),
    ],
    ids=["os.system", "eval", "exec", "method", "copyfile", "import", "torch.load", "foreign class"],
)
@pytest.mark.parametrize("where", ["model", "extra_state", "top"])
def test_a_file_that_calls_anything_is_refused_and_nothing_ran(eat: Path, marker: Path, call: Any, where: str) -> None:
    content = torch.load(eat, weights_only=True)
    if where == "top":
        content = call(marker)
    else:
        content[where] = {"x": call(marker)} if where == "extra_state" else content["model"] | {"x": call(marker)}
    torch.save(content, eat)
    with pytest.raises(UserError, match=r"refused.*Nothing in it was run"):
        load_eat(eat)
    assert not marker.exists()


def test_the_malicious_file_would_have_run_in_an_unrestricted_reader(eat: Path, marker: Path) -> None:
    """The test above proves something: the same file does act where reading is not restricted."""
    edited(eat, extra_state=Calls(Path.touch, marker))
    torch.load(eat, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("make", [_with_state, lambda m: Appended([str(m)])], ids=["state", "append"])
def test_foreign_objects_become_inert(eat: Path, marker: Path, make: Any) -> None:
    """Setting the state of an object and filling a list are hidden calls: they do nothing either."""
    edited(eat, extra_state=make(marker), args=argparse.Namespace(x=1))
    assert load_eat(eat).dims.embed_dim > 0
    assert not marker.exists()


def test_instances_made_by_old_pickle_opcodes_are_inert(tmp_path: Path, marker: Path) -> None:
    """INST and OBJ instantiate a class without REDUCE; with arguments they are calls."""
    for name, body in (
        ("inst", f"(S'touch {marker}'\nios\nsystem\n."),
        ("obj", f"(cos\nsystem\nS'touch {marker}'\no."),
        ("reduce", f"cos\nsystem\n(S'touch {marker}'\ntR."),
    ):
        path = with_pickle(tmp_path / f"{name}.pt", body.encode())
        with pytest.raises(UserError, match="refused"):
            checkpoint.read(path)
        assert not marker.exists()


def test_extension_registry_and_persistent_ids_run_nothing(tmp_path: Path) -> None:
    for name, body in (("ext", b"\x80\x02\x82\x01."), ("persistent", b"\x80\x02X\x01\x00\x00\x00aQ.")):
        with pytest.raises(UserError):
            checkpoint.read(with_pickle(tmp_path / f"{name}.pt", body))


def with_pickle(path: Path, body: bytes) -> Path:
    """A PyTorch archive whose pickle is `body`."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, body if name.endswith("data.pkl") else data)
    return path


def test_a_bare_pickle_and_a_torchscript_program_are_refused(tmp_path: Path, marker: Path) -> None:
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps(Calls(os.system, f"touch {marker}")))
    with pytest.raises(UserError, match="not a readable PyTorch checkpoint"):
        checkpoint.read(bare)
    program = tmp_path / "program.pt"
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), buffer)
    program.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="TorchScript"):
        checkpoint.read(program)
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.99])
def test_a_truncated_file_is_named(beats: Path, keep: float) -> None:
    data = beats.read_bytes()
    beats.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(UserError, match=r"beats\.pt: .*(truncated|damaged)"):
        load_beats(beats)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        load_beats(tmp_path / "absent.pt")


def test_a_checkpoint_of_the_other_network_is_named(beats: Path, eat: Path) -> None:
    with pytest.raises(UserError, match="an EAT or SSLAM checkpoint, expected BEATs"):
        load_beats(eat)
    with pytest.raises(UserError, match="a BEATs checkpoint, expected EAT or SSLAM"):
        load_eat(beats)


def test_a_fine_tuned_checkpoint_is_refused(beats: Path, eat: Path) -> None:
    content = torch.load(beats, weights_only=True)
    predictor = {"predictor.weight": torch.zeros(3, 4), "predictor.bias": torch.zeros(3)}
    edited(beats, model=content["model"] | predictor)
    with pytest.raises(UserError, match="fine-tuned BEATs"):
        load_beats(beats)
    edited(beats, cfg=content["cfg"] | {"finetuned_model": True})
    with pytest.raises(UserError, match="fine-tuned BEATs"):
        load_beats(beats)
    edited(eat, model=torch.load(eat, weights_only=True)["model"] | {"head.weight": torch.zeros(3, 4)})
    with pytest.raises(UserError, match="fine-tuned EAT"):
        load_eat(eat)


def test_missing_unknown_and_wrong_tensors_are_named(beats: Path) -> None:
    model = torch.load(beats, weights_only=True)["model"]
    model["encoder.extra"] = torch.zeros(1)
    model["layer_norm.weight"] = torch.zeros(3)
    del model["encoder.layers.0.fc1.bias"]
    edited(beats, model=model)
    with pytest.raises(UserError) as fault:
        load_beats(beats)
    for words in (
        "missing tensors: encoder.layers.0.fc1.bias",
        "unknown tensors: encoder.extra",
        "layer_norm.weight (3,)",
    ):
        assert words in str(fault.value)


def test_a_cfg_of_another_size_than_the_tensors_is_refused(beats: Path, eat: Path) -> None:
    content = torch.load(beats, weights_only=True)
    edited(beats, cfg=content["cfg"] | {"encoder_layers": content["cfg"]["encoder_layers"] + 1})
    with pytest.raises(UserError, match="missing tensors: encoder.layers"):
        load_beats(beats)
    cfg = torch.load(eat, weights_only=True)["cfg"]
    edited(eat, cfg=cfg | {"model": cfg["model"] | {"depth": cfg["model"]["depth"] + 1}})
    with pytest.raises(UserError, match="missing tensors: blocks"):
        load_eat(eat)


def test_eat_without_sizes_in_cfg_warns(eat: Path) -> None:
    model = torch.load(eat, weights_only=True)["cfg"]["model"]
    del model["norm_eps"]
    edited(eat, cfg={"model": model})
    with pytest.warns(UserWarning, match="norm_eps"):
        load_eat(eat)


def test_tensors_stay_memory_mapped(eat: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc on this system")
    model = load_eat(eat)
    assert str(eat) in maps.read_text()
    assert model.training is False and not any(p.requires_grad for p in model.parameters())


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert checkpoint.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
