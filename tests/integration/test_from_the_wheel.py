"""The main job from the installed wheel, in an empty folder: nothing of the checkout may be needed or found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.house import BACKEND, dotted
from tests.runs import SHORT, child_environment, write_rows
from tests.wheels import built, installed

pytestmark = pytest.mark.timeout(
    1200
)  # interpreters that read everything anew, on a machine that may be busy


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of the environment that the wheel is installed in."""
    return installed(built(tmp_path_factory.mktemp("wheel")), tmp_path_factory.mktemp("environment") / "venv")


def said(*words: str | Path, cwd: Path) -> str:
    environment = child_environment()
    environment.pop("PYTHONPATH", None)  # it may name the checkout, which would stand before the wheel
    child = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


def test_every_module_comes_from_the_wheel(programs: Path, tmp_path: Path) -> None:
    modules = [dotted(path) for path in BACKEND]
    script = (
        "import importlib, json, sys;"
        "print(json.dumps([importlib.import_module(name).__file__ for name in json.loads(sys.argv[1])]))"
    )
    files = json.loads(said(programs / "python", "-c", script, json.dumps(modules), cwd=tmp_path))
    assert len(files) == len(modules)
    assert [file for file in files if not file.startswith(str(programs.parent))] == []


def test_the_command_shows_its_help(programs: Path, tmp_path: Path) -> None:
    shown = said(programs / "tunesmith", "--help", cwd=tmp_path)
    assert "Usage: tunesmith" in shown
    assert "train" in shown


def test_a_tiny_run_is_trained(programs: Path, tmp_path: Path, learner: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    settings = SHORT | {"data.train": "rows.jsonl", "model.model_name_or_path": str(learner)}
    flags = [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in settings.items()
    ]
    said(programs / "tunesmith", "train", *flags, cwd=tmp_path)
    listed = json.loads(said(programs / "tunesmith", "runs", "list", "--json", cwd=tmp_path))
    assert "finished" in json.dumps(listed)
    (result,) = tmp_path.glob("runs/*/adapter/adapter_model.safetensors")
    assert result.stat().st_size > 1000
