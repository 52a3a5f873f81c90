"""The wheel holds the whole library."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tinyrun import NOT_COPIED, ROOT


def test_a_wheel_holds_every_file_of_the_library(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=NOT_COPIED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    ours = {path.relative_to(tmp_path / "src").as_posix() for path in (tmp_path / "src/firstshot").rglob("*")}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in ours if (tmp_path / "src" / name).is_file()} <= held
    assert any(name.endswith("entry_points.txt") for name in held)
