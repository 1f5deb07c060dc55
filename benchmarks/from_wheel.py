"""The tests against the installed wheel: run in a folder that holds the tests and no source of ours.

    python benchmarks/from_wheel.py [TEST ...]

By default the tests of `tests/backend` that need no real model. Guards of the sources (test_architecture and the
like) have nothing to look at there and are left out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.wheels import built, installed  # noqa: E402

BESIDE = ("tests", "examples", "docs", "benchmarks", "pyproject.toml", "README.md")
"""What the tests read beside the package."""


def main(tests: list[str]) -> int:
    """Build and install the wheel, and run ``tests`` over it; return pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "place"
        place.mkdir()
        for name in BESIDE:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, place / name)
        programs = installed(built(Path(folder)), Path(folder) / "venv")
        where = 'import backend; assert "site-packages" in backend.__file__, backend.__file__'
        subprocess.run([programs / "python", "-c", where], cwd=place, check=True)
        pytest = [
            programs / "python",
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "--dist",
            "loadfile",
            "-m",
            "not model",
        ]
        return subprocess.run([*pytest, *(tests or ["tests/backend"])], cwd=place, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
