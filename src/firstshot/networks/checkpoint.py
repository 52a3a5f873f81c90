"""Reader for published PyTorch checkpoints that runs nothing from the file.

A checkpoint is untrusted. `torch.load(weights_only=True)` is tried first. Where it refuses (training checkpoints may
carry objects of packages that are not installed here), a restricted unpickler reads the file: tensors and plain
containers become real, every other class becomes an inert placeholder, and a file that asks for a call of any foreign
function is refused. Tensors stay memory-mapped until a network uses them.
"""

import hashlib
import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from firstshot.errors import UserError

Network = TypeVar("Network", bound=nn.Module)

# Real objects: containers, tensor and storage rebuilding; nothing that can reach the system.
_REAL = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,  # type: ignore[attr-defined]
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
}
_STORAGES = {"Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"}
# Functions that harmless training state asks for: they are answered by a placeholder, never called.
_IGNORED_CALLS = {
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "defaultdict"),
    ("copyreg", "_reconstructor"),
    ("copy_reg", "_reconstructor"),
}


class _InertType(type):
    """Class of the placeholder classes: a call (pickle's REDUCE) is refused; `__new__` alone (NEWOBJ) runs nothing."""

    origin: tuple[str, str]

    def __call__(cls, *_args: object, **_options: object) -> Any:
        if cls.origin not in _IGNORED_CALLS:
            raise _ForbiddenCallError(".".join(cls.origin))
        return cls.__new__(cls)  # type: ignore[call-overload]


class _ForbiddenCallError(Exception):
    """The pickle asks to call this foreign name."""


def _inert(module: str, name: str) -> type:
    """A class that stands for `module.name` and swallows whatever the pickle puts into its instances."""

    def swallow(self: object, *_args: object) -> None:
        return None

    body = dict.fromkeys(("__setstate__", "__setitem__", "append", "extend", "add"), swallow)
    new = {"__new__": lambda cls, *_args, **_options: object.__new__(cls), "origin": (module, name)}
    return _InertType("Inert", (), body | new)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.removesuffix("Storage") in _STORAGES and name.endswith("Storage"):
            return getattr(torch, name)
        return _REAL.get((module, name)) or _inert(module, name)


def _refuse_bare_pickle(*_args: object, **_options: object) -> Any:
    raise pickle.UnpicklingError("not a zip archive")


def read(path: Path) -> dict[str, Any]:
    """Top-level dictionary of a checkpoint, tensors memory-mapped on the CPU.

    raises : UserError where the file is missing, truncated, no PyTorch checkpoint, or asks to run code
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; download the published file or correct its path in the config")
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            _refuse_torchscript(path)
        content = _load(path, is_zip)
    except _ForbiddenCallError as call:
        raise UserError(
            f"{path}: refused, as reading it would call {call}; a checkpoint must hold data only. "
            "Nothing in it was run. Download the file again from its publisher"
        ) from None
    except UserError:
        raise
    except Exception as fault:  # a damaged pickle can end in any of them
        raise UserError(
            f"{path}: not a readable PyTorch checkpoint ({_first_line(fault)}); expected a file as published. "
            "It may be truncated: download it again and compare its sha256"
        ) from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a dictionary with 'cfg' and 'model'")
    return dict(content)


def _load(path: Path, is_zip: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except pickle.UnpicklingError:
        if not is_zip:
            raise
    unpickler = types.SimpleNamespace(
        __name__="firstshot.restricted",
        Unpickler=_Unpickler,
        load=_refuse_bare_pickle,
        UnpicklingError=pickle.UnpicklingError,
    )
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False, pickle_module=unpickler)


def _refuse_torchscript(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = {Path(name).name for name in archive.namelist()}
    if "constants.pkl" in names or any(name.endswith(".py") for name in names):
        raise UserError(f"{path}: a TorchScript program, expected a checkpoint of weights; nothing in it was run")


def _first_line(fault: BaseException) -> str:
    return (str(fault).splitlines() or [type(fault).__name__])[0][:160]


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file, as recorded in the results and pinned in the config."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Float32 tensors under 'model', without nested entries (a teacher network kept beside the student).

    raises : UserError where there is no model, or where an entry is neither tensor nor dictionary
    """
    model = content.get("model")
    if not isinstance(model, Mapping):
        raise UserError(f"{path}: no 'model' in the file, found {_names(content)}; expected a published checkpoint")
    strange = [name for name, value in model.items() if not isinstance(value, Tensor | Mapping)]
    if strange:
        raise UserError(f"{path}: model entries that are no tensors: {_names(strange)}; download the file again")
    return {name: value.float() for name, value in model.items() if isinstance(value, Tensor)}


def plain(value: Any) -> Any:
    """`value` with everything that is no dictionary, list, string or number replaced by None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) else None


def fill(network: Callable[[], Network], state: Mapping[str, Tensor], path: Path) -> Network:
    """Build a network without memory of its own and give it the (memory-mapped) tensors of `state`, frozen.

    raises : UserError naming missing and unknown tensors and wrong shapes
    """
    with torch.device("meta"):
        empty = network()
    wanted = empty.state_dict()
    missing, unknown = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    wrong = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & state.keys())
        if state[name].shape != wanted[name].shape
    ]
    faults = [
        f"{what}: {_names(names)}"
        for what, names in (
            ("missing tensors", missing),
            ("unknown tensors", unknown),
            ("tensors of another size", wrong),
        )
        if names
    ]
    if faults:
        raise UserError(
            f"{path}: does not hold the {type(empty).__name__} that its cfg describes. {'. '.join(faults)}. "
            "Use the pre-trained checkpoint as published"
        )
    empty.load_state_dict(dict(state), strict=True, assign=True)
    return empty.requires_grad_(False).eval()


def _names(names: Iterable[str], most: int = 6) -> str:
    listed = sorted(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
