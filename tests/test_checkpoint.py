"""Reading published checkpoints: nothing in a file runs, and every bad file has a clear message."""

import argparse
import io
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
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


@pytest.mark.parametrize("name", ["_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"])
@pytest.mark.parametrize("attribute", ["__defaults__", "added"])
def test_what_a_file_is_given_cannot_be_changed_by_it(tmp_path: Path, name: str, attribute: str) -> None:
    """BUILD sets attributes of any object: of a real function they would outlive the file."""
    function = getattr(torch._utils, name)
    before = dict(vars(function), defaults=function.__defaults__)
    body = b"\x80\x02ctorch._utils\n" + name.encode() + b"\nN}U" + bytes([len(attribute)]) + attribute.encode()
    with pytest.raises(UserError, match="holds no dictionary"):
        checkpoint.read(with_pickle(tmp_path / "state.pt", body + b"K\x01\x85s\x86b."))
    assert dict(vars(function), defaults=function.__defaults__) == before


def test_a_storage_class_cannot_be_changed_by_a_file(tmp_path: Path) -> None:
    before = set(vars(torch.UntypedStorage))
    with pytest.raises(UserError):
        checkpoint.read(
            with_pickle(tmp_path / "s.pt", b"\x80\x02ctorch.storage\nUntypedStorage\nN}U\x05addedK\x01s\x86b.")
        )
    assert set(vars(torch.UntypedStorage)) == before


def test_numpy_arrays_in_training_state_become_inert(eat: Path) -> None:
    edited(eat, extra_state={"losses": np.zeros(3), "best": np.float64(1)})
    assert load_eat(eat).dims.embed_dim > 0


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


def test_a_file_that_is_no_checkpoint_is_shown_by_its_first_bytes(tmp_path: Path) -> None:
    page = tmp_path / "page.pt"
    page.write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"no zip archive, it begins with b'<html>404"):
        checkpoint.read(page)
    old = tmp_path / "old.pt"
    torch.save({"args": argparse.Namespace(x=1)}, old, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError) as fault:
        checkpoint.read(old)
    assert "no zip archive" in str(fault.value) and "trust" not in str(fault.value)


def test_a_file_that_may_not_be_read_is_named(beats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"beats\.pt: cannot be read \(Permission denied\)"):
        checkpoint.read(beats)


@pytest.mark.parametrize("model", [None, argparse.Namespace(x=1), [1]])
def test_a_model_that_is_no_dictionary_is_said(eat: Path, model: Any) -> None:
    with pytest.raises(UserError, match="no dictionary 'model' in the file, 'model' is something else"):
        load_eat(edited(eat, model=model))


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


@pytest.mark.parametrize(("name", "load"), [("beats", load_beats), ("eat", load_eat)])
def test_every_missing_tensor_is_named_as_in_the_file(tmp_path: Path, name: str, load: Any) -> None:
    path = untrained(name, tmp_path)
    content = torch.load(path, weights_only=True)
    for missing in content["model"]:
        if missing != "_ema" and ".decoder." not in missing:
            edited(path, model={key: value for key, value in content["model"].items() if key != missing})
            with pytest.raises(UserError, match=re.escape(missing)) as fault:
                load(path)
            assert "unknown" not in str(fault.value)


TABLE = "self_attn.relative_attention_bias.weight"


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("beats", "encoder.extra"),
        ("beats", f"encoder.layers.99.{TABLE}"),
        ("beats", "encoder.relative_attention_bias.weight"),
        ("beats", "encoder.pos_conv.weight"),
        ("eat", "modality_encoders.IMAGE.encoder_maskfoo"),
        ("eat", "alibi_bias.x"),
        ("eat", "norm.weight"),
        ("eat", "blocks.9.norm1.bias"),
    ],
)
def test_every_unknown_tensor_is_named(tmp_path: Path, name: str, extra: str) -> None:
    path = untrained(name, tmp_path)
    model = torch.load(path, weights_only=True)["model"]
    edited(path, model=model | {extra: model.get(f"encoder.layers.0.{TABLE}", torch.zeros(1))})
    with pytest.raises(UserError, match=f"unknown tensors: {re.escape(extra)}"):
        {"beats": load_beats, "eat": load_eat}[name](path)


@pytest.mark.parametrize("name", ["beats", "eat"])
def test_only_the_teacher_may_be_a_dictionary_of_tensors(tmp_path: Path, name: str) -> None:
    path, load = untrained(name, tmp_path), {"beats": load_beats, "eat": load_eat}[name]
    model = torch.load(path, weights_only=True)["model"]
    load(edited(path, model=model | {"_ema": {"w": torch.zeros(1)}}))
    with pytest.raises(UserError, match="no tensors: foo"):
        load(edited(path, model=model | {"foo": {"w": torch.zeros(1)}}))
    with pytest.raises(UserError, match="no tensors: 0"):
        load(edited(path, model=model | {0: torch.zeros(1)}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x[:1], r"another size: layer_norm.weight \(1,\), expected \(16,\)"),
        (lambda x: x.to(torch.complex64), "plain real numbers: layer_norm.weight torch.complex64"),
        (lambda x: x.int(), "plain real numbers: layer_norm.weight torch.int32"),
        (lambda x: x.to_sparse(), "plain real numbers: layer_norm.weight"),
        (lambda x: x.to("meta"), "plain real numbers: layer_norm.weight"),
        (lambda x: x * torch.nan, "NaN or infinite values: layer_norm.weight"),
    ],
    ids=["shape", "complex", "integer", "sparse", "meta", "NaN"],
)
def test_a_tensor_that_cannot_be_a_weight_is_named(beats: Path, change: Any, said: str) -> None:
    model = torch.load(beats, weights_only=True)["model"]
    edited(beats, model=model | {"layer_norm.weight": change(model["layer_norm.weight"])})
    with pytest.raises(UserError, match=said):
        load_beats(beats)


@pytest.mark.parametrize("name", ["patch", "positions"])
def test_tensors_that_sizes_are_read_from_need_their_axes(eat: Path, name: str) -> None:
    model = torch.load(eat, weights_only=True)["model"]
    (key,) = (key for key in model if key.endswith({"patch": "proj.weight", "positions": ".positions"}[name])
              and "decoder" not in key and "attn" not in key)  # fmt: skip
    for strange in (torch.zeros(()), torch.zeros(7)):
        edited(eat, model=model | {key: strange})
        with pytest.raises(UserError, match=rf"expected {re.escape(key)} with \d axes, found one of shape"):
            load_eat(eat)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder_layers", "2"), ("encoder_layers", None), ("encoder_layers", 2.0), ("encoder_layers", True),
        ("encoder_layers", 10**9), ("encoder_attention_heads", 0), ("input_patch_size", 0), ("input_patch_size", 7),
        ("conv_pos_groups", 5), ("embed_dim", -1), ("num_buckets", 3), ("max_distance", 80), ("dropout", "0.1"),
        ("dropout", 1.0), ("encoder_layerdrop", -0.1), ("deep_norm", "yes"), ("dropout_input", float("nan")),
    ],
)  # fmt: skip
def test_a_beats_cfg_with_impossible_sizes_is_refused(beats: Path, key: str, value: Any) -> None:
    cfg = torch.load(beats, weights_only=True)["cfg"]
    with pytest.raises(UserError, match=rf"beats\.pt: .*\b{key}\b"):
        load_beats(edited(beats, cfg=cfg | {key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_heads", 0), ("num_heads", None), ("num_heads", "4"), ("embed_dim", "32"), ("depth", None), ("depth", "2"),
        ("mlp_ratio", None), ("norm_eps", None), ("norm_eps", "x"), ("patch_size", 0), ("patch_size", None),
    ],
)  # fmt: skip
def test_an_eat_cfg_with_impossible_sizes_is_refused(eat: Path, key: str, value: Any) -> None:
    model = torch.load(eat, weights_only=True)["cfg"]["model"]
    model = model | ({"modalities": {"image": {key: value}}} if key == "patch_size" else {key: value})
    with pytest.raises(UserError, match=rf"eat\.pt: .*\b{key}\b"):
        load_eat(edited(eat, cfg={"model": model}))


def test_a_cfg_that_contains_itself_is_read(beats: Path) -> None:
    cfg = torch.load(beats, weights_only=True)["cfg"]
    cfg["all"] = cfg
    assert load_beats(edited(beats, cfg=cfg)).dims.encoder_layers == 2


def test_positions_under_their_other_name_are_read(eat: Path) -> None:
    model = torch.load(eat, weights_only=True)["model"]
    other = {name.replace("fixed_positional_encoder.positions", "positional_encoder.pos_embed"): value
             for name, value in model.items()}  # fmt: skip
    expected = load_eat(eat).positions.clone()
    assert torch.equal(load_eat(edited(eat, model=other)).positions, expected)


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
