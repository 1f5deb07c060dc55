"""The command under its own name: tunesmith/__main__.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import ROOT
from tests.runs import child_environment
from tunesmith.__main__ import main, strangers


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env=child_environment(**environment),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_module_is_the_command() -> None:
    done = run("-m", "tunesmith", "--version", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize("name", ["app", "backend"])
def test_another_package_in_the_way_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = run("-m", "tunesmith", "--version", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 2
    assert f"another package called '{name}' is in the way" in done.stderr
    assert "environment of its own" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_that_is_missing_is_named_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tunesmith.__main__.find_spec", lambda name: None)
    assert strangers() == ["backend", "app"]
    assert main() == 2
    assert "'backend' and 'app'" in capsys.readouterr().err
