"""The commands that start processes of ours: backend/manager/programs.py."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from backend.manager import programs
from backend.manager.programs import child_environ, python_command

MODULES = {
    name: value for name, value in vars(programs).items() if name.isupper() and not name.startswith("_")
}


@pytest.mark.parametrize("name", MODULES)
def test_every_program_is_a_module_that_can_be_run(name: str) -> None:
    spec = importlib.util.find_spec(MODULES[name])
    assert spec is not None
    assert spec.origin is not None
    assert '\nif __name__ == "__main__":\n' in Path(spec.origin).read_text("utf-8")


def test_it_is_run_by_this_interpreter_and_never_from_the_folder_one_stands_in() -> None:
    assert python_command("a.b", "x") == (sys.executable, "-P", "-m", "a.b", "x")
    assert python_command("a.b", unbuffered=True) == (sys.executable, "-P", "-u", "-m", "a.b")


def test_a_child_finds_our_code_from_anywhere_and_what_the_person_put_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs.py").write_text("print('theirs')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = (sys.executable, "-P", "-c", "import backend.errors, theirs")
    child = subprocess.run(command, env=child_environ(), cwd="/", capture_output=True, check=True)
    assert child.stdout == b"theirs\n"


def test_a_program_that_is_not_there_fails() -> None:
    child = subprocess.run(python_command("backend.no_such_module"), capture_output=True, check=False)
    assert child.returncode == 1
