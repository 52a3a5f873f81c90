"""Code digests: what counts as a change of code, and for whom."""

from pathlib import Path

import pytest

from firstshot import fingerprint
from firstshot.errors import UserError
from firstshot.fingerprint import Fingerprint, Planned

SOURCES = {
    "lib/__init__.py": "",
    "lib/job.py": "x = 1\n",
    "lib/loss.py": '"""Text."""\n\n\ndef loss(x):\n    """Text."""\n    return x + 1\n',
    "lib/eat.py": "from lib.loss import loss\n\ny = loss(1)\n",
    "lib/beats.py": "def build():\n    from lib import loss\n    return loss.loss(2)\n",
    "lib/tables/years.yaml": "2025: 1\n",
    "scripts/train.py": "import sys\nfrom lib import loss\n",
}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def read(code: Path, memory: Path | None = None) -> Fingerprint:
    return Fingerprint({"lib": code / "lib", "scripts": code / "scripts"}, memory)


def digest(code: Path, *names: str) -> str:
    return read(code).digest(*names)


@pytest.mark.parametrize(
    "text",
    [
        '"""Other words."""\n\n\ndef loss(x):\n    """Other words."""\n    return x + 1\n',
        "def loss(x):  # comment\n    return x + 1\n",
        "def loss(\n    x,\n):\n    return (x + 1)\n",
    ],
    ids=["docstring", "comment", "formatting"],
)
def test_comments_docstrings_and_formatting_do_not_count(code: Path, text: str) -> None:
    before = digest(code, "lib.eat")
    (code / "lib/loss.py").write_text(text)
    assert digest(code, "lib.eat") == before


def test_a_change_of_code_counts_for_those_who_import_it_and_for_nobody_else(code: Path) -> None:
    names = ("lib.eat", "lib.beats", "lib.loss", "scripts.train")
    before = {name: digest(code, name) for name in names}
    (code / "lib/eat.py").write_text("from lib.loss import loss\n\ny = loss(2)\n")
    assert [name for name in names if digest(code, name) != before[name]] == ["lib.eat"]


def test_imports_are_followed_also_inside_functions(code: Path) -> None:
    before = {name: digest(code, name) for name in ("lib.eat", "lib.beats", "scripts.train")}
    (code / "lib/loss.py").write_text("def loss(x):\n    return x + 2\n")
    assert all(digest(code, name) != old for name, old in before.items())


def test_imports_for_type_checking_only_do_not_count(code: Path) -> None:
    (code / "lib/eat.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lib import loss\n")
    before = digest(code, "lib.eat")
    (code / "lib/loss.py").write_text("changed = True\n")
    assert digest(code, "lib.eat") == before


def test_a_data_file_counts_by_content(code: Path) -> None:
    before = digest(code, "lib.eat", "lib/tables/years.yaml")
    (code / "lib/tables/years.yaml").write_text("2025: 2\n")
    assert digest(code, "lib.eat", "lib/tables/years.yaml") != before


def test_an_unknown_module_is_an_error_that_names_it(code: Path) -> None:
    with pytest.raises(UserError, match=r"lib\.eta"):
        digest(code, "lib.eta")


def test_the_modules_that_only_move_bytes_do_not_count() -> None:
    here = Path(__file__).resolve().parents[1]
    modules = Fingerprint({"firstshot": here / "src/firstshot"}).modules("firstshot.fingerprint", "firstshot")
    assert list(modules) == ["firstshot"]


def test_a_change_of_what_is_left_out_counts_for_everybody_by_a_higher_scheme(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [digest(code, name) for name in ("lib.loss", "scripts.train", "lib/tables/years.yaml")]
    monkeypatch.setattr(fingerprint, "SCHEME", f"{fingerprint.SCHEME}0")
    after = [digest(code, name) for name in ("lib.loss", "scripts.train", "lib/tables/years.yaml")]
    assert not set(before) & set(after)


def test_unchanged_modules_are_not_parsed_again(code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "cache/modules.json"
    before = read(code, memory).digest("lib.eat", "lib.beats")
    parsed: list[str] = []
    parse = fingerprint._code

    def counted(content: bytes, package: list[str], file: Path) -> tuple[str, list[str]]:
        parsed.append(file.name)
        return parse(content, package, file)

    monkeypatch.setattr(fingerprint, "_code", counted)
    assert read(code, memory).digest("lib.eat", "lib.beats") == before and parsed == []
    (code / "lib/loss.py").write_text("def loss(x):\n    return x + 2\n")
    after = read(code, memory).digest("lib.eat", "lib.beats")
    assert parsed == ["loss.py"] and after == digest(code, "lib.eat", "lib.beats") != before


@pytest.mark.parametrize("text", ["", "[1]", "{"], ids=["empty", "list", "cut"])
def test_a_damaged_memory_of_modules_costs_only_time(code: Path, tmp_path: Path, text: str) -> None:
    memory = tmp_path / "modules.json"
    memory.write_text(text)
    assert read(code, memory).digest("lib.eat") == digest(code, "lib.eat")


def test_jobs_are_handed_the_digests_that_their_plan_saw(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fingerprint.PLANNED, '{"lib.eat": "of another run"}')
    before = digest(code, "lib.eat")
    assert Planned(main=True).get("lib.eat", lambda: digest(code, "lib.eat")) == before
    (code / "lib/loss.py").write_text("def loss(x):\n    return x + 2\n")
    assert Planned(main=False).get("lib.eat", lambda: digest(code, "lib.eat")) == before
    assert Planned(main=False).get("lib.loss", lambda: digest(code, "lib.loss")) == digest(code, "lib.loss")
    assert Planned(main=True).get("lib.eat", lambda: digest(code, "lib.eat")) == digest(code, "lib.eat") != before
