"""Digest of the code a program really uses, and nothing else.

`digest("scripts.train", "firstshot.networks.eat")` reads the named modules and everything first-party they import,
also inside functions, and hashes their syntax trees: comments, docstrings and formatting do not count. A name with a
slash ("firstshot/published/dcase.yaml") is a data file and counts by its content. Imports made from strings cannot be
seen, so whoever selects a module by name (a frontend) names that module in the call.

Left out on purpose are the modules in `NOT_COUNTED`: they move bytes and word messages, they do not make results. A
change there which does change results goes with a higher `SCHEME`.
"""

import ast
import contextlib
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from firstshot.errors import UserError

PACKAGE = Path(__file__).resolve().parent
NOT_COUNTED = frozenset({"firstshot.job", "firstshot.fingerprint", "firstshot.errors"})
# Part of every digest. Raised when a change in a module of `NOT_COUNTED` changes what programs compute, or how digests
# are made.
SCHEME = "2"
PLANNED = "FIRSTSHOT_PLANNED"  # environment variable


class Planned:
    """Digests of code and config as the process that planned a run saw them.

    Its jobs on a cluster read the workflow again when they start, perhaps days later. The environment hands them what
    was planned, so that a change in between is noticed.
    """

    def __init__(self, main: bool) -> None:
        self.main = main
        self.known: dict[str, str] = {} if main else json.loads(os.environ.get(PLANNED, "{}"))

    def get(self, name: str, present: Callable[[], str]) -> str:
        """The planned digest of that name; the present one where this process is the first to ask."""
        if name not in self.known:
            self.known[name] = present()
            if self.main:
                os.environ[PLANNED] = json.dumps(self.known)
        return self.known[name]


class Memory:
    """What was found out once, kept in a JSON file between runs; one that cannot be read or written costs only time."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.known: dict[str, Any] = {}
        if file is not None:
            with contextlib.suppress(OSError, ValueError, TypeError):
                self.known = dict(json.loads(file.read_text()))

    def save(self) -> None:
        if self.file is None:
            return
        part = self.file.with_name(f".{self.file.name}.{uuid.uuid4().hex[:12]}")
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self.known, indent=1))
            part.rename(self.file)


class Fingerprint:
    """Digests of modules under the given roots, e.g. {"firstshot": src/firstshot, "scripts": workflow/scripts}.

    memory : file that keeps what was read, by name and content, so that unchanged modules are not parsed again
    """

    def __init__(self, roots: Mapping[str, Path], memory: Path | None = None) -> None:
        self.roots = {name: Path(path) for name, path in roots.items()}
        self._memory, self._learnt = Memory(memory), False
        self.digest = lru_cache(maxsize=None)(self._digest)
        self._read = lru_cache(maxsize=None)(self._read_module)

    def path(self, name: str) -> Path | None:
        """File behind a module name, a package name or a data file's name; None where it is not first-party."""
        top, *rest = name.split("/") if "/" in name else name.split(".")
        if top not in self.roots:
            return None
        base = self.roots[top].joinpath(*rest)
        candidates = (base,) if "/" in name else (base.with_name(base.name + ".py"), base / "__init__.py")
        return next((file for file in candidates if file.is_file()), None)

    def modules(self, *names: str) -> dict[str, str]:
        """The named modules and all they import, each with the sha256 of its code."""
        found: dict[str, str] = {}
        todo = list(names)
        while todo:
            name = todo.pop()
            if name in found or name in NOT_COUNTED:
                continue
            found[name], imports = self._read(name)
            todo.extend(imports)
        return dict(sorted(found.items()))

    def _digest(self, *names: str) -> str:
        """16 hexadecimal digits for the named modules and everything they import.

        Raises UserError for a name that has no file.
        """
        digest = hashlib.sha256(repr((SCHEME, list(self.modules(*names).items()))).encode()).hexdigest()[:16]
        if self._learnt:
            self._memory.save()
            self._learnt = False
        return digest

    def _read_module(self, name: str) -> tuple[str, frozenset[str]]:
        file = self.path(name)
        if file is None:
            raise UserError(f"no code file for '{name}' under {', '.join(map(str, self.roots.values()))}")
        content = file.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if "/" in name:
            return sha256, frozenset()
        package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
        read_from = [SCHEME, sys.version, package, sha256]
        before = self._memory.known.get(name)
        if not isinstance(before, dict) or before.get("read_from") != read_from:
            code, imports = _code(content, package, file)
            before = {"read_from": read_from, "code": code, "imports": imports}
            self._memory.known[name], self._learnt = before, True
        return before["code"], frozenset(name for name in before["imports"] if self.path(name) is not None)


def _code(content: bytes, package: list[str], file: Path) -> tuple[str, list[str]]:
    """sha256 of a module's code, and the modules that may be run by its imports."""
    tree = ast.parse(content, filename=str(file))
    nodes = list(ast.walk(tree))
    wanted = _imports(nodes, package)
    _drop_docstrings(nodes)
    # Importing a.b.c also runs a/__init__.py and a/b/__init__.py.
    parents = {".".join(parts[:n]) for parts in (w.split(".") for w in wanted) for n in range(1, len(parts) + 1)}
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), sorted(parents)


def _imports(nodes: Iterable[ast.AST], package: list[str]) -> set[str]:
    for_types_only = {
        id(child)
        for node in nodes
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for child in ast.walk(statement)
    }
    names: set[str] = set()
    for node in nodes:
        if id(node) in for_types_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def _drop_docstrings(nodes: Iterable[ast.AST]) -> None:
    for node in nodes:
        if not isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]


def for_scripts(scripts: Path, memory: Path | None = None) -> Fingerprint:
    """Fingerprint of this package together with a folder of stage programs."""
    return Fingerprint({"firstshot": PACKAGE, "scripts": scripts}, memory)


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
