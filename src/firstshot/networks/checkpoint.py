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
Dims = TypeVar("Dims")

TEACHER = "_ema"  # a network that pre-training keeps beside the student, in a dictionary of its own


class _Rebuild:
    """Calls a function that puts a tensor together. A pickle can set attributes of what it is given, of this none."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, _state: object) -> None:
        return None


# Real objects: containers that nothing can be set on, and the rebuilding of tensors; nothing that reaches the system.
_REAL = {("collections", "OrderedDict"): OrderedDict, ("torch", "Size"): torch.Size}
_REBUILT = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"}  # of torch._utils
# Functions that harmless training state asks for: they are answered by a placeholder, never called.
_IGNORED_CALLS = {
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
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
        if module == "torch._utils" and name in _REBUILT:
            return _Rebuild(getattr(torch._utils, name))
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
        with path.open("rb") as file:
            beginning, is_zip = file.read(40), zipfile.is_zipfile(file)
    except OSError as fault:
        raise UserError(f"{path}: cannot be read ({fault.strerror}); check the file's permissions") from None
    try:
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
        what = _first_line(fault) if is_zip else f"no zip archive, it begins with {beginning!r}"
        raise UserError(
            f"{path}: not a readable PyTorch checkpoint ({what}); expected a file as published. "
            "It may be truncated: download it again and compare its sha256"
        ) from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds no dictionary, expected one with 'cfg' and 'model'")
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
    return (str(fault).partition("  (Could")[0].splitlines() or [type(fault).__name__])[0][:160]


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file, as recorded in the results and pinned in the config."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors under 'model', without the teacher network that may be kept beside the student.

    raises : UserError where there is no model, or where an entry is no tensor under a name
    """
    model = content.get("model")
    if not isinstance(model, Mapping):
        found = "'model' is something else" if "model" in content else f"found {_names(content)}"
        raise UserError(f"{path}: no dictionary 'model' in the file, {found}; expected a published checkpoint")
    state = {name: value for name, value in model.items() if name != TEACHER}
    strange = [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strange:
        raise UserError(
            f"{path}: model entries that are no tensors: {_names(strange)}; use the pre-trained checkpoint as published"
        )
    return state


def settings(value: Any) -> dict[str, Any]:
    """One level of a `cfg`: its dictionaries, strings and numbers, None for anything else; empty if it is no level."""
    if not isinstance(value, Mapping):
        return {}
    return {str(key): item if isinstance(item, Mapping | str | int | float) else None for key, item in value.items()}


def sized(path: Path, dims: type[Dims], found: Mapping[str, Any]) -> Dims:
    """The sizes `found` in a checkpoint.

    raises : UserError naming the file, where no network has such sizes
    """
    try:
        return dims(**found)
    except UserError as fault:
        raise UserError(f"{path}: {fault}; use the pre-trained checkpoint as published") from None


def fill(
    build: Callable[[], Network],
    state: Mapping[str, Tensor],
    path: Path,
    published: Callable[[Network], Mapping[str, Iterable[int]]],
    convert: Callable[[Path, Mapping[str, Tensor]], Mapping[str, Tensor]],
) -> Network:
    """Build a network without memory of its own and give it the (memory-mapped) tensors of `state`, frozen.

    published : shapes of all tensors of its published file, by their names there
    convert : those tensors -> the network's
    raises : UserError naming missing and unknown tensors, wrong shapes and types, and values that are no numbers
    """
    with torch.device("meta"):
        empty = build()
    wanted = {name: tuple(shape) for name, shape in published(empty).items()}
    missing, unknown = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    there = sorted(wanted.keys() & state.keys())
    wrong = [
        f"{name} {tuple(state[name].shape)}, expected {wanted[name]}"
        for name in there
        if tuple(state[name].shape) != wanted[name]
    ]
    strange = [f"{name} {state[name].dtype}" for name in there if not _plain(state[name])]
    faults = [
        f"{what}: {_names(names)}"
        for what, names in (
            ("missing tensors", missing),
            ("unknown tensors", unknown),
            ("tensors of another size", wrong),
            ("tensors not of plain real numbers", strange),
        )
        if names
    ]
    if not faults:
        state = {name: tensor.detach().float() for name, tensor in state.items()}
        if damaged := [name for name in there if not state[name].sum().isfinite()]:
            faults = [f"tensors with NaN or infinite values: {_names(damaged)}"]
    if faults:
        raise UserError(
            f"{path}: does not hold the {type(empty).__name__} that its cfg describes. {'. '.join(faults)}. "
            "Use the pre-trained checkpoint as published"
        )
    empty.load_state_dict(dict(convert(path, state)), strict=True, assign=True)
    return empty.requires_grad_(False).eval()


def _plain(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_meta


def _names(names: Iterable[object], most: int = 6) -> str:
    listed = sorted(map(str, names))
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
