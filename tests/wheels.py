"""The wheel as `pip install` leaves it: in an environment of its own, where no source of this checkout is seen."""

from __future__ import annotations

import importlib
import subprocess
import sys
import venv
from pathlib import Path

from tests.house import ROOT


def built(folder: Path) -> Path:
    """The wheel of this checkout, built into ``folder``."""
    builder = importlib.import_module("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    (wheel,) = builder.build(directory=str(folder), versions=["standard"])
    return Path(wheel)


def installed(wheel: Path, folder: Path) -> Path:
    """The ``bin`` of a new environment in ``folder`` that holds ``wheel``; what it needs is lent by this one.

    The packages of this environment are looked into, but not the .pth file there that leads to the checkout.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    own = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    lent = [path for path in sys.path if path.endswith("-packages")]
    Path(own, "lent.pth").write_text("\n".join(lent), encoding="utf-8")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "--disable-pip-version-check",
        "install",
        "-q",
    ]
    subprocess.run(
        [*pip, "--no-deps", "--no-index", "--no-compile", "--force-reinstall", str(wheel)], check=True
    )
    return folder / "bin"
